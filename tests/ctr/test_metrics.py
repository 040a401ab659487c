"""AUC and GAUC against a count of all pairs, resamples against repeated rows, and the table's comparisons."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.register import metrics_dict

from recbole_sigma.benchmark.label_statistics import DRAWS, metrics_of_rows, significance
from recbole_sigma.ctr.metrics import auc, gauc, log_loss
from recbole_sigma.values import UserError

ROWS = st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 5)), min_size=1, max_size=40)


def by_counting(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """AUC by looking at every pair."""
    pairs = [
        (a, b)
        for a, x in zip(scores, labels, strict=True)
        if x
        for b, y in zip(scores, labels, strict=True)
        if not y
    ]
    return float(np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs])) if pairs else None


def columns(rows: list[tuple[int, bool, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    groups, labels, scores = (np.asarray(column) for column in zip(*rows, strict=True))
    return scores / 10 + 0.1, labels.astype(int), groups


@given(ROWS)
def test_auc_and_gauc_are_counts_of_pairs(rows) -> None:
    scores, labels, groups = columns(rows)
    whole = by_counting(scores, labels)
    assert (
        np.isnan(auc(scores, labels))
        if whole is None
        else auc(scores, labels) == pytest.approx(whole, abs=1e-12)
    )
    parts = [(groups == g).nonzero()[0] for g in np.unique(groups)]
    known = [(len(p), value) for p in parts if (value := by_counting(scores[p], labels[p])) is not None]
    value, covered = gauc(scores, labels, groups)
    assert covered == pytest.approx(sum(n for n, _ in known) / len(rows))
    if known:
        assert value == pytest.approx(sum(n * v for n, v in known) / sum(n for n, _ in known), abs=1e-12)
    else:
        assert np.isnan(value)


@given(ROWS, st.integers(0, 10))
def test_a_resample_is_the_metric_of_repeated_rows(rows, seed: int) -> None:
    scores, labels, users = columns(rows)
    counts = np.random.default_rng(seed).integers(0, 3, size=(3, 5))
    for name, draw in DRAWS.items():
        drawn = draw({"scores": scores, "labels": labels}, users, counts)
        for times, value in zip(counts[:, users], drawn, strict=True):
            many = np.repeat(np.arange(len(rows)), times)
            if not len(many):
                continue
            told = {
                "auc": lambda m: auc(scores[m], labels[m]),
                "gauc_ctr": lambda m: gauc(scores[m], labels[m], users[m])[0],
                "logloss": lambda m: float(log_loss(scores[m], labels[m]).mean()),
            }[name](many)
            assert (np.isnan(value) and np.isnan(told)) or value == pytest.approx(told, abs=1e-9)


def test_a_hand_table_with_a_user_of_one_label() -> None:
    """User 1 has one pair of three wrong, user 2 a tie, user 3 only positives."""
    scores = np.array([0.9, 0.4, 0.5, 0.3, 0.3, 0.8, 0.2])
    labels, users = np.array([1, 1, 0, 1, 0, 1, 1]), np.array([1, 1, 1, 2, 2, 3, 3])
    assert gauc(scores, labels, users) == (pytest.approx((3 * 0.5 + 2 * 0.5) / 5), pytest.approx(5 / 7))


@given(ROWS)
def test_stored_rows_give_what_recbole_computes(rows) -> None:
    scores, labels, groups = columns(rows)
    if labels.min() == labels.max():
        return
    scores = scores.astype(np.float32)
    data, config = DataStruct(), {"metric_decimal_place": 9}
    data.set("rec.score", torch.from_numpy(scores))
    data.set("data.label", torch.from_numpy(labels).float())
    data.set("data.group", torch.from_numpy(groups))
    names = ["AUC", "LogLoss", "GAUC_CTR", "Calibration"]
    told = {
        k: v for name in names for k, v in metrics_dict[name.lower()](config).calculate_metric(data).items()
    }
    stored = {"users": groups, "groups": groups, "labels": labels, "scores": scores}
    assert metrics_of_rows(names, stored, 9) == pytest.approx(told, abs=2e-7)  # RecBole's loss is of float32


def record(values: dict[str, list[np.ndarray]], labels: np.ndarray, users: np.ndarray) -> dict:
    cells = [
        {
            "row": {"name": name, "base": name}, "seed": seed, "dataset": "d",
            "test_result": {"auc": auc(scores, labels)},
            "rows": {"judged": 0, "scores": scores.tolist()},
        }
        for name, seeds in values.items()
        for seed, scores in enumerate(seeds)
    ]  # fmt: skip
    return {"cells": cells, "judged": [{"users": users, "groups": users, "labels": labels}]}


def test_a_better_row_is_found_and_an_equal_one_is_not() -> None:
    draw = np.random.default_rng(3)
    users, labels = np.repeat(np.arange(60), 20), draw.integers(0, 2, 1200)
    noise = [draw.normal(size=1200) for _ in range(4)]
    scores = {
        "base": [labels + 2 * noise[0], labels + 2 * noise[1]],
        "better": [labels + noise[0], labels + noise[1]],
        "same": [labels + 2 * noise[2], labels + 2 * noise[3]],
    }
    (test,) = significance(record(scores, labels, users), resamples=400, reference="base")
    better, same = test["rows"]["better"]["against"], test["rows"]["same"]["against"]
    assert better["p_holm"] < 0.02 and better["difference_interval"][0] > 0
    assert same["p_holm"] > 0.05 and same["difference_interval"][0] < 0 < same["difference_interval"][1]


def test_the_spread_of_seeds_is_in_the_interval() -> None:
    """Users alone say nothing about a row whose seeds disagree."""
    draw = np.random.default_rng(4)
    users, labels = np.repeat(np.arange(200), 10), draw.integers(0, 2, 2000)
    good, bad = labels + 0.5 * draw.normal(size=2000), labels + 3 * draw.normal(size=2000)
    both = {"a": [good, bad], "b": [bad, bad]}
    (test,) = significance(record(both, labels, users), resamples=400, reference="b")
    low, high = test["rows"]["a"]["interval"]
    assert low < auc(bad, labels) + 0.03 and high > auc(good, labels) - 0.03


def test_rows_of_other_seeds_or_other_test_rows_are_not_compared() -> None:
    labels, users = np.arange(40) % 2, np.arange(40)
    made = record({"a": [labels * 1.0], "b": [labels * 0.5]}, labels, users)
    made["cells"][1]["seed"] = 9
    with pytest.raises(UserError, match="share no seed"):
        significance(made)
    made["cells"][1]["seed"] = 0
    made["judged"].append(made["judged"][0])
    made["cells"][1]["rows"]["judged"] = 1
    with pytest.raises(UserError, match="different test rows"):
        significance(made)
    few = record({"a": [labels * 1.0], "b": [labels * 0.5]}, labels, users % 3)
    with pytest.raises(UserError, match="belong to 3 users"):
        significance(few)
