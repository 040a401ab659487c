"""Values of RecBole's own keys that RecBole reads late or not at all: told before anything is loaded.

RecBole takes an interval that it cannot read for none, and a column list of another kind for a crash.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

INTERVAL_KEYS = ("user_inter_num_interval", "item_inter_num_interval")
"""Keys whose brackets carry meaning: a round one leaves its end out."""

_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+|inf)(?:e[+-]?\d+)?"
_INTERVAL = re.compile(rf"[\[(]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[\])]", re.I)

COLUMN_KEYS = ("load_col", "unload_col", "unused_col")
LIST_KEYS = (
    "selected_features",
    "numerical_features",
    "additional_feat_suffix",
    "alias_of_user_id",
    "alias_of_item_id",
    "alias_of_entity_id",
    "alias_of_relation_id",
    "normalize_field",
    "benchmark_filename",
)
TEXT_KEYS = (
    "data_path",
    "checkpoint_dir",
    "encoding",
    "field_separator",
    "seq_separator",
    "USER_ID_FIELD",
    "ITEM_ID_FIELD",
    "TIME_FIELD",
    "RATING_FIELD",
    "LABEL_FIELD",
    "LIST_SUFFIX",
    "ITEM_LIST_LENGTH_FIELD",
    "POSITION_FIELD",
    "NEG_PREFIX",
    "ENTITY_ID_FIELD",
    "RELATION_ID_FIELD",
    "HEAD_ENTITY_ID_FIELD",
    "TAIL_ENTITY_ID_FIELD",
)
NEEDED = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD", "LIST_SUFFIX", "ITEM_LIST_LENGTH_FIELD")
"""Names that every data set is read by."""
PICKLES = ("save_dataset", "save_dataloaders", "dataset_save_path", "dataloaders_save_path")
"""Keys whose only work in RecBole is to store or load a pickle."""

SWITCHES = ("use_gpu", "normalize_all")
"""Switches for which RecBole's property files have no value."""

MAPPING_KEYS = ("val_interval", "threshold", "preload_weight", "seq_len")
SIZES = re.compile(
    r"(embedding|hidden|inner|mlp_hidden|feature|batch|weight|latent)_(size|dim(ension)?)|n_(heads|layers)"
)
"""Names of keys that hold a size."""


def interval_text(value: Any) -> Any:
    """An interval as RecBole's parser reads it; a tuple of Python is open, a list is closed."""
    return str(value) if isinstance(value, (list, tuple)) else value


def interval_problem(key: str, value: Any) -> str | None:
    """The sentence about an interval that cannot be read, or None."""
    if value is None:
        return None
    wanted = f"{key} must be an interval such as [5,inf) or (0,10], several joined by ';'"
    text = interval_text(value)
    if not isinstance(text, str):
        return f"{wanted}, not {value!r}"
    for part in text.split(";"):
        found = _INTERVAL.fullmatch(part.strip())
        if not found:
            return f"{wanted}, not {text[:60]!r}"
        low, high = float(found[1]), float(found[2])
        empty = low == high and part.strip()[0] + part.strip()[-1] != "[]"
        if low > high or empty or math.isnan(low):
            return f"{key} {text[:60]!r} holds no number: write the smaller end first"
    return None


def value_problems(values: Mapping[str, Any]) -> list[str]:
    """Sentences about resolved values of RecBole's keys that cannot work."""
    problems = [interval_problem(key, values.get(key)) for key in INTERVAL_KEYS]
    for key in COLUMN_KEYS:
        problems.append(_columns_problem(key, values.get(key)))
    for key in MAPPING_KEYS:
        if not isinstance(values.get(key), (dict, type(None))):
            problems.append(f"{key} must be a mapping of columns, not {values[key]!r}")
    if isinstance(values.get("val_interval"), dict):
        for field, interval in values["val_interval"].items():
            if not isinstance(interval, list):  # a list names the tokens that stay
                problems.append(interval_problem(f"val_interval: {field}", interval))
    for key in LIST_KEYS:
        value = values.get(key)
        members = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
        if not all(isinstance(member, str) for member in members):
            problems.append(f"{key} must be a list of names, not {value!r}")
    for key in TEXT_KEYS:
        if not isinstance(values.get(key), (str, type(None))):
            problems.append(f"{key} must be text, not {values[key]!r}")
    if values.get("rm_dup_inter") not in (None, "first", "last"):
        problems.append(f"rm_dup_inter must be first, last or ~ (none), not {values['rm_dup_inter']!r}")
    problems.append(_clip_problem(values.get("clip_grad_norm")))
    for key in NEEDED:
        if key in values and not values[key]:
            problems.append(
                f"{key} is empty, but every data set is read by it: leave the key out, or name a column"
            )
    for key in PICKLES:
        if values.get(key):
            problems.append(
                f"{key} has no effect here: RecBole would write a pickle, which this program neither "
                "writes nor reads; leave it out"
            )
    for key in ("field_separator", "seq_separator"):
        if key in values and not values[key]:
            problems.append(f"{key} is empty: name the character between columns or members")
    for key, value in values.items():
        if isinstance(value, str) and "\0" in value:
            problems.append(f"{key} holds a zero byte, which no name of a file or column can hold")
        numbers = value if isinstance(value, list) else [value]
        if SIZES.fullmatch(key) and value is not None:
            if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in numbers):
                problems.append(f"{key} must be a positive integer (or a list of them), not {value!r}")
            elif "batch" not in key and max(numbers, default=1) > (most := _most(key)):
                problems.append(f"{key} must be at most {most:,}, not {value!r}: no machine holds more")
    return [problem for problem in problems if problem] or _heads_problem(values)


def _most(key: str) -> int:
    """The largest size that a network may ask for: an endless construction is no error message."""
    return 1_000 if key in ("n_layers", "n_heads") else 1 << 20


def _clip_problem(value: Any) -> str | None:
    """``clip_grad_norm`` becomes arguments of torch's function."""
    if value is None:
        return None
    good = isinstance(value, dict) and "max_norm" in value and value.keys() <= {"max_norm", "norm_type"}
    if good and all(isinstance(n, (int, float)) and n > 0 for n in value.values()):
        return None
    return f"clip_grad_norm must be ~ (none) or {{max_norm: 5}} with a positive number, not {value!r}"


def kind_problems(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Sentences about switches and numbers of RecBole's that were given as something else.

    Args:
        given: what the user gave.
        defaults: RecBole's values of the same keys; their types are the law.
    """
    problems = []
    for key, value in given.items():
        default = defaults.get(key, True if key in SWITCHES else None)
        if isinstance(default, bool) and not isinstance(value, (bool, type(None))):
            problems.append(f"{key} must be true or false, not {value!r}")
        elif isinstance(default, (int, float)) and isinstance(value, (str, Mapping)):
            problems.append(f"{key} must be a number, not {value!r}")
        elif isinstance(value, float) and math.isnan(value):
            problems.append(f"{key} must be a number, not {value!r}")
    return problems


def _heads_problem(values: Mapping[str, Any]) -> list[str]:
    heads, size = values.get("n_heads"), values.get("hidden_size")
    if isinstance(heads, int) and isinstance(size, int) and size % heads:
        return [f"n_heads {heads} does not divide hidden_size {size}: change one of them"]
    return []


def _columns_problem(key: str, value: Any) -> str | None:
    if value is None:
        return None
    wanted = f"{key} must map kinds of files to lists of columns, such as {{inter: [user_id, item_id]}}"
    if not isinstance(value, dict):
        return f"{wanted}, not {value!r}"
    for kind, columns in value.items():
        good = columns is None or columns == "*" or isinstance(columns, (list, tuple))
        if not good or not all(isinstance(name, str) for name in columns or ()):
            return f"{wanted}; {kind} holds {columns!r}"
    return None


def load_too(final: dict[str, Any], *columns: str | None) -> None:
    """Load more columns of .inter, where ``load_col`` lists some."""
    loaded = final.get("load_col")
    listed = loaded.get("inter") if isinstance(loaded, dict) else None
    if isinstance(listed, list):
        more = [column for column in columns if column is not None and column not in listed]
        final["load_col"] = {**final["load_col"], "inter": [*listed, *more]}
