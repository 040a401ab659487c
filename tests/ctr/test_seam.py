"""Models scored by labels under our runner: RecBole's figures, no leak, sentences, tables of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.quick_start import run_recbole

from recbole_sigma.benchmark import run_benchmark
from recbole_sigma.benchmark.run import rebuild_report
from recbole_sigma.benchmark.tune import tune
from recbole_sigma.quick_start import evaluate_checkpoint, run
from recbole_sigma.recommend.recommender import Recommender
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.loaders import load_data
from recbole_sigma.values import UserError
from tests.ctr.planted_clicks import clicks_config

STOCK = {
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None, "mode": "labeled"},
    "metrics": ["AUC", "LogLoss"], "valid_metric": "AUC", "train_neg_sample_args": None, "stopping_step": 2,
}  # fmt: skip


@pytest.mark.parametrize("model", ["FM", "DeepFM", "DCNV2", "AutoInt"])
def test_auc_is_that_of_recboles_own_runner(model: str, clicks) -> None:
    theirs = run_recbole(model=model, dataset="clicks", config_dict={**clicks, **STOCK})["test_result"]
    ours = run(model, "clicks", config_dict=clicks)["test_result"]
    assert ours["auc"] == pytest.approx(theirs["auc"], abs=1e-6)
    assert ours["logloss"] == pytest.approx(theirs["logloss"], abs=1e-6)


def test_what_is_planted_is_learned_and_reloaded(clicks) -> None:
    result = run("DeepFM", "clicks", config_dict={**clicks, "epochs": 12})
    assert result["test_result"]["auc"] > 0.75
    again = evaluate_checkpoint(result["checkpoint"])
    assert again.metrics == result["test_result"]
    np.testing.assert_array_equal(again.scores, result["test"].scores)


def numbers(root: Path, **more: Any) -> dict[str, Any]:
    columns = ["user_id", "item_id", "label", "kind", "price", "timestamp"]
    order = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "none", "mode": "labeled"}
    return {
        **clicks_config(root), "load_col": {"inter": columns}, "numerical_features": ["price"],
        "eval_args": order, **more,
    }  # fmt: skip


def change_held_out(root: Path, column: int, value: str) -> None:
    """Another value in the rows that are held out: the last fifth in time."""
    path = root / "clicks" / "clicks.inter"
    lines = path.read_text().splitlines()
    for at in range(1 + int(0.8 * (len(lines) - 1)), len(lines)):
        cells = lines[at].split("\t")
        cells[column] = value
        lines[at] = "\t".join(cells)
    path.write_text("\n".join(lines) + "\n")


def train_rows(root: Path, **more: Any) -> Any:
    config = RunConfig("FM", "clicks", config_dict=numbers(root, **more))
    return load_data(config, config.model_class).train._dataset.inter_feat


@pytest.mark.parametrize("how", ["none", "standard", "log"])
def test_no_number_of_a_held_out_row_reaches_training(how: str, tmp_path: Path) -> None:
    before = train_rows(tmp_path, numeric_scaling=how)["price"]
    real = clicks_config

    def changed(root: Path, **more: Any) -> dict[str, Any]:
        values = real(root, **more)
        change_held_out(root, 4, "999999")
        return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "clicks_config", changed)
        after = train_rows(tmp_path, numeric_scaling=how)["price"]
    torch.testing.assert_close(before, after, rtol=0, atol=0)
    values = before[:, 0]
    assert torch.isfinite(values).all()
    if how != "none":
        assert (
            abs(float(values.mean())) < 1e-5 and abs(float(values.std(correction=0)) - 1) < 0.02
        )  # 2 % are missing: 0


def test_numbers_of_items_are_scaled_by_the_train_rows_that_hold_them(tmp_path: Path) -> None:
    values = clicks_config(
        tmp_path, load_col={"inter": ["user_id", "item_id", "label"], "item": ["item_id", "price"]}
    )
    prices = [float(n * n) for n in range(40)]
    lines = ["item_id:token\tprice:float", *(f"i{n:02d}\t{price}" for n, price in enumerate(prices))]
    (tmp_path / "clicks" / "clicks.item").write_text("\n".join(lines) + "\n")
    config = RunConfig("FM", "clicks", config_dict={**values, "numerical_features": ["price"]})
    train = load_data(config, config.model_class).train._dataset
    items = train.inter_feat["item_id"]
    raw = torch.tensor([0.0, *prices])[items]
    found = train.item_feat["price"][items][:, 0]
    torch.testing.assert_close(found, (raw - raw.mean()) / raw.std(correction=0), atol=1e-5, rtol=1e-4)


def test_rare_values_are_counted_on_train_rows_and_become_one(tmp_path: Path) -> None:
    values = numbers(
        tmp_path, rare_below=5, load_col={"inter": ["user_id", "item_id", "label", "kind", "timestamp"]}
    )
    values["numerical_features"] = []
    change_held_out(tmp_path, 3, "only-later")
    config = RunConfig("FM", "clicks", config_dict=values)
    data = load_data(config, config.model_class)
    assert set(data.test._dataset.inter_feat["kind"].tolist()) == {0}
    assert 0 not in data.train._dataset.inter_feat["kind"].tolist()
    assert run("FM", "clicks", config_dict=values)["test_result"]["auc"] > 0


BAD = [
    ({"metrics": ["NDCG"]}, "metric ndcg reads ranked lists"),
    ({"metrics": ["GAUC"], "valid_metric": "GAUC"}, "write GAUC_CTR"),
    ({"metrics": ["AUX"], "valid_metric": "AUX"}, "unknown metric 'aux'"),
    ({"valid_metric": "MAE"}, "valid_metric 'MAE' is not computed"),
    ({"eval_args": {"mode": "full"}}, "mode 'full' does not judge labelled rows"),
    ({"eval_args": {"mode": "uni100"}}, "mode 'uni100' does not judge labelled rows"),
    ({"memory": "validation"}, "memory: .* ranked lists"),
    ({"normalize_all": True}, "normalize_all takes its statistics from every row"),
    ({"numerical_features": ["timestamp"]}, "'timestamp', but rows are split at random"),
    ({"gauc_group": "colour"}, "gauc_group names 'colour', which is no column"),
    ({"gauc_group": "label"}, "holds no single value per row"),
    ({"LABEL_FIELD": "click"}, r"clicks.inter:1 has no column 'click', and FM learns from labels"),
    ({"LABEL_FIELD": "price"}, "load_col does not load 'price'"),
    ({"threshold": {"stars": 3}}, "has no column 'stars'"),
    ({"threshold": {"user_id": 3}}, "declares 'user_id' as token, but labels are made of numbers"),
    ({"threshold": {"label": "high"}}, "threshold must name one column and a number"),
    ({"threshold": {"label": None}}, "threshold must name one column and a number"),
    ({"numerical_features": ["user_id"]}, "declares 'user_id' as token, but numerical_features names it"),
    ({"judged_by": "clicks"}, "judged_by must be one of"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "sentence"), BAD)
def test_what_cannot_work_is_told(values: dict[str, Any], sentence: str, clicks) -> None:
    with pytest.raises(UserError, match=sentence):
        run("FM", "clicks", config_dict={**clicks, **values}, saved=False)


def test_labels_that_are_no_labels_are_told(clicks) -> None:
    path = Path(clicks["data_path"]) / "clicks" / "clicks.inter"
    text = path.read_text()
    path.write_text(text.replace("\t1\tk", "\t3\tk"))
    with pytest.raises(UserError, match="holds 3, but labels are 0 and 1"):
        run("FM", "clicks", config_dict=clicks, saved=False)
    path.write_text(text.replace("\t1\tk", "\t0\tk"))
    with pytest.raises(UserError, match="all .* train rows of clicks have the label 0"):
        run("FM", "clicks", config_dict=clicks, saved=False)


@pytest.mark.parametrize("threshold", [None, {"label": 1}])
def test_a_row_without_a_label_has_none(threshold: Any, clicks) -> None:
    """RecBole fills in the mean of all rows, which a threshold would make a label of."""
    path = Path(clicks["data_path"]) / "clicks" / "clicks.inter"
    path.write_text(path.read_text().replace("\t1\tk", "\t\tk", 3))
    with pytest.raises(UserError, match="'label' of clicks has no number in 3 rows"):
        run("FM", "clicks", config_dict={**clicks, "threshold": threshold}, saved=False)


@pytest.mark.parametrize("group", ["colour", "label"])
def test_a_group_that_is_none_is_told_before_training(group: str, clicks) -> None:
    config = RunConfig("FM", "clicks", config_dict={**clicks, "gauc_group": group})
    with pytest.raises(UserError, match=f"gauc_group names '{group}'"):
        load_data(config, config.model_class)


@pytest.mark.parametrize("model", ["SASRec", "BPR", "SIGMA", "Pop"])
def test_a_model_of_lists_is_not_judged_by_labels(model: str, clicks) -> None:
    with pytest.raises(UserError, match=f"{model} makes lists"):
        RunConfig(model, "clicks", config_dict={**clicks, "judged_by": "labels"})
    with pytest.raises(UserError, match="metric AUC needs the scores of all items"):
        RunConfig(model, "clicks", config_dict={**clicks, "metrics": ["AUC"]})


def test_lists_and_labels_stand_in_tables_of_their_own(clicks) -> None:
    values = {**clicks, "load_col": None, "epochs": 2}
    record = run_benchmark(["Pop", "FM", "DeepFM"], "clicks", seeds=(1, 2), config_dict=values, output="o")
    assert not record["failed"] and {row["model"] for row in record["table"]} == {"Pop"}
    assert [row["model"] for row in record["labels"]["table"]] == ["FM", "DeepFM"]
    text = Path("o/table.md").read_text()
    assert "seen items filtered" in text and "clicks, judged by labels" in text and "| FM |" in text
    assert {test["metric"] for test in record["labels"]["significance"]} == {"auc", "gauc_ctr", "logloss"}
    again = run_benchmark(["Pop", "FM", "DeepFM"], "clicks", seeds=(1, 2), config_dict=values, output="o")
    assert len(again["outcome"]["kept"]) == 5 and again["labels"]["table"] == record["labels"]["table"]
    rebuild_report("o", publish="lean")
    rows = Path("lean/cells.csv").read_text().splitlines()
    assert sum(",labelled," in row for row in rows) == 4
    rebuild_report("o/results.json", publish="again")
    assert Path("again/table.md").read_text() == Path("lean/table.md").read_text()


def test_a_figure_that_its_rows_deny_is_put_right(clicks) -> None:
    run_benchmark(["FM"], "clicks", seeds=(1,), config_dict={**clicks, "epochs": 1}, output="o")
    (path,) = Path("o/cells").glob("*.json")
    cell = json.loads(path.read_text())
    real = cell["test_result"]["auc"]
    cell["test_result"]["auc"] = 0.99
    path.write_text(json.dumps(cell))
    record = rebuild_report("o")
    assert "auc was 0.99" in record["corrected"][0]
    assert record["labels"]["cells"][0]["test_result"]["auc"] == pytest.approx(real, abs=1e-6)


def test_rows_of_different_splits_are_refused(clicks) -> None:
    with pytest.raises(UserError, match="judged on different splits"):
        run_benchmark(["FM", "DIN"], "clicks", config_dict={**clicks, "load_col": None}, output="o")


@pytest.mark.parametrize(("metric", "pick"), [("AUC", max), ("LogLoss", min)])
def test_tune_takes_the_best_of_a_metric_either_way(metric: str, pick, clicks, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("learning_rate: {choices: [0.00001, 0.01, 0.1]}\n")
    values = {**clicks, "epochs": 2, "valid_metric": metric}
    (found,) = tune(["FM"], "clicks", 4, space_file=str(space), config_dict=values, output="t")
    trials = [json.loads(line)["valid"] for line in Path(found["log"]).read_text().splitlines()[1:]]
    assert found["best"] == pick(trials) and len(set(trials)) > 1


def test_recommend_refuses_what_makes_no_lists(clicks) -> None:
    result = run("DIN", "clicks", config_dict={**clicks, "load_col": None, "MAX_ITEM_LIST_LENGTH": 5})
    with pytest.raises(UserError, match="was trained on labelled rows and makes no lists"):
        Recommender.load(result["checkpoint"])


@pytest.mark.slow
def test_two_processes_score_every_row_once(clicks) -> None:
    result = run("FM", "clicks", config_dict={**clicks, "epochs": 2, "nproc": 2, "gpu_id": ""})
    alone = evaluate_checkpoint(result["checkpoint"], {"nproc": 1})
    assert alone.metrics == pytest.approx(result["test_result"], abs=1e-6)
    np.testing.assert_array_equal(alone.users, result["test"].users)
    np.testing.assert_allclose(alone.scores, result["test"].scores, atol=1e-6)
