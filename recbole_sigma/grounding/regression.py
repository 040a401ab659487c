"""Linear regressions from items to items, in closed form, from TRAIN events: EASE and the next item."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse

from recbole_sigma.values import UserError

LARGEST = 30_000
"""Items of the largest catalogue: the inverse is dense, and 30,000 items take 14 GB while it is made."""


def inverse(gram: sparse.spmatrix, ridge: float, device: Any = "cpu") -> np.ndarray:
    """(gram + ridge I)^-1 of a symmetric positive semi-definite matrix, by Cholesky.

    Args:
        gram: float [N, N].
        ridge: what is added to the diagonal, above 0.
        device: where it is computed.

    Returns:
        float64 [N, N], symmetric, in the order of rows.

    Raises:
        UserError: N is above `LARGEST`, or the ridge is too small.
    """
    if gram.shape[0] > LARGEST:
        raise UserError(
            f"EASE and NextItemRidge invert a dense matrix of items by items, which {gram.shape[0]:,} items "
            f"make too large (at most {LARGEST:,}): take WindowItemKNN"
        )
    where = device if torch.device(device).type == "cuda" else "cpu"  # others have no float64
    # not SciPy's dpotrf: the OpenBLAS of SciPy 1.17's wheels crashes at 18,358 rows on two threads
    dense = torch.from_numpy(gram.toarray().astype(np.float64, copy=False)).to(where)
    dense.diagonal().add_(ridge)
    try:
        factor = torch.linalg.cholesky(dense)
    except torch.linalg.LinAlgError as cause:
        raise UserError(
            "the items' co-occurrence is too ill-conditioned to invert: raise the ridge"
        ) from cause
    del dense  # two matrices are held at a time, not three
    # it comes in the order of columns, and SciPy would copy such a matrix whole at every product
    return torch.cholesky_inverse(factor).mT.contiguous().cpu().numpy()


def ease(users: np.ndarray, items: np.ndarray, n_items: int, ridge: float, device: Any = "cpu") -> np.ndarray:
    """EASE's weights (Steck 2019, arXiv 1905.03375, section 3.1).

    With X the 0/1 matrix of users and items and P = (X'X + ridge I)^-1, B_ij = -P_ij / P_jj off the diagonal:
    the B of zero diagonal that minimises |X - XB|^2 + ridge |B|^2.

    Args:
        users: int [E].
        items: int [E].
        n_items: N.
        ridge: lambda.
        device: where it is computed.

    Returns:
        float32 [N, N]; row i holds what a history item i says.
    """
    met = sparse.csr_matrix((np.ones(len(items)), (users, items)), shape=(int(users.max()) + 1, n_items))
    met.data[:] = 1.0  # an item that a user met twice counts once
    found = inverse(met.T @ met, ridge, device)
    found /= -np.diag(found).copy()
    weights = found.astype(np.float32)
    np.fill_diagonal(weights, 0.0)
    return weights


def next_item_ridge(
    users: np.ndarray,
    items: np.ndarray,
    n_items: int,
    ridge: float,
    last: int,
    decay: float,
    device: Any = "cpu",
) -> np.ndarray:
    """Ridge regression from the newest items to the next one: B = (H'H + ridge I)^-1 H'Y.

    Every event that another of the same user precedes is a case: a row of H holds decay^age of the ``last``
    events before it, the row of Y is the event.

    Args:
        users: int [E], events grouped by user, in time order inside a user.
        items: int [E].
        n_items: N.
        ridge: what keeps the weights small.
        last: newest events of a history that count.
        decay: weight of an event per step of age.
        device: where it is computed.

    Returns:
        float32 [N, N]; row i holds what a history item i says.
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
    moves = (after.T @ history).tocsr().astype(np.float32)  # Y'H
    # (Y'H) (H'H + ridge I)^-1 is B': the inverse is symmetric, and a sparse matrix goes best on the left
    turned = moves @ inverse(history.T @ history, ridge, device).astype(np.float32)
    return np.ascontiguousarray(turned.T)
