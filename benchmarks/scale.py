"""Time and peak memory of every stage at growing sizes, on synthetic data that is streamed to disk.

As many users as items, eight events each, item popularity by a power law, users staying in neighbourhoods of
the catalogue so that co-occurrence has structure. Command:

    python benchmarks/scale.py --sizes=10000,100000,1000000 --results=scale.json

Results are kept in the file after every stage; the same command goes on with the sizes that it lacks. The
adapter runs in a process of its own; all that follows runs in one, as it does in training, so its peaks
include the data and the model that are held. A process that would take more than 16 GiB fails.

A growth exponent b means that doubling the catalogue multiplies the cost by 2 ** b.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

EVENTS_PER_USER = 8
JUDGED_USERS = 10_000
STEPS = 5
ALIGNMENT_STEPS = 50
LIMIT_BYTES = 16 << 30

# What a catalogue of any size can be trained with: no term over all items of the catalogue per prediction, a
# codebook that does not grow, two codes as prefix, and a beam of them searched instead of every prefix.
SETTINGS: dict[str, Any] = {
    "sigma_objective": "paper",
    "tokenizer_codebook_size": 256,
    "tokenizer_prefix_length": 2,
    "decode_beam": 20,
    "grounding_steps": ALIGNMENT_STEPS,
}


def settings_of(folder: Path) -> dict[str, Any]:
    """Where the data of `write_dataset` lie and how they are read; nothing is printed."""
    return {
        "data_path": str(folder),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]},
        "text_fields": ["title"],
        "show_progress": False,
        "state": "ERROR",
        "artifact_dir": str(folder / "artifacts"),
        "checkpoint_dir": str(folder / "saved"),
    }


def write_dataset(folder: Path, size: int) -> None:
    """Atomic files of ``size`` users and items, a block of users at a time."""
    name = folder / "scale"
    name.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (name / "scale.inter").open("w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for start in range(0, size, 100_000):
            users = np.arange(start, min(start + 100_000, size))
            centre = (size * rng.random(len(users)) ** 2).astype(np.int64)
            steps = rng.integers(-50, 51, size=(len(users), EVENTS_PER_USER))
            items = np.clip(centre[:, None] + steps, 0, size - 1)
            times = 1_000_000_000 + 100 * np.arange(EVENTS_PER_USER)
            for user, row in zip(users.tolist(), items.tolist(), strict=True):
                file.writelines(
                    f"u{user}\ti{item}\t{t}\n" for item, t in zip(row, times.tolist(), strict=True)
                )
    with (name / "scale.item").open("w") as file:
        file.write("item_id:token\ttitle:token_seq\n")
        file.writelines(f"i{item}\tthing {item % 997} of kind {item // 100}\n" for item in range(size))


class Meter:
    """CPU seconds and peak memory of nested stages; a stage that comes more than once adds up."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}
        self._outer: list[float] = []

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        if self._outer:
            self._outer[-1] = max(self._outer[-1], peak_mb())
        forget_peak()
        self._outer.append(0.0)
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        took = self.found.setdefault(stage, {"seconds": 0.0, "cpu": 0.0, "peak_mb": 0.0})
        took["seconds"] += time.perf_counter() - wall
        took["cpu"] += time.process_time() - cpu
        peak = max(self._outer.pop(), peak_mb())
        took["peak_mb"] = max(took["peak_mb"], peak)
        if self._outer:
            self._outer[-1] = max(self._outer[-1], peak)
        forget_peak()
        print("stage " + json.dumps({stage: took}), flush=True)

    def around(self, owner: Any, name: str, stage: str) -> None:
        """Measure a function of a module wherever the module calls it."""
        real = getattr(owner, name)

        def measured(*args: Any, **kwargs: Any) -> Any:
            with self(stage):
                return real(*args, **kwargs)

        setattr(owner, name, measured)


def peak_mb() -> float:
    """Largest resident size since `forget_peak`, in MB."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def forget_peak() -> None:
    """Let the kernel count the peak from here on."""
    Path("/proc/self/clear_refs").write_text("5")


def adapters(folder: Path, size: int, meter: Meter) -> None:
    """Raw ratings to atomic files, through the converter of Amazon's reviews."""
    from dataset_adapters.cli import main

    raw = folder / "reviews.json"
    with raw.open("w") as file, (folder / "scale" / "scale.inter").open() as events:
        next(events)
        for line in events:
            user, item, moment = line.split()
            file.write(
                f'{{"reviewerID": "{user}", "asin": "{item}", "overall": 5.0, "unixReviewTime": {moment}}}\n'
            )
    words = ["convert", "amazon2014", "--reviews", str(raw), "--k-core", "2"]
    with meter("adapters"):
        assert main([*words, "--output", str(folder / "converted"), "--overwrite"]) == 0


def pipeline(folder: Path, size: int, meter: Meter) -> None:
    """Atomic files to ranked lists: load, prepare the items, train a few steps, rank."""
    import torch

    from recbole_sigma.grounding import ground as stage
    from recbole_sigma.models.sigma import build
    from recbole_sigma.models.sigma import model as sigma
    from recbole_sigma.preparation import items as preparation
    from recbole_sigma.quick_start import Judge, build_model, build_trainer
    from recbole_sigma.run.config import RunConfig
    from recbole_sigma.run.loaders import load_data

    meter.around(stage, "windowed_cooccurrence", "co-occurrence, two windows")
    meter.around(stage, "ppmi_svd", "teacher (SVD)")
    meter.around(stage, "build_tower", "text vectors (TF-IDF, SVD)")
    meter.around(stage, "align", f"alignment, {ALIGNMENT_STEPS} steps")
    meter.around(preparation, "tokenize", "RQ-KMeans")
    meter.around(preparation, "train_bpe", "BPE tokenizer")
    meter.around(build, "build_catalogue", "trie")
    meter.around(sigma, "prepare", "item preparation, whole")
    config = RunConfig("SIGMA", "scale", config_dict={**settings_of(folder), **SETTINGS})
    with meter("loading and split"):
        data = load_data(config, config.model_class)
    with meter("model, items and trie included"):
        model = build_model(config, config.model_class, data.train)
    trainer = build_trainer(config, model)
    model.train()
    batches = iter(data.train)
    for stage_name, steps in (("first training step", 1), (f"{STEPS} more training steps", STEPS)):
        with meter(stage_name):
            for batch in itertools.islice(batches, steps):
                trainer.optimizer.zero_grad()
                sum(model.calculate_loss(batch)).backward()
                trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    judge, seen = Judge(config), 0
    judge.collector.data_collect(data.train)
    model.eval()
    with meter(f"ranking {JUDGED_USERS:,} users"), torch.no_grad():
        for interaction, *_ in data.test:
            judge.rank(model, interaction, data.dataset.item_num, None, data.test)
            seen += len(interaction)
            if seen >= JUDGED_USERS:
                break


PROCESSES: dict[str, Callable[[Path, int, Meter], None]] = {"adapters": adapters, "pipeline": pipeline}


def measure(process: str, folder: Path, size: int, limit: float) -> dict[str, dict[str, float]]:
    """What a process measured; stages that it did not come to are missing, with a word on stderr."""
    command = [sys.executable, __file__, "--run", process, "--folder", str(folder), "--size", str(size)]
    log = folder / f"{process}.log"
    with log.open("w") as output:
        try:
            done = subprocess.run(command, stdout=output, stderr=output, timeout=limit, check=False)
            ended = "" if done.returncode == 0 else f"ended with exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            ended = f"was stopped after {limit:.0f} s"
    text = log.read_text(errors="replace")
    if ended:
        print(f"{process} at {size:,} {ended}:\n{text[-2000:]}", file=sys.stderr, flush=True)
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        if line.startswith("stage "):
            found |= json.loads(line.removeprefix("stage "))
    return found


def run_process(process: str, folder: Path, size: int) -> None:
    """Run stages here; each prints what it took."""
    import torch

    import recbole_sigma.quick_start  # noqa: F401  imports are not part of a stage

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
    PROCESSES[process](folder, size, Meter())


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: CPU seconds and peak memory per size, growth exponents between neighbouring sizes."""
    sizes = sorted(found, key=int)
    stages = list(dict.fromkeys(stage for size in sizes for stage in found[size]))
    head = ["stage"]
    for key in ("CPU s", "peak MB"):
        head += [f"{int(size):,}: {key}" for size in sizes] + ["growth"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for stage in stages:
        cells = [stage]
        for key, form in (("cpu", "{:.1f}"), ("peak_mb", "{:,.0f}")):
            values = [found[size].get(stage, {}).get(key) for size in sizes]
            cells += ["not finished" if value is None else form.format(value) for value in values]
            pairs = zip(
                zip(sizes, values, strict=True), zip(sizes[1:], values[1:], strict=True), strict=False
            )
            cells.append(", ".join(exponent(*low, *high) for low, high in pairs))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def exponent(size: str, cost: float | None, larger: str, more: float | None) -> str:
    """Slope on logarithmic axes."""
    if not cost or not more:
        return "-"
    return f"{math.log(more / cost) / math.log(int(larger) / int(size)):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="10000,100000", help="items (and users), separated by commas")
    parser.add_argument("--results", default="scale.json", help="file that keeps what was measured")
    parser.add_argument("--limit", type=float, default=7200.0, help="seconds for a process at one size")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.run:
        run_process(words.run, Path(words.folder), words.size)
        return
    results = Path(words.results)
    found = json.loads(results.read_text()) if results.is_file() else {}
    for size in words.sizes.split(","):
        if size in found:
            continue
        with tempfile.TemporaryDirectory(prefix="scale-") as temporary:
            folder = Path(temporary)
            write_dataset(folder, int(size))
            measured: dict[str, dict[str, float]] = {}
            for process in PROCESSES:
                measured |= measure(process, folder, int(size), words.limit)
                results.write_text(json.dumps({**found, size: measured}, indent=1))
            found[size] = measured
    print(table(found))


if __name__ == "__main__":
    main()
