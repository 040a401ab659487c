"""Soft targets, ours: part of each target goes to what other events say follows the newest item.

A short history and its next item are one observation of few, and a network that is regularised enough not
to learn its users by heart does not learn all pairs of items either. Neighbours (windowed co-occurrence, as
in WindowItemKNN) know them: the cross-entropy of

    (1 - c) [target] + c p(. | newest item),    p the newest item's strongest neighbours

draws the pairs into the item vectors. Nothing is added when lists are made. The neighbours count train
events, the row's own ones too: they only put some of c back on the row's target.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sigma.grounding.cooccurrence import window_similarity
from recbole_sigma.models.sigma.item_tokens import rows_of

NEIGHBOURS = 20  # K, of each item
WINDOW, SHRINK, FORWARD = 10, 10.0, 0.9  # of the co-occurrence, as memory_window and the keys beside it


class SoftTargets(nn.Module):
    """The strongest neighbours of every item.

    Args:
        users: int [E], TRAIN events grouped by user, in time order inside a user.
        items: int [E].
        n_items: N.
        share: c, of a target; 0 to 1.

    Attributes:
        neighbours: int64 [N, K], 0 in empty slots.
        strength: float [N, K], above 0 but for empty slots.
    """

    neighbours: Tensor
    strength: Tensor

    def __init__(self, users: np.ndarray, items: np.ndarray, n_items: int, share: float) -> None:
        super().__init__()
        self.share = share
        similarity = window_similarity(users, items, n_items, WINDOW, SHRINK, FORWARD).tocoo()
        # a row's strongest first, ties by item id
        order = np.lexsort((similarity.col, -similarity.data, similarity.row))
        row, column, value = (part[order] for part in (similarity.row, similarity.col, similarity.data))
        place = np.arange(len(row)) - np.searchsorted(row, row)
        keep = place < NEIGHBOURS
        neighbours = torch.zeros(n_items, NEIGHBOURS, dtype=torch.int64)
        strength = torch.zeros(n_items, NEIGHBOURS)
        at = torch.from_numpy(row[keep].astype(np.int64)), torch.from_numpy(place[keep])
        neighbours[at] = torch.from_numpy(column[keep].astype(np.int64))
        strength[at] = torch.from_numpy(value[keep].astype(np.float32))
        self.register_buffer("neighbours", neighbours, persistent=False)
        self.register_buffer("strength", strength, persistent=False)

    def of(self, newest: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """Where the share goes.

        Args:
            newest: int64 [M], the newest item of each history.
            hidden: int64 [M, H], items that a softmax leaves out, or None.

        Returns:
            (int64 [M, K] items, float [M, K] their parts of the target), which sum to the share, or to 0
            where no neighbour is left.
        """
        items, parts = self.neighbours[newest], self.strength[newest]
        if hidden is not None:
            parts = parts * ~(items[:, :, None] == hidden[:, None, :]).any(dim=2)
        total = parts.sum(dim=1, keepdim=True)
        return items, self.share * parts / total.masked_fill(total == 0.0, 1.0)


def softened(queries: Tensor, scored: Tensor, targets: Tensor, items: Tensor, parts: Tensor) -> Tensor:
    """What soft targets add to the cross-entropy of the hard ones.

    log Z stays the same, so the difference is linear in the logits: sum over items of part * (logit of the
    target - logit of the item).

    Args:
        queries: float [M, e].
        scored: float [n, e], rows that queries are multiplied with.
        targets: int64 [M], rows of ``scored``.
        items: int64 [M, K], rows of ``scored``.
        parts: float [M, K].

    Returns:
        float [M].
    """
    mean = F.embedding_bag(
        items, scored, mode="sum", per_sample_weights=parts.to(scored.dtype), padding_idx=0
    )
    own = rows_of(scored, targets) * parts.sum(dim=1, keepdim=True)
    return (queries * (own - mean)).sum(dim=1)
