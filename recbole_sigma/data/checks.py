"""Checks of atomic files before they are loaded, and of the dataset before it is used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataset_adapters.sources import SOURCES
from recbole_sigma.data.atomic import (
    PADDING,
    Column,
    Format,
    format_of,
    number_in,
    read_header,
    read_rows,
)
from recbole_sigma.data.labels import check_labels, label_column_problems
from recbole_sigma.settings.keys import ProtocolKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.reading import nearest, raise_all
from recbole_sigma.settings.recbole_keys import RoleKeys
from recbole_sigma.values import UserError

EXACT = 2.0**53
"""Whole numbers above it have no exact float64, so events could change places."""


def check_files(config: Any, needs_text: bool) -> None:
    """Refuse a dataset folder that the run could not use.

    Args:
        config: resolved config.
        needs_text: the model reads the item fields in ``text_fields``.

    Raises:
        UserError: with every problem found.
    """
    problems: list[str] = []
    folder, name = Path(config["data_path"]), config["dataset"]
    if not folder.is_dir():
        known = ["ml-100k"]
        if folder.parent.is_dir():
            known += [p.name for p in folder.parent.iterdir() if (p / f"{p.name}.inter").is_file()]
        near = nearest(name, known) or f"; there are: {', '.join(sorted(known))}"
        if name in SOURCES:
            near = f"; get it with: data fetch {name} --output {folder.parent}"
        elif not nearest(name, known):
            near += "; `data list` names sets to fetch or convert"
        raise_all(
            [
                f"the dataset folder {folder} does not exist{near}; data_path names the folder that holds "
                "datasets"
            ]
        )
    form = format_of(config)
    suffixes = config["benchmark_filename"]
    if suffixes and len(suffixes) != 3:
        problems.append(
            f"benchmark_filename must name three files, for training, validation and test, not {suffixes!r}"
        )
    files = [folder / f"{name}.{part}.inter" for part in suffixes] if suffixes else [folder / f"{name}.inter"]
    users, items, time = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"], config["TIME_FIELD"]
    wanted = [users, items]
    labelled = config["judged_by"] == "labels"
    seen_counts = read(ProtocolKeys, config).filter_seen and not labelled
    if not suffixes and (config["eval_args"]["order"] == "TO" or seen_counts):
        wanted.append(time)
    for path in files:
        if not path.is_file():
            problems.append(f"{path} does not exist: the folder must hold the interactions under that name")
            continue
        columns = _header(path, form, problems)
        fields = [column.name for column in columns]
        for field in wanted:
            if fields and field not in fields:
                problems.append(
                    f"{path}:1 has no column {field!r}{nearest(field, fields)}; it has {', '.join(fields)}"
                )
        if not _has_rows(path):
            problems.append(f"{path} holds no interaction below its header")
        problems += _role_problems(config, path, columns)
        if labelled and columns and config["label_rows"] == "own":
            problems += label_column_problems(config, path, columns)
        if columns and not problems:
            problems += line_problems(path, columns, form, (users, items), [time] if time in fields else [])
    if needs_text:
        problems += _text_problems(config, folder / f"{name}.item", form)
    for kind in ("item", "user"):
        path, key = folder / f"{name}.{kind}", config[f"{kind.upper()}_ID_FIELD"]
        if loads(config, kind) and path.is_file() and not problems:
            columns = _header(path, form, problems)
            problems += _role_problems(config, path, columns)
            if columns and not _has_rows(path):
                problems.append(
                    f"{path} holds no {kind} below its header: fill it, or take {kind} out of load_col"
                )
            if columns and not problems:
                problems += line_problems(path, columns, form, [key], unique=key)
    raise_all(problems)


def _has_rows(path: Path) -> bool:
    with path.open("rb") as file:
        file.readline()
        return any(line.strip() for line in iter(lambda: file.readline(1 << 20), b""))


def _header(path: Path, form: Format, problems: list[str]) -> list[Column]:
    """Columns of a file; none, and a problem, where its first line is no header."""
    try:
        return read_header(path, form)
    except UserError as error:
        problems.append(str(error))
        return []


def loads(config: Any, kind: str) -> bool:
    """Whether the run reads the item or user file."""
    columns = config["load_col"]
    return columns is None or bool(columns.get(kind))


def _role_problems(config: Any, path: Path, columns: Sequence[Column]) -> list[str]:
    """Columns whose declared type does not fit the part that they play.

    A time that is declared as text would order events as text does: 10 before 9.
    """
    text: tuple[str, ...] = ("token", "token_seq")
    roles: dict[str, tuple[str, tuple[str, ...]]] = {}
    for key in ("profile_fields", "category_field", "brand_field"):
        named = config[key] if path.suffix == (".user" if key == "profile_fields" else ".item") else None
        roles |= {name: (key, text) for name in ([named] if isinstance(named, str) else named or ())}
    if path.suffix == ".inter":
        roles |= {config[key]: (key, ("float",)) for key in ("RATING_FIELD", "LABEL_FIELD", "TIME_FIELD")}
        roles[f"{config['ITEM_ID_FIELD']}{config['LIST_SUFFIX']}"] = ("LIST_SUFFIX", ("token_seq",))
    roles |= {config[key]: (key, ("token",)) for key in ("USER_ID_FIELD", "ITEM_ID_FIELD")}
    numbers = config["numerical_features"] or ()
    roles |= {name: ("numerical_features", ("float", "float_seq")) for name in numbers}
    problems = []
    for column in columns:
        key, kinds = roles.get(column.name, ("", (column.kind,)))
        if column.kind not in kinds:
            problems.append(
                f"{path}:1 declares {column.name!r} as {column.kind}, but {key} names it, which needs "
                f"{' or '.join(kinds)}: write {column.name}:{kinds[0]} in the header"
            )
    return problems


def _text_problems(config: Any, path: Path, form: Format) -> list[str]:
    fields = read(RoleKeys, config).text_fields
    if not fields:
        return [
            f"{config['model']} reads item text: set text_fields to the item fields that hold it, best first"
        ]
    if not path.is_file():
        return [f"{config['model']} reads item text, but {path} does not exist"]
    problems: list[str] = []
    columns = {column.name: column.kind for column in _header(path, form, problems)}
    loaded = (config["load_col"] or {}).get("item", []) if config["load_col"] is not None else "*"
    for field in fields:
        if columns and field not in columns:
            problems.append(
                f"{path}:1 has no text field {field!r}{nearest(field, columns)}; it has {', '.join(columns)}"
            )
        elif columns and not columns[field].startswith("token"):
            problems.append(
                f"{path}:1 declares {field!r} as {columns[field]}, but text_fields names it, which needs "
                f"token or token_seq: write {field}:token in the header, or take it out of text_fields"
            )
        elif loaded != "*" and loaded is not None and field not in loaded:
            problems.append(
                f"text_fields names {field!r}, but load_col does not load it: add it to load_col: "
                f"{{item: [...]}}"
            )
    return problems


def check_dataset(config: Any, dataset: Any) -> None:
    """Refuse what only the loaded dataset shows.

    Raises:
        UserError: if a list is longer than the catalogue, nothing is left after filtering, or labels are
            not 0 and 1.
    """
    if config["judged_by"] == "labels":
        return None if config["label_rows"] == "gpsd" else check_labels(config, dataset)
    problems = []
    items = dataset.item_num - 1
    if items < 2:
        problems.append(
            f"the catalogue of {config['dataset']} holds {items} item, so there is nothing to rank: give it "
            "more items, or loosen the filters"
        )
    elif max(config["topk"]) > items:
        problems.append(
            f"topk {max(config['topk'])} is larger than the catalogue of {config['dataset']} ({items} "
            "items): lower topk"
        )
    raise_all(problems)


MAX_REPORTED = 3


def line_problems(
    path: Path,
    columns: Sequence[Column],
    form: Format,
    ids: Sequence[str] = (),
    times: Sequence[str] = (),
    unique: str | None = None,
) -> list[str]:
    """Sentences about the first damaged lines.

    Args:
        path: a file whose header is good.
        columns: those of its header.
        form: how the file is written.
        ids: columns that name a user or an item in every row.
        times: columns that must hold finite numbers.
        unique: a column whose value may come once only, or None.
    """
    place = {column.name: at for at, column in enumerate(columns)}
    named = [(name, place[name]) for name in ids if name in place]
    finite = [(name, place[name]) for name in times if name in place]
    seen: dict[str, int] = {}
    problems: list[str] = []
    key = place.get(unique) if unique else None

    def say(number: int, what: str) -> None:
        problems.append(f"{path}:{number} {what}")

    for number, cells in read_rows(path, len(columns), form, say):
        if len(problems) >= MAX_REPORTED:
            break
        for name, at in named:
            cell = cells[at].strip()
            if not cell:
                say(number, f"has column {name!r} empty")
            elif cell == PADDING:
                say(
                    number,
                    f"has {PADDING} in column {name!r}, which RecBole keeps for its padding: rename it",
                )
        for name, at in finite:
            problem = _time_problem(cells[at])
            if problem:
                say(number, f"has {cells[at][:40]!r} in column {name!r}, {problem}")
        if key is not None:
            cell = cells[key].strip()
            first = seen.setdefault(cell, number)
            if first != number:
                say(number, f"has {unique} {cell!r} twice (first in line {first}): keep one of them")
    return problems[:MAX_REPORTED]


def _time_problem(text: str) -> str | None:
    value = number_in(text)
    if value is not None:
        return "which is too large to be kept exactly: give seconds" if abs(value) > EXACT else None
    try:
        return "which orders nothing: give every event a time" if not math.isfinite(float(text)) else None
    except ValueError:
        return "which is no number"
