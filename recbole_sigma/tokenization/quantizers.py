"""Residual k-means through faiss: item vectors to semantic IDs (OneRec/GRID style 'RQ-KMeans')."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.cluster import kmeans_plusplus

from recbole_sigma.values import UserError


def auto_codebook_size(n_items: int) -> int:
    """First-level codebook size for ``n_items`` real items: the power of two nearest to 64 items per code.

    Keeps subsets at 30-300 items, small enough for exact search inside a prefix and large enough to predict.
    """
    return int(2 ** np.clip(np.round(np.log2(max(n_items, 2) / 64)), 1, 12))


def rq_kmeans(
    vectors: np.ndarray, sizes: Sequence[int], seed: int, iterations: int = 25
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Quantize vectors level by level, each level on the residual of the one before.

    Args:
        vectors: float32 [n, d]; finite.
        sizes: codebook size per level.
        seed: seed of every level's k-means.
        iterations: Lloyd iterations per level.

    Returns:
        (int64 codes [n, len(sizes)], list of float32 centroids [K_l, d]).

    Raises:
        UserError: a codebook larger than the number of items, or vectors that are not finite.
    """
    import faiss

    residual = np.ascontiguousarray(vectors, dtype=np.float32).copy()
    n, d = residual.shape
    if not np.isfinite(residual).all():
        bad = int(np.flatnonzero(~np.isfinite(residual).all(axis=1))[0])
        raise UserError(
            f"item vectors hold NaN or infinity (first at item row {bad + 1}): rebuild them before quantizing"
        )
    if max(sizes) > n:
        raise UserError(
            f"tokenizer_codebook_size: a codebook of {max(sizes)} needs at least as many items, there are"
            f" {n}; use 0 (auto) or at most {n}"
        )
    codes = np.zeros((n, len(sizes)), dtype=np.int64)
    centroids: list[np.ndarray] = []
    for level, size in enumerate(sizes):
        start = _plus_plus(residual, int(size), seed + level)
        kmeans = faiss.Kmeans(
            d, int(size), niter=iterations, seed=seed + level, min_points_per_centroid=1,
            max_points_per_centroid=max(256, n),
        )  # fmt: skip
        kmeans.train(residual, init_centroids=start)
        _, nearest = kmeans.index.search(residual, 1)
        codes[:, level] = nearest[:, 0]
        learned = np.array(kmeans.centroids)
        centroids.append(learned)
        residual -= learned[codes[:, level]]
    return codes, centroids


def _plus_plus(vectors: np.ndarray, size: int, seed: int) -> np.ndarray:
    """k-means++ seeds [size, d]; random seeds leave planted clusters merged. At most 64 candidates per seed
    are looked at.
    """
    rng = np.random.default_rng(seed)
    limit = max(64 * size, 4096)
    if len(vectors) > limit:
        vectors = vectors[np.sort(rng.choice(len(vectors), limit, replace=False))]
    seeds, _ = kmeans_plusplus(vectors, size, random_state=seed)
    return np.ascontiguousarray(seeds, dtype=np.float32)
