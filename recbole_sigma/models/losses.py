"""Softmax over the whole catalogue, for every model that trains on it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from recbole_sigma.values import SeenPairs

_CELLS = 1 << 20  # scores held at a time: they stay in the processor's cache between two passes
_CELLS_ELSEWHERE = 1 << 26  # on an accelerator, which wants few and large products
_ROWS = 32  # a block has a multiple of them: odd widths cost products and sums a third
_LOG2_E = math.log2(math.e)


def history_of(items: Tensor, rows: Tensor, last: Tensor) -> Tensor:
    """What each prediction's history holds, its own target left out: no negatives for a softmax.

    Args:
        items: int64 [B, T] packed rows, right-padded with 0.
        rows: int64 [M], the row of each prediction.
        last: int64 [M], the last history column of each prediction; the target stands in the next one.

    Returns:
        int64 [M, T - 1], item ids, 0 in empty slots.
    """
    history = items[rows, :-1]
    column = torch.arange(items.shape[1] - 1, device=items.device)
    target = items[rows, last + 1]
    return history.masked_fill((column > last[:, None]) | (history == target[:, None]), 0)


def with_negatives(target: Tensor, count: int, n_items: int) -> Tensor:
    """Each target and, behind it, negatives: every real item but the target, with equal chance.

    Args:
        target: int64 [B].
        count: negatives of a row.
        n_items: N; ids 1 to N - 1 are real.

    Returns:
        int64 [B, 1 + count].
    """
    drawn = torch.randint(1, n_items - 1, (len(target), count), device=target.device)
    return torch.cat([target[:, None], drawn + (drawn >= target[:, None])], dim=1)


def uniform_cross_entropy(
    queries: Tensor, items: Tensor, targets: Tensor, weights: Tensor, count: int
) -> Tensor:
    """Softmax cross-entropy over each target and items that are drawn uniformly, the same ones for all rows.

    A drawn item that is a row's target counts once, as the target.

    Args:
        queries: float [M, e].
        items: float [N, e]; row 0 is padding and never drawn.
        targets: int64 [M].
        weights: float [M].
        count: items to draw, with replacement.

    Returns:
        the sum of weight times loss, [].
    """
    drawn = torch.randint(1, len(items), (count,), device=items.device)
    own = (queries * items[targets]).sum(dim=-1, keepdim=True)
    others = (queries @ items[drawn].T).masked_fill(targets[:, None] == drawn, float("-inf"))
    return ((torch.cat([own, others], dim=1).logsumexp(dim=1) - own[:, 0]) * weights).sum()


def hide(logits: Tensor, seen: SeenPairs | None = None) -> Tensor:
    """Logits with -inf at the padding item and at seen items.

    Args:
        logits: float [M, N].
        seen: (row, item) pairs, or None.
    """
    row = torch.arange(len(logits), device=logits.device)
    item = torch.zeros_like(row)
    if seen is not None:
        row, item = torch.cat([row, seen[0]]), torch.cat([item, seen[1]])
    return logits.index_put((row, item), logits.new_full((), float("-inf")))


def open_log_softmax(logits: Tensor) -> Tensor:
    """log P over what is left: float [M, N] -> [M, N]; -inf stays, also in a row where nothing is left."""
    nothing = torch.isneginf(logits.detach().amax(dim=-1, keepdim=True))
    return logits.log_softmax(dim=-1).masked_fill(nothing, float("-inf"))


def log_sum(logits: Tensor) -> Tensor:
    """log of the sum of exp over what is left: float [M, N] -> [M, 1], 0 in a row where nothing is left."""
    total = logits.logsumexp(dim=-1, keepdim=True)
    return total.masked_fill(torch.isneginf(total), 0.0)


def catalogue_cross_entropy(
    queries: Tensor,
    items: Tensor,
    targets: Tensor,
    weights: Tensor,
    hidden: Tensor | None = None,
    rdrop: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Softmax cross-entropy over the whole catalogue, without ever holding all M x N scores.

    With ``rdrop`` the network read every row twice, under other dropout masks, and the loss is R-Drop's
    (arXiv 2106.14448, equation 4, halved so that its size stays that of one pass):

        (CE_1 + CE_2) / 2 + rdrop / 4 (KL(P_1 | P_2) + KL(P_2 | P_1))

    Args:
        queries: float [M, e]; with ``rdrop`` [2M, e], those of the first pass, then those of the second.
        items: float [N, e]; row 0 is padding and never counts.
        targets: int64 [M].
        weights: float [M].
        hidden: int64 [M, H], items left out of each softmax, 0 in empty slots; never the target. None for
            nothing.
        rdrop: alpha of R-Drop; 0 for one pass.

    Returns:
        (sum of weight times loss, the cross-entropy of every prediction float [M] without gradient).
    """
    # in float32 whatever the rest runs in: sums over a whole catalogue need the digits
    with torch.autocast(queries.device.type, enabled=False):
        return _CatalogueCrossEntropy.apply(queries, items, targets, weights, hidden, rdrop)


def by_pass(queries: Tensor, rdrop: float) -> Tensor:
    """Queries of a prediction's passes apart: float [M, e], or [2M, e] with ``rdrop``, -> [passes, M, e]."""
    passes = 2 if rdrop else 1  # told, not derived: a batch may hold no prediction
    return queries.view(passes, len(queries) // passes, queries.shape[1])


class _CatalogueCrossEntropy(torch.autograd.Function):
    """Gradients are made together with the scores, a block of rows at a time: several times faster on a CPU
    than keeping the whole matrix for a backward pass.

    A block's scores lie as [N, rows]: the product of a long and a narrow matrix into rows that are N apart
    runs at half the speed. Scores are to the base 2, exp(s) = 2 ** (s log2 e): on a CPU torch's exp2 takes
    half the time of its exp.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        items: Tensor,
        targets: Tensor,
        weights: Tensor,
        hidden: Tensor | None,
        rdrop: float,
    ) -> tuple[Tensor, Tensor]:
        item, query = items.detach().float(), by_pass(queries.detach().float(), rdrop)
        passes, count = query.shape[:2]
        cells = _CELLS if queries.device.type == "cpu" else _CELLS_ELSEWHERE
        size = max(1, cells // (passes * len(items)) // _ROWS) * _ROWS
        query_grad, item_grad = torch.empty_like(query), torch.zeros_like(item)
        each, apart = (query.new_zeros(count) for _ in range(2))
        # memory that is there already costs less
        room = query.new_empty(len(item) * passes * min(size, count))
        for begin in range(0, count, size):
            block = slice(begin, begin + size)
            own = query[:, block].flatten(0, 1)  # the block's first passes, then its second ones
            target, weight = (part[None, block].repeat(1, passes) for part in (targets, weights / passes))
            scores = room[: len(item) * len(own)].view(len(item), len(own))
            torch.mm(item, own.T * _LOG2_E, out=scores)
            first, second = scores.tensor_split(passes, dim=1) if rdrop else (scores, None)
            gap = None if second is None else first - second
            if hidden is not None:
                scores.scatter_(0, hidden[block].T.repeat(1, passes), -torch.inf)
            scores[0] = -torch.inf
            wanted = scores.gather(0, target)
            top = scores.amax(dim=0, keepdim=True)
            total = scores.sub_(top).exp2_().sum(dim=0, keepdim=True)
            each[block] = ((total.log2() + top - wanted) / _LOG2_E).view(passes, -1).mean(dim=0)
            # d loss / d score = weight (softmax - 1 at the target)
            if gap is None:
                scores.mul_(weight / total)
            else:
                scores.div_(total)
                apart[block] = _pull_together(first, second, gap.mul_(rdrop / 2 / _LOG2_E), rdrop / 2)
                scores.mul_(weight)
            scores.scatter_add_(0, target, -weight)
            query_grad[:, block] = torch.mm(scores.T, item).view(passes, -1, item.shape[1])
            item_grad.addmm_(scores, own)
        ctx.save_for_backward(query_grad.view_as(queries).to(queries.dtype), item_grad.to(items.dtype))
        ctx.mark_non_differentiable(each)
        return ((each + apart) * weights).sum(), each

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query_grad, item_grad = ctx.saved_tensors
        return query_grad * grad, item_grad * grad, None, None, None, None


def _pull_together(first: Tensor, second: Tensor, gap: Tensor, strength: float) -> Tensor:
    """R-Drop's part: from two softmaxes to their gradients, in place.

    With d the gap between the scores of the passes, KL(P_1 | P_2) + KL(P_2 | P_1) is the mean of d under P_1
    less that under P_2: both log Z cancel. Its gradient by the scores of the first pass is
    P_1 (d - mean of d under P_1) + P_1 - P_2.

    Args:
        first: float [N, M], P_1; becomes P_1 + strength times that gradient.
        second: float [N, M], P_2; likewise, with -d.
        gap: float [N, M], strength times d; finite also where nothing is left to choose.
        strength: half of alpha, as each pass counts half.

    Returns:
        strength times the divergence over 2, float [M].
    """
    mean_first, mean_second = ((part * gap).sum(dim=0) for part in (first, second))
    others = second * strength
    second.mul_(1.0 + strength + mean_second - gap).sub_(first, alpha=strength)
    first.mul_(gap.add_(1.0 + strength - mean_first)).sub_(others)
    return (mean_first - mean_second) / 2
