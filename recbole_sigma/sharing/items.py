"""Vectors and semantic IDs of a model's items with the items' own names, and new items beside them.

A folder holds one generation of the catalogue after another. Codes of items that are there never move: other
programs keep them. A new item stands where its text puts it among the old ones, and gets codes of the
existing codebooks.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_sigma.machine.files import checked_json, fingerprint, reading, write_atomically
from recbole_sigma.sharing.new_items import read_new_items
from recbole_sigma.tokenization.published_ids import write_codes
from recbole_sigma.values import UserError

FORMAT = "recbole-sigma-items-1"
MANIFEST, CODES = "manifest.json", "codes.json"
FORMS = ("npy", "parquet")
_AGAIN = "export the items again into a new folder"


@dataclass(frozen=True)
class ItemRows:
    """The items of a folder, without padding.

    Attributes:
        names: the items as the data names them, [n].
        texts: their text, [n]; empty where the model reads none.
        generation: int64 [n], the generation that each item came with.
        codes: int64 [n, L] semantic IDs; [n, 0] for a model without.
        vectors: float32 [n, d], the model's item vectors; [n, 0] for a model without.
        sources: float32 [n, e], what the codes were made from; [n, 0] where that is not known.
    """

    names: list[str]
    texts: list[str]
    generation: np.ndarray
    codes: np.ndarray
    vectors: np.ndarray
    sources: np.ndarray


def export_items(checkpoint: str, folder: Path | str, form: str = "npy", overrides: Any = None) -> Any:
    """Write the items of a trained model.

    Args:
        checkpoint: the trained model.
        folder: a new or empty one.
        form: ``npy`` (items.tsv and arrays in the same order) or ``parquet`` (one table; needs pyarrow).
        overrides: keys to change, such as ``data_path`` on another machine.

    Returns:
        What the manifest holds.

    Raises:
        UserError: a model without item vectors and semantic IDs, or a folder that is not empty.
    """
    from recbole_sigma.data.dataset import item_names
    from recbole_sigma.language.grown import check_empty
    from recbole_sigma.models.contract import contract
    from recbole_sigma.preparation.fields import item_texts
    from recbole_sigma.quick_start import load_data_and_model
    from recbole_sigma.settings.reader import read
    from recbole_sigma.settings.recbole_keys import RoleKeys

    if form not in FORMS:
        raise UserError(f"--format must be one of {', '.join(FORMS)}, not {form[:40]!r}")
    folder = Path(folder)
    check_empty(folder)
    quiet = {"show_progress": False, "state": "WARNING", **(overrides or {})}
    config, model, dataset, train, _, _ = load_data_and_model(checkpoint, quiet)
    names, answers = item_names(dataset)[1:], contract(model)
    codes, vectors = answers.semantic_ids(), answers.item_vectors()
    sources = answers.code_sources(train._dataset)
    if codes is None and vectors is None:
        raise UserError(
            f"{checkpoint} holds {config['model']}, which has neither item vectors nor semantic IDs of its "
            "own: SIGMA, TIGER, PackedSASRec, HSTU and BSARec have"
        )
    fields = read(RoleKeys, config).text_fields
    texts = item_texts(dataset, fields)[1:] if fields else [""] * len(names)
    none = np.zeros((len(names), 0))
    rows = ItemRows(
        names,
        texts,
        np.ones(len(names), dtype=np.int64),
        (none if codes is None else codes.codes[1:].numpy()).astype(np.int64),
        (none if vectors is None else vectors[1:].detach().cpu().numpy()).astype(np.float32),
        (none if sources is None else sources[1:].cpu().numpy()).astype(np.float32),
    )
    manifest = {
        "format": FORMAT,
        "model": config["model"],
        "dataset": config["dataset"],
        "form": form,
        "item_field": dataset.iid_field,
        "text_fields": list(fields),
        "quantized_levels": 0 if codes is None else answers.quantized_levels(),
        "generations": [],
    }
    return write_items(folder, rows, manifest)


def write_items(folder: Path, rows: ItemRows, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write all rows, and a manifest that counts one generation more.

    Every file is written beside its old form first and put in place at the end, the manifest last. New rows
    stand behind the old ones, so that `read_items` finds the old ones wherever this was cut off.
    """
    newest = int(rows.generation.max())
    entry = {"generation": newest, "items": int((rows.generation == newest).sum()), "sha256": _digest(rows)}
    manifest = {**manifest, "generation": newest, "generations": [*manifest["generations"], entry]}
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as name:
        fresh = Path(name)
        if manifest["form"] == "parquet":
            _write_parquet(fresh, rows)
        else:
            _write_arrays(fresh, rows)
        if rows.codes.shape[1]:
            padded = torch.from_numpy(np.concatenate([np.zeros_like(rows.codes[:1]), rows.codes]))
            write_codes(fresh / CODES, padded, ["[PAD]", *rows.names], manifest["dataset"])
        for path in sorted(fresh.iterdir()):
            os.replace(path, folder / path.name)
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    return manifest


def read_items(folder: Path | str) -> tuple[ItemRows, dict[str, Any]]:
    """The rows of a folder, and its manifest.

    Raises:
        UserError: no such folder, or one that was changed since it was written.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder} holds no exported items: it has no {MANIFEST}")
    with reading(path, _AGAIN):
        manifest = checked_json(path.read_bytes())
        if manifest["format"] != FORMAT:
            raise ValueError(f"it is in the format {manifest['format']!r}, not {FORMAT}")
    with reading(folder, _AGAIN):
        rows = _read_parquet(folder) if manifest["form"] == "parquet" else _read_arrays(folder)
        rows = _cut(rows, sum(entry["items"] for entry in manifest["generations"]))
        if _digest(rows) != manifest["generations"][-1]["sha256"]:
            raise ValueError("its rows are not those that the manifest was written for")
    return rows, manifest


def _digest(rows: ItemRows) -> str:
    """Of all that a later generation is made from; the text as items.tsv holds it."""
    return fingerprint(**{**vars(rows), "texts": [" ".join(text.split()) for text in rows.texts]})


def _cut(rows: ItemRows, count: int) -> ItemRows:
    """The first rows: those that a manifest knows. More are there when the next generation was cut off."""
    return ItemRows(**{name: values[:count] for name, values in vars(rows).items()})


# --- the two forms ---


def _write_arrays(folder: Path, rows: ItemRows) -> None:
    levels = [f"code_{level + 1}" for level in range(rows.codes.shape[1])]
    lines = ["\t".join(["item", "generation", *levels, "text"])]
    for name, generation, code, text in zip(
        rows.names, rows.generation, rows.codes.tolist(), rows.texts, strict=True
    ):
        lines.append("\t".join([name, str(generation), *map(str, code), " ".join(text.split())]))
    write_atomically(folder / "items.tsv", ("\n".join(lines) + "\n").encode())
    arrays = {"semantic_ids": rows.codes, "vectors": rows.vectors, "code_sources": rows.sources}
    for name, array in arrays.items():
        if array.shape[1]:
            np.save(folder / f"{name}.npy", array, allow_pickle=False)


def _read_arrays(folder: Path) -> ItemRows:
    lines = (folder / "items.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    cells = [line.split("\t") for line in lines]

    def array(name: str, kind: Any) -> np.ndarray:
        path = folder / f"{name}.npy"
        if not path.is_file():
            return np.zeros((len(lines), 0), dtype=kind)
        return np.load(path, allow_pickle=False).astype(kind, copy=False)

    return ItemRows(
        [cell[0] for cell in cells],
        [cell[-1] for cell in cells],
        np.array([int(cell[1]) for cell in cells], dtype=np.int64),
        array("semantic_ids", np.int64),
        array("vectors", np.float32),
        array("code_sources", np.float32),
    )


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError("--format=parquet needs pyarrow: pip install pyarrow, or use --format=npy") from None
    return pyarrow


def _write_parquet(folder: Path, rows: ItemRows) -> None:
    arrow = _parquet()
    columns: dict[str, Any] = {"item": rows.names, "generation": rows.generation, "text": rows.texts}
    for name, array in (
        ("semantic_id", rows.codes),
        ("vector", rows.vectors),
        ("code_source", rows.sources),
    ):
        if array.shape[1]:
            flat = arrow.array(array.reshape(-1))
            columns[name] = arrow.FixedSizeListArray.from_arrays(flat, array.shape[1])
    with (folder / "items.parquet").open("wb") as file:
        arrow.parquet.write_table(arrow.table(columns), file)


def _read_parquet(folder: Path) -> ItemRows:
    table = _parquet().parquet.read_table(folder / "items.parquet")

    def array(name: str, kind: Any) -> np.ndarray:
        if name not in table.column_names:
            return np.zeros((table.num_rows, 0), dtype=kind)
        column = table[name].combine_chunks()
        return column.flatten().to_numpy().reshape(table.num_rows, -1).astype(kind, copy=False)

    return ItemRows(
        table["item"].to_pylist(),
        table["text"].to_pylist(),
        table["generation"].to_numpy(),
        array("semantic_id", np.int64),
        array("vector", np.float32),
        array("code_source", np.float32),
    )


# --- new items ---


def append_items(folder: Path | str, file: Path | str) -> dict[str, Any]:
    """Add new items as the next generation; the rows of the items that are there stay byte for byte.

    A new item's vectors are estimated from its words, by a ridge regression of the old items' vectors on
    their TF-IDF words. Its codes are, level by level, those whose old items lie nearest on average. A digit
    that tells items of one code apart goes on counting. An item without text stands at the mean of the old
    ones.

    Args:
        folder: what `export_items` wrote.
        file: the new items in RecBole's ``.item`` form or a plain tab-separated table, with the columns that
            the data had.

    Returns:
        What the manifest holds.

    Raises:
        UserError: no new item, an item that is there already, a missing column, or codes that cannot be made
            from text.
    """
    rows, manifest = read_items(folder)
    names, texts = read_new_items(Path(file), manifest["item_field"], manifest["text_fields"])
    known = set(rows.names)
    again = [name for name in names if name in known]
    if again or len(set(names)) < len(names):
        name = again[0] if again else next(name for name in names if names.count(name) > 1)
        raise UserError(f"{file}: item {name!r} {'is in the folder already' if again else 'stands twice'}")
    if not any(rows.texts):
        raise UserError(f"{folder}: its items have no text that could place new ones; {_AGAIN}")
    if rows.codes.shape[1] and not rows.sources.shape[1]:
        raise UserError(
            f"{folder}: the codes came from a file or from rq-vae, so new ones cannot be made here: train "
            "with tokenizer_quantizer rq-kmeans or rq-kmeans-balanced"
        )
    width = rows.vectors.shape[1]
    placed = from_text(rows.texts, np.concatenate([rows.vectors, rows.sources], axis=1), texts)
    codes = nearest_codes(rows, placed[:, width:], manifest["quantized_levels"])
    generation = np.full(len(names), manifest["generation"] + 1, dtype=np.int64)
    grown = replace(
        rows,
        names=[*rows.names, *names],
        texts=[*rows.texts, *texts],
        generation=np.concatenate([rows.generation, generation]),
        codes=np.concatenate([rows.codes, codes]),
        vectors=np.concatenate([rows.vectors, placed[:, :width]]),
        sources=np.concatenate([rows.sources, placed[:, width:]]),
    )
    return write_items(Path(folder), grown, manifest)


def from_text(texts: list[str], vectors: np.ndarray, new: list[str]) -> np.ndarray:
    """Vectors of new items [m, d] float32, by ridge regression from the words of the old ones [n, d]."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    words = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True)
    known = words.fit_transform(texts)
    model = Ridge(alpha=1.0, solver="sparse_cg", tol=1e-6).fit(known, vectors.astype(np.float64))
    return np.asarray(model.predict(words.transform(new)), dtype=np.float32).reshape(len(new), -1)


def nearest_codes(rows: ItemRows, sources: np.ndarray, levels: int) -> np.ndarray:
    """Codes of new items int64 [m, L]: at each level the code whose old items' mean residual is nearest."""
    codes = np.zeros((len(sources), rows.codes.shape[1]), dtype=np.int64)
    old, new = rows.sources.astype(np.float64), sources.astype(np.float64)
    for level in range(levels):
        used, member = np.unique(rows.codes[:, level], return_inverse=True)
        means = np.zeros((len(used), old.shape[1]))
        np.add.at(means, member, old)
        means /= np.bincount(member)[:, None]
        distance = (means**2).sum(1) - 2 * new @ means.T
        chosen = distance.argmin(1)
        codes[:, level] = used[chosen]
        old, new = old - means[member], new - means[chosen]
    if codes.shape[1] > levels:  # the last digit tells items of one code apart
        counts: dict[tuple[int, ...], int] = {}
        for row in rows.codes.tolist():
            counts[tuple(row[:-1])] = max(counts.get(tuple(row[:-1]), 0), row[-1] + 1)
        for place, row in enumerate(codes[:, :-1].tolist()):
            codes[place, -1] = counts.get(tuple(row), 0)
            counts[tuple(row)] = int(codes[place, -1]) + 1
    return codes
