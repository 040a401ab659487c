"""Losses of SIGMA that look at items: inside one prefix (the paper's L_ID) and over the whole catalogue."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_sigma.tokenization.catalogue import PrefixBuckets

Seen = tuple[Tensor, Tensor]
"""(prediction int64 [P], item int64 [P]) pairs that are left out of a softmax over items."""

_CELLS = 1 << 20  # scores held at a time: they stay in the processor's cache between two passes


def seen_pairs(items: Tensor, rows: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
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


def same_prefix_loss(
    queries: Tensor,
    targets: Tensor,
    items: Tensor,
    buckets: PrefixBuckets,
    negatives: int = 0,
    seen: Seen | None = None,
) -> Tensor:
    """L_ID: softmax of the target against items that share its prefix (paper: hard negatives N_c).

    Predictions are grouped by prefix, so that each prefix costs one matrix product with its own items.

    Args:
        queries: float [M, d], scaled: logits are inner products with ``items``.
        targets: int64 [M] item ids.
        items: float [N, d].
        buckets: the catalogue by prefix.
        negatives: same-prefix negatives drawn per step and prefix; 0 = all of them.
        seen: (prediction, item) pairs that are no negatives, or None; a pair that names the target is
            ignored.

    Returns:
        float [M], one loss per prediction.
    """
    prefix = buckets.prefix[targets]
    by_prefix = torch.argsort(prefix, stable=True)
    counts = torch.bincount(prefix, minlength=buckets.n_prefixes).tolist()
    queries = queries[by_prefix]
    places = buckets.place[targets][by_prefix]
    sorted_items = items[buckets.order]
    starts = buckets.start.tolist()
    slot_of = torch.empty_like(by_prefix)
    slot_of[by_prefix] = torch.arange(len(by_prefix), device=by_prefix.device)
    hidden = None if seen is None else _seen_by_prefix(seen, targets, slot_of, buckets)
    parts = []
    begin = 0
    for index, count in enumerate(counts):
        if count and starts[index + 1] - starts[index] == 1:
            parts.append(queries.new_zeros(count))  # the prefix names the item
        elif count:
            members = sorted_items[starts[index] : starts[index + 1]]
            place = places[begin : begin + count]
            blocked = None
            if hidden is not None:
                slot, member = hidden[index]
                blocked = torch.zeros(count, len(members), dtype=torch.bool, device=items.device)
                blocked[slot - begin, member] = True
            if 0 < negatives < len(members) - 1:
                kept, place = _sample(len(members), place, negatives)
                members = members[kept]
                blocked = None if blocked is None else blocked[:, kept]
            logits = queries[begin : begin + count] @ members.T
            if blocked is not None:
                logits = logits.masked_fill(blocked, float("-inf"))
            parts.append(F.cross_entropy(logits, place, reduction="none"))
        begin += count
    return torch.cat(parts)[slot_of]


def _seen_by_prefix(
    seen: tuple[Tensor, Tensor], targets: Tensor, slot_of: Tensor, buckets: PrefixBuckets
) -> list[tuple[Tensor, Tensor]]:
    """For each prefix, the (slot in the sorted predictions, place in the bucket) pairs to hide."""
    prediction, item = seen
    prefix = buckets.prefix[item]
    keep = (prefix == buckets.prefix[targets[prediction]]) & (item != targets[prediction]) & (item > 0)
    prefix, slot, member = prefix[keep], slot_of[prediction[keep]], buckets.place[item[keep]]
    order = torch.argsort(prefix, stable=True)
    sizes = torch.bincount(prefix, minlength=buckets.n_prefixes).tolist()
    return list(zip(slot[order].split(sizes), member[order].split(sizes), strict=True))


def _sample(size: int, place: Tensor, negatives: int) -> tuple[Tensor, Tensor]:
    """Keep the targets of the step and ``negatives`` random others: (kept places, the targets' new
    places).
    """
    drawn = torch.randperm(size, device=place.device)[:negatives]
    kept = torch.unique(torch.cat([place, drawn]))
    return kept, torch.searchsorted(kept, place)


def random_negative_loss(
    queries: Tensor,
    targets: Tensor,
    items: Tensor,
    negatives: int,
    seen: Seen | None = None,
) -> Tensor:
    """The ablation of L_ID's hard negatives: softmax of the target against random items of the catalogue.

    Args:
        queries: float [M, d], scaled.
        targets: int64 [M] item ids.
        items: float [N, d].
        negatives: items drawn uniformly per step, the same for all predictions.
        seen: (prediction, item) pairs that are no negatives, or None.

    Returns:
        float [M], one loss per prediction.
    """
    drawn = torch.randint(1, len(items), (negatives,), device=targets.device)
    own = (queries * items[targets]).sum(dim=-1, keepdim=True)
    others = queries @ items[drawn].T
    closed = drawn[None, :] == targets[:, None]
    if seen is not None:
        row = torch.arange(len(targets), device=targets.device)[:, None] * len(items)
        closed |= torch.isin(row + drawn[None, :], seen[0] * len(items) + seen[1])
    logits = torch.cat([own, others.masked_fill(closed, float("-inf"))], dim=1)
    return F.cross_entropy(logits, torch.zeros_like(targets), reduction="none")


def catalogue_logits(
    queries: Tensor, items: Tensor, seen: Seen | None = None, targets: Tensor | None = None
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


def hide(logits: Tensor, seen: Seen | None = None, targets: Tensor | None = None) -> Tensor:
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


def pooled_log_scores(logits: Tensor, order: Tensor, start: Tensor) -> Tensor:
    """log of the catalogue scores summed under each prefix.

    Args:
        logits: float [M, N] from ``catalogue_logits``.
        order: int64 [N - 1], item ids sorted by prefix.
        start: int64 [C + 1], where each prefix begins in ``order``.

    Returns:
        float [M, C]; very small, not -inf, where a prefix has nothing left.
    """
    top = logits.detach().amax(dim=1, keepdim=True).clamp_min(-1e4)
    weight = (logits - top).exp()[:, order]
    parts = weight.split((start[1:] - start[:-1]).tolist(), dim=1)  # one backward for all slices
    return torch.stack([part.sum(dim=1) for part in parts], dim=1).clamp_min(1e-30).log() + top


def catalogue_cross_entropy(
    queries: Tensor, items: Tensor, targets: Tensor, weights: Tensor, seen: Seen | None = None
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
