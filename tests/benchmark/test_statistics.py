"""The bootstrap against brute force and scipy, Holm against a hand example, coverage on known data."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from scipy import stats

from recbole_sigma.benchmark import statistics
from recbole_sigma.benchmark.slices import slices
from recbole_sigma.benchmark.statistics import bootstrap_means, compare, hit_at, holm, ndcg_at, two_sided_p
from recbole_sigma.values import UserError


def test_gains_are_those_of_the_metrics() -> None:
    places = np.array([0, 1, 2, 10, 11])
    assert hit_at(places, 10).tolist() == [0, 1, 1, 1, 0]
    np.testing.assert_allclose(ndcg_at(places, 10), [0, 1, 1 / np.log2(3), 1 / np.log2(11), 0])


def test_resampled_means_are_those_of_the_drawn_users() -> None:
    values = np.random.default_rng(1).random((7, 3))
    means = bootstrap_means(values, 50, seed=5)
    rng = np.random.default_rng(5)
    drawn = rng.integers(0, 7, size=(50, 7))
    np.testing.assert_allclose(means, [values[users].mean(axis=0) for users in drawn])


def test_chunks_change_nothing_but_memory(monkeypatch) -> None:
    values = np.random.default_rng(1).random((9, 2))
    whole = bootstrap_means(values, 40, seed=2)
    monkeypatch.setattr("recbole_sigma.benchmark.statistics._CHUNK", 9 * 7)
    np.testing.assert_allclose(bootstrap_means(values, 40, seed=2), whole)


def test_intervals_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 2)) + [0.0, 0.2]
    (_, comparison), intervals = compare(values, 0, 10_000)
    seed = {
        "rng" if "rng" in inspect.signature(stats.bootstrap).parameters else "random_state": 1
    }  # by scipy
    theirs = stats.bootstrap(
        (values[:, 1] - values[:, 0],), np.mean, method="percentile", n_resamples=10_000, **seed
    )
    np.testing.assert_allclose(comparison.difference_interval, theirs.confidence_interval, atol=0.01)
    own = stats.bootstrap((values[:, 1],), np.mean, method="percentile", n_resamples=10_000, **seed)
    np.testing.assert_allclose(intervals[1], own.confidence_interval, atol=0.01)
    assert abs(comparison.p - stats.ttest_rel(values[:, 1], values[:, 0]).pvalue) < 0.02


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        noise = rng.normal(size=(120, 1))
        values = np.hstack([noise, noise + 0.1 + rng.normal(scale=0.5, size=(120, 1))])
        low, high = compare(values, 0, 400, seed=trial)[0][1].difference_interval
        covered += low <= 0.1 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_ratio_and_difference() -> None:
    values = np.array([[0.2, 0.4], [0.4, 0.8], [0.6, 1.2]])
    (none, found), _ = compare(values, 0, 500)
    assert none is None and found.ratio == pytest.approx(2.0) and found.difference == pytest.approx(0.4)
    np.testing.assert_allclose(found.ratio_interval, (2.0, 2.0))
    assert found.p == pytest.approx(2 / 501)
    (_, found), _ = compare(np.array([[0.0, 1.0], [0.0, 0.0]]), 0, 100)
    assert found.ratio is None and found.ratio_interval is None


def test_equal_models_are_not_significant() -> None:
    values = np.repeat(np.random.default_rng(0).random((50, 1)), 2, axis=1)
    assert compare(values, 0, 200)[0][1].p == 1.0 and two_sided_p(np.zeros(9)) == 1.0


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04 -> .04 .06 .06 .06
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0] and holm([]) == [] and holm([0.03]) == [0.03]


# --- on a record ---


def record(rows: dict[str, list[list[int]]], users=None, base=None, counts=None):
    n = len(next(iter(rows.values()))[0])
    judged = {
        "users": users or list(range(1, n + 1)),
        "targets": [5] * n,
        "train_counts": counts or [3] * n,
    }
    cells = [
        {
            "row": {"name": name, "base": (base or {}).get(name, name)},
            "seed": seed,
            "filter_seen": True,
            "places": {"judged": 0, "places": places},
            "weights": {"shared": None},
            "training": f"{name} {seed}",
        }
        for name, seeds in rows.items()
        for seed, places in enumerate(seeds)
    ]
    return {"judged": [judged], "cells": cells}


def test_seeds_are_averaged_per_user_and_the_best_baseline_is_no_row_of_ours() -> None:
    rows = {
        "A": [[1, 0, 0, 0], [0, 1, 0, 0]],
        "B": [[0, 0, 0, 0]],
        "SIGMA": [[1, 1, 1, 1]],
        "X": [[1, 1, 1, 0]],
    }
    ndcg, hits = statistics.significance(record(rows, base={"X": "SIGMA"}), 200)
    assert ndcg["reference"] == "A" and hits["metric"] == "hit@10" and hits["users"] == 4
    assert hits["rows"]["A"]["mean"] == 0.25 and hits["rows"]["A"]["against"] is None
    assert hits["rows"]["SIGMA"]["against"]["ratio"] == 4.0
    assert statistics.significance(record(rows), 50, reference="B")[0]["reference"] == "B"
    with pytest.raises(UserError, match="--reference=C is no row"):
        statistics.significance(record(rows), 50, reference="C")


def test_a_reference_serves_the_policies_that_judged_it() -> None:
    both = record({"A": [[1, 0, 0, 0]], "B": [[0, 0, 0, 0]]})
    kept = record({"A": [[1, 0, 0, 0]], "C": [[0, 0, 0, 0]]})["cells"]
    both["cells"] += [{**cell, "filter_seen": False} for cell in kept]
    found = {
        test["filter_seen"]: test["reference"] for test in statistics.significance(both, 50, reference="B")
    }
    assert found == {True: "B", False: "A"}


def test_users_with_several_targets_count_once() -> None:
    made = record({"A": [[1, 1, 1, 0]], "B": [[1, 1, 1, 0]]}, users=[1, 1, 1, 2])
    made["judged"][0]["targets"] = [5, 6, 7, 5]
    assert statistics.significance(made, 50)[1]["rows"]["A"]["mean"] == 0.5


def test_rows_are_aligned_by_user_and_target() -> None:
    made = record({"A": [[1, 0, 3]], "B": [[0, 0, 0]]})
    made["judged"].append({"users": [3, 1], "targets": [5, 5], "train_counts": [3, 3]})
    made["cells"][1]["places"] = {"judged": 1, "places": [30, 10]}
    places, about = statistics.places_by_user(made, True)
    assert about["users"].tolist() == [1, 3]
    assert places["A"].tolist() == [[1, 3]] and places["B"].tolist() == [[10, 30]]
    made["judged"][1]["targets"] = [9, 9]
    with pytest.raises(UserError, match="different users or items"):
        statistics.places_by_user(made, True)


def test_popularity_bins() -> None:
    made = record({"A": [[1, 0, 11, 2], [1, 0, 1, 2]]}, counts=[0, 4, 1, 1000])
    found = statistics.by_popularity(made, True)
    assert found == {"bins": ["0", "1-4", "1000-9999"], "targets": [1, 2, 1], "rows": {"A": [1.0, 0.25, 1.0]}}
    # one target in 101 is less than 2 %: it joins its neighbour, at either end
    made = record({"A": [[1] * 51 + [0] * 50]}, counts=[0] + [3] * 50 + [60] * 49 + [20_000])
    found = statistics.by_popularity(made, True)
    assert found == {"bins": ["0-4", "50+"], "targets": [51, 50], "rows": {"A": [1.0, 0.0]}}


def test_seconds_to_a_level() -> None:
    made = record({"PackedSASRec": [[1]], "A": [[1], [1]], "Pop": [[1]]})
    curves = {
        "PackedSASRec": [[(1.0, 0.1), (1.0, 0.3), (1.0, 0.2)]],
        "A": [[(4.0, 0.1), (4.0, 0.35)], [(4.0, 0.2), (4.0, 0.25)]],
        "Pop": [[(0.5, 0.05)]],
    }
    for cell in made["cells"]:
        points = curves[cell["row"]["name"]][cell["seed"]]
        cell["history"] = [{"train_cpu_seconds": s, "valid": {"ndcg@10": v}} for s, v in points]
        cell["seconds"] = {"cpu_data": 2.0, "cpu_model": 1.0}
    (found,) = statistics.seconds_to_levels(made)
    assert found["of"] == "PackedSASRec"
    assert found["level"] == 0.3 and found["rows"]["PackedSASRec"]["cpu_seconds"] == 5.0
    assert found["rows"]["A"] == {"reached": 1, "seeds": 2, "cpu_seconds": 11.0, "best": pytest.approx(0.3)}
    assert found["rows"]["Pop"]["cpu_seconds"] is None
    assert statistics.seconds_to_levels(record({"A": [[1]]}) | {"cells": []}) == []
    made["cells"][1]["row"]["name"] = made["cells"][2]["row"]["name"] = "ClosedForm"
    floor, _ = statistics.seconds_to_levels(made)
    assert floor["of"] == "ClosedForm" and floor["level"] == pytest.approx(0.3)


def test_a_training_shows_once_under_its_own_row_or_the_first_judged_on_it() -> None:
    made = record(
        {"A+memory": [[1], [1]], "A": [[1]], "A-top1": [[1]], "B-fixed": [[1]], "B-fixed+memory": [[1]]}
    )
    for cell in made["cells"]:
        name = cell["row"]["name"]
        cell["training"] = f"{name[0]} {cell['seed']}"
        cell["weights"] = {"shared": None if name == "A" else "decoding"}
    shown = [(cell["row"]["name"], cell["seed"]) for cell in statistics.trained_cells(made)]
    assert shown == [("A+memory", 1), ("A", 0), ("B-fixed", 0)]


def test_slices_are_means_over_their_own_targets() -> None:
    made = record({"A": [[1, 0, 2, 0], [1, 0, 1, 0]], "B": [[0, 1, 0, 10]]})
    assert slices(made, True) == {}, "cells of an earlier version do not say it"
    made["judged"][0].update(lengths=[2, 5, 6, 60], pair_counts=[3, 0, 1, 0], train_counts=[0, 4, 30, 200])
    second = 1 / np.log2(3)
    parts = {(part["group"], part["name"]): part for part in slices(made, True)["parts"]}
    assert {key: part["targets"] for key, part in parts.items()} == {
        ("step", "memorisation"): 2,
        ("step", "generalisation"): 2,
        ("history", "1-5"): 2,
        ("history", "6-10"): 1,
        ("history", "51+"): 1,
        ("target in train", "cold"): 1,
        ("target in train", "1-4"): 1,
        ("target in train", "20+"): 2,
    }
    assert parts["step", "memorisation"]["rows"] == pytest.approx({"A": (1 + (second + 1) / 2) / 2, "B": 0.0})
    assert parts["step", "generalisation"]["rows"]["B"] == pytest.approx((1 + 1 / np.log2(11)) / 2)
    assert parts["history", "6-10"]["rows"]["A"] == pytest.approx((second + 1) / 2)


def test_cold_slices_tell_gates_and_differences_from_the_reference() -> None:
    made = record({"A": [[1, 0, 1, 1], [1, 0, 1, 1]], "B": [[0, 0, 1, 0], [0, 0, 1, 0]]})
    made["judged"][0].update(lengths=[2] * 4, pair_counts=[0] * 4, train_counts=[0, 0, 19, 20])
    for seed, cell in enumerate(c for c in made["cells"] if c["row"]["name"] == "A"):
        cell["places"]["gates"] = [1.0, 0.5 + 0.2 * seed, 0.25, 0.0]
    found = {part["name"]: part for part in slices(made, True)["parts"] if part["group"] == "target in train"}
    assert set(found) == {"cold", "5-19", "20+"} and found["cold"]["gates"] == {"A": pytest.approx(0.8)}
    assert "against" not in found["cold"], "nothing says what is the reference"
    made["significance"] = statistics.significance(made, 200, "B")
    cold, _, warm = (p for p in slices(made, True)["parts"] if p["group"] == "target in train")
    assert cold["reference"] == "B" and warm["against"] == {"A": pytest.approx((1.0, 1.0, 1.0))}
    assert cold["against"]["A"] == pytest.approx((0.5, 0.0, 1.0))
    assert "B" not in cold["against"]
