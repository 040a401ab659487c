"""A straight path from the whole window of a history to the query that the catalogue is searched with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_sigma.models.recency import identity_projection


class InterestPath(nn.Module):
    """Sum of all item vectors of the window over the root of their number, projected (ours).

    What a linear autoencoder over the history would say: no order, no attention, hence hard to overfit. The
    projection starts as the identity; dropout keeps the trunk from leaning on it.

    Args:
        d_model: d.
        dropout: share of the path's values that training hides.
    """

    def __init__(self, d_model: int, dropout: float) -> None:
        super().__init__()
        self.project = identity_projection(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, items: Tensor) -> Tensor:
        """The path's value at every position.

        Args:
            items: float [B, T, d] item vectors of a history, oldest first.

        Returns:
            float [B, T, d]; entry t reads items 0 to t.
        """
        count = torch.arange(1, items.shape[1] + 1, device=items.device, dtype=items.dtype)
        return self.dropout(self.project(items.cumsum(dim=1) / count.sqrt()[:, None]))
