"""Positions, attention and read-out columns of SIGMA's packed rows.

A row is: profile text [P] | T item slots of S = l + 1 tokens (l prefix tokens, then the item token; l tokens
for pure semantic IDs; one where prefix and item share a position) | branches. A branch hangs off the history
after item t: the instruction's text [I], then the l prefix tokens of the label. It sees the profile, items
0..t and itself; nothing sees it, so any number of labels shares one pass over the history.

A branch's label tokens take the position ids that the next item's slot has in the history. The trunk then
meets the same situation in a label as at every history position, and both train one function.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
