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

import torch
from torch import Tensor

from recbole_sigma.tokenization.catalogue import ItemsByPrefix
from recbole_sigma.values import RankedItems, UserError

_CELLS = 1 << 19
"""Scores held at a time: few enough to stay in cache between the product and the selection."""
_PIECE = 16
"""Cells of a row that share a maximum, see `_maxima`."""
_HELD = 16
"""Items held per place of a list before they are cut."""


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
        vectors: float [n, d], item vectors in the order of ``items.order``; read fastest as `by_column`
            lays them out.
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
    found = _Found(batch, k, items)
    used = 0
    while used < width:
        columns = torch.arange(used, min(used + chunk, width), device=beam.device)
        part, weight = beam[:, columns], scores[:, columns]
        if used:
            # An item of an equal-scored prefix could still win by its id, so only strictly worse prefixes are
            # certain.
            weight = weight.masked_fill((weight[:, 0] < found.least)[:, None], -torch.inf)
            if bool((weight[:, 0] == -torch.inf).all()):
                break
        queries = query_of(columns, part.clamp_min(0))
        if scale is not None:
            queries = queries * scale[:, None, None]
        _scan(queries, part, weight, items, vectors, found, seen, seen_keep_mass)
        found.cut()
        used = int(columns[-1]) + 1
    listed = torch.zeros(batch, k, dtype=torch.int64, device=beam.device)
    values = torch.full((batch, k), -torch.inf, device=beam.device)
    place = found.place()
    listed[found.user, place] = items.order[found.row]
    values[found.user, place] = found.score
    with torch.inference_mode(False):
        return RankedItems(listed.clone(), values.clone()), used


class _Found:
    """Items that may enter the lists of a batch, in no order until they are cut.

    Args:
        batch: number of users B.
        k: list length.
        items: the catalogue by prefix.

    Attributes:
        user: int64 [n].
        row: int64 [n], rows of the catalogue.
        score: float [n].
        least: float [B], a score that k items of each user are known to reach, ``-inf`` while there are none.
    """

    def __init__(self, batch: int, k: int, items: ItemsByPrefix) -> None:
        self.k, self.items = k, items
        self.user = items.order.new_zeros(0)
        self.row, self.score = self.user, torch.zeros(0, device=self.user.device)
        self.least = torch.full((batch,), -torch.inf, device=self.user.device)

    def add(self, user: Tensor, row: Tensor, score: Tensor) -> None:
        """Take in items [n] that are not in it yet."""
        self.user, self.row = torch.cat([self.user, user]), torch.cat([self.row, row])
        self.score = torch.cat([self.score, score])
        if len(self.user) > _HELD * self.k * len(self.least):
            self.cut()

    def cut(self) -> None:
        """Keep each user's k best, sorted by user, score descending and item id."""
        bits = (self.score.float() + 0.0).view(torch.int32).long()  # + 0.0 makes -0.0 equal to 0.0
        # A smaller number is a greater score: the bits of positive floats ascend with them.
        key = (self.user << 32) - torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
        ordered, order = key.sort()
        if bool((ordered[1:] == ordered[:-1]).any()):
            order = self.items.order[self.row].argsort()
            order = order[key[order].argsort(stable=True)]
        self.user, self.row, self.score = self.user[order], self.row[order], self.score[order]
        place = self.place()
        last = (place == self.k - 1).nonzero().flatten()
        self.least[self.user[last]] = self.score[last]
        kept = (place < self.k).nonzero().flatten()
        self.user, self.row, self.score = self.user[kept], self.row[kept], self.score[kept]

    def place(self) -> Tensor:
        """Place of each item among those of its user, int64 [n]; they are sorted by user."""
        return torch.arange(len(self.user), device=self.user.device) - torch.searchsorted(
            self.user, self.user
        )


def by_column(vectors: Tensor) -> Tensor:
    """The same vectors [n, d] with ``vectors.T`` contiguous: a product with a few queries then need not turn
    what it reads, which takes a third of the time from it on a CPU.
    """
    return vectors.T.contiguous().T


def _scan(
    queries: Tensor,
    beam: Tensor,
    weight: Tensor,
    items: ItemsByPrefix,
    vectors: Tensor,
    found: _Found,
    seen: tuple[Tensor, Tensor] | None,
    keep_mass: bool,
) -> None:
    """Add to ``found`` whatever lies under some prefixes [B, c] and can be among a user's best k.

    Whoever is behind the best items of k other prefixes, or behind k items of one prefix, is none of them.
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
    banned = _seen_cells(prefix, slots, width, items, seen)
    query, weight, users = queries.flatten(0, 1)[slots], weight.flatten()[slots], slots // width
    peak = torch.full((batch * width,), -torch.inf, device=beam.device)
    for begin, end, runs in _blocks(prefix, low, size):
        logits = _logits(query[begin:end], runs, vectors)
        total = None
        if len(banned[0]):
            ends = torch.searchsorted(banned[0], torch.tensor([begin, end], device=beam.device))
            mine = slice(*ends.tolist())
            pair, seen_row = banned[0][mine], banned[1][mine]
            total = _log_sum(logits, _maxima(logits).amax(dim=1)) if keep_mass else None
            logits[pair - begin, seen_row - low[pair]] = -torch.inf
        pieces = _maxima(logits)
        top = pieces.amax(dim=1)
        total = _log_sum(logits, top) if total is None else total
        offset, user = weight[begin:end] - total, users[begin:end]
        peak[slots[begin:end]] = top + offset
        _raise_least(found, user, offset, peak.view(batch, width), pieces, logits)
        floor = found.least.clamp_min(torch.finfo(torch.float32).min)[user]  # which no empty cell reaches
        pair, piece = (pieces + offset[:, None] >= floor[:, None]).nonzero().unbind(1)
        score = logits.unflatten(1, (_PIECE, -1))[pair, :, piece] + offset[pair, None]
        hit, cell = (score >= floor[pair, None]).nonzero().unbind(1)
        pair, piece = pair[hit], piece[hit]
        row = low[begin:end][pair] + cell * pieces.shape[1] + piece
        found.add(user[pair], row, score[hit, cell])
    if bool(peak.isnan().any()):
        raise UserError(
            "the model returned NaN scores, so nothing can be ranked: check the training run or the "
            "checkpoint."
        )


def _raise_least(
    found: _Found, user: Tensor, offset: Tensor, peak: Tensor, pieces: Tensor, logits: Tensor
) -> None:
    """Raise what is known of each user's k-th best score, from the peaks [B, c] of all prefixes so far.

    Users without one get the k-th best item of one prefix, or its k-th best piece: their maxima are k items.
    """
    if peak.shape[1] >= found.k:
        found.least = torch.maximum(found.least, peak.topk(found.k).values[:, -1])
    cells = pieces if pieces.shape[1] >= found.k else logits
    bare = (found.least[user] == -torch.inf).nonzero().flatten()
    if len(bare) and cells.shape[1] >= found.k:
        reached = cells[bare].topk(found.k).values[:, -1] + offset[bare]
        found.least.scatter_reduce_(0, user[bare], reached, "amax")


def _maxima(logits: Tensor) -> Tensor:
    """Maxima [pairs, L] of pieces of `_PIECE` cells; piece j holds the cells j, j + L, j + 2 L, ..."""
    return logits.unflatten(1, (_PIECE, -1)).amax(dim=1)


def _log_sum(logits: Tensor, top: Tensor) -> Tensor:
    """The logarithm of the sum of the exponentials of each row, whose greatest is ``top``; 0 where every item
    is seen, as there is nothing to list.
    """
    shift = top.masked_fill(top == -torch.inf, 0.0)
    total = (logits - shift[:, None]).exp_().sum(dim=1).log_()
    return torch.where(top == -torch.inf, 0.0, total + shift)


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


def _logits(query: Tensor, runs: list[tuple[int, int, int]], vectors: Tensor) -> Tensor:
    """Item logits of a block, float32 [pairs, whole pieces], ``-inf`` beyond a prefix's end."""
    widest, narrowest = runs[0][2], runs[-1][2]
    block = query.new_empty(len(query), -(-widest // _PIECE) * _PIECE)
    block[:, narrowest:] = -torch.inf
    first = 0
    for number, start, length in runs:
        out = block.narrow(0, first, number).narrow(1, 0, length)
        torch.mm(query.narrow(0, first, number), vectors.narrow(0, start, length).T, out=out)
        first += number
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
