"""Semantic IDs from files: published ones (LETTER, MiniOneRec) and our own, keyed by original item token.

Published index files map an item to its tokens, ``{"B004756YJA": ["<a_183>", "<b_70>", ...], ...}``, and name
no dataset. Our own files add the fingerprint of the item set they were made for. Either way a file that does
not cover the dataset at hand is refused: codes of other items would decode without any error and mean
nothing.

Files that number their items (MiniOneRec, most of LETTER's) say nothing about which items they mean: every
dataset of the same size would fit. They are read only with evidence, see :func:`read_codes`.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_sigma.machine.files import fingerprint, write_atomically
from recbole_sigma.settings.reading import nearest
from recbole_sigma.values import UserError

FORMAT = "recbole-sigma-codes-1"
KEY, SAME = "tokenizer_codes_numbering", "same"
_TOKEN = re.compile(r"^<([a-z])_(\d+)>$")


def items_fingerprint(item_tokens: Sequence[str]) -> str:
    """Fingerprint of an item set, independent of its order.

    Args:
        item_tokens: original tokens of the real items.
    """
    return fingerprint(items=sorted(str(token) for token in item_tokens))


def read_codes(
    path: str | Path,
    item_tokens: Sequence[str],
    numbering: str | None = None,
    texts: Callable[[], Sequence[str]] | None = None,
) -> Tensor:
    """Read the semantic IDs of a dataset's items.

    Args:
        path: a ``.json`` or ``.json.gz`` file in LETTER's or MiniOneRec's index format, or written by
            :func:`write_codes`.
        item_tokens: original token of every item id; entry 0 is RecBole's padding item.
        numbering: what the numbers of a numbered file mean: a table from item token to number (``.json`` or
            lines of two columns), a ``.json`` from number to ``{"title": ...}`` whose titles are looked up in
            the items' texts, or ``"same"``: the user's word that they are the dataset's own item tokens.
        texts: gives the text of every item id, for the comparison of titles; None = there is none.

    Returns:
        int64 [N, L]; row 0 is zero. Codes may collide: published ones do.

    Raises:
        UserError: a file that cannot be read, is in another format, or belongs to another dataset.
    """
    path = Path(path)
    content = _load(path)
    wanted = [str(token) for token in item_tokens[1:]]
    if content.get("format") != FORMAT and all(key.isdecimal() for key in content):
        wanted = _numbers(path, content, wanted, numbering, texts)
    if content.get("format") == FORMAT:
        if content.get("items_sha256") != items_fingerprint(wanted):
            raise UserError(
                f"{path} holds the codes of dataset {content.get('dataset')!r} with {len(content['codes'])} "
                f"items, not of these {len(wanted)} items: make codes for this dataset, or load the dataset "
                "they belong to"
            )
        table = content["codes"]
        rows = [_plain_row(path, token, table[token]) for token in wanted]
    else:
        _refuse_other_items(path, content, wanted)
        rows = [_published_row(path, token, content[token]) for token in wanted]
    levels = {len(row) for row in rows}
    if len(levels) != 1:
        raise UserError(
            f"{path} mixes codes of {min(levels)} and {max(levels)} levels: all items need the same number"
        )
    return torch.cat([torch.zeros(1, levels.pop(), dtype=torch.int64), torch.tensor(rows, dtype=torch.int64)])


def write_codes(path: str | Path, codes: Tensor, item_tokens: Sequence[str], dataset: str) -> None:
    """Write semantic IDs so that :func:`read_codes` can tell which items they belong to.

    Args:
        path: a ``.json`` file.
        codes: int [N, L], row 0 padding.
        item_tokens: original token of every item id, entry 0 the padding item.
        dataset: name for the error message of a later mismatch.
    """
    tokens = [str(token) for token in item_tokens[1:]]
    content = {
        "format": FORMAT,
        "dataset": dataset,
        "items_sha256": items_fingerprint(tokens),
        "codes": dict(zip(tokens, codes[1:].tolist(), strict=True)),
    }
    write_atomically(Path(path), json.dumps(content).encode())


_UNREADABLE = (OSError, EOFError, zlib.error)
_MAX_BYTES = 1 << 30  # of an unpacked table: codes of some ten million items


def _unpacked(path: Path) -> bytes:
    """The bytes of a file, packed by gzip or not.

    Raises:
        OSError: also for a file that is larger than any table, such as a bomb or a device.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content: bytes = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise OSError(f"it holds more than {_MAX_BYTES} bytes")
    return content


def _load(path: Path, key: str = "tokenizer_quantizer") -> dict[str, Any]:
    try:
        content = json.loads(_unpacked(path))
    except FileNotFoundError:
        folder = path.parent
        near = nearest(path.name, [p.name for p in folder.iterdir()]) if folder.is_dir() else ""
        raise UserError(
            f"{key} names the {'codes ' if key != KEY else ''}file {path}, which does not exist{near}"
        ) from None
    except _UNREADABLE as error:
        raise UserError(f"{path} cannot be read ({error}): download it again") from error
    except (ValueError, RecursionError) as error:
        where = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"{path}{where} is not JSON ({error}): download it again") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} must hold a mapping from items, it holds a {type(content).__name__}")
    return content


def _refuse_other_items(path: Path, content: dict[str, Any], wanted: list[str]) -> None:
    missing = [token for token in wanted if token not in content]
    if missing:
        near = nearest(missing[0], list(content)[:20_000]) if len(missing) < len(wanted) else ""
        raise UserError(
            f"{path} has codes for {len(wanted) - len(missing)} of the dataset's {len(wanted)} items (item "
            f"{missing[0]!r} is missing{near}): it belongs to another dataset or to another filtering of it"
        )


def _numbers(
    path: Path,
    content: dict[str, Any],
    wanted: list[str],
    numbering: str | None,
    texts: Callable[[], Sequence[str]] | None,
) -> list[str]:
    """The number of every item in a numbered file, checked as far as ``numbering`` allows."""
    if numbering is None:
        raise UserError(
            f"{path} numbers its {len(content)} items and does not say which items they are, so codes of any "
            f"dataset of that size would pass: set {KEY} to the item2id table or the item.json that came "
            f"with it, or to {SAME} if the numbers are the item ids of this dataset's files"
        )
    if numbering == SAME:
        _refuse_other_items(path, content, wanted)
        _refuse_other_size(path, content, wanted)
        return wanted
    table = Path(numbering)
    if table.suffixes[-1:] == [".json"] or table.suffixes[-2:] == [".json", ".gz"]:
        meaning = _load(table, KEY)
        meaning = meaning.get("item2id", meaning)
        if all(isinstance(value, dict) for value in meaning.values()):
            _refuse_other_size(path, content, wanted)
            _refuse_other_items(path, content, wanted)
            _compare_titles(table, meaning, wanted, texts)
            return wanted
    else:
        meaning = dict(_columns(table))
    numbers = {str(token): str(number) for token, number in meaning.items()}
    if len(set(numbers.values())) != len(numbers):
        raise UserError(f"{table} gives one number to several items: it is no item2id table")
    missing = [token for token in wanted if token not in numbers]
    if missing:
        raise UserError(
            f"{table} numbers {len(wanted) - len(missing)} of the dataset's {len(wanted)} items (item "
            f"{missing[0]!r} is missing): the table and {path} belong to another dataset or to another "
            "filtering of it"
        )
    own = [numbers[token] for token in wanted]
    absent = [number for number in own if number not in content]
    if absent or len(numbers) != len(content):
        raise UserError(
            f"{table} numbers {len(numbers)} items and {path} has codes for {len(content)}"
            + (f" (none for number {absent[0]!r})" if absent else "")
            + ": they do not belong together"
        )
    return own


def _refuse_other_size(path: Path, content: dict[str, Any], wanted: list[str]) -> None:
    if len(content) != len(wanted):
        raise UserError(
            f"{path} numbers {len(content)} items but the dataset has {len(wanted)}: numbers do not say "
            "which items they mean, so the file must cover exactly the dataset's items (is it another "
            "dataset's index file?)"
        )


def _compare_titles(
    table: Path,
    meaning: dict[str, Any],
    wanted: list[str],
    texts: Callable[[], Sequence[str]] | None,
) -> None:
    """Refuse a table of titles that are not in the texts of the items of the same number."""
    if texts is None:
        raise UserError(
            f"{KEY} names the titles in {table}, but the dataset's property file names no text_fields to "
            f"compare them with: name them, or give an item2id table or {SAME}"
        )
    compared = agreed = 0
    first = ""
    for token, text in zip(wanted, texts()[1:], strict=True):
        title, text = _plain(str(meaning.get(token, {}).get("title") or "")), _plain(text)
        if title and text:
            compared += 1
            agreed += title in text
            first = first or ("" if title in text else token)
    if agreed < 0.9 * max(compared, 1) or compared < 0.5 * len(wanted):
        example = f"; item {first!r} is the first that differs" if first else ""
        raise UserError(
            f"the titles in {table} agree with the dataset's for {agreed} of {len(wanted)} items{example}: "
            "the numbers mean other items, so its codes belong to another dataset or numbering"
        )


def _plain(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())


def _columns(table: Path) -> list[tuple[str, str]]:
    try:
        text = _unpacked(table).decode()
    except (*_UNREADABLE, UnicodeDecodeError) as error:
        raise UserError(f"{KEY} names {table}, which cannot be read: {error}") from error
    rows = []
    for at, line in enumerate(text.splitlines(), start=1):
        parts = line.split()
        if len(parts) != 2 and parts:
            raise UserError(f"{table}:{at} has {len(parts)} columns, expected an item token and its number")
        if parts:
            rows.append((parts[0], parts[1]))
    return rows


def _published_row(path: Path, token: str, row: Any) -> list[int]:
    matches = [_TOKEN.match(str(part)) for part in row] if isinstance(row, list) else []
    letters = "".join(match.group(1) if match else "?" for match in matches)
    if not matches or letters != "abcdefghijklmnopqrstuvwxyz"[: len(letters)]:
        raise UserError(
            f"{path}: item {token!r} has code {row!r}, expected a list like ['<a_183>', '<b_70>', ...]"
        )
    return [int(match.group(2)) for match in matches if match]


def _plain_row(path: Path, token: str, row: Any) -> list[int]:
    fine = isinstance(row, list) and row and all(type(code) is int and code >= 0 for code in row)
    if not fine:
        raise UserError(f"{path}: item {token!r} has code {row!r}, expected a list of codes from 0 up")
    return row
