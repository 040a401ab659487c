"""The language model of SIGMA: how histories and instructions become rows, and who may attend to whom.

A row is: profile text [P] | T item slots of S positions | branches. A slot holds the l prefix tokens of an
item and then its item token; or the item token alone (l = 0); or the prefix tokens alone (pure semantic IDs);
or, with the joint objective, their sum in one position. A branch hangs off the history after item t: the
instruction's text [I], then the prefix tokens of the label. It sees the profile, items 0..t and itself;
nothing sees it, so any number of labels shares one pass over the history.

A branch's label tokens take the position ids that the next item's slot has in the history. The trunk then
meets the same situation in a label as at every history position, and both train one function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from recbole_sigma.language.backbone import empty_cache, hidden_states, output_rows
from recbole_sigma.models.sigma.item_tokens import rows_of


@dataclass(frozen=True)
class Histories:
    """Histories of a batch.

    Attributes:
        users: int64 [B].
        items: int64 [B, T], oldest first, right-padded.
        length: int64 [B].
        rows: int64 [B, T], where the items stand in the table of tokens.
    """

    users: Tensor
    items: Tensor
    length: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Branches:
    """Instructions that hang off the histories of a batch.

    Attributes:
        after: int64 [B, M], 0-based history item that the branch follows; -1 hangs it off the profile.
        text: int64 [B, M, I], instruction tokens, left-padded.
        label: int64 [B, M], items whose prefix tokens end the branches, or None.
    """

    after: Tensor
    text: Tensor
    label: Tensor | None = None


@dataclass(frozen=True)
class Prompt:
    """Encoded prompts of a batch.

    Attributes:
        context: float [B, d], the state that the next item is predicted from.
        instruction: float [B, d], state at the end of the instruction.
        asked: bool [B], whether there is an instruction.
        cache: the prompt's keys and values, or None where nothing is decoded behind it.
        readable: bool [B, S], cached positions that what follows may attend to.
        position: int64 [B], position id of the next token.
        words: float [B, d], what the instruction's words add to the query (`paths.WordPath`), or None.
    """

    context: Tensor
    instruction: Tensor
    asked: Tensor
    cache: Any
    readable: Tensor
    position: Tensor
    words: Tensor | None = None

    def at(self, context: Tensor, words: Tensor | None) -> Prompt:
        """The same prompt with what the paths around the trunk add."""
        return replace(self, context=context, words=words)


@dataclass(frozen=True)
class RowLayout:
    """Widths that fix the columns of a row.

    Attributes:
        profile: P, tokens before the history.
        prefix: prefix tokens per item: l, or 0 where they are summed into the item's position.
        instruction: I, tokens of an instruction.
        item_token: whether a slot ends in the item token (not for pure semantic IDs).
        newest_first: positions are counted back from the end of the history, the newest event first; branches
            then hang off the end alone. Otherwise they are counted from the beginning.
        window: longest history, in items.
    """

    profile: int
    prefix: int
    instruction: int
    item_token: bool = True
    newest_first: bool = False
    window: int = 0

    @property
    def slot(self) -> int:
        """S, positions per item."""
        return self.prefix + self.item_token

    def history_end(self, items: int) -> int:
        """Columns up to and including item number ``items``."""
        return self.profile + items * self.slot

    def longest_position(self) -> int:
        """Number of position ids that rows with histories as long as the window need."""
        return self.history_end(self.window + 1) + max(self.instruction, self.prefix)

    def positions(self, length: Tensor, width: int) -> Tensor:
        """Position ids of profile and history: int64 [B] items of each row -> int64 [B, width]."""
        column = torch.arange(width, device=length.device)
        if not self.newest_first:
            return column.expand(len(length), -1)
        end = self.profile + length[:, None] * self.slot
        return (end - 1 - column).clamp_min(0)


class PackedTrunk(nn.Module):
    """A causal language model that reads profile text, item slots and instruction branches.

    Args:
        backbone: a transformers causal LM.
        layout: columns of a row.
        profiles: int64 [n_users, P], left-padded profile tokens.
        prefix_tokens: int64 [N, l], vocabulary ids of every item's prefix.
        pad: id of the padding token.
        item_scale: factor on item tokens, which brings them to the size of the backbone's embeddings.
        read: what is applied to an item's token when it is read, before it is scaled.
        hide: (tokens [B, T, d], items [B, T]) -> tokens, applied to those of histories before ``read``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        layout: RowLayout,
        profiles: Tensor,
        prefix_tokens: Tensor,
        pad: int,
        item_scale: float,
        read: nn.Module,
        hide: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.read, self.hide = read, hide
        self.backbone, self.layout, self.pad, self.item_scale = backbone, layout, pad, item_scale
        self.register_buffer("profiles", profiles, persistent=False)
        self.register_buffer("prefix_tokens", prefix_tokens, persistent=False)

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of vocabulary ids."""
        return self.backbone.get_input_embeddings()(ids)

    def output_rows(self, ids: Tensor) -> Tensor:
        """Rows of the output embedding, float [*ids.shape, d]."""
        return output_rows(self.backbone, ids)

    def packed(
        self, histories: Histories, tokens: Tensor, branches: Branches | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """States of packed rows.

        Args:
            histories: B rows of T items.
            tokens: float [n, d] item tokens, at least those of ``histories.rows``.
            branches: M per row, or None.

        Returns:
            (states of the item slots [B, T, S, d], states of the branches [B, M, I + l, d], state at the end
            of the profile [B, d]).
        """
        layout = self.layout
        rows, positions, allowed, width = self._assemble(histories, tokens, branches)
        states = hidden_states(self.backbone, rows, positions, allowed)
        history = states[:, layout.profile : width].reshape(*histories.items.shape, layout.slot, -1)
        start = states[:, layout.profile - 1]
        if branches is None:
            return history, states[:, :0], start
        shape = (*branches.after.shape, layout.instruction + layout.prefix, -1)
        return history, states[:, width:].reshape(shape), start

    def prompt(self, histories: Histories, tokens: Tensor, text: Tensor, cached: bool) -> Prompt:
        """Encode each user's prompt once.

        Args:
            histories: B rows of T items.
            tokens: float [n, d] item tokens, at least those of ``histories.rows``.
            text: int64 [B, I], the instruction; all padding where nothing is asked, and then nothing of it is
                read later.
            cached: keep the keys and values.
        """
        layout, length = self.layout, histories.length
        branch = Branches((length - 1)[:, None], text[:, None])
        rows, positions, allowed, _ = self._assemble(histories, tokens, branch)
        cache = empty_cache(self.backbone) if cached else None
        end_of_history = layout.profile + length * layout.slot
        wanted = torch.stack([end_of_history - 1, torch.full_like(length, rows.shape[1] - 1)], dim=1)
        states = hidden_states(self.backbone, rows, positions, allowed, cache, wanted)
        asked = (text != self.pad).any(dim=1)
        readable = allowed[:, -1].clone()
        readable[:, -1] &= asked  # every query sees itself, padding too
        return Prompt(states[:, 0], states[:, 1], asked, cache, readable, end_of_history)

    def ends(self, histories: Histories, tokens: Tensor) -> Tensor:
        """States at the end of each history, with nothing behind it: float [B, d]."""
        rows, positions, allowed, _ = self._assemble(histories, tokens, None)
        last = self.layout.profile + histories.length * self.layout.slot - 1
        return hidden_states(self.backbone, rows, positions, allowed, None, last[:, None])[:, 0]

    def forced(
        self, histories: Histories, tokens: Tensor, text: Tensor, items: Tensor
    ) -> tuple[Prompt, Tensor]:
        """Encode each user's prompt once, and the prefixes of given items behind it, as training does.

        Args:
            histories: B rows of T items.
            tokens: float [n, d] item tokens, at least those of ``histories.rows``.
            text: int64 [B, I], the instruction, as in `prompt`.
            items: int64 [B, G].

        Returns:
            (the prompts, without keys and values; states behind the prefix tokens float [B, G, l, d]).
        """
        each, length = items.shape[1], histories.length
        after = (length - 1)[:, None].expand(-1, each)
        branches = Branches(after, text[:, None].expand(-1, each, -1), items)
        slots, states, start = self.packed(histories, tokens, branches)
        row = torch.arange(len(length), device=length.device)
        context = torch.where(length[:, None] > 0, slots[row, (length - 1).clamp_min(0), -1], start)
        width = self.layout.instruction
        asked = (text != self.pad).any(dim=1)
        end = self.layout.profile + length * self.layout.slot
        prompt = Prompt(context, states[:, 0, width - 1], asked, None, asked[:, None], end)
        return prompt, states[:, :, width:]

    def _assemble(
        self, histories: Histories, tokens: Tensor, branches: Branches | None
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """Rows as the language model reads them: profile, history, and the branches.

        Returns:
            (embeddings [B, Q, d], position ids [B, Q], attention bool [B, Q, Q], columns before branches).
        """
        batch, slots = histories.items.shape
        layout = self.layout
        profile = self.profiles[histories.users]
        rows = torch.cat([self.embed(profile), self._item_slots(histories, tokens)], dim=1)
        width = rows.shape[1]
        positions = layout.positions(histories.length, width)
        real = profile != self.pad
        allowed = history_allowed(real, histories.length, slots, layout)
        if branches is None:
            return rows, positions, allowed, width
        parts, tail = [self.embed(branches.text)], 0
        if branches.label is not None and layout.prefix:
            parts.append(self.embed(self.prefix_tokens[branches.label]))
            tail = layout.prefix
        block = torch.cat(parts, dim=2)  # [B, M, I + l, d]
        rows = torch.cat([rows, block.reshape(batch, -1, rows.shape[2])], dim=1)
        own = branch_positions(branches.after, layout, tail).reshape(batch, -1)
        positions = torch.cat([positions, own], dim=1)
        allowed = branch_allowed(allowed, real, branches.text != self.pad, branches.after, layout, tail)
        return rows, positions, allowed, width

    def _item_slots(self, histories: Histories, tokens: Tensor) -> Tensor:
        """Input embeddings of items [B, T]: float [B, T * S, d]."""
        layout, items = self.layout, histories.items
        own = self.item_scale * self.read(self.hide(rows_of(tokens, histories.rows), items))
        if not self.prefix_tokens.shape[1]:
            return own
        prefix = self.embed(self.prefix_tokens[items])  # [B, T, l, d]
        if not layout.prefix:
            return own + prefix.sum(dim=2)
        if layout.item_token:
            prefix = torch.cat([prefix, own[:, :, None]], dim=2)
        return prefix.flatten(1, 2)


def history_allowed(profile: Tensor, length: Tensor, items: int, layout: RowLayout) -> Tensor:
    """Causal attention inside profile and history, padding hidden.

    Args:
        profile: bool [B, P], real tokens of the left-padded profile.
        length: int64 [B], items of each row.
        items: T, item slots in the row.
        layout: the row's widths.

    Returns:
        bool [B, H, H] with H = P + T * S; every query sees itself, so no row of the table is empty.
    """
    width = layout.history_end(items)
    column = torch.arange(width, device=length.device)
    real = column[None, :] < (layout.profile + length * layout.slot)[:, None]
    real[:, : layout.profile] = profile
    causal = column[:, None] >= column[None, :]
    itself = column[:, None] == column[None, :]
    return causal[None] & real[:, None, :] | itself


def branch_allowed(
    history: Tensor, profile: Tensor, instruction: Tensor, after: Tensor, layout: RowLayout, tail: int
) -> Tensor:
    """Extend a history table by branches.

    Args:
        history: bool [B, H, H] from ``history_allowed``.
        profile: bool [B, P], real tokens of the left-padded profile.
        instruction: bool [B, M, I], real tokens of the left-padded instructions.
        after: int64 [B, M], the item that each branch follows (0-based).
        layout: the row's widths.
        tail: label tokens in each branch (l in training).

    Returns:
        bool [B, H + M (I + tail), H + M (I + tail)].
    """
    batch, width, _ = history.shape
    branches, block = after.shape[1], layout.instruction + tail
    total = width + branches * block
    allowed = torch.zeros(batch, total, total, dtype=torch.bool, device=history.device)
    allowed[:, :width, :width] = history
    column = torch.arange(width, device=history.device)
    end = layout.profile + (after + 1) * layout.slot
    sees = column[None, None, :] < end[:, :, None]
    sees[:, :, : layout.profile] &= profile[:, None, :]
    allowed[:, width:, :width] = sees.repeat_interleave(block, dim=1)
    inside = torch.ones(block, block, dtype=torch.bool, device=history.device).tril()
    real = torch.ones(batch, branches, block, dtype=torch.bool, device=history.device)
    real[:, :, : layout.instruction] = instruction
    itself = torch.eye(block, dtype=torch.bool, device=history.device)
    own = inside[None, None] & real[:, :, None, :] | itself
    # the branches' own blocks lie on the diagonal of the last M * (I + tail) rows and columns
    view = allowed[:, width:, width:].view(batch, branches, block, branches, block)
    index = torch.arange(branches, device=history.device)
    view[:, index, :, index, :] = own.transpose(0, 1)
    return allowed


def branch_positions(after: Tensor, layout: RowLayout, tail: int) -> Tensor:
    """Position ids of the branches: int64 [B, M, I + tail]; text counts on from the history, labels take the
    slot's ids. Where history is counted back, from the longest one.
    """
    if layout.newest_first:
        after = torch.full_like(after, layout.window)
    base = layout.profile + (after + 1) * layout.slot
    text = torch.arange(layout.instruction, device=after.device)
    label = torch.arange(tail, device=after.device)
    return base[:, :, None] + torch.cat([text, label])
