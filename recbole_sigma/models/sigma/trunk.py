"""Packed rows and prompts through SIGMA's causal language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recbole_sigma.language.backbone import hidden_states, output_rows


@dataclass(frozen=True)
class Prompt:
    """Encoded prompts of a batch.

    Attributes:
        last: float [B, d], state at the last history item.
        end: float [B, d], state at the end of the instruction.
        cache: the prompt's keys and values.
        readable: bool [B, S], cached positions that what follows may attend to.
        position: int64 [B], position id of the next token.
        words: float [B, d], what the instruction's words add to the query (`WordPath`), or None.
    """

    last: Tensor
    end: Tensor
    cache: Any
    readable: Tensor
    position: Tensor
    words: Tensor | None = None


class PackedTrunk(nn.Module):
    """A causal language model that reads profile text, item slots and instruction branches.

    Args:
        backbone: a transformers causal LM.
        layout: columns of a row.
        profiles: int64 [n_users, P], left-padded profile tokens.
        prefix_tokens: int64 [N, l], vocabulary ids of every item's prefix.
        pad: id of the padding token.
        item_scale: factor on item tokens, which brings them to the size of the backbone's embeddings.
        read: what is applied to an item's token when it is read, before it is scaled; None leaves it.
    """

    def __init__(
        self,
        backbone: nn.Module,
        layout: RowLayout,
        profiles: Tensor,
        prefix_tokens: Tensor,
        pad: int,
        item_scale: float = 1.0,
        read: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.read = read or nn.Identity()
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
        self,
        users: Tensor,
        items: Tensor,
        length: Tensor,
        tokens: Tensor,
        after: Tensor | None,
        text: Tensor | None,
        label: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """States of packed rows.

        Args:
            users: int64 [B].
            items: int64 [B, T], right-padded histories.
            length: int64 [B].
            tokens: float [N, d] fused item tokens.
            after: int64 [B, M], the item that each branch follows, or None for rows without branches.
            text: int64 [B, M, I], instruction tokens of the branches.
            label: int64 [B, M], items whose prefix tokens end the branches.

        Returns:
            (states of the item slots [B, T, S, d], states of the branches [B, M, I + l, d], state at the end
            of the profile [B, d]).
        """
        layout = self.layout
        rows, positions, allowed, width = self._assemble(users, items, length, tokens, after, text, label)
        states = hidden_states(self.backbone, rows, positions, allowed)
        history = states[:, layout.profile : width].reshape(*items.shape, layout.slot, -1)
        start = states[:, layout.profile - 1]
        if after is None:
            return history, states[:, :0], start
        shape = (*after.shape, layout.instruction + layout.prefix, -1)
        return history, states[:, width:].reshape(shape), start

    def prompt(self, users: Tensor, items: Tensor, length: Tensor, tokens: Tensor, text: Tensor) -> Prompt:
        """Encode each user's prompt once.

        Args:
            users: see `packed`.
            items: see `packed`.
            length: see `packed`.
            tokens: see `packed`.
            text: int64 [B, I], the instruction; all padding where nothing is asked, and then nothing of it is
                read later.
        """
        from transformers import DynamicCache

        layout = self.layout
        after = (length - 1)[:, None]
        rows, positions, allowed, _ = self._assemble(users, items, length, tokens, after, text[:, None], None)
        cache = DynamicCache(config=self.backbone.config)
        states = hidden_states(self.backbone, rows, positions, allowed, cache)
        end_of_history = layout.profile + length * layout.slot
        last = states[torch.arange(len(items), device=items.device), end_of_history - 1]
        readable = allowed[:, -1].clone()
        readable[:, -1] &= (text != self.pad).any(dim=1)  # every query sees itself, padding too
        return Prompt(last, states[:, -1], cache, readable, end_of_history)

    def _assemble(
        self,
        users: Tensor,
        items: Tensor,
        length: Tensor,
        tokens: Tensor,
        after: Tensor | None,
        text: Tensor | None,
        label: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """Rows as the language model reads them: profile, history, and a branch per label.

        Returns:
            (embeddings [B, Q, d], position ids [B, Q], attention bool [B, Q, Q], columns before branches).
        """
        batch, slots = items.shape
        layout = self.layout
        profile = self.profiles[users]
        rows = torch.cat([self.embed(profile), self._item_slots(items, tokens)], dim=1)
        width = rows.shape[1]
        positions = torch.arange(width, device=items.device).expand(batch, -1)
        allowed = history_allowed(profile, self.pad, length, slots, layout)
        if after is None or text is None:
            return rows, positions, allowed, width
        parts, tail = [self.embed(text)], 0
        if label is not None and layout.prefix:
            parts.append(self.embed(self.prefix_tokens[label]))
            tail = layout.prefix
        block = torch.cat(parts, dim=2)
        rows = torch.cat([rows, block.reshape(batch, -1, rows.shape[2])], dim=1)
        positions = torch.cat([positions, branch_positions(after, layout, tail).reshape(batch, -1)], dim=1)
        allowed = branch_allowed(allowed, profile, text, self.pad, after, layout, tail)
        return rows, positions, allowed, width

    def _item_slots(self, items: Tensor, tokens: Tensor) -> Tensor:
        """Input embeddings of items [B, T]: float [B, T * S, d].

        A slot is the prefix tokens and then the item token; or their sum in one position; or, for pure
        semantic IDs, the prefix tokens alone.
        """
        layout = self.layout
        own = self.item_scale * self.read(tokens[items])
        if not self.prefix_tokens.shape[1]:
            return own
        prefix = self.embed(self.prefix_tokens[items])
        if not layout.prefix:
            return own + prefix.sum(dim=2)
        if layout.item_token:
            prefix = torch.cat([prefix, own[:, :, None]], dim=2)
        return prefix.flatten(1, 2)


@dataclass(frozen=True)
class RowLayout:
    """Widths that fix the columns of a row.

    Attributes:
        profile: P, tokens before the history.
        prefix: prefix tokens per item: l, or 0 where they are summed into the item's position.
        instruction: I, tokens of an instruction.
        item_token: whether a slot ends in the item token (not for pure semantic IDs).
    """

    profile: int
    prefix: int
    instruction: int
    item_token: bool = True

    @property
    def slot(self) -> int:
        """S, tokens per item."""
        return self.prefix + self.item_token

    def history_end(self, items: int) -> int:
        """Columns up to and including item number ``items``."""
        return self.profile + items * self.slot

    def longest_position(self, window: int) -> int:
        """Number of position ids that rows with ``window`` history items need."""
        return self.history_end(window + 1) + max(self.instruction, self.prefix)


def history_allowed(
    profile_tokens: Tensor, pad: int, length: Tensor, items: int, layout: RowLayout
) -> Tensor:
    """Causal attention inside profile and history, padding hidden.

    Args:
        profile_tokens: int64 [B, P], left-padded.
        pad: pad token id.
        length: int64 [B], items of each row.
        items: T, item slots in the row.
        layout: the row's widths.

    Returns:
        bool [B, H, H] with H = P + T * S; every query sees itself, so no row of the table is empty.
    """
    width = layout.history_end(items)
    column = torch.arange(width, device=length.device)
    real = column[None, :] < (layout.profile + length * layout.slot)[:, None]
    real[:, : layout.profile] = profile_tokens != pad
    causal = column[:, None] >= column[None, :]
    allowed = causal[None] & real[:, None, :]
    allowed[:, column, column] = True
    return allowed


def branch_allowed(
    history: Tensor,
    profile_tokens: Tensor,
    instruction_tokens: Tensor,
    pad: int,
    after: Tensor,
    layout: RowLayout,
    tail: int,
) -> Tensor:
    """Extend a history table by branches.

    Args:
        history: bool [B, H, H] from ``history_allowed``.
        profile_tokens: int64 [B, P], left-padded.
        instruction_tokens: int64 [B, M, I], left-padded.
        pad: pad token id.
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
    sees[:, :, : layout.profile] &= (profile_tokens != pad)[:, None, :]
    allowed[:, width:, :width] = sees.repeat_interleave(block, dim=1)
    inside = torch.ones(block, block, dtype=torch.bool, device=history.device).tril()
    real = torch.ones(batch, branches, block, dtype=torch.bool, device=history.device)
    real[:, :, : layout.instruction] = instruction_tokens != pad
    own = inside[None, None] & real[:, :, None, :]
    step = torch.arange(block, device=history.device)
    own[:, :, step, step] = True
    view = allowed[:, width:, width:].view(batch, branches, block, branches, block)
    index = torch.arange(branches, device=history.device)
    view[:, index, :, index, :] = own.transpose(0, 1)
    return allowed


def branch_positions(after: Tensor, layout: RowLayout, tail: int) -> Tensor:
    """Position ids of the branches: int64 [B, M, I + tail]; text counts on from the history, labels take the
    slot's ids.
    """
    base = layout.profile + (after + 1) * layout.slot
    text = torch.arange(layout.instruction, device=after.device)
    label = torch.arange(tail, device=after.device)
    return base[:, :, None] + torch.cat([text, label])
