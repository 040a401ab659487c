"""Vectors on disk: encoder output that is stored once and memory-mapped, and image vectors a user brings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recbole_sigma.grounding.cooccurrence import unit_rows
from recbole_sigma.machine.files import OTHER_ARTIFACTS, atomic_file, reading, writing
from recbole_sigma.values import UserError


def _mapped(path: Path, sentence: str) -> np.ndarray:
    """Map a .npy file; ``sentence`` takes the path and what is wrong with it."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(sentence.format(path, error)) from error


def stored_vectors(path: Path, rows: int) -> np.ndarray | None:
    """Memory-map vectors that `store_vectors` wrote, or None when there are none of that name.

    Raises:
        UserError: a damaged file, or one with another number of rows.
    """
    if not path.exists():
        return None
    vectors = _mapped(path, "the stored text vectors {} cannot be read ({}): delete the file and run again")
    if vectors.ndim != 2 or len(vectors) != rows or vectors.dtype != np.float32:
        raise UserError(
            f"the stored text vectors {path} are {vectors.dtype} {vectors.shape}, not float32 of {rows} rows:"
            " delete the file and run again"
        )
    return vectors


def store_vectors(path: Path, rows: int, blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Write vectors block by block, never holding them all, and map them.

    Args:
        path: of the .npy file; written under a temporary name and renamed.
        rows: number of rows; those that no block names are zero.
        blocks: (int64 [b] rows, float32 [b, d] vectors); at least one.

    Raises:
        UserError: the folder cannot be written.
    """
    with writing(path, OTHER_ARTIFACTS):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            target: np.ndarray | None = None
            for index, vectors in blocks:
                if target is None:
                    target = np.lib.format.open_memmap(
                        temporary, mode="w+", dtype=np.float32, shape=(rows, vectors.shape[1])
                    )
                target[index] = vectors
            if target is None:
                raise ValueError("no block of vectors")
            target.flush()  # type: ignore[attr-defined]
            del target
    mapped = stored_vectors(path, rows)
    assert mapped is not None
    return mapped


def read_image_vectors(path: str | os.PathLike[str], item_tokens: Sequence[str]) -> np.ndarray:
    """Image vectors that the user brings: ``name.npy`` [n, d] beside ``name.items.txt``, one item id per
    line.

    Args:
        path: the .npy file.
        item_tokens: ids of the catalogue in row order, row 0 padding.

    Returns:
        float32 [N, d], unit rows, zero for items that the file does not hold.

    Raises:
        UserError: a missing or damaged file, rows that do not match, NaN, or no item of this catalogue.
    """
    path = Path(path)
    names = path.with_suffix(".items.txt")
    for file in (path, names):
        if not file.is_file():
            raise UserError(
                f"grounding_visual_file: {file} does not exist; give image vectors as name.npy [n, d] with"
                " the item ids in name.items.txt, one per line in the same order"
            )
    vectors = _mapped(
        path, "grounding_visual_file: {} is no .npy array of numbers ({}): save it with numpy.save"
    )
    try:
        tokens = names.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"grounding_visual_file: {names} is not UTF-8 text ({error}): convert it") from error
    tokens = [token.strip() for token in (tokens if tokens[-1] else tokens[:-1])]
    if vectors.dtype.kind not in "fiu" or (vectors.ndim == 2 and not vectors.shape[1]):
        raise UserError(
            f"grounding_visual_file: {path} holds {vectors.dtype} of shape {vectors.shape}: save real "
            "numbers, one row per image"
        )
    if vectors.ndim != 2 or len(tokens) != len(vectors):
        raise UserError(
            f"grounding_visual_file: {path} has shape {vectors.shape} but {names} has {len(tokens)} lines:"
            " one line per row is needed"
        )
    first: dict[str, int] = {}
    for line, token in enumerate(tokens, 1):
        if first.setdefault(token, line) != line:
            raise UserError(
                f"{names}:{line} names item {token!r} again (first in line {first[token]}): keep one of them"
            )
    row_of = {token: row for row, token in enumerate(item_tokens) if row}
    found = np.asarray([row_of.get(token, 0) for token in tokens], dtype=np.int64)
    keep = found > 0
    if not keep.any():
        raise UserError(
            f"grounding_visual_file: none of the {len(tokens)} ids in {names} is an item of this dataset: use"
            " the ids of the .item file"
        )
    chosen = np.asarray(vectors[keep], dtype=np.float64)
    if not np.isfinite(chosen).all():
        bad = int(np.flatnonzero(keep)[np.flatnonzero(~np.isfinite(chosen).all(axis=1))[0]])
        raise UserError(
            f"grounding_visual_file: {path} holds NaN or infinity in row {bad} (item {tokens[bad]})"
        )
    units = unit_rows(chosen)
    if not units.any():
        raise UserError(f"grounding_visual_file: all vectors in {path} are zero, so they tell nothing apart")
    out = np.zeros((len(item_tokens), vectors.shape[1]), dtype=np.float32)
    out[found[keep]] = units
    return out


def read_item_vectors(
    folder: str | os.PathLike[str], item_tokens: Sequence[str], key: str
) -> tuple[Tensor, Tensor]:
    """Item vectors that ``export`` wrote as arrays, in the order of this catalogue.

    Args:
        folder: holds ``items.tsv`` and ``vectors.npy``.
        item_tokens: ids of the catalogue in row order, row 0 padding.
        key: the setting that names the folder, for errors.

    Returns:
        (float32 [N, d], zero for items that the folder does not hold; bool [N], which it holds).

    Raises:
        UserError: a missing or damaged file, or no item of this catalogue.
    """
    names, array = Path(folder) / "items.tsv", Path(folder) / "vectors.npy"
    for file in (names, array):
        if not file.is_file():
            raise UserError(
                f"{key}: {file} does not exist; write the folder with: export --checkpoint=FILE "
                "--output=FOLDER"
            )
    vectors = _mapped(array, f"{key}: {{}} is no .npy array of numbers ({{}}): export it again")
    with reading(names, "export the items again into a new folder"):
        tokens = [line.split("\t", 1)[0] for line in names.read_text(encoding="utf-8").split("\n")[1:-1]]
    numbers = vectors.dtype.kind in "fiu" and bool(np.isfinite(vectors).all())
    if vectors.ndim != 2 or len(vectors) != len(tokens) or not numbers:
        raise UserError(
            f"{key}: {array} ({vectors.dtype} {vectors.shape}) does not go with the {len(tokens)} items of "
            f"{names}, or holds what is no number: export it again"
        )
    row_of = {token: row for row, token in enumerate(item_tokens) if row}
    found = np.asarray([row_of.get(token, 0) for token in tokens], dtype=np.int64)
    if not found.any():
        raise UserError(f"{key}: none of the {len(tokens)} items of {names} is an item of this dataset")
    table = torch.zeros(len(item_tokens), vectors.shape[1])
    known = torch.zeros(len(item_tokens), dtype=torch.bool)
    chosen = found > 0
    table[found[chosen]] = torch.from_numpy(np.array(vectors[chosen], dtype=np.float32))
    known[found[chosen]] = True
    return table, known
