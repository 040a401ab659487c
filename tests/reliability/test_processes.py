"""Several processes train and judge as one does; one that dies ends the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from recbole_sigma import quick_start
from recbole_sigma.data.shares import epoch_batches, epoch_length
from recbole_sigma.machine import processes as distributed
from recbole_sigma.quick_start import evaluate_checkpoint, run
from recbole_sigma.run import checkpoint, launch, loaders
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.trainer import RunTrainer
from recbole_sigma.values import UserError
from tests.planted import tiny
from tests.reliability.conftest import free_port, outcome


@pytest.fixture
def ranks(imported, tmp_path: Path) -> Callable[..., list[Any]]:
    """Run a function in forked processes that know each other; gives what each returned, or its signal."""

    def start(function: Callable[[], Any], size: int = 2) -> list[Any]:
        port, children = free_port(), []
        for rank in range(size):
            child = os.fork()
            if child == 0:
                try:
                    os.environ |= {
                        "RANK": str(rank),
                        "LOCAL_RANK": str(rank),
                        "WORLD_SIZE": str(size),
                        "MASTER_ADDR": "localhost",
                        "MASTER_PORT": str(port),
                    }
                    sys.stderr = (tmp_path / f"stderr{rank}").open("a", encoding="utf-8")
                    (tmp_path / f"answer{rank}").write_text(json.dumps(function()))
                    os._exit(0)
                except BaseException as error:
                    (tmp_path / f"answer{rank}").write_text(
                        json.dumps({"error": f"{type(error).__name__}: {error}"})
                    )
                    os._exit(1)
            children.append(child)
        answers = []
        for rank, child in enumerate(children):
            deadline = time.monotonic() + 120
            while (found := os.waitpid(child, os.WNOHANG)) == (0, 0):
                if time.monotonic() > deadline:
                    os.kill(child, signal.SIGKILL)
                    raise AssertionError(f"process {rank} hangs")
                time.sleep(0.01)
            path = tmp_path / f"answer{rank}"
            answers.append(
                os.WTERMSIG(found[1]) if os.WIFSIGNALED(found[1]) else json.loads(path.read_text())
            )
        return answers

    return start


# --- sharing the work out ---


def loader_of(planted, model="BPR", **values):
    config = RunConfig(model, "planted", config_dict={**planted, **tiny(model), **values})
    return loaders.load_data(config, config.model_class).train


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("batch", [32, 59, 480, 4096])
def test_every_row_is_seen_once_per_epoch(size, batch, planted) -> None:
    parts, weights, lengths = [], [], []
    for rank in range(size):
        loader = loader_of(planted, train_batch_size=batch, train_neg_sample_args=None)
        taken = list(epoch_batches(loader, 0, rank, size))
        parts.append([list(zip(b["user_id"].tolist(), b["item_id"].tolist())) for b, _ in taken])
        weights.append([w for _, w in taken])
        lengths.append(epoch_length(loader, size))
    rows = [row for part in parts for taken in part for row in taken]
    loader = loader_of(planted, train_batch_size=batch, train_neg_sample_args=None)
    alone = [list(zip(b["user_id"].tolist(), b["item_id"].tolist())) for b, _ in epoch_batches(loader)]
    assert sorted(rows) == sorted(row for taken in alone for row in taken)
    assert {len(part) for part in parts} == set(lengths)  # everybody takes as many steps
    for step in range(lengths[0]):
        assert sum(w[step] for w in weights) == pytest.approx(size)  # a mean of weighted means
    together = [row for part in parts for row in part[0]]
    assert sorted(together) == sorted(alone[0])  # the same batches as in one process


def test_an_epoch_can_be_entered_anywhere(planted) -> None:
    for rank, size in ((0, 1), (1, 2)):
        whole = list(epoch_batches(loader_of(planted), 0, rank, size))
        rest = list(epoch_batches(loader_of(planted), 4, rank, size))
        assert [b["item_id"].tolist() for b, _ in whole[4:]] == [b["item_id"].tolist() for b, _ in rest]


def test_fewer_rows_than_processes(planted) -> None:
    with pytest.raises(UserError, match="cannot be shared by 1000 processes"):
        epoch_length(loader_of(planted), 1000)


# --- training and judging ---


def test_two_processes_take_the_steps_of_one(planted, ranks, scratch: Path) -> None:
    """Without dropout and negatives nothing is drawn, so the weights agree but for the order of sums."""
    values = {
        **planted,
        **tiny("PackedSASRec"),
        "epochs": 3,
        "hidden_dropout_prob": 0.0,
        "attn_dropout_prob": 0.0,
    }

    def work() -> Any:
        result = run("PackedSASRec", "planted", config_dict={**values, "checkpoint_dir": "two"})
        return [result["checkpoint"], result["test_result"], result["history"][-1]["train_loss"]]

    (first, metrics, losses), (_, other, _) = ranks(work)
    alone = run("PackedSASRec", "planted", config_dict={**values, "checkpoint_dir": "one"})
    assert metrics == other  # every process knows the result
    weights = checkpoint.read(first).group("model")
    for name, value in checkpoint.read(alone["checkpoint"]).group("model").items():
        assert torch.allclose(weights[name], value, atol=2e-5), name
    assert losses == pytest.approx(alone["history"][-1]["train_loss"], rel=1e-5)
    again = evaluate_checkpoint(first)  # the same weights, judged by one process
    assert dict(again.metrics) == metrics
    assert sorted(p.name for p in (scratch / "two").iterdir()) == sorted(["runs", Path(first).name])
    assert len(list((scratch / "log").rglob("*.log"))) == 2  # one per run: rank 0 writes


@pytest.mark.parametrize("model", ["PackedSASRec", "SIGMA"])
def test_the_gradient_of_two_processes_is_that_of_one(model, write_dataset, ranks) -> None:
    """Rows of 2 to 9 events, one batch: each process has as many rows, but not as many predictions."""
    events = [
        (f"u{user}", f"i{(3 * user + step) % 40}", 1000 * step + user)
        for user in range(30)
        for step in range(4 + (user % 2) * (user % 7 + 1))
    ]
    values = {
        **tiny(model),
        **write_dataset(events, spare=41),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]},
        "text_fields": ["item_id"],
        "train_batch_size": 64,
        "hidden_dropout_prob": 0.0,
        "attn_dropout_prob": 0.0,
        "backbone_dropout": 0.0,
        "fusion_hide_id": 0.0,
        "task_labels_per_row": 0,
    }

    def gradient() -> Any:
        config = RunConfig(model, "small", config_dict=values)
        distributed.join(config["device"])
        data = loaders.load_data(config, config.model_class)
        trainer = quick_start.build_trainer(
            config, quick_start.build_model(config, config.model_class, data.train)
        )
        found = {}

        def note(*_: Any) -> None:
            for name, parameter in trainer.model.named_parameters():
                if parameter.grad is not None:
                    found[name] = parameter.grad.flatten().tolist()

        trainer.optimizer.register_step_pre_hook(note)
        trainer._train_data = data.train
        losses = trainer._train_epoch(data.train, 0)
        losses = losses if isinstance(losses, tuple) else (losses,)
        return [found, [float(part) for part in losses]]

    first, second = ranks(gradient)
    alone, losses = gradient()
    assert first == second and first[0].keys() == alone.keys()
    for name, value in alone.items():
        assert max(map(abs, value)) == 0 or first[0][name] == pytest.approx(value, rel=1e-3, abs=1e-6), name
    assert first[1] == pytest.approx(losses, rel=1e-5)


def test_single_rows_are_updated_in_one_process(planted, ranks) -> None:
    values = {**planted, **tiny("PackedSASRec"), "softmax_negatives": 4}

    def work() -> Any:
        try:
            return run("PackedSASRec", "planted", config_dict=values)
        except UserError as error:
            return str(error)

    answers = [str(answer) for answer in ranks(work)]  # one may end before the other and close the connection
    assert any("use --nproc=1, or softmax_negatives: 0" in answer for answer in answers), answers


@pytest.mark.parametrize("model", ["BPR", "SIGMA"])
def test_metrics_of_two_processes_are_those_of_one(model, planted, ranks, scratch: Path) -> None:
    """60 users on 2 processes; SIGMA's items are prepared by one of them."""
    values = {**planted, **tiny(model), "eval_batch_size": 7}

    def work() -> Any:
        result = run(model, "planted", config_dict=values)
        return [result["checkpoint"], result["test_result"], result["test"].places.tolist()]

    (path, metrics, places), other = ranks(work)
    assert other[1:] == [metrics, places] and len(places) == 60
    found = evaluate_checkpoint(path)
    assert dict(found.metrics) == metrics and found.places.tolist() == places
    assert len(list((scratch / "saved" / "artifacts").glob("*.safetensors"))) == (model == "SIGMA")


@pytest.mark.slow
def test_two_processes_resume_exactly(planted, ranks, scratch: Path) -> None:
    values = {**planted, **tiny("BPR"), "epochs": 3, "checkpoint_steps": 2}

    def work(**more: Any) -> Any:
        result = run("BPR", "planted", config_dict={**values, **more})
        return outcome(result) if os.environ["RANK"] == "0" else None

    def cut() -> Any:
        real, count = RunTrainer._check_finite, [0]

        def stop(self, *args):
            count[0] += 1
            if count[0] == 20:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, *args)

        RunTrainer._check_finite = stop
        return work()

    whole = ranks(lambda: work(checkpoint_dir="whole"))
    assert signal.SIGKILL in ranks(cut)
    assert ranks(lambda: work(resume=True)) == whole


def test_a_process_that_dies_ends_the_others(planted, ranks) -> None:
    def work() -> Any:
        if os.environ["RANK"] == "1":
            real, count = RunTrainer._check_finite, [0]

            def stop(self, *args):
                count[0] += 1
                if count[0] == 5:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(self, *args)

            RunTrainer._check_finite = stop
        return run("BPR", "planted", config_dict={**planted, **tiny("BPR")})["test_result"]

    started = time.monotonic()
    first, second = ranks(work)
    assert second == signal.SIGKILL and "error" in first and time.monotonic() - started < 60


def test_two_runs_of_one_command_at_once(planted, imported, scratch: Path) -> None:
    """Not processes of one run: two commands, started together in one folder, that prepare the same items."""
    values = {**planted, **tiny("SIGMA")}
    children = []
    for number in range(2):
        child = os.fork()
        if child == 0:
            try:
                found = outcome(run("SIGMA", "planted", config_dict=values))
                (scratch / f"outcome{number}").write_text(json.dumps(found))
                os._exit(0)
            except BaseException:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    first, second = ((scratch / f"outcome{number}").read_text() for number in range(2))
    assert first == second
    assert len(list((scratch / "saved" / "artifacts").iterdir())) == 1
    assert len(list((scratch / "saved").glob("*.safetensors"))) == 2  # each has its own checkpoint
    assert len(list((scratch / "saved" / "runs").iterdir())) == 2  # and its own state
    assert list(scratch.rglob("*.tmp")) == []
    again = outcome(run("SIGMA", "planted", config_dict=values))  # from what the two stored
    assert again == json.loads(first)


# --- the launcher ---


def sleeper(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import os; os.kill(os.getpid(), 9)", r"process 1 of 2 ended: signal: killed \(out of memory"),
        ("raise SystemExit(3)", "process 1 of 2 ended: exit: exit code 3"),
    ],
)
def test_the_launcher_ends_all_when_one_ends(code, sentence, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(launch, "_GRACE", 0.3)
    processes = [sleeper("import time; time.sleep(100)"), sleeper(code)]
    with pytest.raises(RuntimeError, match=sentence):
        try:
            launch._watch(processes, tmp_path, 0)
        finally:
            launch._end(processes)
    assert all(process.poll() is not None for process in processes)


def test_the_first_cause_is_told_not_what_followed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(launch, "_GRACE", 0.3)
    notes = [
        {"kind": "RuntimeError", "text": "Connection closed by peer", "time": 1.0, "weight": 3},
        {"kind": "UserError", "text": "the training loss is nan in epoch 2", "time": 2.0, "weight": 1},
    ]
    for rank, note in enumerate(notes):
        (tmp_path / f"error-{rank}.json").write_text(json.dumps(note))
    processes = [sleeper("raise SystemExit(1)") for _ in notes]
    with pytest.raises(UserError, match="the training loss is nan in epoch 2"):
        launch._watch(processes, tmp_path, 0)
    launch._end(processes)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"nproc": 2, "world_size": 1}, "group_offset 0 . nproc 2 exceeds world_size 1"),
        ({"nproc": 1, "world_size": 4, "group_offset": 4}, "exceeds world_size"),
        ({"nproc": 1, "world_size": 2}, "several machines need one port"),
    ],
)
def test_numbers_that_do_not_fit(values, sentence) -> None:
    whole = {"nproc": 1, "world_size": -1, "group_offset": 0, "port": 0, **values}
    with pytest.raises(UserError, match=sentence):
        launch.wanted_processes(whole)


def test_an_incomplete_environment(monkeypatch, planted) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not"):
        RunConfig("BPR", "planted", config_dict=planted)


def test_loops_of_recboles_own_stay_in_one_process(planted, monkeypatch) -> None:
    from recbole_sigma.machine.processes import World
    from recbole_sigma.run.trainer import distributed

    monkeypatch.setattr(distributed, "current", lambda: World(0, 0, 2))
    config = SimpleNamespace()
    with pytest.raises(UserError, match="runs in one process"):
        del config
        values = RunConfig("RecVAE", "planted", config_dict=planted)
        monkeypatch.setattr(quick_start.distributed, "current", lambda: World())
        data = loaders.load_data(values, values.model_class)
        model = quick_start.build_model(values, values.model_class, data.train)
        monkeypatch.setattr(distributed, "current", lambda: World(0, 0, 2))
        quick_start.build_trainer(values, model)


def test_a_result_travels_as_json(planted) -> None:
    result = run("BPR", "planted", config_dict={**planted, **tiny("BPR"), "epochs": 1})
    again = launch.read_result(json.loads(json.dumps(launch.write_result(result))))
    assert again.keys() == result.keys() - {"loaders"}
    for key in again.keys() - {"test"}:
        assert again[key] == result[key], key
    assert dict(again["test"].metrics) == dict(result["test"].metrics)
    for field in ("users", "targets", "places", "lists"):
        there, here = getattr(again["test"], field), getattr(result["test"], field)
        assert there.dtype == here.dtype and np.array_equal(there, here), field
