"""Search inside very large prefixes: one exact product against faiss inverted lists.

One process, one torch thread, interleaved repeats, medians of process CPU time. Items are unit vectors around
planted centres and queries lie near items, divided by a temperature, which is the situation in which inverted
lists do best; vectors without any structure are measured as well. ``recall@20`` is the share of the exact 20
best items of a prefix that the lists hold, ``log Z error`` the distance of the estimated log-normaliser of
P(item | prefix) from the exact one (0.1 = probabilities off by about 10 %).

    python benchmarks/inside_prefix.py --items 100000,1000000 --output inside_prefix.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from tabulate import tabulate  # noqa: E402

from recbole_sigma.decoding.approximate import index_prefixes, search_cells  # noqa: E402
from recbole_sigma.decoding.inside_prefix import search_in_prefixes
from recbole_sigma.tokenization.catalogue import sort_items  # noqa: E402

K = 20


def planted(items: int, width: int, centres: int, queries: int, temperature: float, seed: int = 0) -> Any:
    """Unit vectors [items, width] around centres (0: no structure) and queries near some of them."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(items, width, generator=generator)
    if centres:
        middle = F.normalize(torch.randn(centres, width, generator=generator), dim=1)
        noise = middle[torch.randint(centres, (items,), generator=generator)] + 0.7 * noise / width**0.5
    rows = F.normalize(noise, dim=1)
    near = rows[torch.randint(items, (queries,), generator=generator)]
    near = F.normalize(near + 0.5 * torch.randn(queries, width, generator=generator) / width**0.5, dim=1)
    return rows, near / temperature


def cpu_seconds(function: Any) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def measure(items: int, prefixes: int, options: argparse.Namespace, centres: int) -> list[dict[str, Any]]:
    """A catalogue of equal prefixes; every user searches ``--beam`` of them. One row per number of probes."""
    rows, queries = planted(items, options.width, centres, options.users, options.temperature)
    table = torch.cat([torch.zeros(1, options.width), rows])
    start = torch.linspace(0, items, prefixes + 1).long()
    catalogue = sort_items(table, torch.arange(1, items + 1), start)
    width = min(options.beam, prefixes)
    generator = torch.Generator().manual_seed(1)
    beam = torch.stack([torch.randperm(prefixes, generator=generator)[:width] for _ in range(options.users)])
    scores = torch.full(beam.shape, 1.0 / width).log()
    build = time.process_time()
    built = index_prefixes(catalogue.vectors, start, items // prefixes - 1)
    build = time.process_time() - build

    def run(approximate: Any) -> Any:
        return search_in_prefixes(
            lambda columns, _: queries[:, None].expand(-1, len(columns), -1), beam, scores, catalogue, K,
            approximate=approximate,
        )  # fmt: skip

    seconds: dict[str, list[float]] = {"exact": [], **{f"faiss{probes}": [] for probes in options.probes}}
    indexes = {probes: replace(built, probes=probes) for probes in options.probes}
    run(None), run(built)
    for _ in range(options.repeats):
        seconds["exact"].append(cpu_seconds(lambda: run(None)))
        for probes, index in indexes.items():
            seconds[f"faiss{probes}"].append(cpu_seconds(lambda index=index: run(index)))
    median = {name: 1000 * statistics.median(values) / options.users for name, values in seconds.items()}
    wanted = run(None)[0].items
    report = []
    for probes, index in indexes.items():
        found = run(index)[0].items
        recall, error = quality(catalogue, queries, beam, index)
        report.append(
            {
                "items": items,
                "prefixes": prefixes,
                "centres": centres,
                "probes": probes,
                "exact_ms_per_user": median["exact"],
                "faiss_ms_per_user": median[f"faiss{probes}"],
                "exact_over_faiss": median["exact"] / median[f"faiss{probes}"],
                "recall_at_20": float(recall.mean()),
                "list_overlap": float((wanted[:, :, None] == found[:, None]).any(2).float().mean()),
                "log_z_error_mean": float(error.mean()),
                "log_z_error_max": float(error.max()),
                "build_s": build,
            }
        )
    return report


def quality(catalogue: Any, queries: Any, beam: Any, index: Any) -> tuple[Any, Any]:
    """Recall@20 and distance of the log-normaliser for every (user, prefix)."""
    inside, errors = [], []
    for prefix, cells in index.cells.items():
        mine = (beam == prefix).any(dim=1)
        if bool(mine.any()):
            low, high = catalogue.start[prefix : prefix + 2].tolist()
            nobody = (torch.zeros(0, dtype=torch.int64),) * 2
            logits = queries[mine] @ catalogue.vectors[low:high].T
            _, got, total = search_cells(queries[mine], cells, index.probes, index.fetch, nobody, True)
            best = logits.topk(K).indices
            inside.append((best[:, :, None] == got[:, None]).any(2).float().mean(dim=1))
            errors.append((total - logits.logsumexp(1)).abs())
    return torch.cat(inside), torch.cat(errors)


def numbers(text: str) -> list[int]:
    return [int(float(part)) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", default="1000000", type=numbers)
    parser.add_argument("--prefixes", default="1,16,256", type=numbers, help="prefixes of equal size")
    parser.add_argument("--probes", default="8,32", type=numbers, help="cells that a query looks into")
    parser.add_argument("--centres", default="2000,0", type=numbers, help="planted centres; 0 = no structure")
    parser.add_argument("--beam", default=20, type=int, help="prefixes that a user searches")
    parser.add_argument("--users", default=32, type=int)
    parser.add_argument("--width", default=64, type=int)
    parser.add_argument("--temperature", default=0.07, type=float)
    parser.add_argument("--repeats", default=3, type=int)
    parser.add_argument("--output", type=Path, help="where to write the JSON report")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for items in options.items:
        for prefixes in options.prefixes:
            for centres in options.centres:
                rows += measure(items, prefixes, options, centres)
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(tabulate(rows, "keys", "github", floatfmt=".3f"))
    if options.output:
        temporary = options.output.with_name(options.output.name + ".tmp")
        temporary.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1))
        os.replace(temporary, options.output)


if __name__ == "__main__":
    main()
