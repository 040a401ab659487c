"""A table of models under one protocol: a cell is one model and one seed, the JSON is the record."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import traceback
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recbole_sigma.artifacts import write_atomically
from recbole_sigma.values import UserError

DEMO_MODELS = ("Pop", "WindowItemKNN", "SIGMA")
COLUMNS = ("hit@1", "hit@5", "hit@10", "hit@20", "ndcg@10", "ndcg@20")


def run_table(
    models: Sequence[str],
    dataset: str,
    seeds: Sequence[int] = (2020,),
    config_file_list: Iterable[str] = (),
    config_dict: dict[str, Any] | None = None,
    arguments: Iterable[str] = (),
    output: Path | str = "saved/results",
    name: str = "table",
) -> tuple[dict[str, Any], Path]:
    """Train and test every model with every seed, and write one JSON.

    The settings of all models are checked before the first one trains. A cell that fails is recorded with
    its error and the others go on. The JSON is rewritten after every cell.

    Args:
        models: model names.
        dataset: dataset name.
        seeds: seeds; each model runs once per seed, a training-free model once.
        config_file_list: property files for every model; keys of other models are ignored.
        config_dict: values that outrank the files.
        arguments: ``--key=value`` words that outrank the dictionary.
        output: folder of the JSON.
        name: start of the JSON's file name.

    Returns:
        (the record, the path of its JSON).

    Raises:
        UserError: if the settings or data of any model are unusable.
    """
    from recbole_sigma import preflight
    from recbole_sigma.config import SigmaConfig
    from recbole_sigma.progress import Progress
    from recbole_sigma.quick_start import run_sigma

    files, words, values = list(config_file_list), list(arguments), dict(config_dict or {})
    cells = []
    for model in models:
        config = SigmaConfig(model, dataset, files, values, words)
        preflight.check_files(config, config.model_class)
        once = getattr(config.model_class, "training_free", False) or config.model_class.__name__ == "Pop"
        cells += [(model, seed) for seed in (seeds[:1] if once else seeds)]
    path = result_path(Path(output), name, dataset)
    record: dict[str, Any] = {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "dataset": dataset,
        "models": list(models),
        "seeds": list(seeds),
        "commit": commit(),
        "machine": machine(),
        "cells": [],
        "failed": [],
    }
    write_json(path, record)
    show = bool(values.get("show_progress", True))
    overall = Progress("All models", len(cells), enabled=show and len(cells) > 1)
    try:
        for model, seed in cells:
            overall.say(f"{model}, seed {seed}")
            try:
                result = run_sigma(model, dataset, files, {**values, "seed": seed}, arguments=words)
            except Exception as error:  # one cell must not cost the others
                record["failed"].append(
                    {"model": model, "seed": seed, "error": str(error), "kind": type(error).__name__}
                )
                if not isinstance(error, UserError):
                    traceback.print_exc()
            else:
                record["cells"].append(cell(result))
                record["versions"], record["protocol"] = result["versions"], result["protocol"]
            record["table"] = summarize(record["cells"])
            write_json(path, record)
            overall.advance()
    finally:
        overall.close()
    return record, path


def cell(result: dict[str, Any]) -> dict[str, Any]:
    """The plain part of a result, with every target's place for later significance tests."""
    plain = {key: value for key, value in result.items() if key not in ("test", "versions", "protocol")}
    test = result["test"]
    plain["places"] = {
        "users": test.users.tolist(),
        "targets": test.targets.tolist(),
        "places": test.places.tolist(),
    }
    return plain


def summarize(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds, one row per model, in order of appearance."""
    rows = []
    for model in dict.fromkeys(c["model"] for c in cells):
        own = [c for c in cells if c["model"] == model]
        row: dict[str, Any] = {"model": model, "seeds": [c["seed"] for c in own]}
        for metric in own[0]["test_result"]:
            values = [c["test_result"][metric] for c in own]
            row[metric] = statistics.fmean(values)
            row[f"{metric} sd"] = statistics.stdev(values) if len(values) > 1 else None
        row["seconds"] = statistics.fmean(c["seconds"]["total"] for c in own)
        row["cpu seconds"] = statistics.fmean(c["seconds"]["cpu"] for c in own)
        rows.append(row)
    return rows


def format_table(rows: list[dict[str, Any]], style: str = "simple") -> str:
    """The rows of `summarize` as text: HR (RecBole's Hit), NDCG, wall seconds.

    Args:
        rows: what `summarize` gave.
        style: a table format of ``tabulate``.
    """
    from tabulate import tabulate

    columns = [c for c in COLUMNS if all(c in row for row in rows)] or [
        key for key in rows[0] if "@" in key and not key.endswith(" sd")
    ]
    head = ["model", *(c.upper().replace("HIT", "HR") for c in columns), "seconds"]
    body = []
    for row in rows:
        shown = []
        for column in columns:
            spread = row.get(f"{column} sd")
            shown.append(f"{row[column]:.4f}" + (f" ±{spread:.4f}" if spread is not None else ""))
        body.append([row["model"], *shown, f"{row['seconds']:.0f}"])
    return tabulate(
        body, headers=head, tablefmt=style, stralign="right", disable_numparse=True, colalign=("left",)
    )


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write plain values to a temporary file and put it in place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


def result_path(folder: Path, name: str, dataset: str) -> Path:
    """Reserve a file of its own for a record: ``<name>-<dataset>-<time>.json`` in ``folder``."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True, exist_ok=True)
    count = 1
    while True:
        path = folder / f"{name}-{dataset}-{stamp}{f'-{count}' if count > 1 else ''}.json"
        try:
            path.touch(exist_ok=False)  # reserves the name: two runs may start in one second
        except FileExistsError:
            count += 1
        else:
            return path


def commit() -> str | None:
    """The checkout's commit, with ``+changes`` when files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[1]
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


def machine() -> dict[str, Any]:
    """What the seconds depend on."""
    import torch

    return {
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }
