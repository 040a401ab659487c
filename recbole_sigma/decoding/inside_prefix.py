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

_CELLS = 1 << 20
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
        score, row = _best_per_prefix(queries, part, weight, items, vectors, k, seen, seen_keep_mass)
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
    seen: tuple[Tensor, Tensor] | None,
    keep_mass: bool,
) -> tuple[Tensor, Tensor]:
    """The best k items under every (user, prefix): scores and rows of the catalogue, both [B, c * k]."""
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
    for begin, end, runs in _blocks(prefix, low, size):
        mine = slice(*torch.searchsorted(banned[0], torch.tensor([begin, end], device=beam.device)).tolist())
        pair, seen_row = banned[0][mine], banned[1][mine]
        logits = _logits(query[begin:end], runs, vectors, int(size[begin]))
        total = logits.logsumexp(dim=1)
        if len(pair):
            logits[pair - begin, seen_row - low[pair]] = -torch.inf
            if not keep_mass:
                total = logits.logsumexp(dim=1)
        rows = torch.arange(logits.shape[1], device=beam.device)
        total = total.masked_fill(total == -torch.inf, 0.0)  # every item seen: nothing to list
        place = (low[begin:end, None] + rows).clamp_max_(len(items.order) - 1)
        best, index = top_with_ties(logits, keep, partial(items.order.__getitem__, place))
        score[slots[begin:end], : best.shape[1]] = best + (weight[begin:end] - total)[:, None]
        row[slots[begin:end], : best.shape[1]] = place.gather(1, index)
    return score.view(batch, width * keep), row.view(batch, width * keep)


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
    begin = 0
    for number, start, length in runs:
        part = query[begin : begin + number] @ vectors[start : start + length].T
        block[begin : begin + number, :length] = part
        begin += number
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
