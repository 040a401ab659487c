"""The truncated SVD against numpy's on matrices that are small enough for it."""

import numpy as np
import pytest
import scipy.sparse as sp

from recbole_sigma.grounding.svd import truncated_svd


def decaying(m, n, seed=0):
    """A matrix with known singular values 2^-k, dense inside."""
    rng = np.random.default_rng(seed)
    left, right = np.linalg.qr(rng.normal(size=(m, 30)))[0], np.linalg.qr(rng.normal(size=(n, 30)))[0]
    return (left * 0.8 ** np.arange(30)) @ right.T


@pytest.mark.parametrize("shape", [(200, 90), (90, 200), (120, 120)])
def test_leading_part_equals_the_dense_one(shape):
    """float32 keeps seven digits, and a vector mixes errors of all larger values: four digits are left."""
    matrix = decaying(*shape)
    left, values, right = truncated_svd(sp.csr_matrix(matrix), 8, 0)
    whole = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_allclose(values, whole[1][:8], atol=1e-4)
    best = (whole[0][:, :8] * whole[1][:8]) @ whole[2][:8]
    np.testing.assert_allclose((left * values) @ right.T, best, atol=1e-4)
    for vectors in (left, right):
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(8), atol=1e-4)
    assert (left[np.abs(left).argmax(axis=0), np.arange(8)] > 0).all()


def test_a_matrix_of_lower_rank_has_values_of_zero():
    matrix = np.outer(np.arange(1.0, 41.0), np.ones(30))
    left, values, right = truncated_svd(sp.csr_matrix(matrix), 5, 3)
    assert values[0] == pytest.approx(np.linalg.norm(matrix), rel=1e-5)
    assert (values[1:] < 1e-3 * values[0]).all() and np.isfinite(left).all() and np.isfinite(right).all()
    np.testing.assert_allclose((left * values) @ right.T, matrix, rtol=1e-3, atol=1e-2)


def test_an_empty_matrix_is_all_zeros():
    left, values, right = truncated_svd(sp.csr_matrix((20, 12)), 3, 0)
    assert not values.any() and np.isfinite(left).all() and np.isfinite(right).all()


def test_the_seed_alone_decides():
    matrix = sp.random(80, 60, 0.2, random_state=1, format="csr")
    once, again = truncated_svd(matrix, 6, 7), truncated_svd(matrix, 6, 7)
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
