"""The lexicon of a built dataset: its tasks, and the columns of years and prices."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recbole_sigma.instructions.fields import Material, item_values
from recbole_sigma.instructions.rules import TaskRows
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RoleKeys
from recbole_sigma.understanding.grammar import YEARS
from recbole_sigma.understanding.lexicon import Lexicon
from recbole_sigma.values import UserError


def years_of(dataset: Any, config: Any, titles: Sequence[str]) -> np.ndarray | None:
    """The year of each item: int64 [N], 0 where unknown; None where the data have none.

    A text column all of whose values are years, else "(1995)" at the end of most titles.

    Args:
        dataset: the dataset that the material was gathered from.
        config: RecBole config; reads ``text_fields``.
        titles: titles [N].
    """
    for column in read(RoleKeys, config).text_fields[1:]:
        values = [" ".join(parts) for parts in item_values(dataset, column, "text_fields")]
        years = np.array([int(text) if re.fullmatch(r"\d{4}", text) else 0 for text in values])
        given = np.array([bool(text) for text in values])
        if given.any() and np.isin(years[given], YEARS).mean() > 0.9:
            return years
    found = [re.search(r"\((\d{4})\)\s*$", title) for title in titles]
    years = np.array([int(match[1]) if match else 0 for match in found])
    return years if np.isin(years[1:], YEARS).mean() > 0.5 else None


def prices_of(dataset: Any, config: Any) -> np.ndarray | None:
    """The price of each item: float64 [N], 0 where unknown; None where the data have none.

    Args:
        dataset: the dataset that the material was gathered from.
        config: RecBole config; reads ``price_field``.

    Raises:
        UserError: the column is not loaded or is no number.
    """
    column = read(RoleKeys, config).price_field
    if column is None:
        return None
    feature = dataset.item_feat
    if feature is None or column not in feature.interaction:
        raise UserError(
            f"price_field: {dataset.dataset_name}.item has no loaded column '{column}': add it to "
            "load_col.item"
        )
    if column in dataset.field2id_token or feature[column].ndim > 1:
        raise UserError(f"price_field: column '{column}' of {dataset.dataset_name}.item is not of type float")
    prices = np.nan_to_num(feature[column].numpy().astype(np.float64), posinf=0.0, neginf=0.0)
    return prices if (prices > 0).any() else None


def lexicon_of(dataset: Any, config: Any, material: Material, tasks: Mapping[str, TaskRows]) -> Lexicon:
    """The lexicon of a train dataset with its tasks."""
    years = years_of(dataset, config, material.words.titles)
    return Lexicon(material, tasks, years, prices_of(dataset, config))
