"""A pass over the lines of an atomic file that finds what RecBole would misread or report without a place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

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
