"""Labelled rows: their label column, and what other columns learn from the train rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_sigma.data.atomic import Column
from recbole_sigma.settings.label_keys import LabelKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.reading import nearest
from recbole_sigma.values import UserError

PARTS = ("train", "validation", "test")


def label_column_problems(config: Any, path: Path, columns: Sequence[Column]) -> list[str]:
    """Sentences about a file of interactions from which no label can be read.

    Args:
        config: resolved config.
        path: the file.
        columns: of its header.
    """
    fields = [column.name for column in columns]
    label, threshold = config["LABEL_FIELD"], config["threshold"]
    loaded = (config["load_col"] or {}).get("inter") if config["load_col"] is not None else None
    wanted = next(iter(threshold)) if isinstance(threshold, dict) and len(threshold) == 1 else label
    if threshold is not None and wanted == label and label not in (threshold or {}):
        return [f"threshold must name one column and a number, such as {{rating: 4}}, not {threshold!r}"]
    if threshold is None and label not in fields:
        numbers = ", ".join(field for field in fields if field.lower() in ("rating", "score", "stars"))
        about = f" ({numbers} may serve)" if numbers else ""
        return [
            f"{path}:1 has no column {label!r}, and {config['model']} learns from labels: name a column of 0 "
            f"and 1 with LABEL_FIELD, or make labels from numbers with threshold: {{COLUMN: LEAST}}{about}"
        ]
    if wanted not in fields:
        return [f"{path}:1 has no column {wanted!r}{nearest(wanted, fields)}, which threshold names"]
    if loaded is not None and loaded != "*" and wanted not in loaded:
        return [f"load_col does not load {wanted!r}, which labels are made of: add it to load_col: {{inter}}"]
    least = 0 if threshold is None else threshold[wanted]
    if isinstance(least, bool) or not isinstance(least, int | float):
        return [f"threshold must name one column and a number, such as {{rating: 4}}, not {threshold!r}"]
    kind = next(column.kind for column in columns if column.name == wanted)
    if kind != "float":
        return [
            f"{path}:1 declares {wanted!r} as {kind}, but labels are made of numbers: write "
            f"{wanted}:float in the header, or name another column"
        ]
    return []


def check_labels(config: Any, dataset: Any) -> None:
    """Refuse labels that are not 0 and 1, and rows without one.

    Raises:
        UserError: naming the column.
    """
    label = config["LABEL_FIELD"]
    source = label if config["threshold"] is None else next(iter(config["threshold"]))
    missing = dataset.missing_values.get(source, 0)
    if missing:  # RecBole has put the mean of all rows there
        raise UserError(
            f"column {source!r} of {config['dataset']} has no number in {missing} rows, so they have no "
            "label: take those rows out, or fill them in"
        )
    values = dataset.inter_feat[label]  # a column of a table: RecBole makes tensors when it splits
    wrong = (values != 0) & (values != 1)
    if bool(wrong.any()):
        raise UserError(
            f"column {label!r} of {config['dataset']} holds {float(values[wrong].iloc[0]):g}, but labels are "
            "0 and 1: make them with threshold: {COLUMN: LEAST}"
        )


def check_parts(config: Any, parts: Sequence[Any]) -> None:
    """Refuse a part of the split with rows of one label only, whose AUC says nothing, and a wrong gauc_group.

    Args:
        config: resolved config.
        parts: the datasets of train, validation and test.

    Raises:
        UserError: naming the part, or the column.
    """
    _check_group(read(LabelKeys, config).gauc_group, parts[0])
    for name, part in zip(PARTS, parts, strict=True):
        labels = part.inter_feat[config["LABEL_FIELD"]]
        positive = int(labels.sum())
        if len(labels) and positive in (0, len(labels)):
            raise UserError(
                f"all {len(labels)} {name} rows of {config['dataset']} have the label {int(labels[0])}, so "
                "there is nothing to tell apart: change threshold or the split"
            )


def _check_group(field: str | None, train: Any) -> None:
    """Refuse a ``gauc_group`` before training that no row has, or that holds no single value per row."""
    if field is None:
        return
    if field not in (there := train.fields()):
        raise UserError(
            f"gauc_group names {field!r}{nearest(field, there)}, which is no column of the rows; they have "
            f"{', '.join(there)}"
        )
    if train.field2type[field] not in _token_types():
        raise UserError(
            f"gauc_group names {field!r}, which holds no single value per row: name a token column"
        )


def learn_from_train(config: Any, parts: Sequence[Any]) -> None:
    """Change columns of all parts by what the train rows say: rare values become one, numbers are scaled.

    A value of a text column of .inter with fewer than ``rare_below`` train rows becomes id 0, which no value
    has: so do values that train does not hold at all. Numbers of ``numerical_features`` lose the mean of the
    train rows and are divided by their standard deviation; a missing number becomes the mean, which is 0.

    Args:
        config: resolved config.
        parts: the datasets of train, validation and test, changed in place.
    """
    keys, train = read(LabelKeys, config), parts[0]
    numeric = config["numerical_features"] or ()
    if keys.rare_below:
        left_out = {train.uid_field, train.iid_field}
        fields = [
            f for f in train.fields(ftype=_token_types()) if f in train.inter_feat and f not in left_out
        ]
        for field in fields:
            counts = torch.bincount(train.inter_feat[field].flatten(), minlength=train.num(field))
            rare = counts < keys.rare_below
            for part in parts:
                ids = part.inter_feat[field]
                part.inter_feat[field] = ids.masked_fill(rare[ids], 0)
            getLogger().info(
                f"{field}: {int((~rare[1:]).sum())} of {len(rare) - 1} values have {keys.rare_below} train "
                "rows or more; the others become one"
            )
    for field in numeric:
        _scale(field, keys.numeric_scaling, parts)


def _token_types() -> list[Any]:
    from recbole.utils import FeatureType

    return [FeatureType.TOKEN]


def _scale(field: str, how: str, parts: Sequence[Any]) -> None:
    """Scale one numeric column wherever it stands: of rows, of users or of items."""
    train = parts[0]
    for table, key in ((None, None), ("user_feat", train.uid_field), ("item_feat", train.iid_field)):
        held = train.inter_feat if table is None else getattr(train, table)
        if held is None or field not in held.interaction:
            continue
        seen = held[field] if table is None else held[field][train.inter_feat[key]]
        mean, spread = _statistics(_value(seen), how)
        if table is None:
            for part in parts:
                part.inter_feat[field] = _scaled(part.inter_feat[field], how, mean, spread)
        else:  # the parts share the tables of users and items
            held[field] = _scaled(held[field], how, mean, spread)
        return


def _value(column: Tensor) -> Tensor:
    """The numbers of a column: RecBole stores [value, bucket] per row."""
    return column[..., 0] if column.dim() > 1 else column


def _shaped(values: Tensor, how: str) -> Tensor:
    """``log`` keeps the sign, so that numbers below 0 stay in order."""
    return values.sign() * values.abs().log1p() if how == "log" else values


def _statistics(values: Tensor, how: str) -> tuple[float, float]:
    known = _shaped(values[~values.isnan()].double(), how)
    if not len(known):
        return 0.0, 1.0
    mean, spread = (float(known.mean()), float(known.std(correction=0)))
    return (mean, spread if spread > 0 else 1.0) if how != "none" else (mean, 1.0)


def _scaled(column: Tensor, how: str, mean: float, spread: float) -> Tensor:
    """A missing number becomes the mean of the train rows; scaled ones have mean 0 there."""
    values = _shaped(_value(column).double(), how)
    values = torch.where(values.isnan(), mean, values)
    if how != "none":
        values = (values - mean) / spread
    if column.dim() == 1:
        return values.float()
    return torch.cat([values.float().unsqueeze(-1), column[..., 1:]], dim=-1)
