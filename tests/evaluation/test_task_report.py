"""Per-task figures on data where the instruction decides; the statistics by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_sigma.evaluation.tasks.baselines import BM25, Popularity, QueryTable
from recbole_sigma.evaluation.tasks.bench import (
    TaskBench,
    intra_list_distance,
    paired_lift,
    wrong_slots,
)
from recbole_sigma.evaluation.tasks.report import full_report, general_rec, quick_rows
from recbole_sigma.quick_start import load_data_and_model
from tests.planted import shop_tasks, write_shop, write_tasks


@pytest.fixture(scope="module")
def loaded(chosen_run):
    return load_data_and_model(chosen_run["checkpoint"])


def test_the_instruction_decides_the_label(chosen_run):
    found = chosen_run["test_result"]
    assert found["hit@4[category]"] > found["hit@4"] + 0.3  # four items bear the name, a quarter of all
    assert found["low@10[category]"] > 0.1
    assert found["hit@10[category|wrong slot]"] < found["hit@10[category]"] - 0.1
    assert found["rows[category]"] == len(chosen_run["test"].users)


def test_the_lists_of_a_condition_are_the_models_own(loaded):
    config, model, _, _, _, test = loaded
    bench = TaskBench(model, test, config)
    rows = bench.select("JustForYou")
    lists = bench.general(rows)  # nothing is asked
    model.eval()
    ranked = model.rank(test._dataset.inter_feat, bench.k)
    np.testing.assert_array_equal(lists.items, ranked.items.numpy())
    again = bench.instructed(rows, [""] * len(rows.index))
    np.testing.assert_array_equal(again.places, lists.places)
    for row, place in enumerate(lists.places.tolist()):
        target = int(bench.targets[rows.index[row]])
        assert (lists.items[row, place - 1] == target) if place else target not in lists.items[row]


def test_a_limit_draws_the_same_rows_every_time(loaded):
    config, model, _, _, _, test = loaded
    first, second = (TaskBench(model, test, config, 10).select("Category") for _ in range(2))
    assert len(first.index) == 10 and first.index.tolist() == second.index.tolist()


def test_the_whole_report(loaded):
    config, model, _, train, _, test = loaded
    before = model.decoding.mode
    report = full_report(
        TaskBench(model, test, config), train._dataset, {"Other": model}, ["apf", "fixed_temp"]
    )
    entry = report["tasks"]["Category"]
    figures = entry["figures"]
    assert set(figures) == {
        "task", "trained wordings", "held-out wording", "JustForYou", "wrong slot", "popularity, masked",
        "WindowItemKNN, masked", "Other, masked", "held-out wording, understood",
    }  # fmt: skip
    assert figures["held-out wording, understood"] == figures["task"]  # understood, and read as trained
    assert figures["task"]["in_slot@10"] > 1.1 * figures["JustForYou"]["in_slot@10"]
    assert figures["popularity, masked"]["in_slot@10"] == pytest.approx(0.4)  # a kind has 4 items
    assert figures["popularity, masked"]["hit@4"] == figures["Other, masked"]["hit@4"] == 1.0
    assert entry["lifts"]["wrong slot"]["low"] > 0
    assert set(entry["modes"]) == {"apf", "fixed_temp"} and entry["modes"][before] == figures["task"]
    assert entry["matching items, mean"] == 4.0
    assert model.decoding.mode == before
    n = report["tasks"]["JustForYou"]["rows"]
    assert n == entry["rows"] and report["generalrec"]["hit@10[generalrec macro]"] > 0
    rows = quick_rows(TaskBench(model, test, config))
    assert rows["hit@4[category]"] == figures["task"]["hit@4"]
    assert rows["in_slot@10[category]"] == figures["task"]["in_slot@10"]
    assert "in_slot@10[justforyou]" not in rows


def test_trained_wordings_are_dealt_evenly_and_keep_their_slot(loaded):
    config, model, _, _, _, test = loaded
    bench = TaskBench(model, test, config)
    rows = bench.select("Category")
    texts, slots = bench.mixed_texts("Category", rows), bench.slot_texts("Category", rows)
    found = bench.tasks.rows["Category"].task
    wordings = [
        [text == found.fill(template, slot) for template in found.templates]
        for text, slot in zip(texts, slots, strict=True)
    ]
    used = np.array(wordings).sum(axis=0)
    assert (np.array(wordings).sum(axis=1) == 1).all() and (used > 0).sum() >= len(used) - 1


def test_general_rec():
    assert general_rec({}) == {}
    assert general_rec({"A": (1, 1.0), "B": (3, 0.0)})["hit@10[generalrec micro]"] == 0.25


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_wrong_slots_are_a_permutation_without_a_fixed_value_where_that_is_possible(slots):
    slots = np.array(slots)
    dealt = wrong_slots(slots)
    assert sorted(dealt) == sorted(slots)
    if np.bincount(slots).max() * 2 <= len(slots):
        assert (dealt != slots).all()


def test_paired_lift_finds_a_difference_and_its_absence():
    rng = np.random.default_rng(0)
    users, base = np.arange(400) // 2, (rng.random(400) < 0.3).astype(float)
    better = np.maximum(base, rng.random(400) < 0.3)
    found = paired_lift(users, better, base)
    assert found["lift"] == pytest.approx((better - base).mean())
    assert 0.1 < found["low"] < found["lift"] < found["high"]
    none = paired_lift(users, base, rng.permutation(base))
    assert none["low"] < 0 < none["high"]
    same = paired_lift(users, base, base)
    assert same == {"lift": 0.0, "low": 0.0, "high": 0.0}


def test_intra_list_distance_by_hand():
    vectors = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert intra_list_distance(vectors, np.array([[1, 3, 0]])) == pytest.approx(0.0)
    assert intra_list_distance(vectors, np.array([[1, 2, 3]])) == pytest.approx(1 - 2 / 6)


def test_bm25_and_the_query_table_know_their_answers(tmp_path_factory):
    root = tmp_path_factory.mktemp("shop_of_baselines")
    write_shop(root / "shop")
    write_tasks(root / "task_files")
    tasks, _ = shop_tasks(root, query_field="query")
    m, rows = tasks.material, tasks.rows["Query"]
    popularity = Popularity(m)
    scores = BM25(m, popularity)(None, ["blue lawn", "nothing known"])
    best = int(scores[0].argmax())
    assert m.words.titles[best].startswith("blue Lawn")
    np.testing.assert_allclose(scores[1], 1e-6 * popularity.scores)
    table = QueryTable(rows, m, popularity)(None, ["cheap lawn", "unheard of"])
    clicks = {}
    for rank in np.flatnonzero(m.part == 0).tolist():
        if m.place[rank] > 0 and m.tokens[m.items[rank]].startswith("Lawn"):
            clicks[int(m.items[rank])] = clicks.get(int(m.items[rank]), 0) + 1
    assert int(table[0].argmax()) == max(clicks, key=lambda item: (clicks[item], popularity.scores[item]))
    np.testing.assert_array_equal(table[1], popularity.scores)


def test_nothing_changes_for_a_model_without_tasks(valid_chosen):
    from recbole_sigma.quick_start import run

    result = run(
        "SIGMA", "chosen", config_dict={**valid_chosen, "tasks": ["JustForYou"], "epochs": 1}, saved=False
    )
    assert not any("[" in name for name in result["test_result"])
    assert torch.isfinite(torch.tensor(list(result["test_result"].values()))).all()
