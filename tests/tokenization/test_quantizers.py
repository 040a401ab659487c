from pathlib import Path

import numpy as np
import pytest

from recbole_sigma.quick_start import run
from recbole_sigma.tokenization.health import code_health, collapse
from recbole_sigma.tokenization.quantizers import auto_codebook_size, rq_kmeans
from recbole_sigma.values import UserError
from tests.planted import clusters, tiny


def test_first_level_finds_planted_clusters():
    vectors, label = clusters()
    codes, _ = rq_kmeans(vectors, (4, 4), seed=0)
    pairs = {(a, b) for a, b in zip(label, codes[:, 0])}
    assert len(pairs) == 4


def test_each_level_quantizes_the_residual_of_the_one_before():
    vectors, _ = clusters(seed=3)
    codes, centroids = rq_kmeans(vectors, (4, 4, 4), seed=1)
    residual = vectors.copy()
    error = []
    for level in range(3):
        distance = ((residual[:, None] - centroids[level][None]) ** 2).sum(-1)
        chosen = distance[np.arange(len(vectors)), codes[:, level]]
        np.testing.assert_allclose(chosen, distance.min(axis=1), rtol=1e-3, atol=1e-3)
        residual = residual - centroids[level][codes[:, level]]
        error.append((residual**2).sum())
    assert error[0] > error[1] > error[2]


def test_same_seed_same_codes():
    vectors, _ = clusters(seed=5)
    np.testing.assert_array_equal(rq_kmeans(vectors, (8,), 2)[0], rq_kmeans(vectors, (8,), 2)[0])


def test_hostile_vectors():
    vectors, _ = clusters(each=2)
    with pytest.raises(UserError, match="tokenizer_codebook_size"):
        rq_kmeans(vectors, (9,), 0)
    vectors[3, 0] = np.nan
    with pytest.raises(UserError, match="item row 4"):
        rq_kmeans(vectors, (2,), 0)


@pytest.mark.parametrize("n,size", [(1682, 32), (12101, 256), (10, 2), (100_000, 2048), (1_000_000, 4096)])
def test_auto_size(n, size):
    assert auto_codebook_size(n) == size


def test_health_counts():
    codes = np.array([[0, 0], [0, 0], [0, 1], [1, 0]])
    health = code_health(codes, (2, 2), 1)
    assert [level.used for level in health.levels] == [2, 2]
    assert health.collision_rate == 0.5 and health.prefixes == 2 and health.largest_bucket == 3
    assert health.levels[0].perplexity == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))
    assert "collision rate 0.500" in str(health)


def test_health_warns_of_a_codebook_that_is_too_large():
    codes = np.arange(200)[:, None] % 3
    health = code_health(codes, (64,), 1)
    assert any("smaller tokenizer_codebook_size" in warning for warning in health.warnings)


def test_a_collapse_is_told_with_its_cause():
    """All items in one code is no codebook that is too large: the vectors, the quantizer or a file did it."""
    codes, vectors = np.zeros((200, 2), dtype=int), np.ones((200, 3))
    assert not any("smaller" in warning for warning in code_health(codes, (64, 64), 1).warnings)
    assert "their vectors (tokenizer_vectors) are all the same: let text_fields name" in collapse(
        codes, vectors
    )
    vectors[0] = 0
    assert "although their vectors differ: raise tokenizer_codebook_size" in collapse(codes, vectors)
    assert "the file that tokenizer_quantizer names" in collapse(codes, None)
    codes[7, 1] = 1
    assert collapse(codes, vectors) is None and collapse(codes[:1], None) is None


@pytest.mark.parametrize("model", ["SIGMA", "TIGER"])
def test_items_of_one_text_are_told_as_the_cause_each_time(model, planted, caplog, scratch):
    folder = Path("one/planted")
    folder.mkdir(parents=True)
    source = Path(planted["data_path"]) / "planted"
    (folder / "planted.inter").write_text((source / "planted.inter").read_text())
    head, *rows = (source / "planted.item").read_text().splitlines()
    width = head.count("\t")
    rows = [row.partition("\t")[0] + "\tx" * width for row in rows]
    (folder / "planted.item").write_text("\n".join([head, *rows]) + "\n")
    values = {**planted, **tiny(model), "data_path": "one", "tokenizer_vectors": ["text"], "epochs": 1}
    for _ in range(2):  # the second run reads the prepared items
        caplog.clear()
        run(model, "planted", config_dict=values)
        assert "since their vectors (tokenizer_vectors) are all the same" in caplog.text
