"""Objectives of the policy stage, as functions of log-probabilities [groups, G, L] and of what rollouts
earned.

A group is one context with G rollouts; L tokens make an item (its prefix codes and the item itself). Every
function returns one loss per group, float [groups], and zero for a group that teaches nothing. `batch_loss`
puts them together.

- GRPO: the clipped policy gradient of group-standardised advantages. With a reward of hit or no hit it raises
  the hit above the other rollouts of the group, an objective of the AUC kind; beams as rollouts are the
  hardest of these others, which makes it a partial AUC.
- REAL (arXiv 2602.05630): rewards are labels of a classifier whose logit is the log-ratio to the old policy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = ("sequence", "token")


def log_ratio(new: Tensor, old: Tensor) -> Tensor:
    """s = mean over the tokens of log pi - log pi_old: float [groups, G, L] twice -> [groups, G]."""
    return (new - old).mean(dim=2)


def clipped(
    new: Tensor,
    old: Tensor,
    advantages: Tensor,
    clip: float,
    level: str = "sequence",
    shares: Tensor | None = None,
) -> Tensor:
    """GRPO's loss: -sum_k share_k min(rho A, clip(rho, 1 - clip, 1 + clip) A).

    Args:
        new: float [groups, G, L], log-probabilities with gradient.
        old: float [groups, G, L], those of the policy that rolled out, without.
        advantages: float [groups, G].
        clip: how far a ratio counts.
        level: ``sequence``: one ratio per item, exp(s); ``token``: one per token, averaged.
        shares: float [groups, G], sum 1 per group; None counts all rollouts alike, as published.
    """
    if level == "sequence":
        ratio, gain = log_ratio(new, old).exp(), advantages
    elif level == "token":
        ratio, gain = (new - old).exp(), advantages[:, :, None]
    else:
        raise ValueError(f"ratio {level!r} is none of {', '.join(LEVELS)}")
    kept = torch.minimum(ratio * gain, ratio.clamp(1.0 - clip, 1.0 + clip) * gain)
    each = kept.flatten(2).mean(dim=2) if kept.dim() == 3 else kept
    return -each.mean(dim=1) if shares is None else -(shares * each).sum(dim=1)


def k3(new: Tensor, reference: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(pi || pi_ref) over the rollouts: float [groups], never negative.

    Args:
        new: float [groups, G, L].
        reference: float [groups, G, L], log-probabilities of the reference, without gradient.
    """
    difference = reference - new
    return (difference.expm1() - difference).flatten(1).mean(dim=1)


def both_labels(labels: Tensor) -> Tensor:
    """Which groups hold a positive and a negative: bool [groups, G] -> bool [groups]."""
    return labels.any(dim=1) & ~labels.all(dim=1)


def real(ratios: Tensor, labels: Tensor, tau: float) -> Tensor:
    """REAL: log(1 + sum over positives of e^(-s/tau)) + log(1 + sum over negatives of e^(s/tau)).

    The 1 is an anchor of logit 0. The gradient is bounded by 1/tau in sum on either side, whatever s is. A
    group with one label gives 0.

    Args:
        ratios: float [groups, G], s of `log_ratio`.
        labels: bool [groups, G].
        tau: temperature.
    """
    logits = ratios / tau
    anchor = logits.new_zeros(len(logits), 1)
    positive = torch.cat([anchor, (-logits).masked_fill(~labels, -torch.inf)], dim=1).logsumexp(dim=1)
    negative = torch.cat([anchor, logits.masked_fill(labels, -torch.inf)], dim=1).logsumexp(dim=1)
    return (positive + negative) * both_labels(labels)


def real_bce(ratios: Tensor, labels: Tensor, tau: float) -> Tensor:
    """REAL's variant by binary cross-entropy: the mean over the rollouts of BCE(s / tau, label); see
    `real`.
    """
    each = F.binary_cross_entropy_with_logits(ratios / tau, labels.to(ratios.dtype), reduction="none")
    return each.mean(dim=1) * both_labels(labels)


def batch_loss(losses: Tensor, groups: int) -> Tensor:
    """The sum of the groups' losses over the number of ALL groups, those that teach nothing included.

    Args:
        losses: float [some of the groups].
        groups: how many groups were rolled out.
    """
    return losses.sum() / max(groups, 1)
