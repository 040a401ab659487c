"""Advantages of the rollouts of a group: the business reward, alone or with the judge's (arXiv 2602.10606).

All functions take [groups, G] tensors and look at one group at a time. A2PO, S-GRec's asymmetric advantage,
lets the judge strengthen what the business reward already says and never turn it round:

    lambda_k = 1[sign b_k = sign c_k] min(|b_k|, |c_k|) / (max(|b_k|, |c_k|) + eps),    A_k = b_k + lambda_k
    c_k

so |lambda_k c_k| <= |b_k|, the sign of A_k is that of b_k, and A_k = m b_k with m between 1 and 2. That
bounds the direction and the size of a step, not its outcome: with a plain gradient of a softmax the
probability of a hit may still fall for a step where the business reward alone would not have let it.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6
KINDS = ("business", "a2po", "adv_sum", "reward_sum")


def standardise(rewards: Tensor, shares: Tensor | None = None) -> Tensor:
    """(r - mean) / (sd + eps) inside each group, with the sample standard deviation.

    Args:
        rewards: float [groups, G], G >= 2.
        shares: float [groups, G], what each rollout counts in mean and deviation, sum 1 per group; None
            counts all alike.

    Returns:
        float [groups, G]; exactly zero in a group whose rewards are all equal.
    """
    if shares is None:
        shares = torch.full_like(rewards, 1.0 / rewards.shape[1])
    centred = rewards - (shares * rewards).sum(dim=1, keepdim=True)
    # the mean of equal numbers may differ from them in the last bit, which eps would blow up
    equal = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    free = (1.0 - shares.square().sum(dim=1, keepdim=True)).clamp_min(EPS)  # (G - 1) / G for equal shares
    spread = (shares * centred.square()).sum(dim=1, keepdim=True) / free
    return (centred / (spread.sqrt() + EPS)).masked_fill(equal, 0.0)


def a2po_weight(business: Tensor, judged: Tensor) -> Tensor:
    """lambda: how much of the judge's advantage counts.

    Args:
        business: float [groups, G], standardised.
        judged: float [groups, G], standardised; 0 where nothing was judged.

    Returns:
        float [groups, G] in 0..1; 0 where the two disagree.
    """
    small = torch.minimum(business.abs(), judged.abs())
    large = torch.maximum(business.abs(), judged.abs())
    return torch.where(business.sign() == judged.sign(), small / (large + EPS), 0.0)


def a2po(business: Tensor, judged: Tensor) -> Tensor:
    """b + lambda c; see the module's docstring and `a2po_weight`."""
    return business + a2po_weight(business, judged) * judged


def adv_sum(business: Tensor, judged: Tensor, weight: float = 1.0) -> Tensor:
    """b + w c, S-GRec's ablation Adv-Sum: the judge counts whether or not it agrees."""
    return business + weight * judged


def reward_sum(business: Tensor, judged: Tensor, weight: float = 1.0, shares: Tensor | None = None) -> Tensor:
    """standardise(r + w r'), S-GRec's ablation Reward-Sum as we read it.

    Args:
        business: float [groups, G], raw rewards.
        judged: float [groups, G], the judge's raw scores.
        weight: w.
        shares: see `standardise`.
    """
    return standardise(business + weight * judged, shares)


def advantages(
    kind: str,
    rewards: Tensor,
    scores: Tensor | None,
    weight: float = 1.0,
    shares: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Advantages of one batch of groups.

    Args:
        kind: of `KINDS`.
        rewards: float [groups, G], business rewards.
        scores: float [groups, G], the judge's raw scores, all equal in a group that was not judged; None
            without a judge.
        weight: of the judge in the two sums.
        shares: see `standardise`.

    Returns:
        (advantages, standardised business advantages b, standardised judged advantages c), each [groups, G].
    """
    business = standardise(rewards, shares)
    judged = torch.zeros_like(business) if scores is None else standardise(scores, shares)
    if kind == "business" or scores is None:
        return business, business, judged
    if kind == "a2po":
        return a2po(business, judged), business, judged
    if kind == "adv_sum":
        return adv_sum(business, judged, weight), business, judged
    if kind == "reward_sum":
        return reward_sum(rewards, scores, weight, shares), business, judged
    raise ValueError(f"advantage {kind!r} is none of {', '.join(KINDS)}")
