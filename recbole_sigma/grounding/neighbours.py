"""Neighbours of items by windowed co-occurrence in training sequences, and votes of a history for them."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from recbole_sigma.grounding.cooccurrence import windowed_cooccurrence


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
