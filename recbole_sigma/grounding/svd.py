"""Truncated SVD of a large sparse matrix in float32, for the text vectors and the teacher."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

_BLOCKS = 14  # of a quarter of the rank each


def truncated_svd(matrix: sp.spmatrix, rank: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The leading singular vectors from a block Krylov space of A'A (Musco and Musco 2015).

    Block after block, A'A Q of the newest block made orthogonal to all before it, twice, so that rounding
    does not bring old directions back; A'A inside the space gives the vectors. It needs less than half the
    products of a sketch that is multiplied by A'A again and again, which forgets where it came from. All
    of it is float32 but for small Gram matrices in float64.

    Args:
        matrix: [m, n].
        rank: r, at most min(m, n).
        seed: of the first block.

    Returns:
        (left float32 [m, r], values float32 [r] descending, right float32 [n, r]); the largest entry of each
        left vector is positive.
    """
    matrix = sp.csr_matrix(matrix, dtype=np.float32)
    across = sp.csr_matrix(matrix.T)
    tall = matrix.shape[0] >= matrix.shape[1]  # the space is kept on the smaller side
    basis = _leading(matrix, across, rank, seed) if tall else _leading(across, matrix, rank, seed)
    image = (matrix if tall else across) @ basis  # A Q: its singular vectors are those of A inside the space
    squares, turn = np.linalg.eigh(_gram(image))
    squares, turn = squares[::-1], turn[:, ::-1].astype(np.float32)
    values = np.sqrt(np.maximum(squares, 0.0))
    image, basis = image @ turn / np.maximum(values, 1e-12).astype(np.float32), basis @ turn
    left, right = (image, basis) if tall else (basis, image)
    signs = np.sign(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])])
    signs[signs == 0] = 1.0
    return left * signs, values.astype(np.float32), right * signs


def _leading(matrix: sp.csr_matrix, across: sp.csr_matrix, rank: int, seed: int) -> np.ndarray:
    """An orthonormal basis of what A'A does most in its Krylov space, float32 [n, rank].

    Args:
        matrix: A, [m, n].
        across: A'.
        rank: columns wanted.
        seed: of the first block.
    """
    n, width = matrix.shape[1], max(8, rank // 4)
    blocks = min(_BLOCKS, n // width)
    if n <= width * _BLOCKS and rank > width * blocks // 2:  # too small for blocks: the whole space
        width, blocks = n, 1
    basis = np.zeros((n, width * blocks), dtype=np.float32)
    inside = np.zeros((width * blocks, width * blocks), dtype=np.float32)  # Q' A'A Q
    new = _orthonormal(np.random.default_rng(seed).standard_normal((n, width), dtype=np.float32))
    largest = 0.0
    for begin in range(0, width * blocks, width):
        old, every = basis[:, :begin], basis[:, : begin + width]
        if begin:
            largest = max(largest, float(np.linalg.norm(new)) ** 2)
            new = _orthonormal(new - old @ (old.T @ new), largest * 1e-12)  # below it is rounding
            new = _orthonormal(new - old @ (old.T @ new))
            if not new.any():
                break  # the space holds all that A'A does
        basis[:, begin : begin + width] = new
        new = across @ (matrix @ new)
        inside[: begin + width, begin : begin + width] = every.T @ new
        inside[begin : begin + width, : begin + width] = inside[: begin + width, begin : begin + width].T
    _, turn = np.linalg.eigh(inside.astype(np.float64))
    return basis @ turn[:, ::-1][:, :rank].astype(np.float32)


def _gram(columns: np.ndarray) -> np.ndarray:
    """Y'Y in float64, summed over slices of rows so that no copy of Y in float64 is held."""
    slices = np.array_split(columns, max(1, len(columns) // 65_536))
    return sum((part.T.astype(np.float64) @ part.astype(np.float64) for part in slices), np.zeros(()))


def _orthonormal(columns: np.ndarray, least: float = 0.0) -> np.ndarray:
    """An orthonormal basis of the columns' span, float32 [n, k]; directions that are lost in rounding, or
    whose square is below ``least``, are zero.
    """
    squares, turn = np.linalg.eigh(_gram(columns))
    kept = squares > max(least, squares[-1] * 1e-10)
    scale = np.where(kept, 1.0 / np.sqrt(np.where(kept, squares, 1.0)), 0.0)
    return columns @ (turn * scale).astype(np.float32)
