"""Time and peak memory of every stage at growing sizes, each stage in a process of its own.

The data is synthetic and streamed to disk: as many users as items, eight events each, item popularity by a
power law, users staying in neighbourhoods of the catalogue so that co-occurrence has structure. Command:

    python benchmarks/scale.py --sizes=10000,100000

A growth exponent b means that doubling the catalogue multiplies the cost by 2 ** b.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

EVENTS_PER_USER = 8
JUDGED_USERS = 10_000
STEPS = 5
Stage = Callable[[Path, int], None]


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


def config_of(folder: Path, size: int, **more: object) -> object:
    """The config of SIGMA on the synthetic data."""
    from recbole_sigma.config import SigmaConfig

    values = {
        "data_path": str(folder),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]},
        "text_fields": ["title"],
        "show_progress": False,
        "state": "ERROR",
        "artifact_dir": str(folder / f"artifacts-{size}"),
        "sigma_negatives": 64,
        "grounding_steps": 50,  # a fixed number of steps, whatever the size: 400 by default
        **more,
    }
    return SigmaConfig("SIGMA", "scale", config_dict=values)


def adapters(folder: Path, size: int) -> None:
    """Raw ratings to atomic files, through the converter of MovieLens-like logs."""
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
    assert main([*words, "--output", str(folder / "converted"), "--overwrite"]) == 0


def loading(folder: Path, size: int) -> None:
    """Atomic files to split, packed rows; leaves the train events for the stages of grounding."""
    from recbole_sigma.quick_start import load_data

    config = config_of(folder, size)
    data = load_data(config, config.model_class)
    events = data.train._dataset.train_events()
    order, _ = events.by_user
    np.savez(
        folder / "events.npz",
        users=events.users[order].numpy(),
        items=events.items[order].numpy(),
        n=data.dataset.item_num,
    )


def cooccurrence(folder: Path, size: int) -> None:
    """Windowed counts of the teacher."""
    import scipy.sparse as sp

    from recbole_sigma.grounding.cooccurrence import windowed_cooccurrence

    events = np.load(folder / "events.npz")
    counts = windowed_cooccurrence(events["users"], events["items"], int(events["n"]), 10)
    sp.save_npz(folder / "counts.npz", counts, compressed=False)


def teacher(folder: Path, size: int) -> None:
    """Truncated SVD of the PPMI matrix."""
    import scipy.sparse as sp

    from recbole_sigma.grounding.cooccurrence import ppmi_svd

    np.save(folder / "vectors.npy", ppmi_svd(sp.load_npz(folder / "counts.npz"), 64, 0))


def quantizer(folder: Path, size: int) -> None:
    """Residual k-means of three levels, 256 codes each."""
    from recbole_sigma.tokenization.quantizers import rq_kmeans

    codes, _ = rq_kmeans(np.load(folder / "vectors.npy")[1:], (256, 256, 256), 0)
    np.save(folder / "codes.npy", codes)


def trie(folder: Path, size: int) -> None:
    """The CSR trie over de-duplicated codes."""
    import torch

    from recbole_sigma.tokenization.trie import build_trie, deduplicate

    codes, extra = deduplicate(torch.from_numpy(np.load(folder / "codes.npy")))
    build_trie(codes, (256, 256, 256, extra), torch.arange(1, len(codes) + 1))


def preparation(folder: Path, size: int) -> None:
    """All of SIGMA's item preparation, cached for the next stages."""
    from recbole_sigma.preparation import prepare
    from recbole_sigma.quick_start import load_data

    config = config_of(folder, size)
    data = load_data(config, config.model_class)
    prepare(data.train._dataset, config)


def training(folder: Path, size: int) -> None:
    """Five optimizer steps of SIGMA on packed rows, the set-up included."""
    import itertools

    from recbole_sigma.quick_start import build_model, build_trainer, load_data

    config = config_of(folder, size, sigma_catalogue_weight=0.0, sigma_prefix_pooling=False)
    data = load_data(config, config.model_class)
    model = build_model(config, config.model_class, data.train)
    trainer = build_trainer(config, model)
    model.train()
    for batch in itertools.islice(iter(data.train), STEPS):
        trainer.optimizer.zero_grad()
        sum(model.calculate_loss(batch)).backward()
        trainer.optimizer.step()


def evaluation(folder: Path, size: int) -> None:
    """Ranking the catalogue for 10,000 users, through the judge; the set-up included."""
    import torch

    from recbole_sigma.quick_start import Judge, build_model, load_data

    config = config_of(folder, size, decode_beam=20, sigma_prefix_pooling=False)
    data = load_data(config, config.model_class)
    model = build_model(config, config.model_class, data.train)
    judge = Judge(config)
    judge.collector.data_collect(data.train)
    loader = data.test
    seen = 0
    model.eval()
    with torch.no_grad():
        for interaction, *_ in loader:
            judge.rank(model, interaction, data.dataset.item_num, None, loader)
            seen += len(interaction)
            if seen >= JUDGED_USERS:
                break


STAGES: dict[str, Stage] = {
    "adapters": adapters,
    "loading and split": loading,
    "co-occurrence": cooccurrence,
    "teacher (SVD)": teacher,
    "RQ-KMeans": quantizer,
    "trie": trie,
    "item preparation, whole": preparation,
    "5 training steps": training,
    "ranking 10,000 users": evaluation,
}


def measure(stage: str, folder: Path, size: int) -> dict[str, float]:
    """CPU seconds and peak memory of a stage in a process of its own, less those of an empty one."""
    command = [sys.executable, __file__, "--run", stage, "--folder", str(folder), "--size", str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{stage} at {size:,} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_stage(stage: str, folder: Path, size: int) -> None:
    """Run a stage here and print what it took."""
    import torch

    import recbole_sigma.quick_start  # noqa: F401  imports are not part of the stage

    torch.set_num_threads(1)
    wall, cpu = time.perf_counter(), time.process_time()
    STAGES[stage](folder, size)
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    took = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak_mb": usage}
    print("\n" + json.dumps(took))


def table(found: dict[str, dict[int, dict[str, float]]], sizes: list[int]) -> str:
    """Markdown: CPU seconds and peak memory per size, growth exponents from the last two sizes."""
    head = [
        "stage",
        *(f"{n:,}: CPU s" for n in sizes),
        "growth",
        *(f"{n:,}: peak MB" for n in sizes),
        "growth",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for stage, by_size in found.items():
        cells = [stage]
        for key, form in (("cpu", "{:.1f}"), ("peak_mb", "{:,.0f}")):
            values = [by_size[n][key] for n in sizes]
            cells += [form.format(value) for value in values]
            cells.append(f"{exponent(sizes, values):.2f}" if len(sizes) > 1 else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def exponent(sizes: list[int], values: list[float]) -> float:
    """Slope between the last two sizes on logarithmic axes."""
    return math.log(max(values[-1], 1e-3) / max(values[-2], 1e-3)) / math.log(sizes[-1] / sizes[-2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="10000,100000", help="items (and users), separated by commas")
    parser.add_argument("--stages", default=",".join(STAGES), help="which stages, separated by commas")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.run:
        run_stage(words.run, Path(words.folder), words.size)
        return
    sizes = [int(size) for size in words.sizes.split(",")]
    # a stage's name may hold a comma
    chosen = [stage for stage in STAGES if stage in words.stages]
    found: dict[str, dict[int, dict[str, float]]] = {stage: {} for stage in chosen}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="scale-") as temporary:
            folder = Path(temporary)
            write_dataset(folder, size)
            for stage in chosen:
                found[stage][size] = measure(stage, folder, size)
                print(f"{size:,} {stage}: {found[stage][size]}", file=sys.stderr, flush=True)
    print(table(found, sizes))


if __name__ == "__main__":
    main()
