"""Policy rows in a table go on from the one supervised training, and the report says what they did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_sigma.benchmark.plan import make_plan
from recbole_sigma.benchmark.policy_figures import HEAD, rows
from recbole_sigma.benchmark.publish import publish
from recbole_sigma.benchmark.run import rebuild_report, run_plan
from recbole_sigma.benchmark.variants import Row, rows_of, shipped
from recbole_sigma.run.trainer import RunTrainer
from tests.planted import tiny
from tests.policy.conftest import POLICY

ROWS = [
    Row("Plain", "SIGMA"),
    Row("Rewarded", "SIGMA", {"policy": "a2po", "policy_judge": "heuristic"}),
    Row("Longer", "SIGMA", {"policy": "sft", "policy_epochs": 1}),
]


@pytest.fixture(scope="module")
def table(
    planted: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path, int]:
    """(record, folder, epochs of supervision) of the table of `ROWS` with two seeds."""
    root = tmp_path_factory.mktemp("table")
    places = {"artifact_dir": str(root / "items"), "log_dir": str(root / "log")}
    values = {**planted, **tiny("SIGMA"), **POLICY, **places, "epochs": 3, "topk": [5, 10]}
    trained, real = 0, RunTrainer._train_epoch

    def count(self: RunTrainer, *args: Any, **more: Any) -> Any:
        nonlocal trained
        trained += not self.goes_on
        return real(self, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunTrainer, "_train_epoch", count)
        plan = make_plan(ROWS, "planted", (1, 2), values=values)
        outcome = run_plan(plan, root / "folder", progress=False)
    assert len(outcome["done"]) == 6, outcome
    return rebuild_report(root / "folder"), root / "folder", trained


@pytest.mark.slow
def test_supervision_is_trained_once_per_seed(table) -> None:
    record, _, trained = table
    assert trained == 2 * 3
    by_name = {(cell["row"]["name"], cell["seed"]): cell for cell in record["cells"]}
    for seed in (1, 2):
        plain, rewarded = by_name["Plain", seed], by_name["Rewarded", seed]
        assert rewarded["history"][:3] == plain["history"]  # its training is part of the row's
        start = rewarded["history"][3]
        assert start["epoch"] == -1 and start["valid"] == plain["valid_result"]
        assert rewarded["seconds"]["cpu"] > plain["seconds"]["cpu"]


@pytest.mark.slow
def test_the_report_says_what_the_stages_did(table, tmp_path) -> None:
    record, folder, _ = table
    body = {line[0]: dict(zip(HEAD, line, strict=True)) for line in rows(record)}
    assert body.keys() == {"Rewarded", "Longer"}
    told = body["Rewarded"]
    assert told["bound violations"] == "0" and told["sign consistency"].endswith("%")
    assert len(told["NDCG@10 on validation, start and epochs"].split()) == 3
    assert body["Longer"]["groups with a hit"] == "" and " to " in body["Longer"]["coverage"]
    assert "<h2>Policy stage</h2>" in (folder / "report.html").read_text()
    publish(record, tmp_path / "lean")
    assert "groups that taught nothing" in (tmp_path / "lean" / "table.md").read_text()


def test_a_policy_goes_behind_another_row() -> None:
    names = [name for name, row in shipped().items() if "policy" in row.values]
    assert {"SIGMA-GRPO", "SIGMA-A2PO", "SIGMA-REAL", "TIGER-GRPO"} <= set(names)
    (row,) = rows_of(["TIGER-small+A2PO"])
    assert row.values["policy"] == "a2po" and row.values["tiger_layers"] == 2
