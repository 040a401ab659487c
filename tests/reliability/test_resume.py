"""A killed run, continued by the same command with ``--resume``, ends as if it had never been killed."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from recbole_sigma.quick_start import run
from recbole_sigma.run import checkpoint, loaders
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.folder import RunFolder, run_id
from recbole_sigma.run.trainer import RunTrainer
from recbole_sigma.values import UserError
from tests.planted import tiny

EPOCHS = {"epochs": 3, "eval_step": 1, "checkpoint_steps": 2}


def settings(planted, model, **more) -> dict[str, Any]:
    return {**planted, **tiny(model), **EPOCHS, **more}


def leftovers(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("model", "kills"),
    [
        ("BPR", [("step", 5), ("evaluation", 2)]),
        pytest.param("SASRec", [("step", 20), ("before a rename", 4)], marks=pytest.mark.slow),
        ("PackedSASRec", [("inside a write", 5), ("step", 3)]),
        ("SIGMA", [("quantizer", 1), ("inside a write", 1), ("step", 3)]),
        pytest.param("TIGER", [("tensors of a checkpoint", 2), ("step", 2)], marks=pytest.mark.slow),
    ],
)
def test_killed_and_continued_is_bit_for_bit_the_uninterrupted_run(
    model, kills, planted, in_process, tmp_path: Path
) -> None:
    values = settings(planted, model)
    whole = in_process(model, values, "whole")
    for kill in kills:
        assert in_process(model, {**values, "resume": True}, "cut", kill) == signal.SIGKILL, kill
    assert in_process(model, {**values, "resume": True}, "cut") == whole
    assert leftovers(tmp_path / "whole") == []
    log = "".join(path.read_text() for path in (tmp_path / "cut" / "log").rglob("*.log"))
    assert "Resume training from epoch" in log
    # asked once more, the finished run is only tested again
    assert in_process(model, {**values, "resume": True}, "cut", ("step", 1)) == whole


@pytest.mark.parametrize("model", ["PackedSASRec", "SIGMA"])
def test_single_rows_and_drawn_negatives_go_on_too(model, planted, in_process) -> None:
    values = settings(planted, model, softmax_negatives=6, checkpoint_steps=1)
    whole = in_process(model, values, "whole")
    assert in_process(model, {**values, "resume": True}, "cut", ("step", 3)) == signal.SIGKILL
    assert in_process(model, {**values, "resume": True}, "cut") == whole


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", ["BPR", "SASRec", "PackedSASRec", "SIGMA", "TIGER"])
def test_twenty_random_kills(model, planted, in_process, tmp_path: Path, capsys) -> None:
    """Twenty real kills per model: ten at any instant of the run, ten at a random call of a delicate place.

    A killed run is continued, and killed again, up to four times before it may end.
    """
    values = settings(planted, model, epochs=4)
    started = time.monotonic()
    whole = in_process(model, values, "whole")
    seconds = time.monotonic() - started
    draw = random.Random(model)
    kills: list[str] = []
    chains = 0
    while len(kills) < 20:
        assert chains < 30, f"only {len(kills)} kills in {chains} runs: {kills}"
        folder = f"cut{chains}"
        chains += 1
        for _ in range(4):
            if len(kills) % 2:
                name, last = draw.choice(list(CALLS.items()))
                how = {"point": (name, draw.randint(1, last))}
            else:
                how = {"after": draw.uniform(0.0, seconds)}
            if in_process(model, {**values, "resume": True}, folder, **how) != signal.SIGKILL:
                break
            kills.append(f"{how} -> {reached(tmp_path / folder)}")
        assert in_process(model, {**values, "resume": True}, folder) == whole, kills
        assert leftovers(tmp_path / folder) == [], kills
    with capsys.disabled():
        print(
            f"\n{model}: {len(kills)} kills in {chains} runs, {seconds:.1f} s each\n  " + "\n  ".join(kills)
        )


# places where a call may die, with how many calls are drawn from
CALLS = {
    "grounding": 1,
    "quantizer": 1,
    "step": 12,
    "evaluation": 4,
    "inside a write": 12,
    "before a rename": 12,
    "tensors of a checkpoint": 12,
}


def reached(home: Path) -> str:
    """What a killed run had stored."""
    states = list(home.glob("saved/runs/*/last.safetensors"))
    if not states:
        return "nothing stored"
    meta = checkpoint.read(states[0]).meta
    if meta.get("finished") or meta.get("trained"):
        return "trained"
    return f"epoch {meta['epoch'] + 1}, batch {(meta['place'] or {}).get('batches', 0)}"


def cut_after(monkeypatch, steps: int) -> None:
    """Make training stop with Ctrl-C at a step."""
    real = RunTrainer._check_finite
    done = 0

    def count(self, *args):
        nonlocal done
        done += 1
        if done > steps:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(RunTrainer, "_check_finite", count)


def test_the_position_inside_an_epoch_is_used(planted, monkeypatch) -> None:
    """The continued run trains the rest of the epoch, not the epoch again."""
    values = settings(planted, "BPR", checkpoint_steps=1)
    steps = []
    config = RunConfig("BPR", "planted", config_dict=values)
    per_epoch = len(loaders.load_data(config, config.model_class).train)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        cut_after(patch, per_epoch + 3)
        run("BPR", "planted", config_dict=values)
    real = RunTrainer._check_finite
    monkeypatch.setattr(
        RunTrainer, "_check_finite", lambda self, *a: (steps.append(a[1:]), real(self, *a))[1]
    )
    run("BPR", "planted", config_dict={**values, "resume": True})
    assert steps[0] == (1, 3) and len(steps) == 2 * per_epoch - 3


def test_early_stopping_goes_on_counting(planted, monkeypatch) -> None:
    values = settings(planted, "BPR", epochs=30, learning_rate=0.3, stopping_step=3)
    whole = run("BPR", "planted", config_dict={**values, "checkpoint_dir": "whole"})
    stopped = len(whole["history"])
    assert 4 < stopped < 30
    config = RunConfig("BPR", "planted", config_dict=values)
    per_epoch = len(loaders.load_data(config, config.model_class).train)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        cut_after(patch, (stopped - 1) * per_epoch + 1)
        run("BPR", "planted", config_dict=values)
    again = run("BPR", "planted", config_dict={**values, "resume": True})
    assert len(again["history"]) == stopped and again["test_result"] == whole["test_result"]
    assert again["best_epoch"] == whole["best_epoch"]


def test_another_command_finds_nothing(planted, monkeypatch) -> None:
    values = settings(planted, "BPR")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        cut_after(patch, 30)
        run("BPR", "planted", config_dict=values)
    starts = []
    monkeypatch.setattr(RunTrainer, "continue_from", lambda self, saved: starts.append(saved))
    run("BPR", "planted", config_dict={**values, "resume": True, "learning_rate": 0.01})
    assert starts == []


def test_changed_data_is_refused(planted, monkeypatch, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(planted["data_path"], tmp_path / "data")
    values = settings(planted, "BPR", data_path=str(tmp_path / "data"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        cut_after(patch, 30)
        run("BPR", "planted", config_dict=values)
    path = tmp_path / "data" / "planted" / "planted.inter"
    lines = path.read_text().splitlines()
    lines[5], lines[6] = lines[6].replace("u0", "u1"), lines[5]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="resume: the dataset changed since"):
        run("BPR", "planted", config_dict={**values, "resume": True})


@pytest.mark.parametrize("what", ["cut", "flip", "weights gone"])
def test_a_damaged_state_is_refused(what, planted, monkeypatch) -> None:
    values = settings(planted, "BPR")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        cut_after(patch, 30)
        run("BPR", "planted", config_dict=values)
    (state,) = Path("saved/runs").glob("*/last.safetensors")
    content = bytearray(state.read_bytes())
    if what == "cut":
        state.write_bytes(content[: len(content) // 2])
    elif what == "flip":
        content[-9] ^= 1
        state.write_bytes(content)
    else:
        for path in Path("saved").glob("*.safetensors"):
            path.unlink()
    with pytest.raises(UserError, match="damaged|is gone"):
        run("BPR", "planted", config_dict={**values, "resume": True})


def test_a_run_that_is_still_going_is_not_continued(tmp_path: Path) -> None:
    first = RunFolder(tmp_path, "r", resume=False)
    first.state_path.write_bytes(b"anything")
    with pytest.raises(UserError, match="still going"):
        RunFolder(tmp_path, "r", resume=True)
    second = RunFolder(tmp_path, "r", resume=False)  # the same command beside it keeps its own state
    assert second.folder != first.folder
    first.close()
    second.close()


def test_names_of_runs_follow_what_changes_results() -> None:
    base = {"model": "BPR", "dataset": "d", "seed": 1, "state": "INFO", "resume": False}
    assert run_id(base) == run_id({**base, "state": "ERROR", "resume": True})
    assert run_id(base) != run_id({**base, "seed": 2}) and run_id(base) != run_id(base, 2)


def test_what_cannot_be_continued_says_so(planted) -> None:
    with pytest.raises(UserError, match="saved=False"):
        run("BPR", "planted", config_dict=settings(planted, "BPR", resume=True), saved=False)
    with pytest.raises(UserError, match="RecVAE has a training loop of its own"):
        run("RecVAE", "planted", config_dict={**planted, "epochs": 1, "resume": True})
