"""Relevance pairs between items, one sampler per view (paper: 'multi-view'; mining rules are ours).

Every view that looks at behaviour reads TRAIN interactions only; the other views read item metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp


@dataclass(frozen=True)
class PairView:
    """A weighted list of relevant item pairs.

    Attributes:
        name: the view's name in reports and options.
        left, right: int64 [P], two relevant items per row.
        weight: float64 [P], sampling weights, sum 1.
    """

    name: str
    left: np.ndarray
    right: np.ndarray
    weight: np.ndarray

    def __len__(self) -> int:
        return len(self.left)

    def sample(self, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw ``size`` pairs with replacement; returns two int64 arrays [size]."""
        index = rng.choice(len(self.left), size=size, p=self.weight)
        return self.left[index], self.right[index]


def collaborative_view(counts: sp.csr_matrix) -> PairView:
    """Pairs that train users met within a few steps, weighted by co-occurrence over sqrt of popularity."""
    upper = sp.triu(counts, k=1).tocoo()
    popularity = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1e-12)
    weight = upper.data / np.sqrt(popularity[upper.row] * popularity[upper.col])
    return _view("collaborative", upper.row, upper.col, weight)


def shared_value_view(name: str, values: Sequence[str], pairs_per_item: int, seed: int) -> PairView:
    """Pairs of items that carry the same metadata value (category leaf, genre set, brand).

    Args:
        name: name of the view.
        values: one string per item, '' where unknown; index 0 is padding.
        pairs_per_item: partners drawn for each item from the items that share its value.
        seed: seed of the draw.

    Returns:
        A view whose rows are uniform; small groups are not outvoted because every item draws equally often.
    """
    rng = np.random.default_rng(seed)
    groups: dict[str, list[int]] = {}
    for item, value in enumerate(values):
        if item > 0 and value.strip():
            groups.setdefault(value.strip(), []).append(item)
    left: list[np.ndarray] = []
    right: list[np.ndarray] = []
    for members in groups.values():
        if len(members) < 2:
            continue
        member = np.asarray(members)
        own = np.repeat(np.arange(len(member)), pairs_per_item)
        other = (own + rng.integers(1, len(member), size=len(own))) % len(member)
        left.append(member[own])
        right.append(member[other])
    if not left:
        return _view(name, np.zeros(0, int), np.zeros(0, int), np.zeros(0))
    rows, cols = np.concatenate(left), np.concatenate(right)
    return _view(name, rows, cols, np.ones(len(rows)))


def _view(name: str, left: np.ndarray, right: np.ndarray, weight: np.ndarray) -> PairView:
    total = weight.sum()
    return PairView(
        name,
        left.astype(np.int64),
        right.astype(np.int64),
        weight / total if total > 0 else weight.astype(float),
    )
