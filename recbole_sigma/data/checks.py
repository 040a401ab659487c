"""Checks of atomic files before they are loaded, and of the dataset before it is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from recbole_sigma.settings.keys import ProtocolKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.reading import nearest, raise_all
from recbole_sigma.settings.recbole_keys import RoleKeys


def header(path: Path, separator: str, problems: list[str]) -> list[str]:
    """Field names in the first line of an atomic file (``name:type`` columns)."""
    try:
        with path.open("rb") as file:
            line = file.readline(1 << 20).decode("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path} cannot be read: {error}")
        return []
    fields = []
    for column in line.split(separator):
        name, colon, kind = column.partition(":")
        if not colon or kind not in ("token", "token_seq", "float", "float_seq"):
            problems.append(
                f"{path}:1 column {column!r} is not `name:type` with type token, token_seq, float or "
                "float_seq "
                f"(columns are separated by {separator!r})"
            )
            return []
        fields.append(name)
    return fields


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
        raise_all(
            [
                f"the dataset folder {folder} does not exist{near}; data_path names the folder that holds "
                "datasets"
            ]
        )
    separator = config["field_separator"]
    suffixes = config["benchmark_filename"]
    files = [folder / f"{name}.{part}.inter" for part in suffixes] if suffixes else [folder / f"{name}.inter"]
    wanted = [config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]]
    if not suffixes and (config["eval_args"]["order"] == "TO" or read(ProtocolKeys, config).filter_seen):
        wanted.append(config["TIME_FIELD"])
    for path in files:
        if not path.is_file():
            problems.append(f"{path} does not exist: the folder must hold the interactions under that name")
            continue
        fields = header(path, separator, problems)
        for field in wanted:
            if fields and field not in fields:
                problems.append(
                    f"{path}:1 has no column {field!r}{nearest(field, fields)}; it has {', '.join(fields)}"
                )
        with path.open("rb") as file:
            file.readline()
            if not file.readline().strip():
                problems.append(f"{path} holds no interaction below its header")
        if fields and not problems:
            times = [config["TIME_FIELD"]] if config["TIME_FIELD"] in wanted else []
            problems += line_problems(path, fields, separator, wanted[:2], times)
    if needs_text:
        problems += _text_problems(config, folder / f"{name}.item", separator)
    for kind in ("item", "user"):
        path, key = folder / f"{name}.{kind}", config[f"{kind.upper()}_ID_FIELD"]
        if _loaded(config, kind) and path.is_file() and not problems:
            fields = header(path, separator, problems)
            problems += line_problems(path, fields, separator, [key], unique=key) if fields else []
    raise_all(problems)


def _loaded(config: Any, kind: str) -> bool:
    """Whether the run reads the item or user file."""
    columns = config["load_col"]
    return columns is None or bool(columns.get(kind))


def _text_problems(config: Any, path: Path, separator: str) -> list[str]:
    fields = read(RoleKeys, config).text_fields
    if not fields:
        return [
            f"{config['model']} reads item text: set text_fields to the item fields that hold it, best first"
        ]
    if not path.is_file():
        return [f"{config['model']} reads item text, but {path} does not exist"]
    problems: list[str] = []
    found = header(path, separator, problems)
    loaded = (config["load_col"] or {}).get("item", []) if config["load_col"] is not None else "*"
    for field in fields:
        if found and field not in found:
            problems.append(
                f"{path}:1 has no text field {field!r}{nearest(field, found)}; it has {', '.join(found)}"
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
        UserError: if a list is longer than the catalogue, or nothing is left after filtering.
    """
    problems = []
    items = dataset.item_num - 1
    if max(config["topk"]) > items:
        problems.append(
            f"topk {max(config['topk'])} is larger than the catalogue of {config['dataset']} ({items} "
            "items): lower topk"
        )
    raise_all(problems)


MAX_REPORTED = 3


def line_problems(
    path: Path,
    fields: Sequence[str],
    separator: str,
    filled: Sequence[str] = (),
    numbers: Sequence[str] = (),
    unique: str | None = None,
) -> list[str]:
    """Sentences about the first damaged lines.

    Args:
        path: a file whose header is good.
        fields: the names in its header.
        separator: what separates columns.
        filled: columns that may not be empty.
        numbers: columns that must hold finite numbers.
        unique: a column whose value may come once only, or None.
    """
    place = {name: at for at, name in enumerate(fields)}
    full = [(name, place[name]) for name in filled if name in place]
    finite = [(name, place[name]) for name in numbers if name in place]
    seen: dict[str, int] = {}
    problems: list[str] = []
    width, key = len(fields), place.get(unique) if unique else None

    def say(number: int, what: str) -> None:
        problems.append(f"{path}:{number} {what}")

    for number, line in _lines(path, say):
        if len(problems) >= MAX_REPORTED:
            break
        if '"' in line:  # a quoted cell may hold separators: the CSV reader's business
            continue
        cells = line.split(separator)
        if len(cells) != width:
            say(number, f"has {len(cells)} column{'s' * (len(cells) != 1)}, the header has {width}")
            continue
        if "\0" in line:
            say(number, "holds a zero byte: the file is damaged")
        for name, at in full:
            if not cells[at].strip():
                say(number, f"has column {name!r} empty")
        for name, at in finite:
            _check_number(name, cells[at], number, say)
        if key is not None:
            first = seen.setdefault(cells[key], number)
            if first != number:
                say(number, f"has {unique} {cells[key]!r} twice (first in line {first}): keep one of them")
    return problems


def _check_number(name: str, text: str, number: int, say: Callable[[int, str], None]) -> None:
    try:
        value = float(text)
    except ValueError:
        say(number, f"has {text!r} in column {name!r}, which is no number")
    else:
        if not math.isfinite(value):
            say(number, f"has {text!r} in column {name!r}, which orders nothing: give every event a time")


def _lines(path: Path, say: Callable[[int, str], None]) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if number == 1:
                continue
            try:
                line = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                say(number, "is not UTF-8 text: convert the file")
                return
            if line:
                yield number, line
