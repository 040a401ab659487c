"""Adaptive probabilistic fusion and its three simpler modes (paper section 'three-step generation')."""

from __future__ import annotations

import torch
from torch import Tensor

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
