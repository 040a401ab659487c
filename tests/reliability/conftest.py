"""Processes that can be killed at an exact point: a fork of this one, so that nothing is imported again."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_sigma.evaluation.judge import Judge
from recbole_sigma.preparation import items as preparation
from recbole_sigma.quick_start import run
from recbole_sigma.run import checkpoint
from recbole_sigma.run import trainer as training

# where a process may die: a name -> (owner, attribute); the n-th call of it kills
POINTS: dict[str, tuple[Any, str]] = {
    "grounding": (preparation, "ground"),
    "quantizer": (preparation, "tokenize"),
    "step": (training.RunTrainer, "_check_finite"),
    "evaluation": (Judge, "rank"),
    "inside a write": (os, "fsync"),
    "before a rename": (os, "replace"),
    "tensors of a checkpoint": (checkpoint, "save_file"),
}


def die_at(point: str, count: int) -> None:
    """SIGKILL this process at the ``count``-th call of a point (in a forked child only)."""
    owner, name = POINTS[point]
    real = getattr(owner, name)
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(owner, name, counted)


def outcome(result: dict[str, Any]) -> dict[str, Any]:
    """What two runs must share, bit for bit."""
    saved = checkpoint.read(result["checkpoint"])
    return {
        "weights": {name: checkpoint.digest({name: value}) for name, value in saved.group("model").items()},
        "test": result["test_result"],
        "valid": result["best_valid_result"],
        "best": [result["best_epoch"], result["best_valid_score"]],
        "losses": [[entry["epoch"], entry["train_loss"], entry.get("valid")] for entry in result["history"]],
        "places": result["test"].places.tolist(),
    }


def _wait(child: int, after: float | None) -> int:
    """Exit status of a child, which is killed after some seconds where they are given."""
    if after is None:
        return os.waitpid(child, 0)[1]
    deadline = time.monotonic() + after
    while (found := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.001)
    if found == (0, 0):
        os.kill(child, signal.SIGKILL)
        found = os.waitpid(child, 0)
    return found[1]


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def imported() -> None:
    """Import once what every child needs."""
    import faiss  # noqa: F401
    import recbole.model.sequential_recommender  # noqa: F401

    import recbole_sigma.models.sigma.model
    import recbole_sigma.models.tiger  # noqa: F401


@pytest.fixture
def in_process(imported: None, tmp_path: Path) -> Iterator[Callable[..., dict[str, Any] | int]]:
    """Run a model in a forked process; gives its outcome, or the signal that killed it.

    ``point`` is a place and the number of the call that dies; ``after`` are seconds until the kill.
    """

    def start(
        model: str,
        values: dict[str, Any],
        folder: str,
        point: tuple[str, int] | None = None,
        after: float | None = None,
    ) -> dict[str, Any] | int:
        home = tmp_path / folder
        home.mkdir(exist_ok=True)
        report = home / "outcome.json"
        child = os.fork()
        if child == 0:
            try:
                os.chdir(home)
                sys.stderr = (home / "stderr").open("a", encoding="utf-8")
                if point is not None:
                    die_at(*point)
                found = outcome(run(model, "planted", config_dict=values))
                report.write_text(json.dumps(found))
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        status = _wait(child, after)
        if os.WIFSIGNALED(status):
            return os.WTERMSIG(status)
        assert os.WEXITSTATUS(status) == 0, (home / "stderr").read_text()
        return json.loads(report.read_text())

    yield start
