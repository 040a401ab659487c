"""Semantic IDs from files: published ones (LETTER, MiniOneRec) and our own, keyed by original item token.

Published index files map an item to its tokens, ``{"B004756YJA": ["<a_183>", "<b_70>", ...], ...}``, and name
no dataset. Our own files add the fingerprint of the item set they were made for. Either way a file that does
not cover the dataset at hand is refused: codes of other items would decode without any error and mean
nothing.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_sigma.artifacts import fingerprint, write_atomically
from recbole_sigma.settings import nearest
from recbole_sigma.values import UserError

FORMAT = "recbole-sigma-codes-1"
_TOKEN = re.compile(r"^<([a-z])_(\d+)>$")


def items_fingerprint(item_tokens: Sequence[str]) -> str:
    """Fingerprint of an item set, independent of its order.

    Args:
        item_tokens: original tokens of the real items.
    """
    return fingerprint(items=sorted(str(token) for token in item_tokens))


def read_codes(path: str | Path, item_tokens: Sequence[str]) -> Tensor:
    """Read the semantic IDs of a dataset's items.

    Args:
        path: a ``.json`` or ``.json.gz`` file in LETTER's or MiniOneRec's index format, or written by
            :func:`write_codes`.
        item_tokens: original token of every item id; entry 0 is RecBole's padding item.

    Returns:
        int64 [N, L]; row 0 is zero. Codes may collide: published ones do.

    Raises:
        UserError: a file that cannot be read, is in another format, or belongs to another dataset.
    """
    path = Path(path)
    content = _load(path)
    wanted = [str(token) for token in item_tokens[1:]]
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


def _load(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
        text = gzip.decompress(raw) if path.suffix == ".gz" else raw
        content = json.loads(text)
    except FileNotFoundError:
        folder = path.parent
        near = nearest(path.name, [p.name for p in folder.iterdir()]) if folder.is_dir() else ""
        raise UserError(
            f"tokenizer_quantizer names the codes file {path}, which does not exist{near}"
        ) from None
    except (OSError, EOFError) as error:
        raise UserError(f"the codes file {path} cannot be read ({error}): download it again") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        where = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"{path}{where} is not JSON ({error}): download it again") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} must hold a mapping from item to code, it holds a {type(content).__name__}")
    return content


def _refuse_other_items(path: Path, content: dict[str, Any], wanted: list[str]) -> None:
    missing = [token for token in wanted if token not in content]
    if missing:
        near = nearest(missing[0], list(content)[:20_000]) if len(missing) < len(wanted) else ""
        raise UserError(
            f"{path} has codes for {len(wanted) - len(missing)} of the dataset's {len(wanted)} items (item "
            f"{missing[0]!r} is missing{near}): it belongs to another dataset or to another filtering of it"
        )
    # Item numbers mean something within one dataset only, so a numbered file must fit without remainder.
    if all(key.isdecimal() for key in content) and len(content) != len(wanted):
        raise UserError(
            f"{path} numbers {len(content)} items but the dataset has {len(wanted)}: numbers do not say "
            "which items they mean, so the file must cover exactly the dataset's items (is it another "
            "dataset's index file?)"
        )


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
