import numpy as np
import pytest
import scipy.sparse as sp

from recbole_sigma.grounding.cooccurrence import ppmi, ppmi_svd, unit_rows, windowed_cooccurrence


def brute_force(sequences, n, window):
    out = np.zeros((n, n))
    for sequence in sequences:
        for a in range(len(sequence)):
            for b in range(a + 1, min(a + window, len(sequence) - 1) + 1):
                if sequence[a] != sequence[b]:
                    out[sequence[a], sequence[b]] += (b - a) ** -0.5
                    out[sequence[b], sequence[a]] += (b - a) ** -0.5
    return out


@pytest.mark.parametrize("window", [1, 3, 50])
def test_counts_equal_a_double_loop(window):
    rng = np.random.default_rng(window)
    sequences = [rng.integers(1, 9, size).tolist() for size in (1, 2, 7, 12)]
    users = np.repeat(np.arange(4), [len(s) for s in sequences])
    counted = windowed_cooccurrence(users, np.concatenate(sequences), 10, window).toarray()
    np.testing.assert_allclose(counted, brute_force(sequences, 10, window), atol=1e-12)
    assert counted[0].sum() == 0 and np.allclose(counted, counted.T)


def test_events_of_different_users_never_pair():
    counted = windowed_cooccurrence(np.array([1, 2]), np.array([3, 4]), 5, 10)
    assert counted.nnz == 0


def test_ppmi_equals_the_formula():
    counts = sp.csr_matrix(np.array([[0, 2.0, 1.0], [2.0, 0, 0], [1.0, 0, 0]]))
    row = np.array([3.0, 2.0, 1.0])
    context = row**0.75 / (row**0.75).sum()
    expected = np.zeros((3, 3))
    for i, j in ((0, 1), (0, 2), (1, 0), (2, 0)):
        expected[i, j] = max(0.0, np.log(counts[i, j] / (row[i] * context[j])))
    np.testing.assert_allclose(ppmi(counts).toarray(), expected)


def test_teacher_separates_planted_communities_and_leaves_unknown_items_zero():
    rng = np.random.default_rng(0)
    sequences = [rng.permutation(np.arange(1, 11) + 10 * (u % 2)) for u in range(60)]
    users = np.repeat(np.arange(60), 10)
    counts = windowed_cooccurrence(users, np.concatenate(sequences), 25, 5)
    vectors = ppmi_svd(counts, 4, seed=0)
    inside = (vectors[1:11] @ vectors[1:11].T).mean()
    across = (vectors[1:11] @ vectors[11:21].T).mean()
    assert inside > across + 0.5
    assert not vectors[21:].any() and not vectors[0].any()
    np.testing.assert_allclose(np.linalg.norm(vectors[1:21], axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors, ppmi_svd(counts, 4, seed=0))


def test_unit_rows_keeps_zero_rows():
    np.testing.assert_allclose(unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]])
