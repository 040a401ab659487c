"""Data sets of labelled rows (clicks, ratings above a threshold): written row by row, split or whole.

The adapters of event logs hold a log in memory and filter it; files of advertising clicks are larger than
memory and are taken as they are. So a labelled adapter hands each row on as it is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from dataset_adapters import atomic
from dataset_adapters.card import sources_of, terms_of, write_papers
from dataset_adapters.errors import AdapterError, BadRow
from dataset_adapters.events import Field
from dataset_adapters.job import Input, Job, Option
from dataset_adapters.recipe import recipe_text

PARTS = ("train", "valid", "test")
LABEL = Field("label", "float")
RANDOM = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "none", "mode": "labeled"}


@dataclass(frozen=True)
class LabelledAdapter:
    """One labelled source.

    Attributes:
        name: what the user types.
        summary: one line for ``list``.
        inputs: files it reads.
        write: reads them and hands rows to a `Sheet`.
        default_name: proposes a data set name.
        columns: of the rows, the label last; ``user_id`` and ``item_id`` among them, or see ``settings``.
        licence, citation, homepage: as in `job.Adapter`.
        options: options beyond the common ones.
        split: whether the adapter writes three parts (``benchmark_filename``) or one file.
        more_tests: names of further test parts, judged with ``benchmark_filename: [train, valid, NAME]``.
        settings: keys of the property file beyond those that follow from the columns.
        left_out: fields of the raw files that are not written, each with the reason.
        notes: assumptions that the card and ``describe`` state.
        encoding: of the raw files.
        example: arguments of the example in ``describe``.
    """

    name: str
    summary: str
    inputs: tuple[Input, ...]
    write: Callable[[Job, Sheet], None]
    default_name: Callable[[Job], str]
    columns: tuple[Field, ...]
    licence: str
    citation: str
    homepage: str
    options: tuple[Option, ...] = ()
    split: bool = False
    more_tests: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    encoding: str = "utf-8"
    example: str = ""


class Sheet:
    """The atomic files of a labelled data set while they are written.

    Attributes:
        rows: rows of every part.
        positive: rows with label 1 of every part.
        settings: further keys of the property file.
    """

    def __init__(self, folder: Path, name: str, adapter: LabelledAdapter, stack: ExitStack) -> None:
        self.folder, self.name, self.adapter, self._stack = folder, name, adapter, stack
        self.rows: dict[str, int] = {}
        self.positive: dict[str, int] = {}
        self.features: dict[str, int] = {}
        self.settings: dict[str, Any] = dict(adapter.settings)
        self._files: dict[str, IO[str]] = {}
        for part in (*PARTS, *adapter.more_tests) if adapter.split else ("all",):
            self._open(part)

    def _open(self, part: str) -> None:
        middle = "" if part == "all" else f"{part}."
        file = open(self.folder / f"{self.name}.{middle}inter", "w", encoding="utf-8", newline="\n")  # noqa: SIM115
        self._files[part] = self._stack.enter_context(file)
        file.write("\t".join(f"{f.name}:{f.type}" for f in self.adapter.columns) + "\n")
        self.rows[part] = self.positive[part] = 0

    def put(self, cells: Sequence[str], label: int, part: str = "all") -> None:
        """Write one row: the cells before the label, then the label."""
        self._files[part].write("\t".join(map(atomic.cell, cells)) + f"\t{label}\n")
        self.rows[part] += 1
        self.positive[part] += label

    def write_features(self, kind: str, fields: Sequence[Field], rows: Mapping[str, Sequence[str]]) -> None:
        """Write the columns of users or of items.

        Args:
            kind: ``user`` or ``item``.
            fields: the columns beside the id.
            rows: id -> values.
        """
        path = self.folder / f"{self.name}.{kind}"
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write("\t".join(f"{f.name}:{f.type}" for f in (Field(f"{kind}_id"), *fields)) + "\n")
            for key, values in rows.items():
                file.write("\t".join(map(atomic.cell, (key, *values))) + "\n")
        self.features[kind] = len(rows)
        load = self.settings.setdefault("load_col", {})
        load[kind] = [f"{kind}_id", *(f.name for f in fields)]


def label_of(text: Any, positive: str = "1", negative: str = "0") -> int:
    """0 or 1.

    Raises:
        BadRow: neither.
    """
    word = str(text).strip()
    if word not in (positive, negative):
        raise BadRow(f"label is {word[:40]!r}, {negative} or {positive} expected")
    return int(word == positive)


def convert_labelled(job: Job, output: Path, name: str, command: str) -> tuple[Path, dict[str, Any], float]:
    """Run a labelled adapter and write its data set as ``output/name``.

    Args:
        job: files and options; its adapter is a `LabelledAdapter`.
        output: RecBole's ``data_path``.
        name: the data set's name.
        command: the command to put on record.

    Returns:
        (folder, card, seconds).

    Raises:
        AdapterError: with one sentence for the user; nothing is then left behind in ``output``.
    """
    started = time.perf_counter()
    adapter: Any = job.adapter
    atomic.check_name(name)
    atomic.check_free(output / name, job.options.overwrite)
    with atomic.staged_folder(output, name, job.options.overwrite) as folder:
        with _sheet(folder, name, adapter) as sheet:
            adapter.write(job, sheet)
        _check_rows(sheet)
        settings = _settings(sheet, adapter)
        card = _card(job, adapter, name, command, sheet)
        header = [
            f"{name}: written by the command below; the facts are in {name}.card.md",
            "",
            f"made      {command}",
            f"run       python run_recbole_sigma.py --model=DeepFM --dataset={name} --data_path=...",
            f"source    {adapter.homepage} ; {adapter.citation}",
            f"terms     {adapter.licence}",
        ]
        write_papers(folder, name, recipe_text(settings, header), card, card_markdown)
    return output / name, card, time.perf_counter() - started


@contextmanager
def _sheet(folder: Path, name: str, adapter: LabelledAdapter) -> Iterator[Sheet]:
    with ExitStack() as stack:
        yield Sheet(folder, name, adapter, stack)


def _check_rows(sheet: Sheet) -> None:
    for part, rows in sheet.rows.items():
        if sheet.positive[part] in (0, rows):
            what = "no row" if not rows else f"{rows:,} rows, all of one label"
            raise AdapterError(f"the {part} part would hold {what}; is this the right file?")


def _settings(sheet: Sheet, adapter: LabelledAdapter) -> dict[str, Any]:
    names = [f.name for f in adapter.columns]
    settings: dict[str, Any] = {"field_separator": "\t", "seq_separator": "|"}
    settings |= {"USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "LABEL_FIELD": "label"}
    if adapter.split:
        settings["benchmark_filename"] = list(PARTS)
    settings |= {"threshold": None, "normalize_all": False, **sheet.settings}
    skipped = settings.pop("not_loaded", ())
    load = {"inter": [name for name in names if name not in skipped], **(settings.pop("load_col", {}))}
    return {**settings, "load_col": load, "eval_args": RANDOM}


def _card(job: Job, adapter: LabelledAdapter, name: str, command: str, sheet: Sheet) -> dict[str, Any]:
    """The facts of a conversion; nothing in it depends on the day or the machine."""
    reader = job.reader
    return {
        "card_version": 1,
        "name": name,
        "adapter": adapter.name,
        "summary": adapter.summary,
        "command": command,
        "sources": sources_of(job),
        "parts": {
            part: {"rows": rows, "positive": sheet.positive[part], "share": sheet.positive[part] / rows}
            for part, rows in sheet.rows.items()
        },
        "features": sheet.features,
        "rows": {
            "bad_rows_skipped": dict(sorted(reader.bad_rows.items())),
            "bad_row_examples": reader.bad_examples,
            **job.counts,
        },
        "columns": [f"{f.name}:{f.type}" for f in adapter.columns],
        **terms_of(job),
    }


def card_markdown(card: Mapping[str, Any]) -> str:
    """Lay a card out as Markdown."""
    lines = [f"# {card['name']}", "", card["summary"], "", f"Made by `{card['command']}`."]
    for warning in card["warnings"]:
        lines += ["", f"**Warning:** {warning}"]
    lines += ["", "| part | rows | positive | share |", "|---|---|---|---|"]
    lines += [
        f"| {part} | {facts['rows']:,} | {facts['positive']:,} | {facts['share']:.4f} |"
        for part, facts in card["parts"].items()
    ]
    lines += ["", f"- columns: {', '.join(card['columns'])}"]
    lines += [f"- {kind}s with columns of their own: {rows:,}" for kind, rows in card["features"].items()]
    skipped = sum(card["rows"]["bad_rows_skipped"].values())
    lines += [f"- bad rows skipped: {skipped:,}"]
    lines += ["", "| role | file | bytes | rows | sha256 |", "|---|---|---|---|---|"]
    lines += [
        f"| {s['role']} | {s['file']} | {s['bytes']:,} | {s['rows']:,} | `{s['sha256']}` |"
        for s in card["sources"]
    ]
    lines += ["", "## Left out", "", *(f"- {e['fields']}: {e['reason']}" for e in card["left_out"])]
    lines += ["", "## Notes", "", *(f"- {note}" for note in card["notes"])]
    lines += ["", "## Terms", "", f"- licence: {card['licence']}", f"- cite: {card['citation']}"]
    return "\n".join([*lines, f"- from: {card['homepage']}"]) + "\n"
