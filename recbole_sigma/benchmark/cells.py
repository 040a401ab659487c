"""Run one training and judge its cells: plain records out."""

from __future__ import annotations

import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sigma.benchmark.folder import RunFolder
from recbole_sigma.benchmark.plan import MEMORY, Cell, Plan, Training, unread, without
from recbole_sigma.benchmark.records import FORMAT
from recbole_sigma.evaluation.diversity import intra_list_distance
from recbole_sigma.evaluation.judge import Judgement
from recbole_sigma.evaluation.labels import LabelJudgement, judge_of
from recbole_sigma.grounding.cooccurrence import transitions
from recbole_sigma.machine.clock import cpu_seconds

_TRAINED = (
    "best_valid_result", "best_epoch", "history", "parameters", "versions", "peak_memory", "machine",
)  # fmt: skip


def train(plan: Plan, training: Training, folder: RunFolder) -> tuple[dict[str, Any], Judged | None]:
    """Train, unless the folder has the weights; a training that was interrupted goes on where it stopped.

    Returns:
        (the training's record, what its own test judgement gave, or None when nothing was trained now).
    """
    from recbole_sigma.quick_start import run

    found = folder.training(training.key)
    if found is not None:
        return found[0], None
    work = folder.work_path(training.key)
    values = {**training.values, "checkpoint_dir": str(work), "resume": True}
    before = supervised(plan, training, folder)
    if before is not None:
        values["policy_from"] = str(before[1])
    result = run(training.model, plan.dataset, plan.files, values, arguments=plan.words)
    judged = Judged(result["test"], result["protocol"], result["loaders"].train, result["memory_weight"])
    # what a policy stage goes on from belongs to its training, whoever did it
    first = result.get("supervised", {}) if before is None else before[0]
    record = {
        "created": now(),
        "model": training.model,
        "seed": training.seed,
        "config": training.config,
        **{key: result[key] for key in _TRAINED},
        "history": [*first.get("history", []), *result["history"]],
        "seconds": whole_seconds(result)
        if before is None
        else both(before[0]["seconds"], whole_seconds(result)),
        "commit": commit(),
    }
    folder.write_training(training.key, record, result["checkpoint"])
    return record, judged


def supervised(plan: Plan, training: Training, folder: RunFolder) -> tuple[dict[str, Any], Path] | None:
    """(record, checkpoint) of the finished training of this table that a policy stage goes on from, or None.

    That is the training with the same settings but for the policy keys, which would be repeated otherwise.
    """
    if training.config.get("policy", "none") == "none" or training.config["policy_from"] is not None:
        return None

    def rest(config: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in config.items() if not key.startswith("policy")}

    for other in plan.trainings:
        if other.config.get("policy") == "none" and rest(other.config) == rest(training.config):
            return folder.training(other.key)
    return None


def both(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Seconds of two trainings of which one goes on from the other."""
    summed = {name: first.get(name, 0.0) + value for name, value in second.items() if name != "continued"}
    return {**summed, "continued": bool(first.get("continued") or second.get("continued"))}


def whole_seconds(result: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a training, those of an interrupted process before this one included.

    What an interrupted process spent is known from the epochs that it finished.
    """
    seconds = dict(result["seconds"])
    epochs = result["history"]
    cpu = sum(e.get("train_cpu_seconds", 0.0) + e.get("valid_cpu_seconds", 0.0) for e in epochs)
    wall = sum(e.get("train_seconds", 0.0) + (e.get("valid_seconds") or 0.0) for e in epochs)
    seconds["continued"] = cpu > seconds["cpu_train"] + 0.5
    if seconds["continued"]:
        seconds["cpu"] += cpu - seconds["cpu_train"]
        seconds["total"] += max(0.0, wall - seconds["train"])
        seconds["cpu_train"], seconds["train"] = cpu, max(wall, seconds["train"])
    return seconds


class Judged:
    """A judgement with what the record of a cell takes from the training data.

    Args:
        judgement: the test judgement.
        protocol: the protocol it was made under.
        train: the train loader.
        memory_weight: weight of the collaborative memory, 0 or None for none.
        valid: metrics on validation under the same settings; None is those of the training.
        seconds: CPU and wall seconds of a judgement apart from the training; None is the training's own test.
    """

    def __init__(
        self,
        judgement: Judgement | LabelJudgement,
        protocol: dict[str, Any],
        train: Any,
        memory_weight: float | None,
        valid: dict[str, float] | None = None,
        seconds: dict[str, float] | None = None,
    ) -> None:
        self.judgement, self.protocol, self.valid, self.seconds = judgement, protocol, valid, seconds
        self.memory_weight = memory_weight
        self.places: dict[str, Any] = {}
        self.diversity: float | None = None
        if isinstance(judgement, LabelJudgement):
            self.places["rows"] = judgement.rows()
        else:
            self._look_up(judgement, train)

    def _look_up(self, judgement: Judgement, train: Any) -> None:
        """How often train holds the targets of ranked lists, and the steps to them."""
        events = train._dataset.train_events()
        count = np.bincount(events.items.numpy(), minlength=train._dataset.item_num)
        users, items = events.sequences()
        moves = transitions(users, items, train._dataset.item_num)
        # copies, since scipy wants to write into the arrays that it indexes by
        pairs = moves[judgement.last.copy(), judgement.targets.copy()]
        self.places["places"] = {
            "users": judgement.users.tolist(),
            "targets": judgement.targets.tolist(),
            "places": judgement.places.tolist(),
            "lists": len(judgement.lists),
            "train_counts": count[judgement.targets].tolist(),
            "lengths": judgement.lengths.tolist(),
            "pair_counts": np.asarray(pairs).ravel().astype(np.int64).tolist(),
        }
        if judgement.gates is not None:
            self.places["places"]["gates"] = [float(f"{gate:.4g}") for gate in judgement.gates.tolist()]
        self.diversity = intra_list_distance(judgement.lists[:, :10], events, train._dataset.item_num)


def judge_again(
    cell: Cell, trained: dict[str, Any], folder: RunFolder, training: Training, plan: Plan
) -> Judged:
    """Judge a training's weights under another cell's settings, on validation and on test."""
    from recbole_sigma.quick_start import load_data_and_model
    from recbole_sigma.run.config import RunConfig

    wall, cpu = time.perf_counter(), cpu_seconds()
    differing = {key: value for key, value in cell.config.items() if trained["config"].get(key) != value}
    here = RunConfig(training.model, plan.dataset, plan.files, training.values, plan.words).requested
    places = {
        key: here[key] for key in ("data_path", "artifact_dir", "log_dir", "gpu_id", "use_gpu") if key in here
    }
    # the checkpoint keeps the memory weight that its training chose, as a fixed one
    memory = {key: cell.config[key] for key in MEMORY if key in cell.config}
    config, model, _, train_data, valid_data, test_data = load_data_and_model(
        str(folder.checkpoint_path(training.key)), {**places, **differing, **memory}
    )
    judge = judge_of(config)
    judge.collector.data_collect(train_data)
    if config["memory"] == "validation":
        judge.choose_memory_weight(model, valid_data)
    valid = judge.judge(model, valid_data).metrics
    test = judge.judge(model, test_data, progress=bool(here["show_progress"]), label="Test")
    seconds = {"total": time.perf_counter() - wall, "cpu": cpu_seconds() - cpu, "test": test.seconds}
    return Judged(test, config.protocol(), train_data, judge.memory.weight, dict(valid), seconds)


def cell_record(cell: Cell, training: Training, trained: dict[str, Any], judged: Judged) -> dict[str, Any]:
    """Everything about one finished cell as plain values, with the place of every target."""
    test = judged.judgement
    row = cell.row
    return {
        "format": FORMAT,
        "key": cell.key,
        "training": training.key,
        "created": now(),
        "row": {
            "name": row.name,
            "base": row.base,
            "values": row.values,
            "why": row.why,
            "source": row.source,
        },
        "model": row.base,
        "dataset": cell.config["dataset"],
        "seed": cell.seed,
        "filter_seen": cell.filter_seen,
        "protocol": judged.protocol,
        "config": cell.config,
        "test_result": dict(test.metrics),
        "valid_result": judged.valid if judged.valid is not None else trained["best_valid_result"],
        "intra_list_distance@10": judged.diversity,
        "memory_weight": judged.memory_weight,
        "unreachable_targets": test.unreachable,
        **judged.places,
        **{
            key: trained[key]
            for key in ("history", "best_epoch", "parameters", "versions", "seconds", "peak_memory")
        },
        "judging_seconds": judged.seconds,
        "weights": _weights(cell, trained, judged),
        "commit": commit(),
        "machine": trained["machine"],
    }


def _weights(cell: Cell, trained: dict[str, Any], judged: Judged) -> dict[str, Any]:
    """Which weights a cell was judged with: ``shared`` is None, ``policy`` or ``decoding``."""
    read = without(cell.config, unread(cell.config) & unread(trained["config"]))
    differing = [key for key, value in read.items() if trained["config"].get(key) != value]
    picked = {key: trained["config"].get(key) for key in differing}
    shared = None
    if differing:
        shared = "policy" if set(differing) == {"filter_seen"} else "decoding"
    return {
        "shared": shared,
        "trained_and_epoch_picked_with": picked,
        "judged_alone": judged.seconds is not None,
    }


# --- where and when ---


def now() -> str:
    """The time, to the millisecond, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def commit() -> str | None:
    """The checkout's commit, with ``+changes`` when files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    head = git("rev-parse", "HEAD")
    return f"{head}+changes" if head and git("status", "--porcelain") else head
