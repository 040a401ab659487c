"""Reading RecBole's atomic files: one rule for quotes, line ends, blanks, missing cells and text encodings.

RecBole reads them as CSV: a title that begins with a quote swallows the lines up to the next quote, a lone
carriage return makes a row, and an id such as ``NA`` counts as missing. Here a line of the file is a row, and
a cell is the text between two separators, whatever it is. A cell that is quoted as CSV writes it (quotes
around the whole, those inside doubled) loses its quotes. Ids lose the blanks around them. What cannot be read
is named by file and line; no row is ever left out.
"""

from __future__ import annotations

import codecs
import csv
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RecBoleKeys
from recbole_sigma.values import UserError

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("token", "token_seq", "float", "float_seq")
PADDING = "[PAD]"
"""RecBole's name for row 0 of every vocabulary; no item or user may bear it."""

MAX_LINE = 64 << 20  # bytes
MISSING_NUMBERS = frozenset({"", "nan", "na", "n/a", "null", "none", "<na>"})
"""Cells of a number column that stand for no number (compared without case)."""

CONVERT = "convert the file, or name its encoding (encoding: latin-1)"

Say = Callable[[int, str], None]


@dataclass(frozen=True)
class Column:
    """One column of an atomic file.

    Attributes:
        name: its name.
        kind: ``token``, ``token_seq``, ``float`` or ``float_seq``.
    """

    name: str
    kind: str


@dataclass(frozen=True)
class Format:
    """How the atomic files of a dataset are written.

    Attributes:
        separator: between columns.
        sequence: between the members of a sequence.
        encoding: a text encoding that Python knows.
        ids: names of the columns that hold ids of users, items or entities.
    """

    separator: str = "\t"
    sequence: str = " "
    encoding: str = "utf-8"
    ids: frozenset[str] = frozenset()


def format_of(config: Any) -> Format:
    """The `Format` that a config describes.

    Raises:
        UserError: the encoding is unknown, or does not end its lines with a plain line feed.
    """
    encoding = read(RecBoleKeys, config).encoding or "utf-8"
    try:
        known = codecs.lookup(encoding)
        plain = getattr(known, "_is_text_encoding", True) and "\n".encode(encoding) == b"\n"
    except (LookupError, ValueError, TypeError):
        plain = False
    if not plain:
        raise UserError(
            f"encoding {encoding!r} is none in which atomic files can be read: convert the files to "
            "UTF-8, or name a text encoding such as latin-1 or cp1252"
        )
    keys = (
        "USER_ID_FIELD",
        "ITEM_ID_FIELD",
        "ENTITY_ID_FIELD",
        "HEAD_ENTITY_ID_FIELD",
        "TAIL_ENTITY_ID_FIELD",
    )
    ids = (
        {config[key] for key in keys}
        | set(config["alias_of_user_id"] or ())
        | set(config["alias_of_item_id"] or ())
    )
    return Format(config["field_separator"], config["seq_separator"], encoding, frozenset(ids - {None}))


def read_header(path: Path, form: Format) -> list[Column]:
    """Columns of an atomic file, from its first line.

    Raises:
        UserError: the file cannot be read, or its first line is no header.
    """
    try:
        with path.open("rb") as file:
            line = file.readline(1 << 20).removeprefix(codecs.BOM_UTF8).decode(form.encoding).rstrip("\r\n")
    except UnicodeDecodeError:
        raise UserError(
            f"{path}:1 is not {form.encoding.upper()} text: convert the file, or name its encoding"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): check the file's rights"
        ) from error
    columns: list[Column] = []
    for text in line.split(form.separator):
        name, colon, kind = _plain_cell(text.strip()).partition(":")
        if not colon or kind not in KINDS:
            raise UserError(
                f"{path}:1 column {text[:80]!r} is not `name:type` with type {', '.join(KINDS[:3])} or "
                f"{KINDS[3]} (columns are separated by {form.separator!r})"
            )
        columns.append(Column(name, kind))
    names = [column.name for column in columns]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}:1 has two columns {twice!r}: rename one of them")
    return columns


def read_rows(path: Path, width: int, form: Format, say: Say) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells of the lines below the header; blank lines are passed over.

    Args:
        path: an atomic file.
        width: number of columns in its header.
        form: how it is written.
        say: told the number of each line that cannot be read, and what is wrong with it.
    """
    with path.open("rb") as file:
        file.readline()
        number = 1
        while raw := file.readline(MAX_LINE + 1):
            number += 1
            if len(raw) > MAX_LINE:
                say(number, f"is longer than {MAX_LINE >> 20} MiB: is this the right file?")
                return
            raw = raw.removesuffix(b"\n").removesuffix(b"\r")
            if not raw:
                continue
            try:
                line = raw.decode(form.encoding)
            except UnicodeDecodeError:
                say(number, f"is not {form.encoding.upper()} text: {CONVERT}")
                continue
            if "\0" in line:
                say(number, "holds a zero byte: the file is damaged")
                continue
            if "\r" in line:
                say(
                    number,
                    "holds a carriage return inside the line: take it out, or end lines by line feeds alone",
                )
                continue
            cells = line.split(form.separator)
            if '"' in line:
                cells = _unquoted(line, cells, width, form.separator)
            if len(cells) != width:
                count = len(cells)
                say(number, f"has {count} column{'s' * (count != 1)}, the header has {width}")
                continue
            yield number, cells


def _unquoted(line: str, cells: list[str], width: int, separator: str) -> list[str]:
    """Cells without the quotes that CSV writes round them; any other quote is a character of its cell."""
    if len(cells) != width and len(separator) == 1:  # a quoted cell may hold the separator
        try:
            parsed = next(csv.reader([line], delimiter=separator, strict=True))
        except (csv.Error, StopIteration):
            return cells
        return parsed if len(parsed) == width else cells
    return [_plain_cell(cell) for cell in cells]


def _plain_cell(cell: str) -> str:
    if len(cell) < 2 or not (cell[0] == cell[-1] == '"'):
        return cell
    inner = cell[1:-1]
    return inner.replace('""', '"') if '"' not in inner.replace('""', "") else cell


def number_in(text: str) -> float | None:
    """The finite number that a cell holds, or None."""
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def load_frame(path: Path, wanted: Collection[str] | None, form: Format) -> tuple[pd.DataFrame, list[Column]]:
    """An atomic file as RecBole holds it in memory: one row per line, in the order of the file.

    Args:
        path: the file.
        wanted: names of the columns to read; None reads all.
        form: how it is written.

    Returns:
        The frame and its columns, in the file's order. Cells: text or NaN (``token``), float64 (``float``,
        NaN where a number is missing), arrays of text or float64 (``token_seq``, ``float_seq``).

    Raises:
        UserError: naming the first line that cannot be read.
    """
    import pandas as pd

    header = read_header(path, form)
    at = [place for place, column in enumerate(header) if wanted is None or column.name in wanted]
    columns = [header[place] for place in at]

    def refuse(number: int, what: str) -> None:
        raise UserError(f"{path}:{number} {what}")

    values: list[list[Any]] = [[] for _ in columns]
    readers = [_reader(column, form, refuse) for column in columns]
    for number, cells in read_rows(path, len(header), form, refuse):
        for place, reader, into in zip(at, readers, values, strict=True):
            into.append(reader(number, cells[place]))
    frame = pd.DataFrame(
        {
            column.name: np.asarray(into, dtype=np.float64) if column.kind == "float" else _objects(into)
            for column, into in zip(columns, values, strict=True)
        }
    )
    return frame, columns


def _objects(values: Sequence[Any]) -> np.ndarray:
    """A one-dimensional array of objects, also where they are arrays of one length."""
    array = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        array[place] = value
    return array


def _reader(column: Column, form: Format, refuse: Say) -> Callable[[int, str], Any]:
    """What turns a cell of this column into its value."""
    is_id = column.name in form.ids

    def number(line: int, text: str) -> float:
        value = number_in(text)
        if value is None:
            if text.strip().lower() in MISSING_NUMBERS:
                return math.nan
            refuse(
                line,
                f"has {text[:40]!r} in column {column.name!r}, which is no finite number: mend it, leave "
                "the cell empty, or take the column out of load_col",
            )
        return value  # type: ignore[return-value]

    def token(line: int, text: str) -> Any:
        text = text.strip() if is_id else text
        return math.nan if text in ("", PADDING) else text

    def tokens(line: int, text: str) -> np.ndarray:
        return np.array([part for part in text.split(form.sequence) if part and part != PADDING])

    def numbers(line: int, text: str) -> np.ndarray:
        return np.array([number(line, part) for part in text.split(form.sequence) if part])

    return {"float": number, "token": token, "token_seq": tokens, "float_seq": numbers}[column.kind]
