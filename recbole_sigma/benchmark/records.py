"""Records of a benchmark as JSON files: written with a checksum, and checked when they are read.

The checksum of a cell leaves out the metrics that follow from its places: those are computed anew at each
reading, and where the file says something else the places are believed.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.register import metrics_dict

from recbole_sigma.benchmark.label_statistics import metrics_of_rows
from recbole_sigma.machine.files import DELETE, checked_json, fingerprint, reading, write_atomically
from recbole_sigma.values import UserError

FORMAT = 2
AGAIN = "make it again with: report --output=FOLDER"

# Shapes: a type, a tuple of types, (shape, None) for what may be missing, a list of one shape, or a mapping
# of keys, where ``...`` stands for each key and ``name?`` for one that earlier versions did not write.
_NUMBER = (int, float)
_TOO_LARGE = 2**63
_NAME = {"name": str, "base": str}
_TRAINED = {
    "created": str,
    "model": str,
    "seed": int,
    "config": dict,
    "history": [{"train_cpu_seconds?": _NUMBER, "valid?": {...: _NUMBER}}],
    "best_epoch": int,
    "parameters": int,
    "versions": {...: str},
    "seconds": {...: (*_NUMBER, bool), "total": _NUMBER, "cpu": _NUMBER},
    "peak_memory": ({"resident_mb": _NUMBER}, None),
    "machine": {"gpu": (str, None), "cpus": int, "threads": int, "platform": str},
    "commit": (str, None),
}
_JUDGED = {"users": [int], "targets": [int], "train_counts": [int], "lengths?": [int], "pair_counts?": [int]}
_CELL_IN_A_TABLE = {
    **_TRAINED,
    "key": str,
    "training": str,
    "row": {**_NAME, "values": dict, "why": str, "source": str},
    "dataset": str,
    "filter_seen": bool,
    "protocol": {
        "metrics": [str],
        "topk": [int],
        "history": int,
        "eval_args": {"split": dict, "order": str},
        "candidates": str,
        "ties": str,
    },
    "test_result": {...: _NUMBER},
    "weights": {"shared": (str, None)},
    "intra_list_distance@10": (_NUMBER, None),
    "judging_seconds": ({"total": _NUMBER, "cpu": _NUMBER}, None),
}
_JUDGED_NAMES = tuple(name.removesuffix("?") for name in _JUDGED)
_LABEL_CELL_IN_A_TABLE = {k: v for k, v in _CELL_IN_A_TABLE.items() if k != "intra_list_distance@10"}
LABEL_ROWS = {"users": [int], "groups": [int], "labels": [int]}
LABEL_CELL = {**_LABEL_CELL_IN_A_TABLE, "rows": {**LABEL_ROWS, "scores": [_NUMBER]}}
CELL = {**_CELL_IN_A_TABLE, "places": {**_JUDGED, "places": [int], "gates?": [_NUMBER]}}
TRAINING = {**_TRAINED, "key": str, "best_valid_result": {...: _NUMBER}}
COMMAND = {"created": str, "words": [str]}
FAILURE = {"key": str, "row": _NAME, "seed": int, "filter_seen": bool, "kind": str, "error": str}
RESULTS = {
    "created": str,
    "commands": [[str]],
    "dataset": [str],
    "notes": [str],
    "judged": [_JUDGED],
    "cells": [{**_CELL_IN_A_TABLE, "places": {"judged": int, "places": [int], "gates?": [_NUMBER]}}],
    "failed": [FAILURE],
    "table": [{"model": str, "filter_seen": bool, "seeds": [int], "cpu seconds": _NUMBER}],
    "significance": [dict],
    "labels?": {
        "judged": [LABEL_ROWS],
        "cells": [{**_LABEL_CELL_IN_A_TABLE, "rows": {"judged": int, "scores": [_NUMBER]}}],
        "table": [{"model": str, "seeds": [int], "cpu seconds": _NUMBER}],
        "significance": [dict],
    },
}


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write plain values to a temporary file and put it in place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_atomically(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    except BaseException:  # such as a full disk: a name that was reserved is given back
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink() and path.stat().st_size == 0:
                path.unlink()
        raise


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record with the checksum that `read_record` looks for."""
    record = json.loads(json.dumps(record, allow_nan=False))  # as it will be read: keys are text
    write_json(path, {**record, "sha256": _checksum(record)})


def read_record(path: Path, shape: dict[Any, Any], remedy: str = DELETE) -> dict[str, Any]:
    """Read a record of this package.

    Args:
        path: the file.
        shape: what it must hold.
        remedy: what to do about a damaged one.

    Raises:
        UserError: if it is damaged or of another format.
    """
    with reading(path, remedy):
        record = checked_json(path.read_bytes())
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UserError(f"{path} is no record of this version of recbole-sigma: use another --output")
    with reading(path, remedy):
        told = record.pop("sha256", None)  # earlier versions wrote none, or one over the whole cell
        _check_shape(record, shape, "the record")
        if told is not None and told not in (_checksum(record), fingerprint(cell=record)):
            raise ValueError("its checksum differs: something in it was changed")
    return record


def read_cell(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A finished cell, checked.

    Returns:
        (the cell, a sentence for each metric that the file gave otherwise than its places do).

    Raises:
        UserError: naming what is wrong with it.
    """
    record = read_record(path, {})
    with reading(path, DELETE):
        _check_shape(record, LABEL_CELL if "rows" in record else CELL, "the record")
        wrong = []
        for name, value in _following_metrics(record).items():
            told = record["test_result"].get(name)
            # the sum may run in another order
            if told is None or abs(told - value) > 1.01 * 10.0 ** -record["config"]["metric_decimal_place"]:
                wrong.append(f"{path}: {name} was {told}, but its places say {value}")
                record["test_result"][name] = value
    return record, wrong


def _checksum(record: dict[str, Any]) -> str:
    """SHA-256 of a record, but for what follows from the rest of it."""
    if "test_result" not in record:
        return fingerprint(record=record)
    follows = _following_metrics(record)
    results = {name: value for name, value in record["test_result"].items() if name not in follows}
    return fingerprint(record={**record, "test_result": results})


def _following_metrics(record: dict[str, Any]) -> dict[str, float]:
    """The metrics of a cell that follow from its places, or from its scored rows."""
    if "rows" in record:
        decimals = record["config"]["metric_decimal_place"]
        return metrics_of_rows(record["protocol"]["metrics"], record["rows"], decimals)
    return _metrics_of_places(record)


def _metrics_of_places(record: dict[str, Any]) -> dict[str, float]:
    """The metrics of a cell that are functions of its targets' places, computed from them.

    Empty where a list has several targets but not all of its user's, since the cell does not say which.
    """
    kept, protocol = record["places"], record["protocol"]
    places, users = np.asarray(kept["places"], np.int64), np.asarray(kept["users"], np.int64)
    if any(len(kept[name]) != len(places) for name in _JUDGED_NAMES if name in kept):
        raise ValueError("its places are not one for each target")
    topk, decimals = protocol["topk"], record["config"]["metric_decimal_place"]
    if not topk or not 1 <= min(topk) <= max(topk) <= 1 << 20 or not 0 <= decimals <= 17:
        raise ValueError("its topk or metric_decimal_place is no such number")
    if not len(places) or not 0 <= places.min() <= places.max() <= max(topk):
        raise ValueError("its places lie outside the lists")
    _, row = np.unique(users, return_inverse=True)
    lists = kept.get("lists", row.max() + 1 if len(users) == row.max() + 1 else 0)
    if lists == len(users):
        row = np.arange(lists)
    elif lists != row.max() + 1:
        return {}
    hits = np.zeros((lists, max(topk) + 1), np.int64)  # the last column counts the targets, as RecBole has it
    listed = places > 0
    hits[row[listed], places[listed] - 1] = 1
    hits[:, -1] = np.bincount(row, minlength=lists)
    struct = DataStruct()
    struct.set("rec.topk", torch.from_numpy(hits))
    found: dict[str, float] = {}
    for name in protocol["metrics"]:
        metric = metrics_dict[name.lower()]
        if metric.metric_need == ["rec.topk"]:
            config = {"topk": topk, "metric_decimal_place": decimals}
            found |= {key: float(value) for key, value in metric(config).calculate_metric(struct).items()}
    return found


def _check_shape(value: Any, shape: Any, where: str) -> None:
    """Raise a TypeError or KeyError where a value has not its shape."""
    if isinstance(shape, tuple) and shape[-1] is None:
        if value is not None:
            _check_shape(value, shape[0], where)
    elif isinstance(shape, list):
        _check_shape(value, list, where)
        for member in value:
            _check_shape(member, shape[0], where)
    elif isinstance(shape, dict):
        _check_shape(value, dict, where)
        for name, inner in shape.items():
            key = name.removesuffix("?") if isinstance(name, str) else name
            if key == name or key in value:
                for each in value if key is ... else [key]:
                    _check_shape(value[each], inner, f"{where}: {each}")
    else:
        kinds = shape if isinstance(shape, tuple) else (shape,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise TypeError(f"{where} is a {type(value).__name__}")
        if isinstance(value, _NUMBER) and abs(value) >= _TOO_LARGE:
            raise ValueError(f"{where} is larger than anything that is counted")
