"""Exact top-k with a fixed tie rule: score descending, then item id ascending."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_sigma.values import RankedItems, UserError

_CELLS = 1 << 21  # scores ranked at a time on a CPU; what is made of them takes ten times their 8 MB
_PIECE = 16  # columns of a long row that share a maximum; see `largest`


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
    rows = max(1, _CELLS // scores.shape[1]) if scores.device.type == "cpu" else len(scores)
    if len(scores) > rows:
        parts = []
        for own in torch.arange(len(scores)).split(rows):
            parts.append(top_k(scores[own[0] : own[-1] + 1], k, pairs_of_rows(seen, own, len(scores))))
        return RankedItems(
            *(torch.cat([getattr(part, name) for part in parts]) for name in ("items", "scores"))
        )
    scores = scores.to(torch.float32, copy=True)
    batch, n_items = scores.shape
    closed = [scores[:, 0].clone()] if seen is None else [scores[:, 0].clone(), scores[seen[0], seen[1]]]
    scores[:, 0] = -torch.inf
    if seen is not None:
        scores[seen[0], seen[1]] = -torch.inf
    width = min(k, n_items)
    items = torch.zeros(batch, k, dtype=torch.int64, device=scores.device)
    best, found = largest(scores, min(width + 1, n_items))
    broken = torch.isnan(torch.cat([best[:, 0], *closed])).any()  # NaN comes before all numbers
    items[:, :width] = found[:, :width]
    # Only rows with equal scores near the top need the tie rule, and most rows of most models have none.
    tied = ((best[:, 1:] == best[:, :-1]) & (best[:, 1:] > -torch.inf)).any(dim=1)
    nan, ties = torch.stack([broken, tied.any()]).tolist()  # the one thing that the host waits for
    if nan:
        raise UserError(
            "the model gave NaN scores: its training diverged; lower learning_rate or clip the gradient"
        )
    for part in tied.nonzero().flatten().split(max(1, _CELLS // n_items)) if ties else ():
        items[part, :width] = torch.topk(order_keys(scores[part]), width, dim=1).indices
    values = scores.new_full((batch, k), -torch.inf)
    values[:, :width] = best[:, :width]  # the tie rule moves items, not scores
    return RankedItems(items=items.masked_fill(torch.isneginf(values), 0), scores=values)


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``torch.topk``, of long rows on a CPU in two steps: whoever is among the k best stands in one of the k
    pieces with the greatest maxima. Among equals it may choose others.

    Args:
        scores: float [B, M].
        k: at most M.
    """
    length = scores.shape[1] // _PIECE
    if length < 2 * k or scores.device.type != "cpu":  # an accelerator wants one launch
        return scores.topk(k, dim=1)
    # piece j holds the columns j, j + length, ...: the maxima of all are one pass over whole vectors
    pieces = scores[:, : length * _PIECE].unflatten(1, (_PIECE, length)).amax(dim=1)
    chosen = pieces.topk(k, dim=1).indices
    step = torch.arange(_PIECE, device=scores.device)[:, None] * length
    rest = torch.arange(length * _PIECE, scores.shape[1], device=scores.device).expand(len(scores), -1)
    column = torch.cat([(chosen[:, None] + step).flatten(1), rest], dim=1)
    top, place = scores.gather(1, column).topk(k, dim=1)
    return top, column.gather(1, place)


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
