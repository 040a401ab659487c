"""Linear regressions from items to items, in closed form, from TRAIN events: EASE and the next item."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.linalg import lapack

from recbole_sigma.grounding.cooccurrence import recency_weights
from recbole_sigma.values import UserError

LARGEST = 30_000
"""Items of the largest catalogue: the inverse is dense, and 30,000 items take 11 GB while it is made."""


def inverse(gram: sparse.spmatrix, ridge: float) -> np.ndarray:
    """(gram + ridge I)^-1 of a symmetric positive semi-definite matrix, by Cholesky.

    Args:
        gram: float [N, N].
        ridge: what is added to the diagonal, above 0.

    Returns:
        float64 [N, N], symmetric.

    Raises:
        UserError: N is above `LARGEST`.
    """
    if gram.shape[0] > LARGEST:
        raise UserError(
            f"EASE and NextItemRidge invert a dense matrix of items by items, which {gram.shape[0]:,} items "
            f"make too large (at most {LARGEST:,}): take WindowItemKNN"
        )
    # in Fortran's order LAPACK works in place, so that one matrix is held and not three
    dense = gram.astype(np.float64).toarray(order="F")
    dense[np.diag_indices_from(dense)] += ridge
    factor, failed = lapack.dpotrf(dense, lower=0, overwrite_a=1)
    if failed:
        raise UserError("the items' co-occurrence is too ill-conditioned to invert: raise the ridge")
    found, _ = lapack.dpotri(factor, lower=0, overwrite_c=1)
    for row in range(len(found) - 1):  # it fills the upper triangle alone
        found[row + 1 :, row] = found[row, row + 1 :]
    return found


def ease(users: np.ndarray, items: np.ndarray, n_items: int, ridge: float) -> np.ndarray:
    """EASE's weights (Steck 2019, arXiv 1905.03375, section 3.1).

    With X the 0/1 matrix of users and items and P = (X'X + ridge I)^-1, B_ij = -P_ij / P_jj off the diagonal:
    the B of zero diagonal that minimises |X - XB|^2 + ridge |B|^2.

    Args:
        users: int [E].
        items: int [E].
        n_items: N.
        ridge: lambda.

    Returns:
        float32 [N, N]; row i holds what a history item i says.
    """
    met = sparse.csr_matrix((np.ones(len(items)), (users, items)), shape=(int(users.max()) + 1, n_items))
    met.data[:] = 1.0  # an item that a user met twice counts once
    found = inverse(met.T @ met, ridge)
    found /= -np.diag(found).copy()
    weights = found.astype(np.float32)
    np.fill_diagonal(weights, 0.0)
    return weights


@dataclass(frozen=True)
class NextItem:
    """Ridge regression from the newest items to the next one: B = (H'H + ridge I)^-1 H'Y.

    Attributes:
        inverse: float32 [N, N], (H'H + ridge I)^-1.
        moves: float32 [N, N] CSR, H'Y; with ``inverse`` apart a history touches few rows of a dense matrix.
        last: newest events of a history that count.
        decay: weight of an event per step of age.
    """

    inverse: np.ndarray
    moves: sparse.csr_matrix
    last: int
    decay: float

    def scores(self, rows: np.ndarray, items: np.ndarray, batch: int) -> np.ndarray:
        """hB for every history, float32 [B, N]; the arguments are those of `recency_weights`."""
        history = recency_weights(rows, items, batch, self.moves.shape[0], self.last, self.decay)
        return np.asarray((history.astype(np.float32) @ self.inverse) @ self.moves)


def next_item_ridge(
    users: np.ndarray, items: np.ndarray, n_items: int, ridge: float, last: int, decay: float
) -> NextItem:
    """The regression over every event that another of the same user precedes.

    A row of H holds decay^age of the ``last`` events before one event, the row of Y is that event.

    Args:
        users: int [E], events grouped by user, in time order inside a user.
        items: int [E].
        n_items: N.
        ridge: what keeps the weights small.
        last: see `NextItem`.
        decay: see `NextItem`.
    """
    count = len(items)
    first = np.r_[True, users[1:] != users[:-1]]
    begin = np.maximum.accumulate(np.where(first, np.arange(count), 0))
    row, column, weight = [], [], []
    for age in range(min(last, count)):
        event = np.arange(age + 1, count)
        event = event[event - 1 - age >= begin[event]]
        row.append(event)
        column.append(items[event - 1 - age])
        weight.append(np.full(len(event), float(decay) ** age))
    parts = (np.concatenate(weight), (np.concatenate(row), np.concatenate(column)))
    history = sparse.csr_matrix(parts, shape=(count, n_items))
    after = sparse.csr_matrix((np.ones(count), (np.arange(count), items)), shape=(count, n_items))
    found = inverse(history.T @ history, ridge).astype(np.float32)
    return NextItem(found, (history.T @ after).tocsr().astype(np.float32), last, decay)
