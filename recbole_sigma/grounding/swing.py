"""Swing: item pairs weighted by user pairs that met both, less so where the two users agree on much else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp


def swing(
    users: np.ndarray,
    items: np.ndarray,
    n_items: int,
    alpha: float = 1.0,
    neighbours: int = 20,
    max_users: int = 100,
    max_history: int = 500,
    seed: int = 0,
    on_item: Callable[[], None] | None = None,
) -> sp.csr_matrix:
    """Swing scores (Yang et al. 2020, arXiv 2010.05525, with its user weights).

    s(i, j) = sum over user pairs u < v of U_i and U_j of w_u w_v / (alpha + |I_u and I_v|), w_u =
    1/sqrt(|I_u|).

    Items are taken one at a time, so memory is that of the interactions and the result. An item with more
    than
    ``max_users`` users is scored from that many, drawn at random, and a user with more than ``max_history``
    items by as many of them: the cost of an item is bounded whatever the data.

    Args:
        users: int [E], any order.
        items: int [E], ``0 < items < n_items``.
        n_items: N.
        alpha: damping.
        neighbours: kept for each item, the best ones.
        max_users: users per item.
        max_history: items per user.
        seed: of the draws.
        on_item: called after every item with users.

    Returns:
        Symmetric float64 CSR [N, N] (the larger of both directions), zero diagonal.
    """
    rng = np.random.default_rng(seed)
    _, rows = np.unique(users, return_inverse=True)
    matrix = sp.csr_matrix(
        (np.ones(len(rows)), (rows, items)), shape=(int(rows.max(initial=-1)) + 1, n_items)
    )
    matrix.data[:] = 1.0
    long = np.flatnonzero(np.diff(matrix.indptr) > max_history)
    for user in long:
        begin, end = matrix.indptr[user], matrix.indptr[user + 1]
        matrix.data[begin + rng.choice(end - begin, end - begin - max_history, replace=False)] = 0.0
    matrix.eliminate_zeros()
    by_item = matrix.tocsc()
    weight = 1.0 / np.sqrt(np.maximum(np.diff(matrix.indptr), 1))
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for item in np.flatnonzero(np.diff(by_item.indptr)):
        who = by_item.indices[by_item.indptr[item] : by_item.indptr[item + 1]]
        if len(who) > max_users:
            who = np.sort(rng.choice(who, max_users, replace=False))
        if len(who) > 1:
            history = matrix[who]
            pair = weight[who][:, None] * weight[who][None] / (alpha + (history @ history.T).toarray())
            np.fill_diagonal(pair, 0.0)
            column, place = np.unique(history.indices, return_inverse=True)
            dense = np.zeros((len(who), len(column)))
            dense[np.repeat(np.arange(len(who)), np.diff(history.indptr)), place] = 1.0
            score = 0.5 * ((pair @ dense) * dense).sum(axis=0)
            score[column == item] = 0.0
            best = np.flatnonzero(score > 0)
            if len(best) > neighbours:
                best = best[np.argpartition(-score[best], neighbours - 1)[:neighbours]]
            found.append((np.full(len(best), item), column[best], score[best]))
        if on_item is not None:
            on_item()
    if not found:
        return sp.csr_matrix((n_items, n_items))
    row, column, score = (np.concatenate(part) for part in zip(*found, strict=True))
    result = sp.csr_matrix((score, (row, column)), shape=(n_items, n_items))
    return result.maximum(result.T).tocsr()
