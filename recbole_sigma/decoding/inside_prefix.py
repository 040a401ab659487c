"""Exact item search inside prefixes: P(item) = P(prefix) P(item | prefix), without a [B, N] matrix.

The catalogue lies sorted by prefix, so the items of a prefix are one slice and their scores one small matrix
product. The loop runs over the distinct prefixes of a batch, never over users or beams, and keeps K
candidates per (user, prefix).

Certificate: P(item | prefix) <= 1, so no item scores above its prefix. Prefixes are taken best first, and a
user is done when the next prefix cannot enter the list any more; with all prefixes in the beam the lists are
exactly those of the full distribution, after a fraction of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from recbole_sigma.decoding.beam import top_with_ties
from recbole_sigma.tokenization.catalogue import ItemsByPrefix
from recbole_sigma.values import RankedItems

_CELLS = 1 << 18
"""Scores held at a time: few enough to stay in cache between the product and the selection."""


@torch.inference_mode()
def search_in_prefixes(
    query_of: Callable[[Tensor, Tensor], Tensor],
    beam: Tensor,
    scores: Tensor,
    items: ItemsByPrefix,
    vectors: Tensor,
    k: int,
    scale: Tensor | None = None,
    seen: tuple[Tensor, Tensor] | None = None,
    chunk: int = 64,
    seen_keep_mass: bool = True,
) -> tuple[RankedItems, int]:
    """Rank the items under the prefixes of a beam.

    Args:
        query_of: (columns int64 [c] of the beam, prefixes int64 [B, c]) -> item queries float [B, c, d];
            prefixes of empty slots are passed as 0.
        beam: int64 [B, W], prefixes, best first, none twice per row, -1 in empty slots.
        scores: float [B, W], log P(prefix), descending, ``-inf`` in empty slots.
        items: the catalogue by prefix.
        vectors: float [n, d], item vectors in the order of ``items.order``.
        k: list length.
        scale: float [B], factor on the item logits; None = 1.
        seen: (row, item) int64 vectors of what must not be recommended, or None.
        seen_keep_mass: seen items keep their share of P(item | prefix) and are merely not listed; False takes
            them out before the softmax, so that each prefix's mass goes to what is left.
        chunk: prefixes per user and round; the certificate is checked between rounds.

    Returns:
        lists sorted by log P(prefix) + log P(item | prefix), then item id; and how many columns of the beam
        were used.

    Raises:
        UserError: NaN from the model.
    """
    batch, width = beam.shape
    best_score = torch.full((batch, 0), -torch.inf, device=beam.device)
    best_row = torch.zeros(batch, 0, dtype=torch.int64, device=beam.device)
    used = 0
    while used < width:
        columns = torch.arange(used, min(used + chunk, width), device=beam.device)
        part, weight = beam[:, columns], scores[:, columns]
        if used:
            # An item of an equal-scored prefix could still win by its id, so only strictly worse prefixes are
            # certain.
            done = (
                (weight[:, 0] < best_score[:, -1]) if best_score.shape[1] == k else weight[:, 0] == -torch.inf
            )
            if bool((done | (weight[:, 0] == -torch.inf)).all()):
                break
            weight = weight.masked_fill(done[:, None], -torch.inf)
        queries = query_of(columns, part.clamp_min(0))
        if scale is not None:
            queries = queries * scale[:, None, None]
        least = best_score[:, -1] if best_score.shape[1] == k else weight.new_full((batch,), -torch.inf)
        score, row = _best_per_prefix(queries, part, weight, items, vectors, k, least, seen, seen_keep_mass)
        best_score, best_row = _merge(
            torch.cat([best_score, score], 1), torch.cat([best_row, row], 1), items, k
        )
        used = int(columns[-1]) + 1
    found = best_score > -torch.inf
    listed = torch.zeros(batch, k, dtype=torch.int64, device=beam.device)
    values = torch.full((batch, k), -torch.inf, device=beam.device)
    listed[:, : found.shape[1]] = torch.where(found, items.order[best_row], 0)
    values[:, : found.shape[1]] = best_score
    with torch.inference_mode(False):
        return RankedItems(listed.clone(), values.clone()), used


def _merge(scores: Tensor, rows: Tensor, items: ItemsByPrefix, k: int) -> tuple[Tensor, Tensor]:
    top, index = top_with_ties(scores, k, lambda: items.order[rows])
    return top, rows.gather(1, index)


def _best_per_prefix(
    queries: Tensor,
    beam: Tensor,
    weight: Tensor,
    items: ItemsByPrefix,
    vectors: Tensor,
    k: int,
    least: Tensor,
    seen: tuple[Tensor, Tensor] | None,
    keep_mass: bool,
) -> tuple[Tensor, Tensor]:
    """The best k items under every (user, prefix) that can be among the user's best k: scores and rows of the
    catalogue, both [B, c * k].

    A prefix whose best item is behind the best items of k other prefixes, or behind ``least`` [B], holds none
    of the user's best k: its items are not sorted.
    """
    batch, width = beam.shape
    held = items.start[beam.clamp_min(0) + 1] - items.start[beam.clamp_min(0)]
    live = ((beam >= 0) & (weight > -torch.inf) & (held > 0)).flatten()
    slots = live.nonzero().flatten()
    prefix = beam.flatten()[slots]
    # Largest prefixes first, equal prefixes together: rows of a block then differ little in length.
    by_size = (items.start[prefix] - items.start[prefix + 1]) * len(items.start) + prefix
    slots = slots[by_size.argsort(stable=True)]
    prefix = beam.flatten()[slots]
    low = items.start[prefix]
    size = items.start[prefix + 1] - low
    keep = max(min(k, int(size[0])), 1) if len(size) else 1
    score = torch.full((batch * width, keep), -torch.inf, device=beam.device)
    row = torch.zeros(batch * width, keep, dtype=torch.int64, device=beam.device)
    banned = _seen_cells(prefix, slots, width, items, seen)
    query, weight = queries.flatten(0, 1)[slots], weight.flatten()[slots]
    peak = torch.full((batch * width,), -torch.inf, device=beam.device)
    for begin, end, runs in _blocks(prefix, low, size):
        mine = slice(*torch.searchsorted(banned[0], torch.tensor([begin, end], device=beam.device)).tolist())
        pair, seen_row = banned[0][mine], banned[1][mine]
        logits = _logits(query[begin:end], runs, vectors, int(size[begin]))
        top, total = _top_and_sum(logits)
        if len(pair):
            logits[pair - begin, seen_row - low[pair]] = -torch.inf
            top, left = _top_and_sum(logits)
            total = total if keep_mass else left
        offset, own = weight[begin:end] - total, slots[begin:end]
        peak[own] = top + offset
        if width > k:
            least = torch.maximum(least, peak.view(batch, width).topk(k).values[:, -1])
        able = (~(peak[own] < least[own // width])).nonzero().flatten()  # NaN too, which is refused below
        start = low[begin:end][able, None]
        best, index = top_with_ties(
            logits if len(able) == len(own) else logits[able],
            keep,
            partial(_item_ids, items, start, logits.shape[1]),
        )
        score[own[able], : best.shape[1]] = best + offset[able, None]
        row[own[able], : best.shape[1]] = (start + index).clamp_max_(len(items.order) - 1)
    return score.view(batch, width * keep), row.view(batch, width * keep)


def _top_and_sum(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit of each row, and the logarithm of the sum of their exponentials; 0 for that where
    every item is seen, as there is nothing to list.
    """
    top = logits.amax(dim=1)
    shift = top.masked_fill(top == -torch.inf, 0.0)
    total = (logits - shift[:, None]).exp_().sum(dim=1).log_()
    return top, torch.where(top == -torch.inf, 0.0, total + shift)


def _item_ids(items: ItemsByPrefix, start: Tensor, width: int) -> Tensor:
    """Ids of the items in ``width`` rows of the catalogue from each start [n, 1] on: int64 [n, width]."""
    rows = start + torch.arange(width, device=start.device)
    return items.order[rows.clamp_max_(len(items.order) - 1)]


def _blocks(
    prefix: Tensor, low: Tensor, size: Tensor
) -> Iterator[tuple[int, int, list[tuple[int, int, int]]]]:
    """Cut the sorted pairs into blocks of about ``_CELLS`` scores.

    Yields:
        first pair, end, and per distinct prefix (pairs, first row of the catalogue, number of rows).
    """
    count = torch.unique_consecutive(prefix, return_counts=True)[1]
    first = count.cumsum(0) - count
    begin = end = widest = 0
    runs: list[tuple[int, int, int]] = []
    for number, start, length in zip(count.tolist(), low[first].tolist(), size[first].tolist(), strict=True):
        if runs and (end - begin + number) * widest > _CELLS:
            yield begin, end, runs
            begin, runs = end, []
        widest = widest if runs else length
        runs.append((number, start, length))
        end += number
    if runs:
        yield begin, end, runs


def _logits(query: Tensor, runs: list[tuple[int, int, int]], vectors: Tensor, widest: int) -> Tensor:
    """Item logits of a block [pairs, widest], ``-inf`` beyond a prefix's end."""
    block = query.new_full((len(query), widest), -torch.inf)
    numbers = [number for number, _, _ in runs]
    for (_, start, length), own, out in zip(runs, query.split(numbers), block.split(numbers), strict=True):
        out[:, :length] = torch.mm(own, vectors[start : start + length].T)
    return block.float()


def _seen_cells(
    prefix: Tensor, slots: Tensor, width: int, items: ItemsByPrefix, seen: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Seen items under the live (user, prefix) pairs: index of the pair (ascending), catalogue row."""
    nothing = slots[:0]
    if seen is None or not len(slots) or not seen[0].numel():
        return nothing, nothing
    row, item = seen
    known = (item > 0) & (item < len(items.row))
    place = items.row[torch.where(known, item, 0)]
    row, place = row[known & (place >= 0)], place[known & (place >= 0)]
    bucket = torch.searchsorted(items.start, place, right=True) - 1
    base = len(items.start)
    keys, position = ((slots // width) * base + prefix).sort()
    wanted = row * base + bucket
    at = torch.searchsorted(keys, wanted).clamp_max_(len(keys) - 1)
    inside = keys[at] == wanted
    pair, order = position[at[inside]].sort(stable=True)
    return pair, place[inside][order]
