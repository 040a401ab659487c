"""From the finished cells of a folder to one record: results.json."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recbole_sigma.benchmark.cells import commit, now
from recbole_sigma.benchmark.folder import RunFolder
from recbole_sigma.benchmark.plan import Plan
from recbole_sigma.benchmark.records import FORMAT, RESULTS, read_record
from recbole_sigma.benchmark.variants import plain_name
from recbole_sigma.machine.resources import machine
from recbole_sigma.values import UserError

COLUMNS = ("hit@1", "hit@5", "hit@10", "hit@20", "ndcg@10", "ndcg@20")
LABEL_COLUMNS = {
    "auc": "AUC",
    "gauc_ctr": "GAUC",
    "gauc_coverage": "GAUC rows",
    "logloss": "LogLoss",
    "calibration": "calibration",
}
_LABELLED = ("users", "groups", "labels")
_SHARED = ("users", "targets", "train_counts", "lengths", "pair_counts")


def collect(folder: RunFolder, plan: Plan | None = None) -> dict[str, Any]:
    """Gather the finished cells of a folder.

    Two cells may have the same row name, seed and policy but other settings: a cell of ``plan`` goes before
    one that is not, then the newer before the older; what is set aside is counted.

    Args:
        folder: the benchmark's folder.
        plan: the plan just run; its rows come first and in its order, the others in that of the commands.

    Returns:
        The record, without significance (see `report`).
    """
    planned = [cell.key for cell in plan.cells] if plan else []
    rank = {key: place for place, key in enumerate(planned)}
    best: dict[tuple[str, int, bool], dict[str, Any]] = {}
    aside = 0
    for record in folder.cells():
        place = (record["row"]["name"], record["seed"], record["filter_seen"])
        rival = best.get(place)
        aside += rival is not None
        if rival is None or record["key"] in rank or rival["key"] not in rank:
            best[place] = record
    commands, lost = _commands(folder, plan is not None)
    named = _named(commands)
    cells = sorted(
        best.values(),
        key=lambda c: (
            rank.get(c["key"], len(rank)),
            named.get(plain_name(c["row"]["name"]), len(named)),
            c["created"],
            c["seed"],
        ),
    )
    failed = [
        record
        for record in folder.failures()
        if not rank or record["key"] in rank or record["key"] not in planned
    ]
    labelled = [cell for cell in cells if "rows" in cell]
    cells = [cell for cell in cells if "rows" not in cell]
    return {
        "format": FORMAT,
        "created": now(),
        "commands": commands,
        "dataset": sorted({cell["dataset"] for cell in [*cells, *labelled]}),
        "commit": commit(),
        "machine": machine(),
        "set_aside": aside,
        "notes": [
            *(plan.notes if plan else ()),
            *remarks([*cells, *labelled], aside),
            *folder.corrected,
            *lost,
        ],
        "judged": _judged(cells),
        "cells": cells,
        "failed": failed,
        "table": summarize(cells),
        **({"labels": gathered(labelled)} if labelled else {}),
    }


def _commands(folder: RunFolder, own: bool) -> tuple[list[list[str]], list[str]]:
    """The benchmark commands that filled the folder, this one last; and a note where those before are lost.

    `report` adds none. Folders of earlier versions have them in results.json alone.
    """
    path = folder.path / "results.json"
    known: list[list[str]] = []
    lost: list[str] = []
    if path.is_file():
        try:
            known = read_record(path, RESULTS)["commands"]
        except UserError as error:  # of another version, or damaged: it is about to be written anew
            lost = [f"the commands before this one are not known, since {str(error).partition(':')[0]}"]
    if own:
        folder.note_command(["run_recbole_sigma.py", *sys.argv[1:]], now())
    noted = folder.commands()
    return [*(command for command in known if command not in noted), *noted], lost


def _named(commands: list[list[str]]) -> dict[str, int]:
    """Place of each word of the commands' ``--models``; patterns and files name no row and do no harm."""
    prefix = "--models="
    given = [word for command in commands for word in command if word.startswith(prefix)]
    words = [word.strip() for models in given for word in models.removeprefix(prefix).split(",")]
    return {word: place for place, word in enumerate(dict.fromkeys(words))}


def _judged(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The judged users and targets, once per distinct set; a cell keeps its places and its set's number."""
    sets: list[dict[str, Any]] = []
    for cell in cells:
        # cells of an earlier version do not say how long a history was, and whether a pair is known
        own = {name: cell["places"].pop(name) for name in _SHARED if name in cell["places"]}
        if own not in sets:
            sets.append(own)
        known = {name: cell["places"][name] for name in ("places", "gates") if name in cell["places"]}
        cell["places"] = {"judged": sets.index(own), **known}
    return sets


def gathered(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """The part of a record that holds the cells judged by labels.

    Test rows stand once per distinct set; a cell keeps its scores and its set's number.

    Args:
        cells: finished cells, in the order of the table.
    """
    sets: list[dict[str, Any]] = []
    for cell in cells:
        own = {name: cell["rows"].pop(name) for name in _LABELLED}
        if own not in sets:
            sets.append(own)
        cell["rows"] = {"judged": sets.index(own), "scores": cell["rows"]["scores"]}
    return {"cells": cells, "judged": sets, "table": summarize(cells), "significance": []}


def remarks(cells: list[dict[str, Any]], aside: int = 0) -> list[str]:
    """What a reader should know about cells that do not share everything."""
    found = []
    commits = {str(cell["commit"])[:10] for cell in cells}
    if len(commits) > 1:
        found.append(f"cells come from {len(commits)} commits: {', '.join(sorted(commits))}")
    machines = machines_of(cells)
    if len(machines) > 1:
        found.append(
            f"cells ran on different machines, so that seconds do not compare: {'; '.join(sorted(machines))}"
        )
    if aside:
        found.append(f"{aside} finished cells with other settings for the same row and seed are set aside")
    for kind, sentence in (
        ("policy", "one training judged under both seen-item policies, its epoch picked under the first"),
        ("decoding", "judged on another row's weights, because only decoding or the memory differs"),
    ):
        reused = dict.fromkeys(c["row"]["name"] for c in cells if c["weights"]["shared"] == kind)
        if reused:
            found.append(f"{sentence}: {', '.join(reused)}")
    return found


def machines_of(cells: list[dict[str, Any]]) -> set[str]:
    """The machines that cells ran on, in words; seconds of two of them do not compare."""
    return {_machine_name(cell["machine"]) for cell in cells}


def _machine_name(machine: dict[str, Any]) -> str:
    processes = f", {machine['processes']} processes" if machine.get("processes", 1) > 1 else ""
    return f"{machine['gpu'] or 'CPU'}, {machine['cpus']} cores, {machine['threads']} threads{processes}"


def summarize(cells: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds, one entry per row and policy, in order of appearance."""
    cells = list(cells)
    rows = []
    for name, policy in dict.fromkeys((c["row"]["name"], c["filter_seen"]) for c in cells):
        own = [c for c in cells if (c["row"]["name"], c["filter_seen"]) == (name, policy)]
        row: dict[str, Any] = {
            "model": name,
            "base": own[0]["row"]["base"],
            "filter_seen": policy,
            "seeds": [c["seed"] for c in own],
        }
        for metric in own[0]["test_result"]:
            values = [c["test_result"][metric] for c in own if metric in c["test_result"]]
            row[metric] = statistics.fmean(values)
            row[f"{metric} sd"] = statistics.stdev(values) if len(values) > 1 else None
        distances = [c["intra_list_distance@10"] for c in own if c.get("intra_list_distance@10") is not None]
        row["ild@10"] = statistics.fmean(distances) if distances else None
        row["seconds"] = statistics.fmean(spent(c, "total") for c in own)
        row["cpu seconds"] = statistics.fmean(spent(c, "cpu") for c in own)
        row["parameters"] = own[0]["parameters"]
        peaks = [c["peak_memory"]["resident_mb"] for c in own if c.get("peak_memory")]
        row["peak memory mb"] = max(peaks) if peaks else None
        rows.append(row)
    return rows


def spent(cell: dict[str, Any], clock: str) -> float:
    """Seconds that a cell took: its training, and where it was judged on another row's weights that judging
    too, with its memory solved.

    Args:
        cell: record of a cell.
        clock: ``cpu``, or ``total`` for wall time.
    """
    shared = (cell.get("weights") or {}).get("shared")
    judging = (cell.get("judging_seconds") if shared else None) or {}
    return float(cell["seconds"][clock] + judging.get(clock, 0.0))


def format_table(rows: list[dict[str, Any]], style: str = "simple") -> str:
    """The rows of `summarize` as text: HR (RecBole's Hit), NDCG, wall seconds.

    Args:
        rows: what `summarize` gave.
        style: a table format of ``tabulate``.
    """
    from tabulate import tabulate

    columns = metric_columns(rows)
    head = ["model", *map(title, columns), "seconds"]
    both = len({row["filter_seen"] for row in rows}) > 1
    body = []
    for row in rows:
        shown = []
        for column in columns:
            spread = row.get(f"{column} sd")
            shown.append(f"{row[column]:.4f}" + (f" ±{spread:.4f}" if spread is not None else ""))
        name = row["model"] + (" (seen kept)" if both and not row["filter_seen"] else "")
        body.append([name, *shown, f"{row['seconds']:.0f}"])
    return tabulate(
        body, headers=head, tablefmt=style, stralign="right", disable_numparse=True, colalign=("left",)
    )


def metric_columns(rows: list[dict[str, Any]]) -> list[str]:
    """Metrics that a table shows: the usual ones, or all of them when the run has others."""
    usual = [c for c in (*COLUMNS, *LABEL_COLUMNS) if all(c in row for row in rows)]
    shared = [key for key in rows[0] if "@" in key and not key.endswith(" sd") and key != "ild@10"]
    return usual or [key for key in shared if all(key in row for row in rows)]


def title(metric: str) -> str:
    """A metric's name in a table: HR@10 for RecBole's hit@10."""
    return LABEL_COLUMNS.get(metric) or metric.upper().replace("HIT", "HR")


def single_record(result: dict[str, Any]) -> dict[str, Any]:
    """The plain part of one result of `quick_start.run`, with every target's place."""
    plain = {
        key: value for key, value in result.items() if key not in ("test", "versions", "protocol", "loaders")
    }
    test = result["test"]
    if result["protocol"]["judged_by"] == "labels":
        plain["rows"] = test.rows()
    else:
        plain["places"] = {
            "users": test.users.tolist(),
            "targets": test.targets.tolist(),
            "places": test.places.tolist(),
        }
    plain["row"] = {"name": result["model"], "base": result["model"]}
    plain["filter_seen"] = result["protocol"]["filter_seen"]
    return plain


def result_path(folder: Path, name: str, dataset: str) -> Path:
    """Reserve a file of its own for a record: ``<name>-<dataset>-<time>.json`` in ``folder``."""
    from datetime import datetime

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
