"""Truncated SVD of a large sparse matrix in float32, for the text vectors and the teacher."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

_OVERSAMPLE, _ITERATIONS = 16, 7


def truncated_svd(matrix: sp.spmatrix, rank: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The leading singular vectors by randomised subspace iteration (Halko et al. 2011, algorithm 4.4).

    A sketch of rank + 16 columns is multiplied by A'A seven times and made orthonormal in between, through
    the small Gram matrix Y'Y in float64. The products with A stay in float32: at a million rows the usual
    QR factorisations in float64 take seven times as long as everything else together.

    Args:
        matrix: [m, n].
        rank: r, at most min(m, n).
        seed: of the sketch.

    Returns:
        (left float32 [m, r], values float32 [r] descending, right float32 [n, r]); the largest entry of each
        left vector is positive.
    """
    matrix = sp.csr_matrix(matrix, dtype=np.float32)
    across = sp.csr_matrix(matrix.T)
    width = min(rank + _OVERSAMPLE, *matrix.shape)
    sketch = np.random.default_rng(seed).standard_normal((matrix.shape[1], width), dtype=np.float32)
    for _ in range(_ITERATIONS):
        sketch = _orthonormal(across @ (matrix @ _orthonormal(sketch)))
    image = matrix @ sketch  # A Q: its singular vectors are those of A inside the subspace
    squares, turn = np.linalg.eigh(_gram(image))
    squares, turn = squares[::-1][:rank], turn[:, ::-1][:, :rank]
    values = np.sqrt(np.maximum(squares, 0.0))
    turn = turn.astype(np.float32)
    left = image @ turn / np.maximum(values, 1e-12).astype(np.float32)
    signs = np.sign(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])])
    signs[signs == 0] = 1.0
    return left * signs, values.astype(np.float32), (sketch @ turn) * signs


def _gram(columns: np.ndarray) -> np.ndarray:
    """Y'Y in float64, summed over slices of rows so that no copy of Y in float64 is held."""
    slices = np.array_split(columns, max(1, len(columns) // 65_536))
    return sum((part.T.astype(np.float64) @ part.astype(np.float64) for part in slices), np.zeros(()))


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the columns' span, float32 [n, k]; directions that are lost in rounding are
    zero.
    """
    squares, turn = np.linalg.eigh(_gram(columns))
    kept = squares > squares[-1] * 1e-10
    scale = np.where(kept, 1.0 / np.sqrt(np.where(kept, squares, 1.0)), 0.0)
    return columns @ (turn * scale).astype(np.float32)
