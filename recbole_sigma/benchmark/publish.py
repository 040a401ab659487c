"""The lean record of a benchmark, for the repository: a table, a row per cell, the commands, two pictures.

`benchmark` writes the heavy record (places of every user, learning curves, settings) to saved/. What is
written here follows from it alone: the same record gives the same bytes.
"""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recbole_sigma.benchmark import svg, tables
from recbole_sigma.benchmark.report import tables_markdown
from recbole_sigma.benchmark.results import metric_columns, spent
from recbole_sigma.machine.files import fingerprint, write_atomically
from recbole_sigma.values import UserError

PICTURES = {"accuracy": svg.accuracy, "cost": svg.cost}


def publish(record: dict[str, Any], folder: Path | str, command: Iterable[str] = ()) -> list[Path]:
    """Write table.md, cells.csv, commands.sh and the pictures of a record, and nothing else.

    Args:
        record: what results.json holds, with its significance.
        folder: created when needed; files of the same names are overwritten, and an earlier record's picture
            that this one lacks is deleted.
        command: words of the command that wrote the folder; they end commands.sh.

    Returns:
        The files.

    Raises:
        UserError: when the record has no finished cell.
    """
    labels = record.get("labels")
    every = [*record["cells"], *(labels["cells"] if labels else ())]
    if not every:
        raise UserError("nothing to publish: the benchmark has no finished cell")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    if record["cells"]:
        policy = tables.policies(record)[0]
        drawn = {stem: made for stem, draw in PICTURES.items() if (made := draw(record, policy)) is not None}
    texts = {
        "table.md": _table(record, drawn),
        "cells.csv": cells_csv(record),
        "commands.sh": commands_sh([*record["commands"], *filter(None, [list(command)])], every),
        **{f"{stem}.svg": picture for stem, (_, picture) in drawn.items()},
    }
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
    for stem in PICTURES.keys() - drawn.keys():
        (folder / f"{stem}.svg").unlink(missing_ok=True)
    return [folder / name for name in texts]


def _table(record: dict[str, Any], drawn: dict[str, tuple[str, str]]) -> str:
    """The Markdown table, with the pictures and the notes below it."""
    shown = [f"![{caption}]({stem}.svg)\n\n{caption}.\n" for stem, (caption, _) in drawn.items()]
    notes = [f"- {note[0].upper()}{note[1:]}.\n" for note in record["notes"]]
    parts = [tables_markdown(record), tables.slices_markdown(record)]
    parts += [
        *map(_comparison, record["significance"]),
        tables.policy_markdown(record),
        tables.levels_markdown(record),
        *shown,
        "".join(notes),
    ]
    return "\n".join(filter(None, parts)).rstrip() + "\n"


def _comparison(test: dict[str, Any]) -> str:
    """Every row's ratio to the reference with its interval, for NDCG@10."""
    if test["metric"] != "ndcg@10":
        return ""
    head = f"NDCG@10 over that of {test['reference']}, {tables.policy_name(test['filter_seen'])}"
    lines = [f"| {tables.markdown_text(head)} | ratio | 95 % | p, Holm |", "| --- | ---: | ---: | ---: |"]
    for name, row in test["rows"].items():
        against = row["against"]
        if against is not None:
            ratio = "" if against["ratio"] is None else f"{against['ratio']:.3f}"
            bounds = against["ratio_interval"]
            span = "" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
            lines.append(f"| {tables.markdown_text(name)} | {ratio} | {span} | {against['p_holm']:.4f} |")
    return "\n".join(lines) + "\n"


def cells_csv(record: dict[str, Any]) -> str:
    """One line per finished cell: row, seed, policy, metrics, cost, device, commit, settings.

    Cells judged by labels follow below a head of their own.
    """
    labels = record.get("labels")
    parts = [record, *([labels] if labels else ())]
    return "\n".join(_cells_csv(part) for part in parts if part["cells"])


def _cells_csv(record: dict[str, Any]) -> str:
    columns = metric_columns(record["table"])
    head = ["row", "seed", "seen_items", *columns, "wall_seconds", "cpu_seconds", "peak_memory_mb", "device"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*head, "commit", "settings_sha256"])
    for cell in record["cells"]:
        memory = cell["peak_memory"] or {}
        writer.writerow(
            [
                cell["row"]["name"],
                cell["seed"],
                "labelled" if "rows" in cell else "filtered" if cell["filter_seen"] else "kept",
                *(f"{cell['test_result'][column]:.6g}" for column in columns),
                f"{spent(cell, 'total'):.1f}",
                f"{spent(cell, 'cpu'):.1f}",
                memory.get("resident_mb", ""),
                cell["machine"]["gpu"] or "CPU",
                cell["commit"] or "",
                fingerprint(config=cell["config"])[:16],
            ]
        )
    return stream.getvalue()


def commands_sh(commands: Iterable[Iterable[str]], cells: Iterable[dict[str, Any]]) -> str:
    """The commands that filled the folder as a shell script, with the commits that the cells were made by."""
    made_by = {cell["commit"] or "" for cell in cells}
    commits = sorted({commit.removesuffix("+changes") for commit in made_by} - {""})
    notes = {
        "# Some cells ran with changes that were not committed: +changes in cells.csv.": any(
            commit.endswith("+changes") for commit in made_by
        ),
        "# Some cells ran outside a checkout, so that their commit is not known.": "" in made_by,
    }
    lines = [
        "#!/bin/sh",
        "# The benchmark commands behind table.md and cells.csv, to be run at the top of a checkout.",
        "# cells.csv names the commit of every cell; the names of rows and keys are those of that commit:",
        *(f"#   git checkout {commit}" for commit in commits),
        *(note for note, holds in notes.items() if holds),
        "set -e",
        *map(_runnable, commands),
    ]
    return "\n".join(lines) + "\n"


def _runnable(command: Iterable[str]) -> str:
    """A command as a line of a shell script; its first word is the program that was called."""
    program, *words = command
    start = f"python {program}" if program.endswith(".py") else program
    return f"{start} {shlex.join(words)}"
