"""What the search inside prefixes costs beside the forward passes: CPU milliseconds per user, one thread.

    MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=2147483648 python benchmarks/inside_prefix.py

The task is ``hybrid`` of benchmarks/decoding.py at beam 50: one prefix code of 256 and one item. ``search``
is the search alone with the queries given, ``whole`` lists with it, ``bare`` the forward passes. Nine
repeats. ``--before=FILE`` runs the search of another commit beside it, on vectors by row, and holds its
lists to be the same.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.decoding_cases import HybridCase, cpu_seconds
from recbole_sigma.decoding.inside_prefix import search_in_prefixes

CASES = "12000x1,12000x8,12000x32,1000000x8,1000000x32,1000000x128"
BEAM, REPEATS = 50, 9


def search_of(file: Path) -> Any:
    """`search_in_prefixes` of another commit's ``inside_prefix.py``."""
    spec = importlib.util.spec_from_file_location("before", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.search_in_prefixes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=CASES, help="items x batch, comma separated")
    parser.add_argument("--before", type=Path, help="inside_prefix.py of another commit")
    options = parser.parse_args()
    before = search_of(options.before) if options.before else None
    torch.set_num_threads(1)
    print("items, batch: median (minimum) of search, whole, bare; whole / bare")
    for named in options.cases.split(","):
        items, batch = map(int, named.split("x"))
        case = HybridCase(items, BEAM, batch)
        with torch.inference_mode():
            decoder, scores, beam = case._start()
            queries = case._queries(decoder, beam)

        def search(how: Any, vectors: Any, case: Any = case, found: Any = (queries, beam, scores)) -> Any:
            given, nodes, weights = found
            return how(lambda *_: given, nodes, weights, case.catalogue, vectors, case.k)[0]

        runs: dict[str, Any] = {"search": partial(search, search_in_prefixes, case.vectors)}
        runs |= {"whole": case.ours, "bare": case.bare}
        if before is not None:
            runs["before"] = partial(search, before, case.vectors.contiguous())
            assert torch.equal(runs["search"]().items, runs["before"]().items)
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
