"""Adaptive probabilistic fusion and its three simpler modes (paper section 'three-step generation')."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_sigma.tokenization.catalogue import PrefixBuckets

MODES = ("apf", "fixed_temp", "top1_prefix", "id_only")
SPACES = ("logprob", "prob")
SPREAD_FLOOR, SPREAD_CEILING = 0.05, 5.0


def beam_spread(scores: Tensor, space: str = "logprob", reference: float = 1.0) -> Tensor:
    """sigma(phi_1..phi_K): population standard deviation of the beam scores of each row.

    The paper leaves the space of phi and the case K = 1 open. Ours: log-probabilities by default; a row with
    a single beam gets 1; the result is divided by ``reference`` and clipped to [0.05, 5].

    Args:
        scores: float [B, W] log-probabilities of the prefixes in the beam; -inf marks an empty beam slot.
        space: ``logprob`` or ``prob``.
        reference: spread that counts as 1 (for instance its mean over training prompts).

    Returns:
        float [B].
    """
    valid = torch.isfinite(scores)
    value = scores.masked_fill(~valid, 0.0) if space == "logprob" else scores.exp()
    value = value * valid
    count = valid.sum(dim=1)
    mean = value.sum(dim=1) / count.clamp(min=1)
    variance = ((value - mean[:, None]) ** 2 * valid).sum(dim=1) / count.clamp(min=1)
    spread = (variance.sqrt() / reference).clamp(SPREAD_FLOOR, SPREAD_CEILING)
    return torch.where(count > 1, spread, torch.ones_like(spread))


def item_scale(scores: Tensor, mode: str, space: str = "logprob", reference: float = 1.0) -> Tensor:
    """Factor on the item logits of each row: sigma in ``apf`` mode, 1 otherwise. Returns float [B]."""
    if mode == "apf":
        return beam_spread(scores, space, reference)
    return torch.ones(scores.shape[0], dtype=scores.dtype, device=scores.device)


def prefix_log_weights(scores: Tensor) -> Tensor:
    """log P(c^k | T), renormalised over the beam: float [B, W]; -inf in empty slots."""
    return scores - scores.logsumexp(dim=1, keepdim=True)


def fused_scores(
    queries: Tensor,
    beam: Tensor,
    weights: Tensor,
    items: Tensor,
    buckets: PrefixBuckets,
    scale: Tensor,
    seen: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """log P(item | prompt) for every item under the beam's prefixes, -inf elsewhere.

    Args:
        queries: float [B, W, d], h_k / tau of each beam.
        beam: int64 [B, W] prefix of each beam; no prefix twice in a row.
        weights: float [B, W] log P(prefix); -inf marks an empty slot.
        items: float [N, d] unit rows.
        buckets: the catalogue by prefix.
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
    live = torch.isfinite(weights).reshape(-1)
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
            logits = flat_query[slots] @ items[members].T * scale[rows][:, None]
            if hidden is not None:
                logits = logits.masked_fill(hidden[rows[:, None], members[None, :]], float("-inf"))
            out[rows[:, None], members[None, :]] = logits.log_softmax(dim=1) + flat_weight[slots][:, None]
        begin += count
    return out


def fuse_dense(
    logits: Tensor,
    buckets: PrefixBuckets,
    mode: str,
    width: int = 0,
    space: str = "logprob",
    reference: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The three steps over one softmax of the whole catalogue: P(prefix) is the sum over its items.

    Args:
        logits: float [B, N], -inf for what may not be recommended.
        buckets: the catalogue by prefix.
        mode: ``apf``, ``fixed_temp`` or ``top1_prefix``.
        width: prefixes in the beam; 0 = all. With all of them ``fixed_temp`` is the softmax itself.
        space: see ``beam_spread``.
        reference: see ``beam_spread``.

    Returns:
        (log P(item | prompt) [B, N], -inf outside the beam; the beam's prefixes int64 [B, W], best first;
        their log-probabilities [B, W], -inf in slots of prefixes that have nothing left).
    """
    log_probs = _under_prefixes(logits.log_softmax(dim=1), buckets)
    beam, score, scale = step_one(log_probs, buckets, mode, width, space, reference)
    weights = torch.full_like(log_probs, float("-inf")).scatter(1, beam, prefix_log_weights(score))
    scaled = logits * scale[:, None]
    scaled[torch.isneginf(logits)] = float("-inf")
    total = _under_prefixes(scaled, buckets)
    shift = (weights - total).masked_fill(torch.isneginf(total), float("-inf"))
    out = scaled + shift[:, buckets.prefix]
    out[:, 0] = float("-inf")
    return out, beam, score


def _under_prefixes(values: Tensor, buckets: PrefixBuckets) -> Tensor:
    """log-sum-exp of [B, N] values under each prefix: [B, C], -inf where nothing is left."""
    index = buckets.prefix[buckets.order].expand(len(values), -1)
    best = torch.full(
        (len(values), buckets.n_prefixes), float("-inf"), dtype=values.dtype, device=values.device
    )
    best = best.scatter_reduce(1, index, values[:, buckets.order], "amax")
    lifted = (values[:, buckets.order] - best.gather(1, index)).nan_to_num(nan=float("-inf")).exp()
    total = torch.zeros_like(best).scatter_add(1, index, lifted)
    return best + total.log()


def prefix_beam(log_probs: Tensor, buckets: PrefixBuckets, width: int) -> tuple[Tensor, Tensor]:
    """The best prefixes that hold an item.

    Args:
        log_probs: float [B, C] log P(prefix), -inf where nothing is left to recommend.
        buckets: the catalogue by prefix.
        width: beams; 0 or more than there are occupied prefixes means all of them.

    Returns:
        (prefix int64 [B, W], score float [B, W], best first; ties by prefix id). A row with fewer open
        prefixes than W ends in slots of score -inf.
    """
    occupied = int((buckets.sizes > 0).sum())
    width = min(width or occupied, occupied)
    masked = log_probs.masked_fill(buckets.sizes == 0, float("-inf"))
    score, prefix = torch.sort(masked, dim=1, descending=True, stable=True)
    return prefix[:, :width], score[:, :width]


def step_one(
    log_probs: Tensor, buckets: PrefixBuckets, mode: str, width: int, space: str, reference: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Beam, its log-probabilities and the item scale; ``top1_prefix`` keeps the first beam only."""
    beam, score = prefix_beam(log_probs, buckets, width)
    scale = item_scale(score, mode, space, reference)
    if mode == "top1_prefix":
        beam, score = beam[:, :1], score[:, :1]
    return beam, score, scale
