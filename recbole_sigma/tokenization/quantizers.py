"""Residual k-means through faiss: item vectors to semantic IDs (OneRec/GRID style 'RQ-KMeans')."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.cluster import kmeans_plusplus

from recbole_sigma.values import UserError

_POINTS = 65_536  # items that centroids are learned from; more change them less than another seed does
_POINTS_PER_CODE = 64  # at least, where a codebook is large


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
            max_points_per_centroid=max(_POINTS // int(size), _POINTS_PER_CODE),
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


def balanced_rq_kmeans(
    vectors: np.ndarray, sizes: Sequence[int], seed: int, iterations: int = 10
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Residual k-means whose clusters hold equally many items at every level: n // K or one more.

    Equal clusters bound the search inside a prefix and give every prefix the same prior. Each
    level starts from plain k-means and alternates means with `balanced_assignment`.

    Args, returns, raises: as `rq_kmeans`.
    """
    codes, centroids = np.zeros((len(vectors), len(sizes)), dtype=np.int64), []
    residual = np.ascontiguousarray(vectors, dtype=np.float32).copy()
    for level, size in enumerate(sizes):
        _, (centre,) = rq_kmeans(residual, [size], seed + level)
        for _ in range(iterations):
            code = balanced_assignment(residual, centre)
            moved = np.zeros_like(centre)
            np.add.at(moved, code, residual)
            moved /= np.bincount(code, minlength=size)[:, None]
            settled = np.array_equal(code, codes[:, level])
            codes[:, level], centre = code, moved
            if settled:
                break
        residual -= centre[code]
        centroids.append(centre)
    return codes, centroids


_CHOICES = 64  # nearest centroids looked at first: bounds the memory at n * 64
_CELLS = 1 << 24  # distances held at a time beyond those


def balanced_assignment(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Assign vectors to centroids so that every centroid gets n // K of them, or one more.

    Centroids that attract too many become dearer until demand meets supply (the dual of the transport
    problem, by subgradient steps); at these prices vectors propose to their nearest centroid. One that has
    too many proposals keeps those that would lose most by going to their next choice; the others go there,
    and so on (deferred acceptance). The n % K centroids with the most first choices take one vector more.

    Args:
        vectors: float32 [n, d].
        centroids: float32 [K, d], K <= n.

    Returns:
        int64 [n].
    """
    import faiss

    n, k = len(vectors), len(centroids)
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids, dtype=np.float32))
    width = min(k, _CHOICES)
    distance, order = index.search(np.ascontiguousarray(vectors, dtype=np.float32), width)
    capacity = np.full(k, n // k)
    popular = np.argsort(-np.bincount(order[:, 0], minlength=k), kind="stable")
    capacity[popular[: n % k]] += 1
    price = _prices(distance, order, capacity)
    distance = distance + price[order]
    rank = np.argsort(distance, axis=1, kind="stable")
    order = np.take_along_axis(order, rank, axis=1)
    result = _propose(np.take_along_axis(distance, rank, axis=1), order, capacity)
    left = np.flatnonzero(result < 0)
    while len(left):  # their 64 nearest centroids are full: look at those with room
        room = capacity - np.bincount(result[result >= 0], minlength=k)
        open_ = np.flatnonzero(room)
        some = left[: max(1, _CELLS // len(open_))]
        far = ((vectors[some, None] - centroids[open_][None]) ** 2).sum(axis=2) + price[open_]
        rank = np.argsort(far, axis=1, kind="stable")
        chosen = _propose(np.take_along_axis(far, rank, axis=1), rank, room[open_])
        result[some[chosen >= 0]] = open_[chosen[chosen >= 0]]
        left = np.flatnonzero(result < 0)
    return result


def _prices(distance: np.ndarray, order: np.ndarray, capacity: np.ndarray, rounds: int = 100) -> np.ndarray:
    """Price per centroid at which the nearest choice (distance + price) fills every centroid about evenly."""
    price = np.zeros(len(capacity))
    scale = float(np.abs(distance[:, -1] - distance[:, 0]).mean())
    rows = np.arange(len(order))
    for step in range(rounds):
        chosen = order[rows, (distance + price[order]).argmin(axis=1)]
        excess = np.bincount(chosen, minlength=len(capacity)) / capacity - 1.0
        if not excess.any():
            break
        price += scale * 0.3 / (1.0 + 0.2 * step) * np.clip(excess, -1.0, 1.0)
    return price


def _propose(distance: np.ndarray, order: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """Deferred acceptance: ``order`` [n, m] names each row's centroids by rising ``distance``; -1 = none."""
    n, width = order.shape
    choice = np.zeros(n, dtype=np.int64)
    result = np.full(n, -1, dtype=np.int64)
    free = np.arange(n)
    while len(free):
        result[free] = order[free, choice[free]]
        crowded = np.flatnonzero(np.bincount(result[result >= 0], minlength=len(capacity)) > capacity)
        rows = np.flatnonzero(np.isin(result, crowded))
        follow = np.minimum(choice[rows] + 1, width - 1)
        regret = distance[rows, follow] - distance[rows, choice[rows]]
        rows = rows[np.lexsort((-regret, result[rows]))]
        owner = result[rows]
        first = np.searchsorted(owner, owner)
        out = rows[np.arange(len(rows)) - first >= capacity[owner]]
        result[out] = -1
        choice[out] += 1
        free = out[choice[out] < width]
    return result
