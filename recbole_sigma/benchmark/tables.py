"""The table as Markdown and LaTeX: best bold, second underlined, mean ± standard deviation, significance."""

from __future__ import annotations

from typing import Any

from recbole_sigma.benchmark import policy_figures
from recbole_sigma.benchmark.results import metric_columns, title
from recbole_sigma.benchmark.slices import COLD, RESAMPLES, slices
from recbole_sigma.benchmark.statistics import OWN, seconds_to_levels
from recbole_sigma.models.contract import contract_class
from recbole_sigma.models.registry import find_model
from recbole_sigma.values import UserError

BETTER, WORSE, LEVEL = "†", "‡", 0.05
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "†": r"\textsuperscript{\textdagger}",
    "‡": r"\textsuperscript{\textdaggerdbl}",
    "±": r"\ensuremath{\pm}",
}


def policies(record: dict[str, Any]) -> list[bool]:
    """Seen-item policies of a record, filtered first."""
    return sorted({row["filter_seen"] for row in record["table"]}, reverse=True)


def policy_name(filter_seen: bool) -> str:
    """A policy in words."""
    return "seen items filtered" if filter_seen else "seen items kept"


def group_of(model: str) -> str:
    """The heading under which a model's rows stand."""
    if model == OWN:
        return "SIGMA and its variants"
    found = find_model(model)
    free = found is not None and contract_class(found).training_free
    return "nothing trained" if free else "other trained models"


def ranks(values: list[float]) -> list[int]:
    """1 for the best value, 2 for the second best, 0 for the others; equal values share a rank."""
    distinct = sorted(set(values), reverse=True)
    return [distinct.index(value) + 1 if distinct.index(value) < 2 else 0 for value in values]


def marks(record: dict[str, Any], policy: bool) -> dict[tuple[str, str], str]:
    """(row, metric) -> mark of a difference from the best baseline that survives Holm's correction."""
    found = {}
    for test in record.get("significance", []):
        if test["filter_seen"] != policy:
            continue
        for name, row in test["rows"].items():
            against = row["against"]
            if against and against["p_holm"] < LEVEL:
                found[(name, test["metric"])] = BETTER if against["difference"] > 0 else WORSE
    return found


def cells(record: dict[str, Any], policy: bool) -> tuple[list[str], list[list[tuple[str, int]]]]:
    """Head and body of one policy's table.

    Returns:
        (column titles, rows of (text, rank)); rank 1 is to be bold, 2 underlined, 0 plain.
    """
    rows = [row for row in record["table"] if row["filter_seen"] == policy]
    columns = metric_columns(rows)
    marked = marks(record, policy)
    best = {column: ranks([row[column] for row in rows]) for column in columns}
    body = []
    for number, row in enumerate(rows):
        line = metric_line(row, {column: best[column][number] for column in columns}, marked)
        line.append((str(len(row["seeds"])), 0))
        line.append((f"{row['cpu seconds']:.0f}", 0))
        body.append(line)
    return ["model", *map(title, columns), "seeds", "CPU s"], body


def metric_line(
    row: dict[str, Any], rank: dict[str, int], marked: dict[tuple[str, str], str]
) -> list[tuple[str, int]]:
    """A row's name and figures with spread and mark: (text, rank) per cell.

    Args:
        row: of the record's table.
        rank: metric -> rank of the row, in the order of the columns.
        marked: (row, metric) -> mark.
    """
    line = [(row["model"], 0)]
    for column, place in rank.items():
        spread = row.get(f"{column} sd")
        text = f"{row[column]:.4f}" + (f" ±{spread:.4f}" if spread is not None else "")
        line.append((text + marked.get((row["model"], column), ""), place))
    return line


def footnote(record: dict[str, Any], policy: bool) -> str:
    """What bold, underline and marks mean, with the baseline of each metric."""
    tests = [test for test in record.get("significance", []) if test["filter_seen"] == policy]
    parts = ["Mean ± standard deviation over seeds; best bold, second underlined."]
    if tests:
        best = {test["reference"] for test in tests}
        named = [f"{test['reference']} ({title(test['metric'])})" for test in tests]
        against = best.pop() if len(best) == 1 else " and ".join(named)
        if not tests[0].get("chosen"):
            against = f"the best baseline, {against}"
        parts.append(
            f"{BETTER} better, {WORSE} worse than {against}: paired bootstrap over "
            f"{tests[0]['users']} users, {tests[0]['resamples']:,} resamples, two-sided p < {LEVEL} after "
            "Holm's correction over the rows."
        )
        if any(len(row["seeds"]) == 1 for row in record["table"] if row["filter_seen"] == policy):
            parts.append(
                "Where a row has one seed, its interval is over users alone: another training run of the "
                "same row may differ by more."
            )
    return " ".join(parts)


Body = list[list[tuple[str, int]]]


def slice_tables(record: dict[str, Any], policy: bool) -> list[tuple[list[str], Body, str]]:
    """Head, body and note of what `slices` says: NDCG@10 on parts of the targets, then of cold ones the
    difference from the reference and the mean gate. Empty where nothing says it.
    """
    try:
        found = slices(record, policy)
    except UserError:  # the rows share no target; the notes say so
        return []
    if not found:
        return []
    made = [(*_slice_cells(found["parts"]), SLICES_NOTE)]
    cold = [part for part in found["parts"] if part["group"] == COLD]
    rows = list(cold[0]["rows"])
    if all("against" in part for part in cold):
        head = [f"NDCG@10 less that of {cold[0]['reference']}", *map(_part_title, cold)]
        named = [row for row in rows if row in cold[0]["against"]]
        body: Body = [
            [(row, 0), *((_difference(*part["against"][row]), 0) for part in cold)] for row in named
        ]
        made.append((head, body, AGAINST_NOTE))
    gated = [row for row in rows if row in cold[0]["gates"]]
    if gated:
        body = [[(row, 0), *((f"{part['gates'][row]:.2f}", 0) for part in cold)] for row in gated]
        made.append((["mean gate", *map(_part_title, cold)], body, GATES_NOTE))
    return made


def _difference(mean: float, low: float, high: float) -> str:
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"


def _slice_cells(parts: list[dict[str, Any]]) -> tuple[list[str], Body]:
    head = ["NDCG@10", *(_part_title(part) for part in parts)]
    best = [ranks(list(part["rows"].values())) for part in parts]
    body = [[("targets", 0), *((f"{part['targets']:,}", 0) for part in parts)]]
    for number, row in enumerate(parts[0]["rows"]):
        shown = [(f"{part['rows'][row]:.4f}", rank[number]) for part, rank in zip(parts, best, strict=True)]
        body.append([(row, 0), *shown])
    return head, body


def _part_title(part: dict[str, Any]) -> str:
    if part["group"] == "step":
        return str(part["name"])
    return f"{part['group']}: {part['name']}"


SLICES_NOTE = (
    "Memorisation: train holds the step from the newest item of the history to the target; generalisation: "
    "it does not. Then by events before the target, and by train events of the target; a cold one has none."
)
AGAINST_NOTE = f"Mean difference and its 95 % interval: paired bootstrap over users, {RESAMPLES:,} resamples."
GATES_NOTE = "Mean gate of the targets: 1 trusts semantic ID or text alone, 0 what clicks tell alone."


def level_title(level: dict[str, Any]) -> str:
    """Head of a column of `statistics.seconds_to_levels`."""
    return f"CPU s to {level['of']}'s {level['level']:.4f}"


LEVEL_NOTE = (
    "A level is the row's best validation NDCG@10, mean over its seeds; preparation and training count, "
    "validation does not."
)


def reached_text(row: dict[str, Any] | None) -> str:
    """When a row reached a level, in words."""
    if row is None:
        return ""
    if row["cpu_seconds"] is None:
        return f"not reached (best {row['best']:.4f})"
    share = "" if row["reached"] == row["seeds"] else f" ({row['reached']} of {row['seeds']} seeds)"
    return f"{row['cpu_seconds']:.1f}{share}"


def levels_markdown(record: dict[str, Any]) -> str:
    """The CPU seconds of every training to the levels, as a Markdown table; empty where there is no level."""
    levels = seconds_to_levels(record)
    if not levels:
        return ""
    names = dict.fromkeys(name for level in levels for name in level["rows"])
    body = [[(name, 0), *((reached_text(level["rows"].get(name)), 0) for level in levels)] for name in names]
    return f"{markdown_table(['training', *map(level_title, levels)], body)}\n\n{LEVEL_NOTE}\n"


def markdown(record: dict[str, Any]) -> str:
    """One Markdown table per policy."""
    parts = []
    for policy in policies(record):
        heading = f"**{', '.join(record['dataset'])}, {policy_name(policy)}**"
        table = markdown_table(*cells(record, policy))
        parts.append(f"{heading}\n\n{table}\n\n{footnote(record, policy)}\n")
    return "\n".join(parts)


def policy_markdown(record: dict[str, Any]) -> str:
    """What the policy stages say about themselves, as a Markdown table; empty where there is none."""
    body = [[(text, 0) for text in line] for line in policy_figures.rows(record)]
    return f"{markdown_table(policy_figures.HEAD, body)}\n\n{policy_figures.NOTE}\n" if body else ""


def slices_markdown(record: dict[str, Any]) -> str:
    """One Markdown table of slices per policy; empty where nothing says them."""
    found = [made for policy in policies(record) for made in slice_tables(record, policy)]
    return "\n".join(f"{markdown_table(head, body)}\n\n{note}\n" for head, body, note in found)


def markdown_table(head: list[str], body: list[list[tuple[str, int]]]) -> str:
    """A Markdown table; cells are (text, rank), rank 1 bold, 2 underlined."""
    lines = [" | ".join(head), " | ".join(["---", *["---:"] * (len(head) - 1)])]
    for line in body:
        lines.append(" | ".join(_markdown_cell(text, rank) for text, rank in line))
    return "\n".join(f"| {line} |" for line in lines)


def _markdown_cell(text: str, rank: int) -> str:
    text = markdown_text(text)
    return {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(rank, text)


def markdown_text(text: str) -> str:
    """Text with the characters made harmless that would end a cell or start a tag."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def escape_latex(text: str) -> str:
    """Text with LaTeX's special characters made harmless."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex(record: dict[str, Any]) -> str:
    """One ``table`` per policy, for the packages booktabs and graphicx."""
    parts = []
    for policy in policies(record):
        head, body = cells(record, policy)
        lines = [" & ".join(map(escape_latex, head)) + r" \\", r"\midrule"]
        wrap = {1: r"\textbf{%s}", 2: r"\underline{%s}", 0: "%s"}
        for line in body:
            lines.append(" & ".join(wrap[rank] % escape_latex(text) for text, rank in line) + r" \\")
        inner = "\n".join(lines)
        caption = f"{', '.join(record['dataset'])}, {policy_name(policy)}. {footnote(record, policy)}"
        parts.append(
            "\\begin{table}\n\\centering\n\\resizebox{\\linewidth}{!}{%\n"
            f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}\n"
            f"\\toprule\n{inner}\n\\bottomrule\n\\end{{tabular}}}}\n"
            f"\\caption{{{escape_latex(caption)}}}\n\\end{{table}}\n"
        )
    return "\n".join(parts)
