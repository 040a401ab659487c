"""Checks of atomic files before they are loaded, and of the dataset before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_sigma.atomic_lines import line_problems
from recbole_sigma.settings import nearest, raise_all


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


def check_files(config: Any, model_class: type) -> None:
    """Refuse a dataset folder that the run could not use.

    Args:
        config: resolved config.
        model_class: the model; ``needs_item_text = True`` asks for the fields in ``text_fields``.

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
    if not suffixes and (config["eval_args"]["order"] == "TO" or config["filter_seen"]):
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
    if getattr(model_class, "needs_item_text", False):
        problems += _text_problems(config, model_class, folder / f"{name}.item", separator)
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


def _text_problems(config: Any, model_class: type, path: Path, separator: str) -> list[str]:
    fields = config["text_fields"]
    if isinstance(fields, str):
        fields = [fields]
    if not fields:
        return [
            f"{model_class.__name__} reads item text: set text_fields to the item fields that hold it, "
            "best first"
        ]
    if not path.is_file():
        return [f"{model_class.__name__} reads item text, but {path} does not exist"]
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
