"""RecBole's transformer encoder on packed rows: every step of it at places that hold an item, no other.

Padded, a seventh of the work on ml-100k and half of it on Beauty is done for empty places. Here the items of
all rows stand one behind the other, as [P, d]; only attention, which looks along a row, spreads the rows of
similar length out and picks its result up again. Weights and states are those of RecBole's layers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from recbole.model.layers import FeedForward, MultiHeadAttention, TransformerEncoder
from torch import Tensor, nn

from recbole_sigma.language.transformer import keep_mask
from recbole_sigma.models.packed import RowGroup


def encode(encoder: TransformerEncoder, hidden: Tensor, groups: list[RowGroup]) -> Tensor:
    """Causal states of packed rows, on a CPU.

    Args:
        encoder: its layers; dropout where it trains.
        hidden: float [P, d], the inputs of the groups' places, group after group.
        groups: of `PackedRows`.

    Returns:
        float [P, d], of the last layer.
    """
    spreads = [Spread(group) for group in groups]
    for layer in encoder.layer:
        hidden = _attended(layer.multi_head_attention, hidden, spreads)
        hidden = _fed_forward(layer.feed_forward, hidden)
    return hidden


class Spread:
    """Where the items of a group stand when each of its R rows has T places.

    Attributes:
        rows: R.
        width: T.
        place: int64 [M], the place in [R T] of each item.
        source: int64 [R T], the item at each place; at an empty one the row's last.
        later: bool [T, T], keys that a query may not see.
    """

    def __init__(self, group: RowGroup) -> None:
        length = torch.bincount(group.place)
        self.rows, self.width = len(length), group.width - 1
        column = torch.arange(self.width)
        self.place = group.place * self.width + group.column
        first = length.cumsum(0) - length
        self.source = (first[:, None] + torch.minimum(column, length[:, None] - 1)).flatten()
        self.later = column[:, None] < column


def _attended(part: MultiHeadAttention, hidden: Tensor, spreads: list[Spread]) -> Tensor:
    """`MultiHeadAttention` on float [P, d]; three projections in one product."""
    three = part.query, part.key, part.value
    weight = torch.cat([layer.weight for layer in three])
    mixed = F.linear(hidden, weight, torch.cat([layer.bias for layer in three]))
    heads, dropout = part.num_attention_heads, part.attn_dropout.p if part.training else 0.0
    sizes = [len(spread.place) for spread in spreads]
    found = [
        _CausalAttention.apply(own, spread, heads, dropout)
        for own, spread in zip(mixed.split(sizes), spreads, strict=True)
    ]
    return part.LayerNorm(_plus(hidden, part.dense(torch.cat(found)), part.out_dropout))


def _fed_forward(part: FeedForward, hidden: Tensor) -> Tensor:
    """`FeedForward` on float [P, d]."""
    inner = part.intermediate_act_fn(part.dense_1(hidden))
    return part.LayerNorm(_plus(hidden, part.dense_2(inner), part.dropout))


def _plus(hidden: Tensor, more: Tensor, dropout: nn.Dropout) -> Tensor:
    """hidden + dropout(more) in one pass."""
    if not dropout.training or not dropout.p:
        return hidden + more
    return torch.addcmul(hidden, more, keep_mask(more.shape, dropout.p, more.dtype))


class _CausalAttention(torch.autograd.Function):
    """Attention of a group's rows, from [M, 3 d] to [M, d]; its gradient in six products and two passes.

    What stands at an empty place comes after its row, so that no item sees it, and its own result is not
    picked up: its gradients are zero, and any finite number may stand there.
    """

    @staticmethod
    def forward(ctx: Any, mixed: Tensor, spread: Spread, heads: int, dropout: float) -> Tensor:
        rows, width = spread.rows, spread.width
        # [M, 3 d] -> [R T, 3 d] -> [3, R H, T, d / H]
        wide = mixed.index_select(0, spread.source).view(rows, width, 3, heads, -1)
        wide = wide.permute(2, 0, 3, 1, 4).reshape(3, rows * heads, width, -1)
        query, key, value = wide
        query.mul_(query.shape[-1] ** -0.5)
        weights = torch.bmm(query, key.transpose(1, 2)).masked_fill_(spread.later, -torch.inf).softmax(dim=-1)
        kept = weights * keep_mask(weights.shape, dropout, weights.dtype) if dropout else weights
        result = torch.bmm(kept, value)
        ctx.save_for_backward(wide, weights, kept, result)
        ctx.spread, ctx.heads = spread, heads
        # [R H, T, d / H] -> [R T, d] -> [M, d]
        result = result.view(rows, heads, width, -1).transpose(1, 2).reshape(rows * width, -1)
        return result.index_select(0, spread.place)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (query, key, value), weights, kept, result = ctx.saved_tensors
        rows, width, heads, place = ctx.spread.rows, ctx.spread.width, ctx.heads, ctx.spread.place
        wide = gradient.new_zeros(rows * width, gradient.shape[1]).index_copy_(0, place, gradient)
        wide = wide.view(rows, width, heads, -1).transpose(1, 2).reshape(result.shape)
        found = torch.empty(3, *query.shape, dtype=query.dtype)
        torch.bmm(kept.transpose(1, 2), wide, out=found[2])
        # softmax: w (g - sum w g), where sum w g of a row is its result times the result's gradient
        inside = (wide * result).sum(dim=-1, keepdim=True)
        scores = torch.bmm(wide, value.transpose(1, 2)).mul_(kept).addcmul_(weights, inside, value=-1.0)
        torch.bmm(scores, key, out=found[0]).mul_(query.shape[-1] ** -0.5)
        torch.bmm(scores.transpose(1, 2), query, out=found[1])  # its queries were scaled
        # [3, R H, T, d / H] -> [R T, 3 d] -> [M, 3 d]
        found = found.view(3, rows, heads, width, -1).permute(1, 3, 0, 2, 4).reshape(rows * width, -1)
        return found.index_select(0, place), None, None, None
