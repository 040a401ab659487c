"""Exact top-k with a fixed tie rule: score descending, then item id ascending."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_sigma.values import RankedItems, UserError

_MAX_KEY_ELEMENTS = 1 << 23  # int64 keys of one chunk: 64 MB
_BLOCK = 64  # scores that one maximum stands for: near the root of N / k, where the search reads least


def order_keys(scores: Tensor) -> Tensor:
    """Keys whose integer order is the tie rule.

    The float's bits, made order-preserving, fill the high half; the complement of the item id fills the low
    half, so equal scores order by ascending id and no two keys of a row are equal.

    Args:
        scores: float32 [B, N] without NaN.

    Returns:
        int64 [B, N].
    """
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    ordered = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).to(torch.int64)
    ids = torch.arange(scores.shape[1], device=scores.device, dtype=torch.int64)
    return (ordered << 32) | (0xFFFFFFFF - ids)


def top_k(scores: Tensor, k: int, seen: tuple[Tensor, Tensor] | None = None) -> RankedItems:
    """Rank the catalogue by dense scores.

    Args:
        scores: [B, N], any floating type; column 0 is the padding item and is never recommended. Left as it
            is.
        k: list length; rows with fewer than k allowed items end in item 0 with score -inf.
        seen: (row int64 [nnz], item int64 [nnz]) pairs that must not be recommended, or None.

    Returns:
        `RankedItems` of shape [B, k].

    Raises:
        UserError: a score is NaN.
    """
    batch, n_items = scores.shape
    blocks = blocks_of(scores)
    scores = blocks.flatten(1)[:, :n_items]
    closed = [scores[:, 0].clone()] if seen is None else [scores[:, 0].clone(), scores[seen[0], seen[1]]]
    scores[:, 0] = -torch.inf
    if seen is not None:
        scores[seen[0], seen[1]] = -torch.inf
    tops = blocks.amax(dim=2)
    broken = torch.isnan(torch.cat([tops.flatten(), *closed])).any()  # a block that holds NaN has it on top
    width = min(k, n_items)
    items = torch.zeros(batch, k, dtype=torch.int64, device=scores.device)
    best, found = _best(blocks, tops, min(width + 1, n_items))
    items[:, :width] = found[:, :width]
    # Only rows with equal scores near the top need the tie rule, and most rows of most models have none.
    tied = ((best[:, 1:] == best[:, :-1]) & (best[:, 1:] > -torch.inf)).any(dim=1)
    nan, ties = torch.stack([broken, tied.any()]).tolist()  # the one thing that the host waits for
    if nan:
        raise UserError(
            "the model gave NaN scores: its training diverged; lower learning_rate or clip the gradient"
        )
    for part in tied.nonzero().flatten().split(max(1, _MAX_KEY_ELEMENTS // n_items)) if ties else ():
        items[part, :width] = torch.topk(order_keys(scores[part]), width, dim=1).indices
    values = scores.new_full((batch, k), -torch.inf)
    values[:, :width] = best[:, :width]  # the tie rule moves items, not scores
    return RankedItems(items=items.masked_fill(torch.isneginf(values), 0), scores=values)


def blocks_of(scores: Tensor) -> Tensor:
    """A float32 copy in blocks: [B, N] -> [B, blocks, `_BLOCK`], filled up with -inf."""
    batch, n_items = scores.shape
    blocks = -(-n_items // _BLOCK)
    copy = scores.new_empty(batch, blocks * _BLOCK, dtype=torch.float32)
    copy[:, :n_items] = scores
    copy[:, n_items:] = -torch.inf
    return copy.view(batch, blocks, _BLOCK)


def _best(blocks: Tensor, tops: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest scores of each row and where they stand, in no order among equals.

    No score outside the ``count`` blocks of the highest tops is above the lowest of these tops, and they hold
    ``count`` scores that are not below it. So the search reads each score once, for its block's top.

    Args:
        blocks: float32 [B, blocks, size].
        tops: float32 [B, blocks], the highest score of each.
        count: how many; at most blocks * size.

    Returns:
        (scores [B, count], highest first, items int64 [B, count]).
    """
    if tops.shape[1] <= count or blocks.device.type != "cpu":  # an accelerator wants one launch
        return torch.topk(blocks.flatten(1), count, dim=1)
    size = blocks.shape[2]
    chosen = torch.topk(tops, count, dim=1, sorted=False).indices
    candidates = blocks.gather(1, chosen[:, :, None].expand(-1, -1, size)).flatten(1)
    best, place = torch.topk(candidates, count, dim=1)
    return best, chosen.gather(1, place // size) * size + place % size


def pairs_of_rows(
    pairs: tuple[Tensor, Tensor] | None, rows: Tensor, batch: int
) -> tuple[Tensor, Tensor] | None:
    """The (row, item) pairs of some rows of a batch, renumbered to those rows.

    Args:
        pairs: (row int64 [nnz], item int64 [nnz]), or None.
        rows: int64 [R], row numbers, none twice.
        batch: rows of the whole batch.

    Returns:
        The pairs whose row is among ``rows``, in their order, each with its place in ``rows``; None for None.
    """
    if pairs is None:
        return None
    row, item = pairs
    place = torch.full((batch,), -1, dtype=torch.int64, device=row.device)
    place[rows.to(row.device)] = torch.arange(len(rows), device=row.device)
    row = place[row]
    return row[row >= 0], item[row >= 0]
