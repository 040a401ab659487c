"""Constrained decoding against transformers' ``generate``: speed, growth, memory, exactness.

Compared in one process, interleaved, medians and minima of process CPU time, one torch thread:

    (a)   generate + prefix_allowed_tokens_fn over a nested-dict trie, kind to the peers: no EOS step, no text
    (b)   generate + a logits processor over a tensor trie
    (c)   recbole_sigma; causal LMs as unmodified transformers models
    bare  the forward passes of (c), model head included, with recorded tokens and no search
    dot   on the hybrid task: the same trunk as a plain dot-product recommender

``hybrid`` is one prefix code and one item token over the T5, with an exact softmax inside every prefix.

Every allocator setting runs in a process of its own: ``default``, and ``tuned`` with the variables of
``TUNED``, which spare (a) most of its page faults and give the fairer ratio. Weights are random: cost does
not depend on them. The targets printed at the end are those of the project's measurements; on a busy machine
allow 25 %.

    python benchmarks/decoding.py --quick
    python benchmarks/decoding.py --models t5,llama4,135m,hybrid --items 1700,12000,100000,1000000 \\
        --output decoding.json
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from tabulate import tabulate  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from benchmarks.decoding_cases import (  # noqa: E402
    PROMPT,
    Case,
    Catalogue,
    HybridCase,
    build_model,
    cpu_seconds,
    nested_dict,
)
from recbole_sigma.tokenization.trie import build_trie  # noqa: E402

TUNED = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31)}
BATCH = {"t5": 8, "llama4": 4, "135m": 1}
MEMORY = ["--worker", "memory", "--items", "12000", "--beams", "50"]


def time_case(case: Case | HybridCase, items: int, repeats: int, peers: bool) -> dict[str, Any]:
    """Median CPU time per user of every method, interleaved, after one warm-up each."""
    methods = {name: run for name, run in case.methods.items() if peers or name not in ("a", "b")}
    row: dict[str, Any] = {"model": case.name, "items": items, "beam": case.beam, "batch": case.batch}
    if peers:
        row["same_rank_share"] = case.agreement()
    for run in methods.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, run in methods.items():
            inner = 1 if name in ("a", "b") else 3
            seconds[name] += [cpu_seconds(run) for _ in range(inner)]
    median = {name: statistics.median(values) for name, values in seconds.items()}
    least = {name: min(values) for name, values in seconds.items()}  # what a busy machine disturbs least
    row["ms_per_user"] = {name: 1000 * value / case.batch for name, value in median.items()}
    row["least_ms_per_user"] = {name: 1000 * value / case.batch for name, value in least.items()}
    row["spread"] = {name: (max(v) - min(v)) / statistics.median(v) for name, v in seconds.items()}
    row |= {f"{name}_over_c": value / median["c"] for name, value in median.items() if name in ("a", "b")}
    row |= {f"c_over_{name}": median["c"] / median[name] for name in ("bare", "dot") if name in median}
    row |= {f"least_{n}_over_c": least[n] / least["c"] for n in ("a", "b") if n in least}
    row["least_c_over_bare"] = least["c"] / least["bare"]
    return row


def time_tries(items: list[int], with_dict: bool) -> list[dict[str, Any]]:
    rows = []
    for count in items:
        codes, sizes = (c := Catalogue(count)).codes, c.sizes
        seconds = statistics.median(
            cpu_seconds(lambda codes=codes, sizes=sizes: build_trie(codes, sizes)) for _ in range(3)
        )
        dense = build_trie(codes, sizes, dense_cells=2**24)
        row = {
            "items": count,
            "build_s": seconds,
            "mb": c.trie.nbytes / 1e6,
            "mb_with_dense": dense.nbytes / 1e6,
        }
        if with_dict:
            row["dict_build_s"] = cpu_seconds(lambda c=c: nested_dict(c, 0))
        rows.append(row)
    return rows


def peak_memory(name: str, method: str, items: int, beam: int) -> float:
    """Peak resident megabytes above the loaded model, in this (fresh) process."""
    catalogue = Catalogue(items)
    model, offset = build_model(name, sum(catalogue.sizes))
    case = Case(name, model, offset, catalogue, beam, 8)
    # One user first, so that one-time costs (thread pools, kernels, the model's probe) do not count as
    # decoding.
    small = Case(name, model, offset, catalogue, 2, 1)
    small.k = 2
    (small.ours if method == "c" else small.generate_dict)()
    case.dict_trie = small.dict_trie
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    (case.ours if method == "c" else case.generate_dict)()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"{key} is not in /proc/self/status: memory is measured on Linux only")


def time_growth(small: Case | HybridCase, large: Case | HybridCase, repeats: int) -> float:
    """CPU time of (c) on a large catalogue over that on a small one, interleaved."""
    small.ours(), large.ours()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(3 * repeats):
        for case, times in zip((small, large), seconds, strict=True):
            times.append(cpu_seconds(case.ours))
    return statistics.median(seconds[1]) / statistics.median(seconds[0])


def profile_search(options: argparse.Namespace) -> str:
    """Where the time of (c) goes, by operator, next to the bare forwards: says why a target was missed."""
    parts = []
    for name in options.models:
        for items in options.items:
            for beam in options.beams:
                case: Case | HybridCase
                if name == "hybrid":
                    case = HybridCase(items, beam, 8)
                else:
                    catalogue = Catalogue(items)
                    model, offset = build_model(name, sum(catalogue.sizes))
                    case = Case(name, model, offset, catalogue, beam, BATCH[name])
                    case.record()
                for what, run in (("search", case.ours), ("bare forwards", case.bare)):
                    run()
                    with torch.profiler.profile() as trace:
                        run()
                    averages = trace.key_averages()
                    whole = sum(event.self_cpu_time_total for event in averages)
                    averages = sorted(averages, key=lambda event: -event.self_cpu_time_total)[:12]
                    rows = [(e.key, e.count, 100 * e.self_cpu_time_total / whole) for e in averages]
                    parts.append(f"{name}, {items} items, beam {beam}, {what}: {whole / 1000:.1f} ms\n")
                    parts.append(tabulate(rows, ["operator", "calls", "% of CPU"], "github", floatfmt=".1f"))
    return "\n".join(parts)


def run_worker(options: argparse.Namespace) -> dict[str, Any]:
    """All timings of one allocator setting."""
    rows, growth = [], {}
    alone = (1,) if options.alone else ()  # the batch of one user who waits

    def measure(case: Case | HybridCase, items: int, peers: bool) -> None:
        repeats = 1 if case.name == "135m" else options.repeats
        rows.append(time_case(case, items, repeats, peers))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)

    for name in options.models:
        widest: dict[int, Case | HybridCase] = {}
        for items in options.items:
            peers = items in options.peer_items
            if name == "hybrid":
                for beam in options.beams:
                    for batch in (8, *alone) if peers else ():
                        measure(HybridCase(items, beam, batch), items, True)
                    widest[items] = HybridCase(items, beam, 32)
                    measure(widest[items], items, False)
                continue
            catalogue = Catalogue(items)
            model, offset = build_model(name, sum(catalogue.sizes))
            for beam in options.beams:
                for batch in (*(alone if peers else ()), BATCH[name]):
                    case = Case(name, model, offset, catalogue, beam, batch)
                    case.record()
                    measure(case, items, peers)
                widest[items] = case
        if {12_000, 1_000_000} <= widest.keys():
            growth[name] = time_growth(widest[12_000], widest[1_000_000], options.repeats)
    return {"rows": rows, "growth": growth}


def spawn(arguments: list[str], allocator: str) -> dict[str, Any]:
    environment = {key: value for key, value in os.environ.items() if key not in TUNED}
    environment.update(OMP_NUM_THREADS="1", **(TUNED if allocator == "tuned" else {}))
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    out = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(out.stdout.splitlines()[-1])


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


RATIOS = (
    # model, allocator, items, beam, batch, key, bound, whether larger is better
    ("t5", "default", 12_000, 50, 8, "c_over_bare", 1.05, False),
    ("t5", "default", 1_000_000, 50, 8, "c_over_bare", 1.05, False),
    ("llama4", "default", 12_000, 50, 4, "c_over_bare", 1.05, False),
    ("llama4", "default", 1_000_000, 50, 4, "c_over_bare", 1.05, False),
    ("hybrid", "default", 12_000, 50, 8, "c_over_bare", 1.05, False),
    ("hybrid", "default", 12_000, 50, 32, "c_over_bare", 1.05, False),
    ("llama4", "default", 12_000, 50, 4, "a_over_c", 25, True),
    ("llama4", "tuned", 12_000, 50, 4, "a_over_c", 18, True),
    ("llama4", "default", 12_000, 20, 4, "a_over_c", 11, True),
    ("llama4", "tuned", 12_000, 20, 4, "a_over_c", 9.5, True),
    ("t5", "default", 12_000, 50, 8, "a_over_c", 10, True),
    ("t5", "tuned", 12_000, 50, 8, "a_over_c", 4.5, True),
    ("t5", "default", 12_000, 20, 8, "a_over_c", 4.5, True),
    ("t5", "tuned", 12_000, 20, 8, "a_over_c", 3.5, True),
    ("hybrid", "default", 12_000, 50, 8, "a_over_c", 20, True),
    ("hybrid", "tuned", 12_000, 50, 8, "a_over_c", 7, True),
    ("hybrid", "default", 12_000, 20, 8, "a_over_c", 5, True),
    ("hybrid", "tuned", 12_000, 20, 8, "a_over_c", 4.5, True),
    ("hybrid", "default", 1_700, 20, 32, "c_over_dot", 2.5, False),
    ("hybrid", "default", 12_000, 20, 32, "c_over_dot", 2.5, False),
)
GROWTH = {"t5": 1.10, "llama4": 1.10, "hybrid": 1.2}
TRIE_OF_A_MILLION = {"build_s": 0.2, "mb": 8, "mb_with_dense": 100}
PEAK_MB = {"t5": 100, "llama4": 50}


def verdicts(report: dict[str, Any]) -> list[tuple[str, float, float, bool]]:
    """(target, measured value, bound, whether larger is better) for every target that was measured."""
    found = []
    for model, allocator, items, beam, batch, key, bound, larger in RATIOS:
        for row in report["timings"].get(allocator, ()):
            same = (row["model"], row["items"], row["beam"], row["batch"]) == (model, items, beam, batch)
            if same and key in row:
                what = f"{model}, {items} items, beam {beam}, batch {batch}, {allocator}: "
                what += key.replace("_", " ")
                found.append((what, row[key], bound, larger))
    for model, value in report["growth"].get("default", {}).items():
        if model in GROWTH:
            found.append((f"{model}: growth 12k to 1M, largest beam", value, GROWTH[model], False))
    for row in report["tries"]:
        if row["items"] == 1_000_000:
            found += [
                (f"trie of 1M items: {key}", row[key], bound, False)
                for key, bound in TRIE_OF_A_MILLION.items()
            ]
    found += [(f"{m}: peak MB", sizes["c"], PEAK_MB[m], False) for m, sizes in report["memory_mb"].items()]
    return found


def show(report: dict[str, Any]) -> str:
    """The report as text tables."""
    columns = ("a", "b", "c", "bare", "dot")
    timings = [
        [
            allocator, row["model"], row["items"], row["beam"], row["batch"],
            *(row["ms_per_user"].get(name) for name in columns),
            *(row.get(key) for key in ("a_over_c", "b_over_c", "c_over_bare")),
            row.get("least_ms_per_user", {}).get("c"),
            *(row.get(key) for key in ("least_a_over_c", "least_c_over_bare", "same_rank_share")),
        ]
        for allocator, rows in report["timings"].items() for row in rows
    ]  # fmt: skip
    heads = ["allocator", "model", "items", "beam", "batch", *(f"{name} ms/user" for name in columns)]
    heads += ["a / c", "b / c", "c / bare", "least c", "least a / c", "least c / bare", "same places"]
    tries = [list(row.values()) for row in report["tries"]]
    peaks = [[model, *sizes.values()] for model, sizes in report["memory_mb"].items()]
    judged = [
        [
            what,
            value,
            f"{'>=' if larger else '<='} {bound}",
            "yes" if (value >= bound) == larger or value == bound else "NO",
        ]
        for what, value, bound, larger in verdicts(report)
    ]
    parts = (
        (timings, heads),
        (tries, list(report["tries"][0]) if tries else []),
        (peaks, ["peak MB above the model, batch 8, beam 50, 12k", "a", "c"]),
        (judged, ["target", "measured", "bound", "met"]),
    )
    return "\n\n".join(
        tabulate(rows, head, "github", floatfmt=".2f", missingval="-") for rows, head in parts if rows
    )


def numbers(text: str) -> list[int]:
    return [int(float(part)) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="t5,llama4,135m,hybrid", type=lambda text: text.split(","))
    parser.add_argument("--items", default="1700,12000,100000,1000000", type=numbers)
    parser.add_argument(
        "--peer-items", default="12000", type=numbers, help="catalogues on which (a) and (b) run as well"
    )
    parser.add_argument("--beams", default="20,50", type=numbers)
    parser.add_argument("--alone", action="store_true", help="batches of one user too, where (a) runs")
    parser.add_argument("--repeats", default=5, type=int)
    parser.add_argument("--allocators", default="default,tuned", type=lambda text: text.split(","))
    parser.add_argument(
        "--quick", action="store_true", help="12k and 1M items, beam 50, 3 repeats, no 135M model"
    )
    parser.add_argument("--output", type=Path, help="where to write the JSON report")
    parser.add_argument("--profile", action="store_true", help="only show where the time of (c) goes")
    parser.add_argument("--worker", choices=["time", "memory"], help=argparse.SUPPRESS)
    parser.add_argument("--method", default="c", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.models, options.items, options.beams = ["t5", "llama4", "hybrid"], [12_000, 1_000_000], [50]
        options.repeats = 3
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    if options.worker == "time":
        print(json.dumps(run_worker(options)))
        return
    if options.worker == "memory":
        peak = peak_memory(options.models[0], options.method, options.items[0], options.beams[0])
        print(json.dumps({"mb": peak}))
        return

    if options.profile:
        print(profile_search(options))
        return

    passed = ["--worker", "time", "--repeats", str(options.repeats), "--models", ",".join(options.models)]
    passed += ["--alone"] if options.alone else []
    for flag, values in (
        ("items", options.items),
        ("peer-items", options.peer_items),
        ("beams", options.beams),
    ):
        passed += [f"--{flag}", ",".join(map(str, values))]
    timed = {name: spawn(passed, name) for name in options.allocators}
    report: dict[str, Any] = {
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "torch_threads": 1,
        "allocators": {name: TUNED if name == "tuned" else {} for name in options.allocators},
        "prompt_tokens": PROMPT,
        "timings": {name: result["rows"] for name, result in timed.items()},
        "growth": {name: result["growth"] for name, result in timed.items()},
        "tries": time_tries(options.items, with_dict=not options.quick),
        "memory_mb": {
            name: {
                method: spawn([*MEMORY, "--models", name, "--method", method], "default")["mb"]
                for method in "ac"
            }
            for name in options.models
            if name in ("t5", "llama4")
        },
    }
    print(show(report))
    if options.output:
        temporary = options.output.with_name(options.output.name + ".tmp")
        temporary.write_text(json.dumps(report, indent=1))
        os.replace(temporary, options.output)


if __name__ == "__main__":
    main()
