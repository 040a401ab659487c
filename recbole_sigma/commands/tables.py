"""The command line's verbs that make tables: benchmark, demo, tune, report."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from recbole_sigma.commands.main import OF_SEARCH, let_words_win, protocol_line, shared_options
from recbole_sigma.values import UserError


def _table(own: dict[str, str], rest: list[str], models: Sequence[str], dataset: str, folder: Path) -> int:
    from recbole_sigma.benchmark import format_table, run_benchmark

    shared = shared_options(own, ("model", "publish", *OF_SEARCH))
    shared["config_dict"] = let_words_win(shared["config_dict"], shared["config_file_list"])
    shared["output"] = folder
    record = run_benchmark(
        models,
        dataset,
        _seeds(own),
        own.get("filter"),
        arguments=rest,
        force="force" in own,
        reference=own.get("reference"),
        **shared,
    )
    if "json" in own:
        kept = {"table": record["table"], "failed": record["outcome"]["failed"]}
        print(json.dumps({**kept, "results": str(folder / "results.json")}))
        return 1 if record["outcome"]["failed"] else 0
    if record["cells"]:
        print(protocol_line(record["cells"][0]["protocol"]))
        print(format_table(record["table"]))
    for note in record["notes"]:
        print(f"note: {note}")
    outcome = record["outcome"]
    if outcome["kept"]:
        print(f"kept from before: {len(outcome['kept'])} cells (--force does them again)")
    for label in outcome["elsewhere"]:
        print(f"left to another process: {label}")
    for label in outcome["failed"]:
        print(f"failed: {label}", file=sys.stderr)
    print(f"results: {folder / 'results.json'}; open {folder / 'report.html'} in a browser")
    return 1 if outcome["failed"] else 0


def demo(own: dict[str, str], rest: list[str]) -> int:
    """The verb ``demo``."""
    from recbole_sigma.benchmark import DEMO_MODELS

    models = own["models"].split(",") if "models" in own else DEMO_MODELS
    dataset = own.get("dataset", "ml-100k")
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path(own.get("output", "saved/results")) / f"demo-{dataset}-{stamp}"
    return _table(own, rest, models, dataset, folder)


def benchmark(own: dict[str, str], rest: list[str]) -> int:
    """The verb ``benchmark``."""
    if own.get("models") == "list":
        from recbole_sigma.benchmark.variants import list_text

        print(list_text())
        return 0
    if "models" not in own or "dataset" not in own:
        raise UserError("benchmark needs --models=A,B,C and --dataset=NAME")
    folder = Path(own.get("output") or f"saved/benchmark/{own['dataset']}")
    return _table(own, rest, own["models"].split(","), own["dataset"], folder)


def report(own: dict[str, str], rest: list[str]) -> int:
    """The verb ``report``."""
    from recbole_sigma.benchmark import format_table, rebuild_report

    if "output" not in own or rest:
        raise UserError(
            "report needs --output=FOLDER of a benchmark, and takes --reference=ROW and --publish=FOLDER"
        )
    record = rebuild_report(own["output"], own.get("reference"), own.get("publish"))
    if record["cells"]:
        print(format_table(record["table"]))
    for note in record["notes"]:
        print(f"note: {note}")
    if "publish" in own:
        print(f"published: {own['publish']}")
    else:
        print(f"report: {Path(own['output']) / 'report.html'}")
    return 0


def tune(own: dict[str, str], rest: list[str]) -> int:
    """The verb ``tune``."""
    from tabulate import tabulate

    from recbole_sigma.benchmark.tune import tune as search

    shared = shared_options(own, ("filter", "force", "reference", "publish"))
    models = own.get("models", own.get("model", ""))
    if not models or "dataset" not in own or ("models" in own and "model" in own):
        raise UserError("tune needs --model=NAME or --models=A,B and --dataset=NAME")
    shared["config_dict"] = let_words_win(shared["config_dict"], shared["config_file_list"])
    shared["output"] = own.get("output", "saved/tune")
    found = search(
        models.split(","),
        own["dataset"],
        int(_number(own, "trials", 20)),
        _number(own, "budget", None),
        own.get("sampler", "random"),
        _seeds(own)[0],
        own.get("space"),
        arguments=rest,
        **shared,
    )
    head = ["model", "trials", "CPU s", "shipped", "best", "settings"]
    body = [
        [
            f["name"],
            f["trials"],
            f"{f['cpu_seconds']:.0f}",
            f"{f['shipped']:.4f}",
            f"{f['best']:.4f}",
            f["file"],
        ]
        for f in found
    ]
    print(tabulate(body, headers=head, disable_numparse=True))
    return 0


def _number(own: dict[str, str], name: str, default: float | None) -> Any:
    """The positive number of an option."""
    if name not in own:
        return default
    try:
        value = float(own[name])
    except ValueError:
        value = 0.0
    if not 0 < value < 1e12 or (name == "trials" and value != int(value)):
        raise UserError(f"--{name} must be a positive number, not {own[name]!r}")
    return value


def _seeds(own: dict[str, str]) -> list[int]:
    text = own.get("seeds", "2020")
    try:
        seeds = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds must be integers separated by commas, not {text!r}") from None
    if any(not 0 <= seed < 2**32 for seed in seeds):
        raise UserError(f"--seeds must lie in 0..{2**32 - 1}, not {text!r}")
    return seeds
