"""New items from a file: names and texts."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path

from recbole_sigma.data.atomic import PADDING, Format, read_rows
from recbole_sigma.settings.reading import nearest
from recbole_sigma.values import UserError


def read_new_items(file: Path, item_field: str, text_fields: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names and texts of the items of a file; every line must have the cells of its header.

    Args:
        file: RecBole's ``.item`` form, or a plain tab-separated table.
        item_field: the column of the items' names.
        text_fields: the columns of their text, best first.

    Raises:
        UserError: naming the line that cannot be read, the item without a name, or the missing column.
    """
    try:
        with file.open("rb") as opened:
            first = opened.readline().removeprefix(codecs.BOM_UTF8).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UserError(
            f"{file} cannot be read ({what}): give a tab-separated table with a header"
        ) from error
    columns = [column.strip().partition(":")[0] for column in first.split("\t")]
    wanted = [item_field, *text_fields]
    for column in wanted:
        if columns.count(column) != 1:
            told = "two columns" if column in columns else "no column"
            raise UserError(
                f"{file}:1 has {told} {column!r}{nearest(column, columns)}; it needs {', '.join(wanted)}, "
                "separated by tabs"
            )

    def refuse(number: int, what: str) -> None:
        raise UserError(f"{file}:{number} {what}")

    names, texts = [], []
    for number, cells in read_rows(file, len(columns), Format(), refuse):
        name, *parts = (cells[columns.index(column)].strip() for column in wanted)
        if name in ("", PADDING):
            refuse(number, f"has {name!r} in the place of the item's name: name every item")
        names.append(name)
        texts.append(". ".join(part for part in parts if part))
    if not names:
        raise UserError(f"{file} holds no item")
    return names, texts
