"""Softmax over the whole catalogue, for every model that trains on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_sigma.values import SeenPairs

_CELLS = 1 << 20  # scores held at a time: they stay in the processor's cache between two passes


def seen_pairs(items: Tensor, rows: Tensor, last: Tensor) -> SeenPairs:
    """What each prediction's history holds.

    Args:
        items: int64 [B, T] packed rows, right-padded.
        rows: int64 [M], the row of each prediction.
        last: int64 [M], the last history column of each prediction.

    Returns:
        (prediction int64 [P], item int64 [P]), one pair per history item.
    """
    column = torch.arange(items.shape[1], device=items.device)
    prediction, place = (column[None, :] <= last[:, None]).nonzero(as_tuple=True)
    return prediction, items[rows[prediction], place]


def catalogue_logits(
    queries: Tensor, items: Tensor, seen: SeenPairs | None = None, targets: Tensor | None = None
) -> Tensor:
    """Logits over the whole catalogue, -inf where nothing may be recommended.

    Args:
        queries: float [M, d], scaled.
        items: float [N, d]; row 0 is padding.
        seen: (query, item) pairs that are out, or None.
        targets: see ``hide``.

    Returns:
        float [M, N].
    """
    return hide(queries @ items.T, seen, targets)


def hide(logits: Tensor, seen: SeenPairs | None = None, targets: Tensor | None = None) -> Tensor:
    """Logits [M, N] with -inf at the padding item and at seen items.

    Args:
        logits: float [M, N].
        seen: (row, item) pairs, or None.
        targets: int64 [M], items that stay open even when they are named as seen, or None.
    """
    closed = torch.zeros_like(logits, dtype=torch.bool)
    closed[:, 0] = True
    if seen is not None:
        closed[seen[0], seen[1]] = True
        if targets is not None:
            closed[torch.arange(len(targets), device=targets.device), targets] = False
    return logits.masked_fill(closed, float("-inf"))


def catalogue_cross_entropy(
    queries: Tensor, items: Tensor, targets: Tensor, weights: Tensor, seen: SeenPairs | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax cross-entropy over the whole catalogue, without ever holding all M x N scores.

    Args:
        queries: float [M, e].
        items: float [N, e]; row 0 is padding and never counts.
        targets: int64 [M].
        weights: float [M].
        seen: pairs left out of the softmax, in any order; a pair that names the target is ignored.

    Returns:
        (sum of weight times loss, the loss of every prediction float [M] without gradient).
    """
    rows, banned = targets[:0], targets[:0]
    if seen is not None:
        rows, order = torch.sort(seen[0], stable=True)
        banned = seen[1][order]
        keep = banned != targets[rows]
        rows, banned = rows[keep], banned[keep]
    # in float32 whatever the rest runs in: sums over a whole catalogue need the digits
    with torch.autocast(queries.device.type, enabled=False):
        return _CatalogueCrossEntropy.apply(queries, items, targets, weights, rows, banned)


class _CatalogueCrossEntropy(torch.autograd.Function):
    """Gradients are made together with the scores, a block of rows at a time: several times faster on a CPU
    than keeping the whole matrix for a backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        items: Tensor,
        targets: Tensor,
        weights: Tensor,
        rows: Tensor,
        banned: Tensor,
    ) -> tuple[Tensor, Tensor]:
        count, n_items = len(queries), len(items)
        size = max(16, _CELLS // n_items)
        query, item = queries.detach().float(), items.detach().float()
        columns = item.T.contiguous()
        query_grad, item_grad = torch.empty_like(query), torch.zeros_like(item)
        each = query.new_empty(count)
        begins = list(range(0, count, size))
        cut = torch.searchsorted(rows, torch.tensor([*begins, count], device=rows.device)).tolist()
        for number, begin in enumerate(begins):
            end = min(begin + size, count)
            own, target = query[begin:end], targets[begin:end]
            here = torch.arange(end - begin, device=query.device)
            scores = own @ columns
            scores[:, 0] = -torch.inf
            part = slice(cut[number], cut[number + 1])
            scores[rows[part] - begin, banned[part]] = -torch.inf
            wanted = scores[here, target]
            top = scores.amax(dim=1, keepdim=True)
            total = scores.sub_(top).exp_().sum(dim=1, keepdim=True)
            each[begin:end] = (total.log() + top)[:, 0] - wanted
            scores.div_(total)
            scores[here, target] -= 1.0
            scores.mul_(weights[begin:end, None])
            query_grad[begin:end] = scores @ item
            item_grad.addmm_(scores.T, own)
        ctx.save_for_backward(query_grad.to(queries.dtype), item_grad.to(items.dtype))
        ctx.mark_non_differentiable(each)
        return (each * weights).sum(), each

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query_grad, item_grad = ctx.saved_tensors
        return query_grad * grad, item_grad * grad, None, None, None, None
