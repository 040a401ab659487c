"""The decoding benchmark compares like with like, and its headline ratios hold with a margin for a busy
machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.decoding import show, time_case, verdicts  # noqa: E402
from benchmarks.decoding_cases import Case, Catalogue, HybridCase, build_model  # noqa: E402


def make(name, items, beam, batch):
    catalogue = Catalogue(items)
    model, offset = build_model(name, sum(catalogue.sizes))
    case = Case(name, model, offset, catalogue, beam, batch)
    case.record()
    return case


@pytest.mark.parametrize("name", ["t5", "llama4"])
def test_all_methods_decode_the_same_lists(name):
    case = make(name, 500, 6, 2)
    assert case.agreement() == 1.0
    assert case.as_items(case.generate_tensor()) == case.ours().tolist()


def test_hybrid_equals_generate_on_the_two_token_task():
    assert HybridCase(400, 30, 2).agreement() == 1.0


def test_report_judges_what_was_measured_and_nothing_else():
    row = {
        "model": "t5",
        "items": 12_000,
        "beam": 50,
        "batch": 8,
        "ms_per_user": {"a": 9.0, "c": 1.0, "bare": 1.0},
    }
    row |= {"a_over_c": 9.0, "c_over_bare": 1.0}
    report = {
        "timings": {"default": [row]},
        "growth": {"default": {"t5": 1.0, "135m": 3.0}},
        "tries": [],
        "memory_mb": {"t5": {"a": 400.0, "c": 30.0}},
    }
    judged = {what: (value, bound, larger) for what, value, bound, larger in verdicts(report)}
    assert judged == {
        "t5, 12000 items, beam 50, batch 8, default: c over bare": (1.0, 1.05, False),
        "t5, 12000 items, beam 50, batch 8, default: a over c": (9.0, 10, True),
        "t5: growth 12k to 1M, largest beam": (1.0, 1.1, False),
        "t5: peak MB": (30.0, 100, False),
    }
    lines = show(report).splitlines()
    assert [line.split("|")[-2].strip() for line in lines if "a over c" in line] == ["NO"]
    assert [line.split("|")[-2].strip() for line in lines if "peak MB  " in line and "30.00" in line] in (
        ["yes"],
        [],
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "batch", "least"), [("t5", 8, 7.5), ("llama4", 4, 13.5)])
def test_speed_gates_with_a_quarter_of_margin(name, batch, least):
    row = time_case(make(name, 12_000, 50, batch), 12_000, 3, peers=True)
    assert row["same_rank_share"] == 1.0
    assert row["a_over_c"] >= least
    assert row["c_over_bare"] <= 1.15 * 1.25
