"""Sparse windowed co-occurrence of items in training sequences, and the collaborative vectors made from
it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from scipy import sparse

from recbole_sigma.grounding.svd import truncated_svd

_BLOCK = 1 << 20  # events counted at a time: bounds the pairs held beside the sums


def windowed_cooccurrence(
    users: np.ndarray,
    items: np.ndarray,
    n_items: int,
    window: int,
    gap_power: float = 0.5,
    forward: float = 0.5,
    on_block: Callable[[], None] | None = None,
) -> sp.csr_matrix:
    """Count how often two items occur within ``window`` steps of one user's sequence.

    Events are counted in blocks and, without a direction, only the upper triangle is summed, so the peak is
    about twice the result (three times where the direction counts).

    Args:
        users: int [E], grouped so that each user's events are contiguous and in time order.
        items: int [E], the item of each event, ``0 < items < n_items``.
        n_items: number of items including the padding row 0.
        window: largest distance in steps (1 = neighbours only).
        gap_power: a pair ``g`` steps apart weighs ``g ** -gap_power``.
        forward: share of a pair that counts from the earlier item (row) to the later (column); 0.5 counts
            both directions alike.
        on_block: called after every block of about a million events.

    Returns:
        CSR matrix [n_items, n_items], float64, zero diagonal, row 0 empty; symmetric where ``forward`` is
        0.5.
    """
    users, items = np.asarray(users), np.asarray(items)
    total = sp.csr_matrix((n_items, n_items), dtype=np.float64)
    for begin in range(0, len(items), _BLOCK):
        for gap in range(1, window + 1):
            end = min(begin + _BLOCK, len(items) - gap)
            if end <= begin:
                break
            same_user = users[begin:end] == users[begin + gap : end + gap]
            left, right = items[begin:end][same_user], items[begin + gap : end + gap][same_user]
            apart = left != right
            left, right = left[apart], right[apart]
            if forward == 0.5:
                left, right = np.minimum(left, right), np.maximum(left, right)
            weight = np.full(left.shape, float(gap) ** -gap_power)
            total = total + sp.csr_matrix((weight, (left, right)), shape=(n_items, n_items))
        if on_block is not None:
            on_block()
    if forward == 0.5:
        return (total + total.T).tocsr()
    return (2.0 * forward * total + 2.0 * (1.0 - forward) * total.T).tocsr()


def transitions(users: np.ndarray, items: np.ndarray, n_items: int) -> sp.csr_matrix:
    """How often an item was followed by another at once: float64 [N, N].

    Args:
        users: int [E], events grouped by user, in time order inside a user.
        items: int [E].
        n_items: N.
    """
    same = users[1:] == users[:-1]
    pairs = (items[:-1][same], items[1:][same])
    return sp.csr_matrix((np.ones(int(same.sum())), pairs), shape=(n_items, n_items))


def ppmi(counts: sp.csr_matrix, context_power: float = 0.75) -> sp.csr_matrix:
    """Positive pointwise mutual information with a smoothed context distribution (Levy et al. 2015).

    Args:
        counts: symmetric co-occurrence [N, N].
        context_power: exponent that flattens the context distribution.

    Returns:
        CSR [N, N] of ``max(0, log p(i, j) / (p(i) p_context(j)))``.
    """
    coo = counts.tocoo()
    row_sum = np.asarray(counts.sum(axis=1)).ravel()
    total = row_sum.sum()
    if total == 0:
        return counts.copy()
    context = row_sum**context_power
    context /= context.sum()
    value = np.log(coo.data / (row_sum[coo.row] * context[coo.col]))
    keep = value > 0
    return sp.csr_matrix((value[keep], (coo.row[keep], coo.col[keep])), shape=counts.shape)


def unit_rows(matrix: np.ndarray) -> np.ndarray:
    """Scale each row to length one; zero rows stay zero. Returns float32."""
    norm = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.divide(matrix, norm, out=np.zeros_like(matrix), where=norm > 1e-12).astype(np.float32)


def ppmi_svd(counts: sp.csr_matrix, dim: int, seed: int) -> np.ndarray:
    """Collaborative item vectors: truncated SVD of the PPMI matrix, the frozen teacher ``ppmi-svd``.

    Args:
        counts: symmetric co-occurrence of TRAIN interactions [N, N].
        dim: wanted width; fewer columns come back when the matrix has fewer rows.
        seed: seed of the randomised SVD.

    Returns:
        float32 [N, dim], unit rows; items without train events are zero.
    """
    matrix = ppmi(counts)
    n = matrix.shape[0]
    rank = min(dim, n - 1)
    left, value, _ = truncated_svd(matrix, rank, seed)
    vectors = np.zeros((n, dim), dtype=np.float32)
    vectors[:, :rank] = left * np.sqrt(value)
    has_events = np.asarray(counts.sum(axis=1)).ravel() > 0
    vectors[~has_events] = 0.0
    return unit_rows(vectors)


def window_similarity(
    users: np.ndarray, items: np.ndarray, n_items: int, window: int, shrink: float, forward: float = 0.5
) -> sparse.csr_matrix:
    """Shrunk cosine of windowed co-occurrence: C_ij / (sqrt(n_i n_j) + shrink).

    C adds 1/sqrt(gap) for every two events of a user at most ``window`` steps apart; n counts the events of
    an item.

    Args:
        users: int [E], events grouped by user, in time order inside a user.
        items: int [E].
        n_items: N.
        window: largest gap in steps.
        shrink: constant in the denominator.
        forward: share of a pair's vote that goes from the earlier item to the later one; 0.5 = symmetric.

    Returns:
        float64 [N, N], zero diagonal; row i holds the votes of a history item i.
    """
    pairs = windowed_cooccurrence(users, items, n_items, window, forward=forward).tocoo()
    count = np.bincount(items, minlength=n_items).astype(np.float64)
    value = pairs.data / (np.sqrt(count[pairs.row] * count[pairs.col]) + shrink)
    return sparse.csr_matrix((value, (pairs.row, pairs.col)), shape=(n_items, n_items))


def recency_weights(
    rows: np.ndarray, items: np.ndarray, batch: int, n_items: int, last: int, decay: float
) -> sparse.csr_matrix:
    """Weights decay^age of each row's ``last`` newest events (the newest has age 0).

    Args:
        rows: int [P], ascending; the row of each history event.
        items: int [P], events of a row in order of time.
        batch: B.
        n_items: N.
        last: events that vote.
        decay: factor per step of age.

    Returns:
        float64 [B, N]; an item that occurs twice adds up.
    """
    count = np.bincount(rows, minlength=batch)
    age = np.cumsum(count)[rows] - 1 - np.arange(len(rows))
    keep = age < last
    weight = float(decay) ** age[keep]
    return sparse.coo_matrix((weight, (rows[keep], items[keep])), shape=(batch, n_items)).tocsr()
