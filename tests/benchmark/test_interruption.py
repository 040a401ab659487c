"""A benchmark that is killed, goes on, or is asked for twice, in forks of this process."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recbole_sigma import quick_start
from recbole_sigma.benchmark import RunFolder
from recbole_sigma.commands.main import main
from tests.small_benchmark import bench


def fork(work: Callable[[], int]) -> int:
    """Run in a real process of its own; exits with what ``work`` returns."""
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = work()
        finally:
            os._exit(code)
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + 120
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, f"{text!r} never came"
        time.sleep(0.01)


def command(planted, monkeypatch, hang: bool) -> Callable[[], int]:
    """The benchmark of three models, which logs each training and may hang after BPR's."""
    real = quick_start.run

    def logged(model, *args, **kwargs):
        done = real(model, *args, **kwargs)
        with open("trained.txt", "a") as log:
            log.write(f"{model}\n")
        if hang and model == "BPR":
            time.sleep(60)
        return done

    def work() -> int:
        monkeypatch.setattr(quick_start, "run", logged)
        return main(
            [
                "benchmark",
                "--models=Pop,BPR,WindowItemKNN",
                "--dataset=planted",
                "--epochs=1",
                "--quiet",
                "--output=o",
                f"--data_path={planted['data_path']}",
                "--load_col={inter: [user_id, item_id, timestamp]}",
            ]
        )

    return work


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_keeps_its_cells_and_goes_on(how, planted, monkeypatch) -> None:
    pid = fork(command(planted, monkeypatch, hang=True))
    wait_for(Path("trained.txt"), "BPR")
    kept = list(Path("o/cells").glob("*.json"))
    assert [path.name.split("-")[0] for path in kept] == ["Pop"]
    before = kept[0].stat().st_mtime_ns
    os.kill(pid, how)
    assert exit_code(pid) == (130 if how == signal.SIGINT else -signal.SIGKILL)
    if how == signal.SIGINT:
        assert len(json.loads(Path("o/results.json").read_text())["cells"]) == 1
    assert exit_code(fork(command(planted, monkeypatch, hang=False))) == 0
    assert Path("trained.txt").read_text().split() == ["Pop", "BPR", "BPR", "WindowItemKNN"]
    assert kept[0].stat().st_mtime_ns == before
    assert len(json.loads(Path("o/results.json").read_text())["cells"]) == 3


def test_a_training_killed_between_epochs_goes_on_with_the_next_epoch(planted, scratch: Path) -> None:
    small = {"n_layers": 1, "hidden_size": 8, "inner_size": 8, "epochs": 4}
    whole = bench(planted, ["PackedSASRec"], output="whole", values=small)["cells"][0]

    def die() -> int:
        from recbole_sigma.run.trainer import RunTrainer

        real = RunTrainer._train_epoch

        def until_two(self, train_data, epoch_idx, *args, **kwargs):
            if epoch_idx == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, train_data, epoch_idx, *args, **kwargs)

        RunTrainer._train_epoch = until_two
        bench(planted, ["PackedSASRec"], values=small)
        return 0

    assert exit_code(fork(die)) == -signal.SIGKILL
    (state,) = Path("o/checkpoints").iterdir()
    assert state.name.startswith("work-")
    cell = bench(planted, ["PackedSASRec"], values=small)["cells"][0]
    assert cell["test_result"] == whole["test_result"] and cell["places"] == whole["places"]
    assert [e["epoch"] for e in cell["history"]] == [0, 1, 2, 3]
    left = sorted(path.suffix for path in Path("o/checkpoints").iterdir())
    assert left == [".json", ".safetensors"], "weights and how the row decodes them, but no state"


def test_seconds_before_an_interruption_count() -> None:
    from recbole_sigma.benchmark.cells import whole_seconds

    epoch = {"train_cpu_seconds": 4.0, "valid_cpu_seconds": 1.0, "train_seconds": 6.0, "valid_seconds": 2.0}
    seconds = {"cpu": 7.0, "cpu_train": 5.0, "total": 10.0, "train": 8.0}
    once = whole_seconds({"history": [epoch], "seconds": seconds})
    assert once == {**seconds, "continued": False}
    twice = whole_seconds({"history": [epoch] * 3, "seconds": seconds})
    assert twice == {"cpu": 17.0, "cpu_train": 15.0, "total": 26.0, "train": 24.0, "continued": True}


def test_two_processes_never_do_the_same_cell(planted, monkeypatch) -> None:
    pair = [fork(command(planted, monkeypatch, hang=False)) for _ in range(2)]
    assert [exit_code(pid) for pid in pair] == [0, 0]
    assert sorted(Path("trained.txt").read_text().split()) == ["BPR", "Pop", "WindowItemKNN"]
    assert len(list(Path("o/cells").glob("*.json"))) == 3 and not list(Path("o/locks").iterdir())


def test_a_lock_is_exclusive_and_dies_with_its_process(scratch: Path) -> None:
    key = "k" * 64

    def hold() -> int:
        with RunFolder("o").lock(key, "BPR") as mine:
            Path("held.txt").write_text(str(mine))
            time.sleep(60)
        return 0

    folder = RunFolder("o")
    with folder.lock(key) as mine:
        assert mine and exit_code(fork(lambda: int(folder.lock(key).__enter__()))) == 0  # not a second time
    pid = fork(hold)
    wait_for(Path("held.txt"), "True")
    with folder.lock(key) as mine:
        assert not mine and folder.holder(key) == f"process {pid} on {os.uname().nodename}"
    os.kill(pid, signal.SIGKILL)
    exit_code(pid)
    assert list(Path("o/locks").iterdir()), "the file of the killed process is still there"
    with folder.lock(key) as mine:
        assert mine, "and must not count"
