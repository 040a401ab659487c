"""The general instruction asks for nothing: what it adds to a prediction is pulled to zero (ours).

"Recommend the next item" says no more than the history does, yet a branch and words that learn from the
labels of seven tasks change the list under it. Its labels therefore train the state of the history alone, and
what the instruction would add is a loss of its own: the list under any general wording stays that of the
history.
"""

from __future__ import annotations

import torch
from torch import Tensor

PULL = 4.0
"""Weight of the pull beside the labels' losses, both in nats per label."""


def covariance(vectors: Tensor) -> Tensor:
    """Covariance of the item vectors over the catalogue, without gradient.

    Args:
        vectors: float [N, d]; row 0 is the padding item.

    Returns:
        float [d, d].
    """
    items = vectors.detach()[1:]
    items = items - items.mean(dim=0)
    return items.T @ items / max(len(items), 1)


def divergence(change: Tensor, spread: Tensor) -> Tensor:
    """How far a change of the query moves the distribution over the items, in nats.

    Half the variance of the change in the logits over the catalogue: the Kullback-Leibler divergence to
    second order where items are equally likely.

    Args:
        change: float [M, d], change of the scaled query.
        spread: float [d, d] from `covariance`.

    Returns:
        float [M].
    """
    return 0.5 * torch.einsum("md,de,me->m", change, spread, change)
