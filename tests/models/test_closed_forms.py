"""HistoryEASE, NextItemRidge and ClosedForm against dense algebra, and what validation chooses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_sigma.evaluation.judge import Judge
from recbole_sigma.grounding.closed_form import Newest, standard_scores
from recbole_sigma.grounding.regression import LARGEST, ease, inverse, next_item_ridge
from recbole_sigma.models.closed_form import MIXTURES
from recbole_sigma.quick_start import load_data_and_model, run
from recbole_sigma.values import UserError
from tests import planted as scenes

N = 12


def events(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(1, 9), rng.integers(1, 9, 8))
    return users, rng.integers(1, N, len(users))


@pytest.mark.parametrize("ridge", [0.5, 10.0])
def test_ease_equals_the_constrained_least_squares(ridge) -> None:
    """Column by column: the ridge regression of item j on all other items, which is what B's column holds."""
    users, items = events()
    met = np.zeros((9, N))
    met[users, items] = 1.0
    found = ease(users, items, N, ridge)
    for j in range(N):
        others = [i for i in range(N) if i != j]
        left = met[:, others]
        want = np.linalg.solve(left.T @ left + ridge * np.eye(N - 1), left.T @ met[:, j])
        np.testing.assert_allclose(found[others, j], want, atol=1e-6)
    assert not np.diag(found).any()


@pytest.mark.parametrize(("last", "decay"), [(1, 1.0), (3, 0.5), (50, 0.9)])
def test_next_item_ridge_equals_a_dense_regression(last, decay) -> None:
    users, items = events(1)
    history, target = [], []
    for event in range(1, len(items)):
        before = [items[p] for p in range(event - 1, -1, -1) if users[p] == users[event]][:last]
        if before:
            row = np.zeros(N)
            for age, item in enumerate(before):
                row[item] += decay**age
            history.append(row)
            target.append(np.eye(N)[items[event]])
    h, y = np.array(history), np.array(target)
    weights = np.linalg.solve(h.T @ h + 2.0 * np.eye(N), h.T @ y)
    rows, met = np.array([0, 0, 2, 2, 2]), np.array([3, 4, 1, 1, 5])
    found = Newest(next_item_ridge(users, items, N, 2.0, last, decay), last, decay).scores(rows, met, 3)
    want = np.zeros((3, N))
    for row, own in ((0, [3, 4]), (2, [1, 1, 5])):
        for age, item in enumerate(own[::-1][:last]):
            want[row] += decay**age * weights[item]
    np.testing.assert_allclose(found, want, atol=1e-6)


def test_a_catalogue_too_large_is_refused_before_it_is_held() -> None:
    from scipy import sparse

    with pytest.raises(UserError, match=r"too large.*WindowItemKNN"):
        inverse(sparse.identity(LARGEST + 1, format="csr"), 1.0)


@pytest.mark.slow
def test_a_large_catalogue_is_inverted_on_two_threads() -> None:
    """SciPy's own Cholesky crashes here, and takes the process along."""
    from scipy import sparse

    rng = np.random.default_rng(0)
    met = sparse.csr_matrix(
        (np.ones(50_000), (rng.integers(0, 9_000, 50_000), rng.integers(0, 18_358, 50_000)))
    )
    gram = (met.T @ met).tocsr()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = inverse(gram, 100.0)
    finally:
        torch.set_num_threads(before)
    column = gram @ found[:, 7] + 100.0 * found[:, 7]
    np.testing.assert_allclose(column, np.arange(len(column)) == 7, atol=1e-9)


def long_histories(write_dataset, length: int = 70):
    """Four users of 70 events, longer than the 50 that other models read."""
    rng = np.random.default_rng(3)
    rows = [(u, f"i{i:03d}", s) for u in range(4) for s, i in enumerate(rng.permutation(90)[:length])]
    return write_dataset(rows, spare=3)


def test_ease_reads_whole_histories_up_to_the_judged_event(write_dataset) -> None:
    values = long_histories(write_dataset)
    _, data, model = scenes.build("HistoryEASE", "small", values)
    for part, events_before in ((data.valid, 68), (data.test, 69)):
        batch = scenes.one_batch(part)
        assert batch["item_length"].tolist() == [events_before] * 4
        for row, scores in enumerate(model.full_sort_predict(batch)):
            met = batch["item_id_list"][row, :events_before]
            want = model.part.matrix[met.numpy()].sum(axis=0)
            torch.testing.assert_close(scores, torch.from_numpy(want), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        model.predict(batch), model.full_sort_predict(batch)[torch.arange(4), batch["item_id"]]
    )


def test_a_table_does_not_cut_whole_histories(write_dataset) -> None:
    from recbole_sigma.benchmark.plan import make_plan
    from recbole_sigma.benchmark.variants import rows_of

    values = long_histories(write_dataset)
    plan = make_plan(
        rows_of(["Pop", "NextItemRidge", "HistoryEASE", "ClosedForm"]), "small", [1], values=values
    )
    length = {cell.row.name: cell.config["MAX_ITEM_LIST_LENGTH"] for cell in plan.cells}
    assert length["NextItemRidge"] == 50 and length["HistoryEASE"] == length["ClosedForm"] > 70
    assert plan.notes == ("read whole histories, whatever the other rows read: HistoryEASE, ClosedForm",)
    values["MAX_ITEM_LIST_LENGTH"] = 20  # unless the user says so
    plan = make_plan(rows_of(["HistoryEASE"]), "small", [1], values=values)
    assert plan.cells[0].config["MAX_ITEM_LIST_LENGTH"] == 20


def test_validation_chooses_the_weights_and_the_checkpoint_keeps_them(planted) -> None:
    values = {**planted, "knn_last": 1, "next_last": 1}
    result = run("ClosedForm", "planted", config_dict=values)
    config, model, _, _, valid, test = load_data_and_model(result["checkpoint"])
    gains = []
    for mixture in MIXTURES:
        model.mixture = list(mixture)
        gains.append(Judge({**config.final_config_dict, "topk": [10]}).judge(model, valid).metrics["ndcg@10"])
    chosen = MIXTURES[int(np.argmax(gains))]
    _, again, *_ = load_data_and_model(result["checkpoint"])
    assert tuple(again.mixture) == chosen and min(gains) < max(gains)
    assert result["best_valid_result"]["ndcg@10"] == pytest.approx(max(gains))
    assert Judge(config).judge(again, test).metrics == result["test_result"]


def test_a_row_without_history_says_nothing() -> None:
    """Zero spread is no division by zero; every item then has the same score."""
    users, items = events()
    nothing = np.zeros(0, dtype=np.int64)
    part = Newest(next_item_ridge(users, items, N, 1.0, 3, 0.8), 3, 0.8)
    assert not standard_scores([part], nothing, nothing, 2)[0].any()


def test_the_known_numbers_on_ml100k() -> None:
    """RecBole's ml-100k, lambda 100, whole histories, seen items filtered."""
    quiet = {"show_progress": False, "state": "ERROR"}
    result = run("HistoryEASE", "ml-100k", config_dict=quiet, saved=False)
    assert result["test_result"]["hit@10"] == pytest.approx(0.1432, abs=1e-3)
    assert result["test_result"]["ndcg@10"] == pytest.approx(0.0711, abs=1e-3)
