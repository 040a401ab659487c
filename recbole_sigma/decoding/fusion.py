"""Steps 2 and 3 of SIGMA's generation: items inside each prefix, then one sort over all of them.

    P(item | prompt) = P(prefix | prompt) * P(item | prompt, prefix)

(arXiv 2602.22913, three-step generation). The second factor is a softmax over the items that carry the
prefix. Every item has exactly one prefix, so the candidates of different prefixes never collide. Adaptive
probabilistic fusion multiplies the item logits of a user by the spread of the prefix scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_sigma.settings.keys import DecodeKeys
from recbole_sigma.settings.reader import keys_of
from recbole_sigma.tokenization.catalogue import ItemsByPrefix
from recbole_sigma.values import SeenPairs

MODES = keys_of(DecodeKeys)["decode_mode"].choices
SPREAD_FLOOR, SPREAD_CEILING = 0.05, 5.0


def beam_spread(scores: Tensor) -> Tensor:
    """sigma(phi_1..phi_K): population standard deviation of the prefix scores of each row.

    The paper leaves two things open: the space of phi, here log-probabilities, and a beam of one, whose
    spread is 1 here. The result is clipped to [0.05, 5].

    Args:
        scores: float [B, W] log-probabilities of the prefixes in the beam; -inf marks an empty beam slot.

    Returns:
        float [B].
    """
    valid = torch.isfinite(scores)
    value = scores.masked_fill(~valid, 0.0)
    count = valid.sum(dim=1)
    mean = value.sum(dim=1) / count.clamp(min=1)
    variance = ((value - mean[:, None]) ** 2 * valid).sum(dim=1) / count.clamp(min=1)
    spread = variance.sqrt().clamp(SPREAD_FLOOR, SPREAD_CEILING)
    return torch.where(count > 1, spread, torch.ones_like(spread))


def prefix_log_weights(scores: Tensor) -> Tensor:
    """log P(c^k | T), renormalised over the beam: float [B, W]; -inf in empty slots."""
    return scores - scores.logsumexp(dim=1, keepdim=True)


def fuse_beam(beam: Tensor, scores: Tensor, mode: str) -> tuple[Tensor, Tensor, Tensor]:
    """What a mode makes of the beam.

    Args:
        beam: int64 [B, W] prefixes, best first.
        scores: float [B, W] their log-probabilities.
        mode: ``fixed_temp``: as they are; ``apf``: the spread of the scores scales the item logits;
            ``top1_prefix``: the best prefix alone.

    Returns:
        (prefixes [B, W'], their log weights [B, W'], factor on the item logits [B]).
    """
    scale = beam_spread(scores) if mode == "apf" else scores.new_ones(len(scores))
    if mode == "top1_prefix":
        beam, scores = beam[:, :1], scores[:, :1]
    return beam, prefix_log_weights(scores), scale


def fused_scores(
    queries: Tensor,
    beam: tuple[Tensor, Tensor, Tensor],
    vectors: Tensor,
    items: ItemsByPrefix,
    seen: SeenPairs | None = None,
) -> Tensor:
    """log P(item | prompt) for every item under the beam's prefixes, -inf elsewhere.

    Args:
        queries: float [B, W, d], h_k / tau of each prefix.
        beam: what `fuse_beam` returned; no prefix twice in a row, weight -inf in an empty slot.
        vectors: float [n, d], item vectors in the order of ``items.order``.
        items: the catalogue by prefix.
        seen: (row, item) pairs that are taken out before the softmax, so that each prefix's mass goes to what
            is left.

    Returns:
        float [B, N].
    """
    prefixes, weights, scale = beam
    batch, width = prefixes.shape
    hidden = None
    if seen is not None:
        hidden = torch.zeros(batch, len(items.row), dtype=torch.bool, device=prefixes.device)
        hidden[seen] = True
    out = torch.full((batch, len(items.row)), float("-inf"), dtype=queries.dtype, device=queries.device)
    live = torch.isfinite(weights).reshape(-1)
    # one product per distinct prefix: all (row, slot) pairs that hold it, against its own items
    flat_prefix = prefixes.reshape(-1).masked_fill(~live, items.n_prefixes)
    by_prefix = torch.argsort(flat_prefix, stable=True)
    counts = torch.bincount(flat_prefix, minlength=items.n_prefixes + 1)[:-1].tolist()
    flat_query, flat_weight = queries.reshape(batch * width, -1), weights.reshape(-1)
    begin = 0
    starts = items.start.tolist()
    for prefix, count in enumerate(counts):
        if count and starts[prefix + 1] > starts[prefix]:
            slots = by_prefix[begin : begin + count]
            own = slice(starts[prefix], starts[prefix + 1])
            members = items.order[own]
            rows = slots // width
            logits = flat_query[slots] @ vectors[own].T * scale[rows][:, None]
            if hidden is not None:
                logits = logits.masked_fill(hidden[rows[:, None], members[None, :]], float("-inf"))
            out[rows[:, None], members[None, :]] = logits.log_softmax(dim=1) + flat_weight[slots][:, None]
        begin += count
    return out


def fuse_dense(
    logits: Tensor, items: ItemsByPrefix, mode: str, width: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """The three steps over one softmax of the whole catalogue: P(prefix) is the sum over its items.

    Args:
        logits: float [B, N], -inf for what may not be recommended.
        items: the catalogue by prefix.
        mode: see `fuse_beam`.
        width: prefixes in the beam; 0 = all. With all of them ``fixed_temp`` is the softmax itself.

    Returns:
        (log P(item | prompt) [B, N], -inf outside the beam; the beam's prefixes int64 [B, W], best first;
        their log-probabilities [B, W], -inf in slots of prefixes that have nothing left).
    """
    log_probs = _under_prefixes(logits.log_softmax(dim=1), items)
    beam, score = prefix_beam(log_probs, items, width)
    kept, log_weights, scale = fuse_beam(beam, score, mode)
    weights = torch.full_like(log_probs, float("-inf")).scatter(1, kept, log_weights)
    scaled = logits * scale[:, None]
    scaled[torch.isneginf(logits)] = float("-inf")
    total = _under_prefixes(scaled, items)
    shift = (weights - total).masked_fill(torch.isneginf(total), float("-inf"))
    out = scaled + shift[:, items.prefix]
    out[:, 0] = float("-inf")
    return out, kept, score[:, : kept.shape[1]]


def _under_prefixes(values: Tensor, items: ItemsByPrefix) -> Tensor:
    """log-sum-exp of [B, N] values under each prefix: [B, C], -inf where nothing is left."""
    index = items.prefix[items.order].expand(len(values), -1)
    best = torch.full(
        (len(values), items.n_prefixes), float("-inf"), dtype=values.dtype, device=values.device
    )
    best = best.scatter_reduce(1, index, values[:, items.order], "amax")
    lifted = (values[:, items.order] - best.gather(1, index)).nan_to_num(nan=float("-inf")).exp()
    total = torch.zeros_like(best).scatter_add(1, index, lifted)
    return best + total.log()


def prefix_beam(log_probs: Tensor, items: ItemsByPrefix, width: int) -> tuple[Tensor, Tensor]:
    """The best prefixes that hold an item.

    Args:
        log_probs: float [B, C] log P(prefix), -inf where nothing is left to recommend.
        items: the catalogue by prefix.
        width: prefixes to keep; 0 or more than there are occupied ones means all of them.

    Returns:
        (prefix int64 [B, W], score float [B, W], best first; ties by prefix id). A row with fewer open
        prefixes than W ends in slots of score -inf.
    """
    occupied = int((items.sizes > 0).sum())
    width = min(width or occupied, occupied)
    masked = log_probs.masked_fill(items.sizes == 0, float("-inf"))
    score, prefix = torch.sort(masked, dim=1, descending=True, stable=True)
    return prefix[:, :width], score[:, :width]
