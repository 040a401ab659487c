"""Everything that is made from a record: table.md, table.tex, pictures and report.html, which is one file."""

from __future__ import annotations

import json
import shlex
from html import escape
from pathlib import Path
from typing import Any

from recbole_sigma.benchmark import label_tables, plots, policy_figures, tables
from recbole_sigma.benchmark.page import POLICY, SCRIPT, STYLE
from recbole_sigma.benchmark.results import title
from recbole_sigma.benchmark.statistics import seconds_to_levels, significance
from recbole_sigma.machine.files import write_atomically
from recbole_sigma.values import UserError


def write_report(folder: Path, record: dict[str, Any], reference: str | None = None) -> list[str]:
    """Add significance to a record and write every file made from it.

    Args:
        folder: where the files go.
        record: what `results.collect` gave; gains ``significance`` and ``seconds_to_level``.
        reference: row to compare with, in place of the best baseline.

    Returns:
        Sentences about what was left out.
    """
    left_out = add_significance(record, reference)
    record["seconds_to_level"] = seconds_to_levels(record)
    pictures: dict[str, plots.Picture] = {}
    if not plots.available():
        left_out.append(plots.MISSING)
    elif record["cells"]:
        pictures = plots.draw(record)
        (folder / "plots").mkdir(parents=True, exist_ok=True)
        for stem, picture in pictures.items():
            write_atomically(folder / "plots" / f"{stem}.svg", picture.light)
            write_atomically(folder / "plots" / f"{stem}.pdf", picture.pdf)
    record["notes"] = [*record["notes"], *left_out]
    for name, text in (
        ("table.md", tables_markdown(record)),
        ("table.tex", tables.latex(record)),
        ("report.html", html(record, pictures)),
    ):
        write_atomically(folder / name, text.encode())
    return left_out


def tables_markdown(record: dict[str, Any]) -> str:
    """The tables of ranked lists, then the table of the rows that are judged by labels."""
    labels = record.get("labels")
    return "\n".join(filter(None, (tables.markdown(record), labels and label_tables.markdown(labels))))


def add_significance(record: dict[str, Any], reference: str | None = None) -> list[str]:
    """Compare every row of a record with one of them; a sentence where that cannot be done."""
    record["significance"] = []
    left_out = []
    labels = record.get("labels")
    of_labels = labels is not None and reference in {row["model"] for row in labels["table"]}
    if labels is not None:
        left_out += label_tables.compare(labels, reference)
    if record["cells"]:
        try:
            record["significance"] = significance(record, reference=None if of_labels else reference)
        except UserError as error:
            if reference is not None and "--reference" in str(error):
                raise
            left_out.append(f"no significance: {error}")
    return left_out


def html(record: dict[str, Any], pictures: dict[str, plots.Picture]) -> str:
    """The report as one file that requests nothing: the table first, how it came about last."""
    name = ", ".join(record["dataset"]) or "no finished cell"
    parts = [f"<h1>Benchmark on {escape(name)}</h1>", _chooser(record)]
    for policy in tables.policies(record):
        parts.append(f"<h2>Results, {tables.policy_name(policy)}</h2>")
        parts += [_main_table(record, policy), _soft(tables.footnote(record, policy))]
        parts += [_comparison(test) for test in record["significance"] if test["filter_seen"] == policy]
        sliced = tables.slice_tables(record, policy)
        if sliced:
            inner = "".join(f"{_ranked(head, body)}{_soft(note)}" for head, body, note in sliced)
            parts.append(f"<details><summary>NDCG@10 on parts of the targets</summary>{inner}</details>")
        parts += [_figure(stem, p) for stem, p in pictures.items() if p.filter_seen == policy]
    if record.get("labels"):
        parts += _labels(record["labels"])
    notes = "".join(f"<li>{escape(note)}</li>" for note in record["notes"])
    parts += [f'<h2>Notes</h2><ul class="soft">{notes}</ul>' if notes else ""]
    parts += [
        _policy(record),
        _cost(record),
        _rows(record),
        _failures(record),
        _settings(record),
        _provenance(record),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Benchmark on {escape(name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + f"\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _labels(part: dict[str, Any]) -> list[str]:
    """The section of the rows that are judged by labels."""
    parts = [
        "<h2>Results, judged by labels</h2>",
        _ranked(*label_tables.cells(part)),
        _soft(label_tables.footnote(part)),
    ]
    for test in part["significance"]:
        head, body = label_tables.comparison(test)
        table = _table(head, [[(text, "") for text in line] for line in body])
        parts.append(f"<details><summary>{escape(head[0])}</summary>{table}</details>")
    return parts


def _chooser(record: dict[str, Any]) -> str:
    """A box per row; the script shows it, since without a script it could do nothing."""
    boxes = "".join(
        f'<label><input type="checkbox" value="{number}" checked> {escape(name)}</label>'
        for name, number in plots.row_numbers(record).items()
    )
    buttons = '<button type="button" value="all">all</button><button type="button" value="none">none</button>'
    return f'<fieldset id="rows" hidden><legend>Rows</legend>{boxes}{buttons}</fieldset>' if boxes else ""


def _main_table(record: dict[str, Any], policy: bool) -> str:
    """The table of one policy, its rows in groups, for the script to sort and to choose from."""
    head, body = tables.cells(record, policy)
    numbers, shown = plots.row_numbers(record), {1: "first", 2: "second"}
    base = {row["model"]: row["base"] for row in record["table"]}
    groups: dict[str, list[str]] = {}
    for line in body:
        cells = "".join(
            f'<td class="{shown[rank]}">{escape(text)}</td>' if rank in shown else f"<td>{escape(text)}</td>"
            for text, rank in line
        )
        row = f'<tr data-row="{numbers[line[0][0]]}">{cells}</tr>\n'
        groups.setdefault(tables.group_of(base[line[0][0]]), []).append(row)
    top = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    bodies = [
        f'<tbody><tr class="group"><th colspan="{len(head)}" scope="rowgroup">{escape(group)}</th></tr>\n'
        f"{''.join(rows)}</tbody>"
        for group, rows in groups.items()
    ]
    return (
        f'<div class="wide"><table class="sorts"><thead><tr>{top}</tr></thead>{"".join(bodies)}</table></div>'
    )


def _figure(stem: str, picture: plots.Picture) -> str:
    label = f'role="img" aria-label="{escape(picture.caption)}"'
    inside = "".join(
        text.decode().replace("<svg ", f'<svg class="{kind}" {label} ', 1)
        for kind, text in (("light", picture.light), ("dark", picture.dark))
    )
    return (
        f'<figure id="{stem}">{inside}<figcaption>{escape(picture.caption)}</figcaption>'
        f'<p class="save"><a href="plots/{stem}.pdf" download>Save as PDF</a></p></figure>'
    )


def _table(head: list[str], body: list[list[tuple[str, str]]]) -> str:
    """A table in a box that scrolls sideways; cells are (text, class)."""
    top = "".join(f"<th>{escape(text)}</th>" for text in head)
    rows = []
    for line in body:
        shown = (f'<td class="{kind}">' if kind else "<td>" for _, kind in line)
        rows.append("".join(f"{tag}{escape(text)}</td>" for tag, (text, _) in zip(shown, line, strict=True)))
    inner = "".join(f"<tr>{row}</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n{inner}</tbody></table></div>'


def _ranked(head: list[str], body: list[list[tuple[str, int]]]) -> str:
    """`_table` with the best value of a column bold and the second underlined."""
    shown = {1: "first", 2: "second"}
    return _table(head, [[(text, shown.get(rank, "")) for text, rank in line] for line in body])


def _soft(text: str) -> str:
    return f'<p class="soft">{escape(text)}</p>'


def _provenance(record: dict[str, Any]) -> str:
    """Protocol, machine, versions and commands, folded."""
    lines = []
    every = _every_cell(record)
    of_labels = every[len(record["cells"]) :]
    if record["cells"]:
        protocol = record["cells"][0]["protocol"]
        args = protocol["eval_args"]
        lengths = sorted({cell["protocol"]["history"] for cell in record["cells"]})
        lines.append(
            f"Split {args['split']}, order {args['order']}, {protocol['candidates']}, history "
            f"{' and '.join(map(str, lengths))}; ties: {protocol['ties']}."
        )
    if of_labels:
        protocol = of_labels[0]["protocol"]
        args = protocol["eval_args"]
        lines.append(
            f"Judged by labels: split {args['split']}, order {args['order']}; ties: {protocol['ties']}."
        )
    if every:
        machines = {json.dumps(cell["machine"], sort_keys=True) for cell in every}
        for text in sorted(machines):
            machine = json.loads(text)
            lines.append(
                f"Ran on {machine['gpu'] or 'CPU'}, {machine['cpus']} cores, {machine['threads']} threads of "
                f"torch, {machine['platform']}."
            )
        versions = every[-1]["versions"]
        lines.append("Versions: " + ", ".join(f"{name} {number}" for name, number in versions.items()) + ".")
    lines += ["Command: " + shlex.join(command) for command in record.get("commands", [])]
    lines.append(f"Commit {record['commit'] or 'unknown'}; written {record['created']}.")
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<details><summary>How these figures came about</summary><ul class="soft">{items}</ul></details>'


def _comparison(test: dict[str, Any]) -> str:
    head = [f"{title(test['metric'])} against {test['reference']}", "mean", "95 %", "ratio", "95 %"]
    head += ["difference", "95 %", "p", "p, Holm"]
    body = []
    for name, row in sorted(test["rows"].items(), key=lambda item: -item[1]["mean"]):
        line = [(name, ""), (f"{row['mean']:.4f}", ""), (_span(row["interval"]), "")]
        against = row["against"]
        if against is None:
            line += [("baseline", "")] + [("", "")] * 5
        else:
            ratio = "" if against["ratio"] is None else f"{against['ratio']:.3f}"
            line += [
                (ratio, ""),
                (_span(against["ratio_interval"], 3), ""),
                (f"{against['difference']:+.4f}", ""),
                (_span(against["difference_interval"]), ""),
                (f"{against['p']:.4f}", ""),
                (f"{against['p_holm']:.4f}", "first" if against["p_holm"] < tables.LEVEL else ""),
            ]
        body.append(line)
    return (
        f"<details><summary>{escape(head[0])}: intervals and p-values</summary>{_table(head, body)}</details>"
    )


def _span(bounds: tuple[float, float] | None, places: int = 4) -> str:
    return "" if bounds is None else f"{bounds[0]:.{places}f} to {bounds[1]:.{places}f}"


def _cost(record: dict[str, Any]) -> str:
    if not record["table"]:
        return ""
    levels = record["seconds_to_level"]
    head = ["model", "policy", "parameters", "peak MB", "wall s", "CPU s", "distance in list@10"]
    head += [tables.level_title(level) for level in levels]
    body = []
    for row in record["table"]:
        line = [
            row["model"],
            "filtered" if row["filter_seen"] else "kept",
            f"{row['parameters']:,}",
            "" if row["peak memory mb"] is None else f"{row['peak memory mb']:,}",
            f"{row['seconds']:.0f}",
            f"{row['cpu seconds']:.0f}",
            "" if row["ild@10"] is None else f"{row['ild@10']:.3f}",
        ]
        for level in levels:
            here = row["filter_seen"] == level["filter_seen"]
            line.append(tables.reached_text(level["rows"].get(row["model"])) if here else "")
        body.append([(text, "") for text in line])
    note = "Seconds are those of the training that the row was judged on, means over seeds."
    if levels:
        note += f" {tables.LEVEL_NOTE}"
    return f'<h2>Cost</h2>{_table(head, body)}<p class="soft">{escape(note)}</p>'


def _every_cell(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [*record["cells"], *(record["labels"]["cells"] if record.get("labels") else ())]


def _policy(record: dict[str, Any]) -> str:
    body = [[(text, "") for text in line] for line in policy_figures.rows(record)]
    if not body:
        return ""
    return f"<h2>Policy stage</h2>{_table(policy_figures.HEAD, body)}{_soft(policy_figures.NOTE)}"


def _rows(record: dict[str, Any]) -> str:
    seen: dict[str, dict[str, Any]] = {}
    for cell in _every_cell(record):
        seen.setdefault(cell["row"]["name"], cell["row"])
    body = []
    for row in seen.values():
        values = ", ".join(f"{key}: {value}" for key, value in row["values"].items())
        body.append(
            [
                (row["name"], ""),
                (row["base"], ""),
                (values, "text"),
                (row["why"], "text"),
                (row["source"], "text"),
            ]
        )
    return f"<h2>Rows</h2>{_table(['row', 'model', 'keys set', 'why', 'source'], body)}" if body else ""


def _failures(record: dict[str, Any]) -> str:
    if not record["failed"]:
        return ""
    body = [
        [
            (f["row"]["name"], ""),
            (str(f["seed"]), ""),
            ("filtered" if f["filter_seen"] else "kept", ""),
            (f["error"], "text"),
        ]
        for f in record["failed"]
    ]
    return f"<h2>Failed cells</h2>{_table(['row', 'seed', 'policy', 'error'], body)}"


def _settings(record: dict[str, Any]) -> str:
    """Resolved settings of each row's first cell: what all share, then what is left of each."""
    first: dict[tuple[str, bool], dict[str, Any]] = {}
    for cell in _every_cell(record):
        first.setdefault((cell["row"]["name"], cell["filter_seen"]), cell)
    if not first:
        return ""
    configs = [cell["config"] for cell in first.values()]
    shared = {
        name: value
        for name, value in configs[0].items()
        if len(configs) > 1 and all(name in config and _same(config[name], value) for config in configs)
    }
    parts = [_folded("Every row", shared)] if shared else []
    for (name, policy), cell in first.items():
        own = {key: value for key, value in cell["config"].items() if key not in shared}
        parts.append(_folded(f"{name}, {tables.policy_name(policy)}, seed {cell['seed']}", own))
    how = (
        "The folder settings/ beside this file holds one whole property file per cell, with the command that "
        "runs the cell again."
    )
    return f"<h2>Settings</h2><p>{how}</p>{''.join(parts)}"


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)  # True and 1 differ


def _folded(label: str, values: dict[str, Any]) -> str:
    lines = "\n".join(f"{name}: {json.dumps(value)}" for name, value in sorted(values.items()))
    return f"<details><summary>{escape(label)}</summary><pre>{escape(lines)}</pre></details>"
