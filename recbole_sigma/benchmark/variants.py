"""Rows of a table: a model, or a model with some keys set, read from ``--models``.

A variant is a YAML file with ``name``, ``base`` (a model), ``values`` (keys over the base, or the path of a
property file, from the variant's folder), ``why`` (one sentence) and ``source``. The shipped ones lie in
``properties/variants/``; users name a file or a folder.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from recbole_sigma.models import registry
from recbole_sigma.settings.reading import load_yaml, nearest, raise_all
from recbole_sigma.settings.recipes import VARIANT_FIELDS as FIELDS
from recbole_sigma.settings.recipes import properties_dir
from recbole_sigma.values import UserError


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: what the table prints.
        base: model name, RecBole's or ours.
        values: keys that make the variant; they outrank property files and config files.
        why: one sentence on what the row shows.
        source: where the idea or the values come from.
    """

    name: str
    base: str
    values: dict[str, Any] = field(default_factory=dict)
    why: str = ""
    source: str = ""


def rows_of(words: Iterable[str]) -> list[Row]:
    """Rows of the comma-separated words of ``--models``.

    A word is a model (``SASRec``), a model of the user's own (``my_model.py:MyModel``), a shipped variant
    (``SIGMA-ID``) or a pattern over them (``SIGMA-*``), a model with a plain property file
    (``SASRec:tuned.yaml``), a variant file (``mine.yaml``) or a folder of variant files (``variants/``).
    ``+memory`` behind any of them fuses the collaborative memory, and ``+VARIANT`` adds the keys of a shipped
    variant of the same model (``SIGMA+no-KD``).

    Raises:
        UserError: with every word that means nothing, and every name that would stand in the table twice.
    """
    problems: list[str] = []
    rows: list[Row] = []
    for word in (w.strip() for w in words):
        if not word:
            continue
        try:
            rows += _rows_of_word(word)
        except UserError as error:
            problems.append(str(error))
    known: dict[str, bool] = {}
    for row in rows:
        if row.base not in known:
            known[row.base] = registry.is_model(row.base)
            if not known[row.base]:
                names = (*registry.model_names(), *shipped())
                problems.append(f"unknown model {row.base!r}{nearest(row.base, names)}")
    taken = [row.name for row in rows]
    problems += [
        f"--models has the row {name!r} twice: give the second a variant file with a name of its own"
        for name in dict.fromkeys(taken)
        if taken.count(name) > 1
    ]
    raise_all(problems)
    return rows


def with_words(rows: Sequence[Row], asked: dict[str, Any]) -> list[Row]:
    """The rows under the ``--key=value`` words of a command.

    A word outranks the value that a row sets for the same key. The row is another one then, and says so in
    its name: ``SIGMA-paper (epochs=1)``.
    """
    changed = []
    for row in rows:
        other = {key: asked[key] for key, value in row.values.items() if asked.get(key, value) != value}
        said = ", ".join(f"{key}={value}" for key, value in other.items())
        name = f"{row.name} ({said})" if other else row.name
        changed.append(replace(row, name=name, values={**row.values, **other}))
    return changed


def plain_name(name: str) -> str:
    """A row's name without what `with_words` added."""
    return name.partition(" (")[0]


MEMORY = "memory"
"""Addition that fuses the collaborative memory with every row it follows."""


def _rows_of_word(word: str) -> list[Row]:
    first, *added = (part.strip() for part in word.split("+"))
    rows = _rows_of_first(first)
    for name in added:
        rows = [_with_memory(row) if name == MEMORY else _merged(row, name) for row in rows]
    return rows


def _with_memory(row: Row) -> Row:
    why = f"{row.why or row.name}; with the collaborative memory, weighed on validation"
    return Row(f"{row.name}+{MEMORY}", row.base, {**row.values, "memory": "validation"}, why, row.source)


def _merged(row: Row, name: str) -> Row:
    """``row`` with the keys of a shipped variant of the same model over its own."""
    known = {other: found for other, found in shipped().items() if found.base == row.base}
    other = known.get(name) or known.get(f"{row.base}-{name}")
    if other is None:
        short = [full.removeprefix(f"{row.base}-") for full in known]
        raise UserError(
            f"{row.name}+{name}: {name!r} is neither '{MEMORY}' nor a shipped variant of {row.base}"
            f"{nearest(name, short)}"
        )
    why = f"{row.why or row.name}; {other.why}"
    return Row(f"{row.name}+{name}", row.base, {**row.values, **other.values}, why, other.source)


def _rows_of_first(word: str) -> list[Row]:
    model, colon, place = word.partition(":")
    if registry.names_file(word):
        name = registry.from_file(word).__name__
        return [Row(name, name, why=f"{name} from {Path(model).name}", source=Path(model).name)]
    if colon:
        return [_with_file(model.strip(), Path(place.strip()))]
    path = Path(word)
    if word.endswith((".yaml", ".yml")):
        return [read_variant(path)]
    if word in shipped():
        return [shipped()[word]]
    if "*" in word or "?" in word:
        found = [row for name, row in shipped().items() if fnmatch.fnmatchcase(name, word)]
        if not found:
            raise UserError(f"no shipped variant is named like {word!r}; there are: {', '.join(shipped())}")
        return found
    if path.is_dir():
        return read_folder(path)
    if word.endswith("/"):
        raise UserError(f"the folder of variants {word} does not exist")
    about = registry.MODELS.get(word)
    return [Row(word, word, why=about.why, source=about.source) if about else Row(word, word)]


def _with_file(model: str, path: Path) -> Row:
    """``MODEL:file.yaml``: a plain property file, or a variant file of that model."""
    values = load_yaml(path)
    if "base" in values:
        row = read_variant(path)
        if row.base != model:
            raise UserError(f"{path} is a variant of {row.base}, not of {model}: write {path} alone")
        return row
    name = path.stem if path.stem.lower().startswith(model.lower()) else f"{model}-{path.stem}"
    if name == model:
        name = (
            f"{model}-tuned" if "tun" in str(path.parent).lower() else f"{model}-{path.parent.name or 'file'}"
        )
    return Row(name, model, values, why=f"{model} with the settings of {path.name}", source=path.name)


def read_folder(folder: Path) -> list[Row]:
    """All variant files of a folder, by file name.

    Raises:
        UserError: if it holds none, or one of them is no variant.
    """
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if not files:
        raise UserError(f"{folder} holds no variant (*.yaml with {', '.join(FIELDS)})")
    return [read_variant(path) for path in files]


def read_variant(path: Path) -> Row:
    """One variant file.

    Raises:
        UserError: naming every field that is missing, unknown or of the wrong kind.
    """
    data = load_yaml(path)
    problems = [
        f"{path} has an unknown field {key!r}{nearest(key, FIELDS)}" for key in data if key not in FIELDS
    ]
    for key in ("name", "base", "values"):
        if key not in data:
            problems.append(f"{path} has no field {key!r}: a variant needs name, base and values")
    for key in ("name", "base", "why", "source"):
        if key in data and (not isinstance(data[key], str) or not data[key].strip()):
            problems.append(f"{path}: {key} must be text, not {data[key]!r}")
        elif key in data and key in ("name", "base") and not data[key].strip().isprintable():
            problems.append(f"{path}: {key} holds a character that cannot be shown: rename it")
    values = data.get("values")
    if isinstance(values, str) and values.strip():
        values = load_yaml(path.parent / values.strip())
    if isinstance(values, dict) and values:
        fixed = [key for key in ("seed", "dataset", "model") if key in values]
        problems += [f"{path}: {key} cannot be set by a variant" for key in fixed]
    elif "values" in data:
        problems.append(f"{path}: values must be keys over the base, or a property file, not {values!r}")
    raise_all(problems)
    name, base = data["name"].strip(), data["base"].strip()
    return Row(name, base, dict(values or {}), data.get("why", "").strip(), data.get("source", "").strip())


@cache
def shipped() -> dict[str, Row]:
    """The variants in ``properties/variants/``, by name."""
    rows = [read_variant(path) for path in sorted((properties_dir() / "variants").glob("*.yaml"))]
    return {row.name: row for row in rows}


def list_text() -> str:
    """Our models and the shipped variants, one line each, for ``--models=list``."""
    about = {name: entry.why for name, entry in registry.MODELS.items()}
    about.update((name, row.why) for name, row in shipped().items())
    width = max(map(len, about))
    return "\n".join(f"{name:<{width}}  {why}" for name, why in about.items())


__all__: Sequence[str] = ("Row", "list_text", "read_folder", "read_variant", "rows_of", "shipped")
