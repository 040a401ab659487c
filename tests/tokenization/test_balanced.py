"""Equal clusters: exact sizes, planted groups, near the best assignment there is."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from recbole_sigma.tokenization import quantizers
from recbole_sigma.tokenization.health import code_health
from recbole_sigma.tokenization.quantizers import balanced_assignment, balanced_rq_kmeans, rq_kmeans
from recbole_sigma.values import UserError
from tests.planted import clusters


@pytest.mark.parametrize("n, sizes", [(64, (8, 8)), (101, (7, 5, 3)), (5, (5,)), (300, (128, 2))])
def test_every_code_of_every_level_holds_equally_many(n, sizes):
    vectors = np.random.default_rng(n).normal(size=(n, 6)).astype(np.float32)
    vectors[: n // 2] *= 0.05  # a crowd that plain k-means puts into a few codes
    codes, centroids = balanced_rq_kmeans(vectors, sizes, seed=0, iterations=3)
    for level, size in enumerate(sizes):
        count = np.bincount(codes[:, level], minlength=size)
        assert count.min() == n // size and count.max() == -(-n // size)
        assert centroids[level].shape == (size, 6)
    assert code_health(codes, sizes, 1).levels[0].perplexity > 0.97 * sizes[0]
    again, _ = balanced_rq_kmeans(vectors, sizes, seed=0, iterations=3)
    assert np.array_equal(codes, again)


def test_planted_groups_of_one_size_are_found():
    vectors, group = clusters(groups=6, noise=0.2)
    codes, _ = balanced_rq_kmeans(vectors, (6,), seed=1)
    for g in range(6):
        assert len(np.unique(codes[group == g, 0])) == 1


def test_cost_is_near_the_optimum_and_plain_k_means_is_not_balanced():
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(120, 4)).astype(np.float32)
    vectors[:80] *= 0.2
    codes, (centre,) = rq_kmeans(vectors, (10,), seed=0)
    assert np.bincount(codes[:, 0]).max() > 12
    far = ((vectors[:, None] - centre[None]) ** 2).sum(2)
    row, column = linear_sum_assignment(np.repeat(far, 12, axis=1))
    best = np.repeat(far, 12, axis=1)[row, column].sum()
    mine = far[np.arange(120), balanced_assignment(vectors, centre)].sum()
    assert best <= mine + 1e-4
    assert mine < 1.25 * best, mine / best


def test_few_choices_first_gives_full_clusters_too(monkeypatch):
    """Catalogues with more codes than the shortlist: whoever finds all its choices full goes elsewhere."""
    monkeypatch.setattr(quantizers, "_CHOICES", 2)
    monkeypatch.setattr(quantizers, "_CELLS", 16)
    vectors = np.random.default_rng(3).normal(size=(90, 3)).astype(np.float32)
    centre = np.concatenate([vectors[:2] * 0.1, vectors[:13] + 20]).astype(np.float32)
    assert (np.bincount(balanced_assignment(vectors, centre), minlength=15) == 6).all()


def test_bad_vectors_are_refused_as_by_plain_k_means():
    vectors = np.full((4, 2), np.nan, dtype=np.float32)
    with pytest.raises(UserError, match="NaN"):
        balanced_rq_kmeans(vectors, (2,), seed=0)
    with pytest.raises(UserError, match="tokenizer_codebook_size"):
        balanced_rq_kmeans(np.ones((4, 2), dtype=np.float32), (5,), seed=0)
