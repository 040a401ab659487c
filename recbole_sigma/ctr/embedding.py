"""Columns of labelled rows as vectors: one vector per field, whatever the kind of the column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from recbole.utils import FeatureSource, FeatureType
from torch import Tensor, nn

from recbole_sigma.settings.reading import nearest
from recbole_sigma.values import UserError

_SOURCES = (
    FeatureSource.INTERACTION,
    FeatureSource.USER,
    FeatureSource.USER_ID,
    FeatureSource.ITEM,
    FeatureSource.ITEM_ID,
)
_READ = (FeatureType.TOKEN, FeatureType.TOKEN_SEQ)


def feature_fields(dataset: Any, config: Any) -> list[str]:
    """The columns that a context-aware model of RecBole's reads: all text ones, and named numbers.

    Args:
        dataset: the train part.
        config: reads ``LABEL_FIELD`` and ``numerical_features``.
    """
    numbers = config["numerical_features"] or ()
    return [
        field
        for field in dataset.fields(source=list(_SOURCES))
        if field != config["LABEL_FIELD"] and (dataset.field2type[field] in _READ or field in numbers)
    ]


def known_fields(key: str, names: Sequence[str], dataset: Any, config: Any) -> list[str]:
    """The columns that a key names.

    Raises:
        UserError: one of them is none that the model could read.
    """
    there = feature_fields(dataset, config)
    for name in names:
        if name not in there:
            raise UserError(
                f"{key} names {name!r}, which is no column that is loaded as text or stands in "
                f"numerical_features{nearest(name, there)}; there are {', '.join(there)}"
            )
    return list(names)


class FieldEmbedding(nn.Module):
    """One learned vector per field of a row.

    Text columns share one table, as in RecBole; lists of text take the mean of their members; a number is its
    value times a vector.

    Args:
        dataset: the train part.
        fields: columns, see `feature_fields`.
        size: width of the vectors.
    """

    offsets: Tensor

    def __init__(self, dataset: Any, fields: Sequence[str], size: int) -> None:
        super().__init__()
        kinds = {field: dataset.field2type[field] for field in fields}
        self.tokens = [f for f in fields if kinds[f] == FeatureType.TOKEN]
        self.lists = [f for f in fields if kinds[f] == FeatureType.TOKEN_SEQ]
        self.numbers = [f for f in fields if kinds[f] == FeatureType.FLOAT]
        widths = torch.tensor([dataset.num(field) for field in self.tokens], dtype=torch.int64)
        self.register_buffer("offsets", widths.cumsum(0) - widths, persistent=False)
        self.table = nn.Embedding(int(widths.sum()), size) if self.tokens else None
        self.list_tables = nn.ModuleList(
            nn.Embedding(dataset.num(f), size, padding_idx=0) for f in self.lists
        )
        self.number_vectors = nn.Parameter(torch.empty(len(self.numbers), size))
        self.count = len(self.tokens) + len(self.lists) + len(self.numbers)
        for table in (self.table, *self.list_tables):
            if table is not None:
                nn.init.xavier_normal_(table.weight)
        if self.numbers:
            nn.init.xavier_normal_(self.number_vectors)

    def forward(self, interaction: Any) -> Tensor:
        """Rows as float [B, fields, size]; text columns first, then lists, then numbers."""
        parts = []
        if self.table is not None:
            ids = torch.stack([interaction[field] for field in self.tokens], dim=1)
            parts.append(self.table(ids + self.offsets))
        for field, table in zip(self.lists, self.list_tables, strict=True):
            ids = interaction[field]  # [B, longest list], 0 behind its end
            members = (ids != 0).sum(dim=1, keepdim=True).clamp_min(1)
            vectors = table(ids) * (ids != 0).unsqueeze(-1)
            parts.append((vectors.sum(dim=1) / members).unsqueeze(1))
        if self.numbers:
            # RecBole stores [value, bucket] per row
            columns = [interaction[field].reshape(len(interaction), -1)[:, 0] for field in self.numbers]
            parts.append(torch.stack(columns, dim=1).unsqueeze(-1) * self.number_vectors)
        return torch.cat(parts, dim=1)
