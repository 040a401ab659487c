"""Baselines that get what an instruction gives: masked popularity and neighbours, BM25, a table of queries.

Each scores the whole catalogue for rows of a `TaskBench`; none of them reads a held-out event.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from scipy import sparse
from torch import Tensor

from recbole_sigma.instructions.fields import Material
from recbole_sigma.instructions.phrases import words_of
from recbole_sigma.instructions.rules import TaskRows
from recbole_sigma.models.window_item_knn import WindowItemKNN
from recbole_sigma.settings.baseline_keys import KnnKeys
from recbole_sigma.settings.recipes import stage_defaults

INSIDE = 1e6  # added to items that the slot allows: they come first, the others fill a short list


class Popularity:
    """Train counts scaled below 1."""

    def __init__(self, material: Material) -> None:
        counts = material.train_counts().astype(np.float64)
        self.scores = counts / (counts.max(initial=0.0) + 1.0)

    def __call__(self, batch: Interaction, texts: Sequence[str]) -> np.ndarray:
        """Scores float64 [B, N]."""
        return np.tile(self.scores, (len(texts), 1))


class Neighbours:
    """WindowItemKNN with its shipped settings; popularity decides where it is silent."""

    def __init__(self, dataset: Any, config: Any, popularity: Popularity) -> None:
        shipped = stage_defaults([KnnKeys])
        self.model = WindowItemKNN(_Overlay(config, shipped), dataset)
        self.popularity = popularity

    def __call__(self, batch: Interaction, texts: Sequence[str]) -> np.ndarray:
        """Scores float64 [B, N]."""
        return self.model.full_sort_predict(batch).double().cpu().numpy() + 1e-6 * self.popularity.scores


class _Overlay:
    """A config with some keys replaced."""

    def __init__(self, config: Any, values: dict[str, Any]) -> None:
        self._config, self._values = config, values

    def __contains__(self, key: str) -> bool:
        return key in self._values or key in self._config

    def __getitem__(self, key: str) -> Any:
        return self._values[key] if key in self._values else self._config[key]


class Trained:
    """A trained RecBole model (SASRec, say) by its own scores."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()

    @torch.no_grad()
    def __call__(self, batch: Interaction, texts: Sequence[str]) -> np.ndarray:
        """Scores float64 [B, N], between 0 and 1 in the order of the model's."""
        scores = self.model.full_sort_predict(batch).view(len(texts), -1)
        return torch.sigmoid(scores.double().clamp(-30, 30)).cpu().numpy()


class BM25:
    """Okapi BM25 (k1 1.2, b 0.75) of a query over title, categories and brand; popularity breaks ties."""

    def __init__(self, material: Material, popularity: Popularity, k1: float = 1.2, b: float = 0.75) -> None:
        texts = [
            [word for part in parts for word in words_of(part)]
            for parts in zip(
                material.words.titles,
                (" ".join(names) for names in material.words.categories),
                material.words.brands,
                strict=True,
            )
        ]
        self.number: dict[str, int] = {}
        rows, columns = [], []
        for item, words in enumerate(texts):
            for word in words:
                rows.append(item)
                columns.append(self.number.setdefault(word, len(self.number)))
        shape = (len(texts), max(len(self.number), 1))
        counts = sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=shape).tocsr()
        length = np.asarray(counts.sum(axis=1)).ravel()
        held = np.bincount(counts.indices, minlength=shape[1])
        idf = np.log1p((len(texts) - held + 0.5) / (held + 0.5))
        tf = counts.tocoo()
        norm = k1 * (1 - b + b * length[tf.row] / max(length.mean(), 1e-9))
        weight = idf[tf.col] * tf.data * (k1 + 1) / (tf.data + norm)
        self.weights = sparse.coo_matrix((weight, (tf.col, tf.row)), shape=shape[::-1]).tocsr()
        self.popularity = popularity

    def __call__(self, batch: Interaction, texts: Sequence[str]) -> np.ndarray:
        """Scores float64 [B, N]."""
        pairs = [
            (row, self.number[word])
            for row, text in enumerate(texts)
            for word in words_of(text)
            if word in self.number
        ]
        row, column = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        query = sparse.coo_matrix((np.ones(len(row)), (row, column)), (len(texts), self.weights.shape[0]))
        return (query.tocsr() @ self.weights).toarray() + 1e-6 * self.popularity.scores


class QueryTable:
    """How often train clicks followed a query; popularity where the query is new and behind the clicks."""

    def __init__(self, rows: TaskRows, material: Material, popularity: Popularity) -> None:
        self.number = {text: i for i, text in enumerate(rows.values[: rows.known])}
        own = material.part[rows.ranks] == 0
        pairs = (rows.slots[own, 0], material.items[rows.ranks[own]])
        shape = (len(self.number), len(material.tokens))
        self.counts = sparse.coo_matrix((np.ones(int(own.sum())), pairs), shape=shape).tocsr()
        self.popularity = popularity

    def __call__(self, batch: Interaction, texts: Sequence[str]) -> np.ndarray:
        """Scores float64 [B, N]."""
        scores = np.tile(self.popularity.scores, (len(texts), 1))
        for row, text in enumerate(texts):
            if text in self.number:
                scores[row] += self.counts[self.number[text]].toarray()[0]
        return scores


def masked(scores: np.ndarray, allowed: np.ndarray) -> Tensor:
    """Scores with the items that suit the slot in front: float64 tensor [B, N]."""
    return torch.from_numpy(scores + INSIDE * allowed)
