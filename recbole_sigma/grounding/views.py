"""Relevance pairs between items, one sampler per view (paper: 'multi-view'; mining rules are ours).

Every view that looks at behaviour reads TRAIN interactions only; the other views read item metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import CountVectorizer


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
        index = np.searchsorted(self._cumulative, rng.random(size), side="right")
        index = np.minimum(index, len(self.left) - 1)
        return self.left[index], self.right[index]

    @cached_property
    def _cumulative(self) -> np.ndarray:
        """Summed once: a draw from tens of millions of pairs then costs a binary search."""
        total = self.weight.cumsum()
        return total / total[-1]


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


def semantic_view(
    texts: Sequence[str],
    leaves: Sequence[str],
    pairs_per_item: int,
    seed: int,
    max_share: float = 0.05,
    least: int = 2,
) -> PairView:
    """Pairs that one search phrase would find together: a stand-in for the search view of arXiv 2602.22913.

    A phrase is a word 2-gram of the item text carried by ``least`` to ``max_share`` of the items. Each item
    draws phrases it carries, and for each a partner among the items that carry it; where both have a
    category, it must be the same.

    Args:
        texts: one string per item, row 0 padding.
        leaves: category per item, '' where unknown; or empty for none.
        pairs_per_item: draws per item (those with another category are dropped).
        seed: of the draws.
        max_share: largest share of the catalogue under one phrase.
        least: fewest items under one phrase.
    """
    vectorizer = CountVectorizer(
        ngram_range=(2, 2),
        binary=True,
        dtype=np.int32,
        token_pattern=r"(?u)\b[^\W\d_]{2,}\b",
        strip_accents="unicode",
        min_df=least,
        max_df=max(float(max_share), 2.0 * least / max(len(texts), 1)),
    )
    try:
        carries = vectorizer.fit_transform(list(texts)).tocsr()
    except ValueError:  # no phrase is carried by enough items, or there are no words at all
        return _view("semantic", np.zeros(0, int), np.zeros(0, int), np.zeros(0))
    by_phrase = carries.tocsc()
    rng = np.random.default_rng(seed)
    degree = np.diff(carries.indptr)
    own = np.repeat(np.flatnonzero(degree), pairs_per_item)
    phrase = carries.indices[carries.indptr[own] + (rng.random(len(own)) * degree[own]).astype(np.int64)]
    size = np.diff(by_phrase.indptr)[phrase]
    other = by_phrase.indices[by_phrase.indptr[phrase] + (rng.random(len(own)) * size).astype(np.int64)]
    keep = own != other
    if len(leaves):
        _, leaf = np.unique(np.asarray(leaves, dtype=str), return_inverse=True)
        empty = np.asarray([not value.strip() for value in leaves])
        keep &= (leaf[own] == leaf[other]) | empty[own] | empty[other]
    return _view("semantic", own[keep], other[keep], np.ones(int(keep.sum())))


def visual_view(image: np.ndarray, neighbours: int) -> PairView:
    """Nearest neighbours by cosine among the items that have an image vector.

    Args:
        image: float32 [N, d] unit rows, zero where an item has none.
        neighbours: partners of each item.
    """
    import faiss

    have = np.flatnonzero(np.abs(image).sum(axis=1) > 0)
    if len(have) < 2:
        return _view("visual", np.zeros(0, int), np.zeros(0, int), np.zeros(0))
    vectors = np.ascontiguousarray(image[have], dtype=np.float32)
    index: Any = faiss.IndexFlatIP(vectors.shape[1])
    if len(have) > 100_000:  # exact search would take hours
        lists = int(4 * np.sqrt(len(have)))
        index = faiss.IndexIVFFlat(index, vectors.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[:: max(1, len(have) // (64 * lists))])
        index.nprobe = 16
    index.add(vectors)
    k = min(neighbours + 1, len(have))
    _, nearest = index.search(vectors, k)
    own = np.repeat(np.arange(len(have)), k)
    other = nearest.ravel()
    keep = (own != other) & (other >= 0)
    return _view("visual", have[own[keep]], have[other[keep]], np.ones(int(keep.sum())))


def _view(name: str, left: np.ndarray, right: np.ndarray, weight: np.ndarray) -> PairView:
    total = weight.sum()
    return PairView(
        name,
        left.astype(np.int64),
        right.astype(np.int64),
        weight / total if total > 0 else weight.astype(float),
    )
