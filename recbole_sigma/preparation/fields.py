"""Text columns of the dataset as strings: item texts and user profiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_sigma.language.vocabulary import profile_text
from recbole_sigma.values import UserError


def field_strings(dataset: Any, feature: Any, field: str, where: str) -> list[str]:
    """Text of one column for every row id, in id order; token sequences are joined by spaces.

    Args:
        dataset: a RecBole dataset.
        feature: its ``item_feat`` or ``user_feat`` (an Interaction), or None when no such file was loaded.
        field: column name.
        where: 'item' or 'user', for the error.

    Raises:
        UserError: the column is not there or is not text.
    """
    if feature is None or field not in feature.interaction:
        known = (
            []
            if feature is None
            else [name for name in feature.interaction if name not in (dataset.uid_field, dataset.iid_field)]
        )
        raise UserError(
            f"{dataset.dataset_name}.{where} has no loaded column '{field}' (loaded: {known}): "
            f"add it to load_col.{where}, or change the key that names it in the property file"
        )
    tokens = dataset.field2id_token.get(field)
    if tokens is None:
        raise UserError(
            f"{dataset.dataset_name}.{where}: column '{field}' is not of type token or token_seq, so it is no"
            " text"
        )
    words = np.asarray([str(token) if index else "" for index, token in enumerate(tokens)], dtype=object)
    column = feature[field].numpy()
    if column.ndim == 1:
        return [str(word) for word in words[column]]
    return [" ".join(words[i] for i in row if i) for row in column]


def item_texts(dataset: Any, fields: Sequence[str]) -> list[str]:
    """One text per item: the named fields joined by '. ', row 0 empty."""
    columns = [field_strings(dataset, dataset.item_feat, field, "item") for field in fields]
    texts = [". ".join(part for part in parts if part) for parts in zip(*columns, strict=True)]
    return [""] + texts[1:]


def user_profiles(dataset: Any, fields: Sequence[str]) -> list[str]:
    """The profile sentence of every user id (row 0: the padding user)."""
    if not fields:
        return [profile_text({})] * dataset.user_num
    columns = {field: field_strings(dataset, dataset.user_feat, field, "user") for field in fields}
    return [
        profile_text({field: column[u] for field, column in columns.items()}) for u in range(dataset.user_num)
    ]
