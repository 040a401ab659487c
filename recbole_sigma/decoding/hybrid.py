"""Steps 2 and 3 of SIGMA's generation: exact search inside each prefix of the beam, fusion, one global sort.

P(item | prompt) = P(prefix | prompt) * P(item | prompt, prefix), the second factor a softmax over the items
that carry the prefix. Every item has exactly one prefix, so the candidates of different beams never collide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_sigma.decoding.fusion import item_scale, prefix_log_weights
from recbole_sigma.ranking import top_k
from recbole_sigma.values import RankedItems

DENSE_CELLS = 1 << 25  # rows are processed in chunks of at most this many [row, item] scores


@dataclass(frozen=True)
class PrefixBuckets:
    """The catalogue sorted by prefix: the items of prefix p are ``order[start[p]:start[p + 1]]``.

    Attributes:
        order: int64 [N - 1] item ids (never 0), ascending inside a bucket.
        start: int64 [C + 1].
        place: int64 [N] position of each item inside its own bucket (0 for the padding row).
        prefix: int64 [N] prefix of each item (0 for the padding row).
    """

    order: Tensor
    start: Tensor
    place: Tensor
    prefix: Tensor

    @property
    def n_prefixes(self) -> int:
        """C, empty buckets included."""
        return len(self.start) - 1

    @property
    def sizes(self) -> Tensor:
        """Items per prefix, int64 [C]."""
        return self.start[1:] - self.start[:-1]


def build_buckets(prefix: Tensor, n_prefixes: int) -> PrefixBuckets:
    """Group items by prefix.

    Args:
        prefix: int64 [N], prefix of each item; row 0 is padding and left out.
        n_prefixes: C.
    """
    real = prefix[1:]
    order = torch.argsort(real, stable=True) + 1
    sizes = torch.bincount(real, minlength=n_prefixes)
    start = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    place = torch.zeros_like(prefix)
    place[order] = torch.arange(len(order), device=order.device) - start[prefix[order]]
    return PrefixBuckets(order, start, place, prefix.clone())


def fused_scores(
    queries: Tensor,
    beam: Tensor,
    scores: Tensor,
    items: Tensor,
    buckets: PrefixBuckets,
    temperature: float,
    scale: Tensor,
    seen: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """log P(item | prompt) for every item under the beam's prefixes, -inf elsewhere.

    Args:
        queries: float [B, W, d] unit rows, h_k of each beam.
        beam: int64 [B, W] prefix of each beam; no prefix twice in a row.
        scores: float [B, W] log P(prefix); -inf marks an empty slot.
        items: float [N, d] unit rows.
        buckets: the catalogue by prefix.
        temperature: tau.
        scale: float [B] factor on the item logits (sigma of APF, or 1).
        seen: (row, item) pairs that are taken out before the softmax, so that each prefix's mass goes to what
            is left.

    Returns:
        float [B, N].
    """
    batch, width = beam.shape
    hidden = None
    if seen is not None:
        hidden = torch.zeros(batch, items.shape[0], dtype=torch.bool, device=beam.device)
        hidden[seen] = True
    out = torch.full((batch, items.shape[0]), float("-inf"), dtype=queries.dtype, device=queries.device)
    weights = prefix_log_weights(scores)
    live = torch.isfinite(scores).reshape(-1)
    flat_prefix = beam.reshape(-1).masked_fill(~live, buckets.n_prefixes)
    by_prefix = torch.argsort(flat_prefix, stable=True)
    counts = torch.bincount(flat_prefix, minlength=buckets.n_prefixes + 1)[:-1].tolist()
    flat_query, flat_weight = queries.reshape(batch * width, -1), weights.reshape(-1)
    begin = 0
    starts = buckets.start.tolist()
    for prefix, count in enumerate(counts):
        if count and starts[prefix + 1] > starts[prefix]:
            slots = by_prefix[begin : begin + count]
            members = buckets.order[starts[prefix] : starts[prefix + 1]]
            rows = slots // width
            logits = flat_query[slots] @ items[members].T * (scale[rows] / temperature)[:, None]
            if hidden is not None:
                logits = logits.masked_fill(hidden[rows[:, None], members[None, :]], float("-inf"))
            out[rows[:, None], members[None, :]] = logits.log_softmax(dim=1) + flat_weight[slots][:, None]
        begin += count
    return out


def prefix_beam(
    log_probs: Tensor, buckets: PrefixBuckets, width: int, seen: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Step 1 for l = 1: the best prefixes that hold at least one item the user has not seen.

    Args:
        log_probs: float [B, C] log P(code) over the whole codebook.
        buckets: the catalogue by prefix.
        width: beams; 0 or more than there are occupied prefixes means all of them.
        seen: (row, item) pairs that may not be recommended.

    Returns:
        (prefix int64 [B, W], score float [B, W], best first; ties by prefix id). A row with fewer open
        prefixes than W ends in slots of score -inf.
    """
    left = buckets.sizes.expand(len(log_probs), -1)
    if seen is not None:
        row, item = torch.unique(torch.stack([part[seen[1] > 0] for part in seen]), dim=1)
        taken = torch.zeros_like(left).index_put(
            (row, buckets.prefix[item]), torch.ones_like(item), accumulate=True
        )
        left = left - taken
    occupied = int((buckets.sizes > 0).sum())
    width = min(width or occupied, occupied)
    masked = log_probs.masked_fill(left <= 0, float("-inf"))
    score, prefix = torch.sort(masked, dim=1, descending=True, stable=True)
    return prefix[:, :width], score[:, :width]


def hybrid_search(
    log_probs: Tensor,
    query_of: Callable[[Tensor], Tensor],
    items: Tensor,
    buckets: PrefixBuckets,
    k: int,
    temperature: float,
    mode: str = "apf",
    width: int = 0,
    space: str = "logprob",
    reference: float = 1.0,
    seen: tuple[Tensor, Tensor] | None = None,
) -> RankedItems:
    """Prefix beam -> search inside each prefix -> fusion -> the k best items.

    Args:
        log_probs: float [B, C] log P(code | prompt).
        query_of: prefixes int64 [B, W] -> unit queries float [B, W, d] (one trunk step over the beam).
        items: float [N, d] unit rows.
        buckets: the catalogue by prefix.
        k: list length.
        temperature: tau of the item softmax.
        mode: ``apf``, ``fixed_temp`` or ``top1_prefix``.
        width: beams; 0 = every prefix (then the list is exact).
        space: see ``beam_spread``.
        reference: see ``beam_spread``.
        seen: (row, item) pairs that may not be recommended; the distribution is the one over the other items.

    Returns:
        ``RankedItems`` [B, k]; scores are log P(item | prompt).
    """
    beam, score, scale = step_one(log_probs, buckets, mode, width, space, reference, seen)
    queries = query_of(beam)
    rows = max(1, DENSE_CELLS // items.shape[0])
    parts = []
    for begin in range(0, len(beam), rows):
        piece = slice(begin, begin + rows)
        own = _slice_seen(seen, begin, begin + rows)
        dense = fused_scores(
            queries[piece], beam[piece], score[piece], items, buckets, temperature, scale[piece], own
        )
        parts.append(top_k(dense, k))
    return RankedItems(torch.cat([part.items for part in parts]), torch.cat([part.scores for part in parts]))


def step_one(
    log_probs: Tensor,
    buckets: PrefixBuckets,
    mode: str,
    width: int,
    space: str,
    reference: float,
    seen: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Beam, its log-probabilities and the item scale; ``top1_prefix`` keeps the first beam only."""
    beam, score = prefix_beam(log_probs, buckets, width, seen)
    scale = item_scale(score, mode, space, reference)
    if mode == "top1_prefix":
        beam, score = beam[:, :1], score[:, :1]
    return beam, score, scale


def _slice_seen(seen: tuple[Tensor, Tensor] | None, begin: int, end: int) -> tuple[Tensor, Tensor] | None:
    if seen is None:
        return None
    inside = (seen[0] >= begin) & (seen[0] < end)
    return seen[0][inside] - begin, seen[1][inside]
