"""What the search inside prefixes costs beside the forward passes: CPU milliseconds per user, one thread.

    MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=2147483648 python benchmarks/inside_prefix.py

The task is ``hybrid`` of benchmarks/decoding.py at beam 50: one prefix code of 256 and one item. ``search``
is the search alone with the queries given, ``whole`` lists with it, ``bare`` the forward passes. Nine
repeats.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.decoding_cases import HybridCase, cpu_seconds
from recbole_sigma.decoding.inside_prefix import search_in_prefixes

CASES = ((12_000, 1), (12_000, 8), (12_000, 32), (1_000_000, 8), (1_000_000, 32), (1_000_000, 128))
BEAM, REPEATS = 50, 9


def main() -> None:
    torch.set_num_threads(1)
    print("items, batch: median (minimum) of search, whole, bare; whole / bare")
    for items, batch in CASES:
        case = HybridCase(items, BEAM, batch)
        with torch.inference_mode():
            decoder, scores, beam = case._start()
            queries = case._queries(decoder, beam)

        def search(case: Any = case, found: Any = (queries, beam, scores)) -> None:
            given, nodes, weights = found
            search_in_prefixes(lambda *_: given, nodes, weights, case.catalogue, case.vectors, case.k)

        runs = {"search": search, "whole": case.ours, "bare": case.bare}
        took: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(1 + REPEATS):
            for name, run in runs.items():
                took[name].append(1000 * cpu_seconds(run) / batch)
        cells = [
            f"{name} {statistics.median(values[1:]):.2f} ({min(values[1:]):.2f})"
            for name, values in took.items()
        ]
        ratio = statistics.median(took["whole"][1:]) / statistics.median(took["bare"][1:])
        print(f"{items:,}, {batch}: {', '.join(cells)}; {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
