"""Exact top-k with a fixed tie rule: score descending, then item id ascending."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_sigma.values import RankedItems, UserError

_MAX_KEY_ELEMENTS = 1 << 23  # int64 keys of one chunk: 64 MB


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
    scores = scores.to(torch.float32, copy=True)
    broken = torch.isnan(scores).any()
    batch, n_items = scores.shape
    scores[:, 0] = -torch.inf
    if seen is not None:
        scores[seen[0], seen[1]] = -torch.inf
    width = min(k, n_items)
    items = torch.zeros(batch, k, dtype=torch.int64, device=scores.device)
    best, found = torch.topk(scores, min(width + 1, n_items), dim=1)
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
    values = torch.gather(scores, 1, items)
    empty = torch.isneginf(values)
    return RankedItems(items=items.masked_fill(empty, 0), scores=values.masked_fill(empty, -torch.inf))


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
