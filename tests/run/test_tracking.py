"""Losses and metrics in TensorBoard, Weights & Biases and MLflow by the one key ``log_to``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from recbole_sigma.quick_start import run
from recbole_sigma.run import tracking
from recbole_sigma.values import UserError
from tests.planted import tiny


def test_tensorboard_holds_every_epoch_and_the_test(planted, scratch: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run(
        "BPR", "planted", config_dict={**planted, **tiny("BPR"), "log_to": "tensorboard"}, saved=False
    )
    (folder,) = (scratch / "log_tensorboard").iterdir()
    found = EventAccumulator(str(folder)).Reload()
    loss = [(event.step, event.value) for event in found.Scalars("train/loss")]
    assert loss == [(e["epoch"], pytest.approx(sum(e["train_loss"]), rel=1e-6)) for e in result["history"]]
    for name in ("hit@10", "ndcg@10"):
        valid = [event.value for event in found.Scalars(f"valid/{name}")]
        assert valid == pytest.approx([epoch["valid"][name] for epoch in result["history"]], rel=1e-6)
        (test,) = found.Scalars(f"test/{name}")
        assert test.value == pytest.approx(result["test_result"][name], rel=1e-6)


def test_nothing_is_written_unasked(planted, scratch: Path) -> None:
    run("BPR", "planted", config_dict={**planted, **tiny("BPR")}, saved=False)
    assert not (scratch / "log_tensorboard").exists()


@pytest.mark.parametrize("asked", [{"log_to": "wandb"}, {"log_wandb": True}, {"log_to": "mlflow"}])
def test_a_missing_package_is_one_sentence_before_anything_is_read(asked, planted, monkeypatch) -> None:
    real = importlib.util.find_spec
    gone = ("wandb", "mlflow")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in gone else real(name, *a)
    )
    with pytest.raises(UserError, match=r"needs the package (wandb|mlflow): pip install (wandb|mlflow), or"):
        run("BPR", "planted", config_dict={**planted, **asked})


def test_every_choice_has_a_tracker() -> None:
    from recbole_sigma.settings.keys import TrainKeys
    from recbole_sigma.settings.reader import keys_of

    assert set(keys_of(TrainKeys)["log_to"].choices) == {"none", *tracking.NEEDS}


@pytest.mark.slow
def test_wandb_offline(planted, scratch: Path, monkeypatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    result = run("BPR", "planted", config_dict={**planted, **tiny("BPR"), "log_wandb": True}, saved=False)
    (file,) = (scratch / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    assert content.count(b"train/loss") >= len(result["history"]) and b"test/ndcg@10" in content


@pytest.mark.slow
def test_mlflow_in_a_folder(planted, scratch: Path, monkeypatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file:{scratch / 'runs'}")
    result = run("BPR", "planted", config_dict={**planted, **tiny("BPR"), "log_to": "mlflow"}, saved=False)
    (kept,) = mlflow.search_runs(experiment_names=["planted"], output_format="list")
    assert kept.data.metrics["test/ndcg at 10"] == pytest.approx(result["test_result"]["ndcg@10"])
    steps = mlflow.MlflowClient().get_metric_history(kept.info.run_id, "train/loss")
    assert [point.step for point in steps] == [epoch["epoch"] for epoch in result["history"]]
    assert kept.data.params["model"] == "BPR"
