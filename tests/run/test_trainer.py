from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_sigma import quick_start
from recbole_sigma.quick_start import run
from recbole_sigma.run import loaders
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.schedule import FLOOR, learning_rate_factor
from recbole_sigma.run.trainer import make_trainer
from recbole_sigma.values import UserError
from tests import planted as scenes
from tests.planted import tiny


def trainer_of(model, planted, **values):
    config = RunConfig(model, "planted", config_dict={**planted, **values})
    data = loaders.load_data(config, config.model_class)
    network = quick_start.build_model(config, config.model_class, data.train)
    return quick_start.build_trainer(config, network), data


def test_schedule_values() -> None:
    rates = [learning_rate_factor(s, 100, 10, "cosine") for s in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (s + 1) for s in range(10)])
    assert (
        rates[10] == pytest.approx(1.0)
        and rates[55] == pytest.approx((1 + FLOOR) / 2)
        and rates[100] == pytest.approx(FLOOR)
    )
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert learning_rate_factor(50, 100, 0, "constant") == 1.0
    decay = [learning_rate_factor(s, 1000, 100, "inverse_sqrt") for s in (0, 50, 99, 399, 899)]
    assert decay == pytest.approx([1.0, 1.0, 1.0, 1 / 2, 1 / 3])
    assert learning_rate_factor(3, 1000, 0, "inverse_sqrt") == pytest.approx(1 / 2)


def test_the_schedule_reaches_the_optimizer(planted) -> None:
    trainer, data = trainer_of(
        "PackedSASRec", planted, **{**tiny("PackedSASRec"), "epochs": 4, "train_warmup_epochs": 1}
    )
    rates = []
    trainer.optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
    trainer.fit(data.train, data.valid, saved=False, verbose=False)
    total = 4 * len(data.train)
    want = [1e-3 * learning_rate_factor(s, total, len(data.train), "cosine") for s in range(total)]
    assert rates == pytest.approx(want)


def test_optional_hooks_of_a_model_are_honoured(planted) -> None:
    trainer, data = trainer_of("PackedSASRec", planted, **tiny("PackedSASRec"), weight_decay=0.5)
    assert [g["weight_decay"] for g in trainer.optimizer.param_groups] == [0.5, 0.0]
    epochs = []
    trainer.model.on_epoch_start = lambda epoch, train: epochs.append((epoch, train is data.train))
    trainer.fit(data.train, data.valid, saved=False, verbose=False)
    assert epochs == [(0, True), (1, True)]


def test_named_loss_parts_in_the_log(planted) -> None:
    trainer, data = trainer_of("PackedSASRec", planted, **tiny("PackedSASRec"))
    trainer.model.loss_names = ("first", "second")
    trainer._train_data = data.train
    line = trainer._generate_train_loss_output(3, 0.0, 1.0, (2.0 * len(data.train), 4.0 * len(data.train)))
    assert "first" in line and "2.0000" in line and "second" in line and "4.0000" in line


def test_history_and_best_epoch(planted) -> None:
    result = run("BPR", "planted", config_dict={**planted, "epochs": 5, "learning_rate": 0.05})
    scores = [h["valid"]["ndcg@10"] for h in result["history"]]
    assert [h["epoch"] for h in result["history"]] == [0, 1, 2, 3, 4]
    assert result["best_valid_score"] == max(scores)
    assert scores[result["best_epoch"]] == max(scores)
    assert all(
        h["train_seconds"] > 0 and h["train_cpu_seconds"] > 0 and len(h["train_loss"]) == 1
        for h in result["history"]
    )
    assert set(result["seconds"]) >= {"total", "data", "model", "train", "test", "cpu"}


@pytest.mark.parametrize("model", ["BPR", "PackedSASRec"])
def test_without_a_file_the_best_epoch_is_tested_too(model, planted) -> None:
    values = {
        **planted,
        **tiny(model),
        "epochs": 6,
        "learning_rate": 0.3,
    }  # large steps: the last epoch is not the best
    kept = run(model, "planted", config_dict=values, saved=False)
    written = run(model, "planted", config_dict=values, saved=True)
    assert kept["test_result"] == written["test_result"] and kept["checkpoint"] is None


def test_no_stray_files(planted, scratch: Path) -> None:
    run("BPR", "planted", config_dict={**planted, **tiny("BPR")})
    assert sorted(p.name for p in scratch.iterdir()) == ["log", "saved"]
    (checkpoint,) = (scratch / "saved").glob("*.safetensors")
    assert checkpoint.name.startswith("BPR-") and len(list((scratch / "saved").iterdir())) == 2
    (folder,) = (scratch / "saved" / "runs").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["last.safetensors", "lock"]
    assert (folder / "last.safetensors").stat().st_size < 10_000  # a finished run leaves a note


def test_training_free_models_run_one_epoch(planted) -> None:
    for model in ("WindowItemKNN", "Pop"):
        result = run(model, "planted", config_dict={**planted, "epochs": 300}, saved=False)
        assert len(result["history"]) == 1


def test_gradient_clipping(planted) -> None:
    trainer, _ = trainer_of("BPR", planted, **tiny("BPR"), train_clip_norm=0.25)
    assert trainer.clip_grad_norm == {"max_norm": 0.25}


def test_trainings_of_one_second_keep_their_own_checkpoints(planted, monkeypatch) -> None:
    monkeypatch.setattr("recbole.trainer.trainer.get_local_time", lambda: "Nov-21-2026_12-00-00")
    first, second = (trainer_of("BPR", planted, **tiny("BPR"))[0] for _ in range(2))
    assert first.saved_model_file != second.saved_model_file


def test_no_validation(planted) -> None:
    result = run("BPR", "planted", config_dict={**planted, **tiny("BPR"), "eval_step": 0})
    assert np.isfinite(result["best_valid_score"]) and result["best_valid_result"]


def test_pop_counts_events_not_batches(planted) -> None:
    a = run("Pop", "planted", config_dict={**planted, "train_batch_size": 4}, saved=False)
    b = run("Pop", "planted", config_dict={**planted, "train_batch_size": 4096}, saved=False)
    assert a["test_result"] == b["test_result"]


def test_resume_continues_with_the_same_state(planted, scratch: Path) -> None:
    values = {
        **tiny("BPR"),
        "epochs": 1,
    }  # the only epoch is the best one: the file holds the state that the trainer ends with
    first, data = trainer_of("BPR", planted, **values)
    first.fit(data.train, data.valid, verbose=False)
    second, _ = trainer_of("BPR", planted, **{**values, "seed": 7})
    second.resume_checkpoint(first.saved_model_file)
    saved = first.state(0).tensors
    for name, tensor in second.state(0).tensors.items():
        if name.startswith(("model/", "optimizer/")):
            assert torch.equal(tensor, saved[name]), name
    assert second.start_epoch == first.best_epoch + 1 and second.best_valid_score == first.best_valid_score


def test_decision_trees_are_refused() -> None:
    from recbole.trainer.trainer import DecisionTreeTrainer, KGTrainer, Trainer

    assert issubclass(make_trainer(KGTrainer), KGTrainer)
    assert make_trainer(Trainer) is make_trainer(Trainer) and make_trainer(
        make_trainer(Trainer)
    ) is make_trainer(Trainer)
    with pytest.raises(UserError, match="decision trees"):
        make_trainer(DecisionTreeTrainer)


def test_nan_losses_stop_the_run(planted) -> None:
    with pytest.raises((ValueError, UserError), match="(?i)nan"):
        run(
            "BPR",
            "planted",
            config_dict={
                **planted,
                **tiny("BPR"),
                "learning_rate": 100.0,
                "learner": "sgd",
                "epochs": 50,
                "weight_decay": 100.0,
            },
        )


def test_anomaly_mode_of_another_model_is_switched_off(planted) -> None:
    """RecBole's SINE sets it on import for the whole process; training is then several times slower."""
    torch.autograd.set_detect_anomaly(True)
    try:
        run("SASRec", "planted", config_dict={**planted, **tiny("SASRec")}, saved=False)
        assert not torch.is_anomaly_enabled()
    finally:
        torch.autograd.set_detect_anomaly(False)


def test_epochs_are_judged_on_a_sample_of_the_validation_rows(planted) -> None:
    from recbole_sigma.run.loaders import sampled

    _, data, _ = scenes.build("PackedSASRec", "planted", {**planted, **tiny("PackedSASRec"), "seed": 3})
    config, _, _ = scenes.build(
        "PackedSASRec", "planted", {**planted, **tiny("PackedSASRec"), "seed": 3, "valid_users": 9}
    )
    few, again = (sampled(config, data.valid)._dataset.inter_feat for _ in range(2))
    whole = data.valid._dataset.inter_feat
    assert len(few) == 9 and torch.equal(few["user_id"], again["user_id"])
    for row in range(9):
        (place,) = (whole["user_id"] == few["user_id"][row]).nonzero()[0]
        assert torch.equal(whole["item_id_list"][place], few["item_id_list"][row])
        assert whole["item_id"][place] == few["item_id"][row]
    config, data, _ = scenes.build("Pop", "planted", {**planted, "valid_users": 9})
    with pytest.raises(UserError, match="valid_users draws histories, and Pop reads none"):
        sampled(config, data.valid)
