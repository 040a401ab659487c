"""Tables of their own for rows that are judged by labels: AUC, GAUC, LogLoss, calibration."""

from __future__ import annotations

from typing import Any

from recbole_sigma.benchmark.label_statistics import NO_DIFFERENCE, SMALLER, significance
from recbole_sigma.benchmark.results import metric_columns, title
from recbole_sigma.benchmark.tables import (
    BETTER,
    LEVEL,
    WORSE,
    markdown_table,
    markdown_text,
    metric_line,
    ranks,
)
from recbole_sigma.values import UserError


def compare(part: dict[str, Any], reference: str | None = None) -> list[str]:
    """Fill in the significance of `results.gathered`; a sentence where that cannot be done."""
    part["significance"] = []
    if len(part["table"]) < 2:
        return []
    try:
        part["significance"] = significance(part, reference=reference)
    except UserError as error:
        return [f"no significance for the rows judged by labels: {error}"]
    return []


def cells(part: dict[str, Any]) -> tuple[list[str], list[list[tuple[str, int]]]]:
    """Head and body of the table; see `tables.cells`."""
    rows = part["table"]
    columns = metric_columns(rows)
    marked = _marks(part)
    best = {}
    for column in columns:
        values = [row[column] for row in rows]
        if column == "gauc_coverage":
            best[column] = [0] * len(rows)
        elif column == "calibration":  # 1 is right
            best[column] = ranks([-abs(value - 1) for value in values])
        else:
            best[column] = ranks([-value for value in values] if column in SMALLER else values)
    body = []
    for number, row in enumerate(rows):
        line = metric_line(row, {column: best[column][number] for column in columns}, marked)
        line += [(str(len(row["seeds"])), 0), (f"{row['parameters']:,}", 0), (f"{row['cpu seconds']:.0f}", 0)]
        body.append(line)
    return ["model", *map(title, columns), "seeds", "parameters", "CPU s"], body


def _marks(part: dict[str, Any]) -> dict[tuple[str, str], str]:
    found = {}
    for test in part["significance"]:
        sign = -1 if test["metric"] in SMALLER else 1
        for name, row in test["rows"].items():
            against = row["against"]
            if against is None or against["p_holm"] >= LEVEL or abs(against["difference"]) < NO_DIFFERENCE:
                continue
            found[name, test["metric"]] = BETTER if sign * against["difference"] > 0 else WORSE
    return found


def footnote(part: dict[str, Any]) -> str:
    """What the columns and marks mean."""
    said = (
        "Mean ± standard deviation over seeds; best bold, second underlined. GAUC is the AUC inside each "
        "user, weighted by rows, over users with both labels; GAUC rows is the share of rows they hold. "
        "Calibration is mean prediction over mean label."
    )
    tests = part["significance"]
    if tests:
        named = ", ".join(f"{test['reference']} for {title(test['metric'])}" for test in tests)
        test = tests[0]
        whose = "the named row" if test["chosen"] else "the best baseline"
        said += (
            f" {BETTER} better, {WORSE} worse than {whose} ({named}): bootstrap over {test['users']:,} users "
            f"and {len(test['seeds'])} seeds in pairs, {test['resamples']:,} resamples, two-sided p < "
            f"{LEVEL} after Holm's correction over the rows, and a difference of at least {NO_DIFFERENCE}."
        )
    return said


def markdown(part: dict[str, Any]) -> str:
    """The table and, below it, every row's difference with its interval."""
    names = ", ".join(sorted({cell["dataset"] for cell in part["cells"]}))
    text = f"**{names}, judged by labels**\n\n{markdown_table(*cells(part))}\n\n{footnote(part)}\n"
    return text + "".join(f"\n{_differences(test)}\n" for test in part["significance"])


def comparison(test: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and body of the differences under one metric, largest mean first."""
    head = [f"{title(test['metric'])} against {test['reference']}", "difference", "95 %", "p", "p, Holm"]
    sign = -1 if test["metric"] in SMALLER else 1
    body = []
    for name, row in sorted(test["rows"].items(), key=lambda item: -sign * item[1]["mean"]):
        against = row["against"]
        if against is not None:
            low, high = against["difference_interval"]
            shown = [f"{against['difference']:+.4f}", f"{low:+.4f} to {high:+.4f}"]
            body.append([name, *shown, f"{against['p']:.4f}", f"{against['p_holm']:.4f}"])
    return head, body


def _differences(test: dict[str, Any]) -> str:
    head, body = comparison(test)
    return markdown_table(
        [markdown_text(text) for text in head], [[(text, 0) for text in line] for line in body]
    )
