"""What a change is worth: CPU seconds of this checkout and of another one, in turns.

    git worktree add ../before 0e085d0
    python benchmarks/against.py ../before --model PackedSASRec --dataset ml-100k [--key=value ...]
    python benchmarks/against.py ../before --part grounding --dataset ml-100k
    python benchmarks/against.py ../before --part ranking --model SIGMA --before="--key=value ..." --now="..."

Each checkout has a process of its own with one thread, which loads and prepares once and then waits for its
turns, so that both meet the same moments of a busy machine. A turn of ``training`` is a few steps, one of
``ranking`` the validation of an epoch, with fresh weights,
one of ``grounding`` all steps of the alignment from fresh weights. ``--before`` and ``--now`` take keys that
only one checkout reads: keys get new names. Both keep freed memory, as the command line does.
Prints what each does per CPU-second, median and best turn, and the ratios.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parents[1]
Turn = Callable[[], float]  # works and says how much was done


def found(*places: str) -> Any:
    """A name of the package, at the first of its places that this checkout has: files move."""
    for place in places:
        module, _, name = place.rpartition(".")
        try:
            return getattr(import_module(f"recbole_sigma.{module}"), name)
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"this checkout has none of {', '.join(places)}")


def trainer_of(config: Any, data: Any) -> Any:
    """A trainer with a fresh model."""
    model = found("quick_start.build_model")(config, config.model_class, data.train)
    trainer = found("quick_start.build_trainer")(config, model)
    torch.autograd.set_detect_anomaly(False)  # RecBole switches it on; `trainer.fit` off again
    return trainer


def training(words: argparse.Namespace, config: Any, data: Any) -> Turn:
    """Training steps: the batch, loss, gradients, clipping, optimizer; counts the items that they predict."""
    trainer = trainer_of(config, data)
    model = trainer.model
    model.on_epoch_start(0, data.train)
    model.train()
    batches = itertools.chain.from_iterable(data.train for _ in itertools.count())

    def turn() -> float:
        predictions = 0.0
        for batch in itertools.islice(batches, words.steps):
            trainer.optimizer.zero_grad()
            loss = model.calculate_loss(batch)
            (sum(loss) if isinstance(loss, tuple) else loss).backward()
            if trainer.clip_grad_norm:
                torch.nn.utils.clip_grad_norm_(model.parameters(), **trainer.clip_grad_norm)
            trainer.optimizer.step()
            predictions += float(batch[config["ITEM_LIST_LENGTH_FIELD"]].sum())
        return predictions

    return turn


def grounding(words: argparse.Namespace, config: Any, data: Any) -> Turn:
    """The steps of the alignment, from fresh weights."""

    def stage(name: str) -> Any:
        return found(f"grounding.ground.{name}", f"grounding.stage.{name}")

    options = found("preparation.items.PreparationOptions", "preparation.PreparationOptions")
    how, train = options.from_config(config).grounding, data.train._dataset
    sources_of = found("preparation.items.item_sources", "preparation.item_sources")
    try:
        sources = sources_of(train, config, how.views)
    except AttributeError:  # it read all options once
        sources = sources_of(train, config, options.from_config(config))
    users, items = train.train_events().sequences()
    counts = stage("windowed_cooccurrence")(users, items, len(sources.texts), 10)
    teacher = stage("ppmi_svd")(counts, how.teacher_dim, how.seed)
    views, align = stage("mine_views")(users, items, sources, how), stage("align")
    tower = stage("build_tower")(sources.texts, how)

    def turn() -> float:
        align(copy.deepcopy(tower), teacher, views, how.alignment)
        return how.alignment.steps

    return turn


def ranking(words: argparse.Namespace, config: Any, data: Any) -> Turn:
    """The validation of an epoch; counts users."""
    trainer = trainer_of(config, data)

    def turn() -> float:
        trainer.model.train()  # forget what was kept for lists, as an epoch of training does
        trainer.evaluate(data.valid, load_best_model=False)
        return float(len(data.valid._dataset))

    return turn


PARTS = {
    "training": (training, "predictions"),
    "ranking": (ranking, "users"),
    "grounding": (grounding, "steps"),
}


def work(words: argparse.Namespace, overrides: list[str]) -> None:
    """One checkout's process: a turn for every line that is read, its CPU seconds as a line."""
    torch.set_num_threads(1)
    found("_compat.keep_freed_memory")()
    torch.manual_seed(0)
    model = "SIGMA" if words.part == "grounding" else words.model
    values = {"show_progress": False, "state": "ERROR"}
    config = found("run.config.RunConfig", "config.SigmaConfig")(
        model, words.dataset, None, values, overrides
    )
    data = found("run.loaders.load_data", "quick_start.load_data")(config, config.model_class)
    turn = PARTS[words.part][0](words, config, data)
    print("speed 0", flush=True)  # ready
    for _ in sys.stdin:
        begin = time.process_time()
        done = turn()
        print("speed", done / (time.process_time() - begin), flush=True)


def start(folder: Path, keys: str) -> subprocess.Popen[str]:
    """The process of one checkout, with the keys that it alone reads."""
    return subprocess.Popen(
        [sys.executable, __file__, *sys.argv[1:], *shlex.split(keys), "--work"],
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def speed(process: subprocess.Popen[str]) -> float:
    """The next figure of a process; what else it prints is passed over."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("speed "):
            return float(line.removeprefix("speed "))
    raise SystemExit("a process ended before its turns did: its error stands above")


def take_turn(process: subprocess.Popen[str]) -> float:
    """What a process does per CPU-second, this time."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return speed(process)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("against", type=Path, help="folder of the other checkout")
    parser.add_argument("--part", choices=PARTS, default="training")
    parser.add_argument("--model", default="PackedSASRec")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--steps", type=int, default=10, help="training steps of a turn")
    parser.add_argument("--turns", type=int, default=5, help="timed turns after a first one")
    parser.add_argument("--before", default="", help="keys of the other checkout alone")
    parser.add_argument("--now", default="", help="keys of this one alone")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    words, overrides = parser.parse_known_args()
    if words.work:
        work(words, overrides)
        return
    processes = {}
    checkouts = {"before": (words.against.resolve(), words.before), "now": (HERE, words.now)}
    for name, (folder, keys) in checkouts.items():
        processes[name] = start(folder, keys)
        speed(processes[name])  # not both at once: it is ready
    speeds: dict[str, list[float]] = {name: [] for name in processes}
    for turn in range(words.turns + 1):
        for name, process in processes.items():
            reached = take_turn(process)
            if turn:
                speeds[name].append(reached)
    for process in processes.values():
        process.communicate()
    unit = PARTS[words.part][1]
    for name, each in speeds.items():
        print(f"{name}: median {statistics.median(each):,.1f}, best {max(each):,.1f} {unit} per CPU-second")
    middle, best = (how(speeds["now"]) / how(speeds["before"]) for how in (statistics.median, max))
    print(f"{words.part} on {words.dataset}: {middle:.2f} times by medians, {best:.2f} by the best turns")


if __name__ == "__main__":
    main()
