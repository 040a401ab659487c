"""A straight path from the newest items of a history to the query that the catalogue is searched with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DECAY = 0.8  # initial weight per step of age, that of the training-free WindowItemKNN
SHARE = 0.3  # initial size against a state of the trunk


def identity_projection(d_model: int) -> nn.Linear:
    """A trained projection without bias that starts as the identity: what a straight path ends in."""
    project = nn.Linear(d_model, d_model, bias=False)
    with torch.no_grad():
        project.weight.copy_(torch.eye(d_model))
    return project


class RecencyPath(nn.Module):
    """Weighted sum of the newest item vectors, projected: what item-to-item similarity does, learned (ours).

    A small trunk on small data spends its capacity on finding that the next item resembles the last ones.
    Here that is where it starts: weights decay with age, the projection is the identity, and the trunk adds
    what similarity cannot say.

    Args:
        d_model: d.
        last: newest items that count.
    """

    def __init__(self, d_model: int, last: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(DECAY ** torch.arange(last, dtype=torch.float32))
        self.project = identity_projection(d_model)
        self.share = nn.Parameter(torch.tensor(SHARE * d_model**0.5))

    def forward(self, items: Tensor) -> Tensor:
        """The path's value at every position.

        Args:
            items: float [B, T, d] unit item tokens of a history, oldest first.

        Returns:
            float [B, T, d]; entry t reads items t, t - 1, ...
        """
        total = torch.zeros_like(items)
        length = items.shape[1]
        for age in range(min(len(self.weights), length)):
            total[:, age:] += self.weights[age] * items[:, : length - age]
        return self.share * self.project(total / self.weights.abs().sum())
