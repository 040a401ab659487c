"""Clicks as preference times activity: posteriors, the EM loss, the direct loss and unbiased rivals.

A click y happens where the person likes the item (r* = 1) and looks at it at all (a = 1), so that
P(y = 1) = r q with r = P(r* = 1 | x) and q = P(a = 1 | z) (ImplicitRM, arXiv 2603.23184). A row without a
click is one of three kinds: liked and not looked at (PP), looked at and not liked (NA), or neither (NP).
Everything here works on logits, in log space, so that r and q may come as near to 1 as they like.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def log_no_click(preference: Tensor, activity: Tensor) -> Tensor:
    """log(1 - r q) = log((1 - r) + r (1 - q)), from logits of r and q, of any shape."""
    return torch.logaddexp(F.logsigmoid(-preference), F.logsigmoid(preference) + F.logsigmoid(-activity))


def posterior(preference: Tensor, activity: Tensor, click: Tensor) -> tuple[Tensor, Tensor]:
    """What a row says about its two causes.

    A click is liked and looked at. Of a row without one, with Z = 1 - r q: P(r* = 1) = r (1 - q) / Z and
    P(a = 1) = (1 - r) q / Z. This follows from Bayes' rule; the paper's equation 6 prints the two the other
    way round, see `swapped_posterior`.

    Args:
        preference: logits of r, float [n].
        activity: logits of q, float [n].
        click: 0 or 1, [n].

    Returns:
        (g = P(r* = 1 | y), h = P(a = 1 | y)), float [n] each.
    """
    nothing = log_no_click(preference, activity)
    liked = (F.logsigmoid(preference) + F.logsigmoid(-activity) - nothing).exp()
    looked = (F.logsigmoid(-preference) + F.logsigmoid(activity) - nothing).exp()
    return torch.where(click > 0, 1.0, liked), torch.where(click > 0, 1.0, looked)


def swapped_posterior(preference: Tensor, activity: Tensor, click: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 6 as the paper prints it, with PP and NA exchanged: kept to show what it costs."""
    liked, looked = posterior(preference, activity, click)
    return looked, liked


def em_loss(preference: Tensor, activity: Tensor, click: Tensor, swapped: bool = False) -> Tensor:
    """One step of expectation and maximisation: the posterior is fixed, both causes learn to meet it.

    Its gradient is that of `direct_loss` (Fisher's identity), so both have the same optimum.

    Args:
        preference: logits of r, float [n].
        activity: logits of q, float [n].
        click: 0 or 1, [n].
        swapped: take `swapped_posterior`.

    Returns:
        The mean over rows of BCE(r, g) + BCE(q, h).
    """
    with torch.no_grad():
        liked, looked = (swapped_posterior if swapped else posterior)(preference, activity, click)
    return F.binary_cross_entropy_with_logits(preference, liked) + F.binary_cross_entropy_with_logits(
        activity, looked
    )


def direct_loss(preference: Tensor, activity: Tensor, click: Tensor) -> Tensor:
    """Minus the log-likelihood of the clicks, -log(r q) or -log(1 - r q), mean over rows."""
    both = F.logsigmoid(preference) + F.logsigmoid(activity)
    return -torch.where(click > 0, both, log_no_click(preference, activity)).mean()


# --- rivals with a propensity that is given, not learned ---

LEAST = 0.05
"""Propensities below it count as it, so that no row weighs more than twenty others."""


def popularity_propensity(counts: np.ndarray, power: float = 0.5) -> np.ndarray:
    """(n_i / max n) ** power, at least `LEAST`: how often an item is met (Saito et al. 2020).

    Args:
        counts: positive train rows of every item, [N].
        power: its exponent.
    """
    share = counts / max(1, counts.max(initial=0))
    return np.maximum(share**power, LEAST)


def ips_loss(preference: Tensor, click: Tensor, propensity: Tensor) -> Tensor:
    """Cross-entropy with every click weighed by 1 / propensity (inverse propensity scoring)."""
    weight = torch.where(click > 0, 1.0 / propensity, 1.0)
    return F.binary_cross_entropy_with_logits(preference, click.to(preference.dtype), weight)


def relevance_loss(preference: Tensor, click: Tensor, propensity: Tensor) -> Tensor:
    """Unbiased for preference where the propensity is right (Saito et al. 2020, equation 8).

    A click counts 1 / propensity as liked and 1 - 1 / propensity as not liked; the second weight is negative.
    """
    liked = click / propensity
    return -(liked * F.logsigmoid(preference) + (1 - liked) * F.logsigmoid(-preference)).mean()
