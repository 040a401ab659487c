"""Collaborative memory: votes of train co-occurrence neighbours, fused with any model's scores in log space.

    score(i) = log P(i | prompt) + w log(1 + s_i / floor)

s_i is the summed, recency-weighted similarity of item i to the newest events of the history (that of the
training-free WindowItemKNN). Items without a neighbour in the history get nothing, so only neighbours have to
be touched: a fused list is exact over the whole catalogue. w is one number per model, read from the
validation part.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from recbole_sigma.grounding.cooccurrence import recency_weights, window_similarity
from recbole_sigma.settings.keys import MemoryKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.values import RankedItems, SeenPairs

WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0, 3.0, 5.0, 8.0)
"""What validation chooses w from."""

Bonus = tuple[Tensor, Tensor, Tensor]
"""(row int64 [nnz], item int64 [nnz], value float32 [nnz] > 0), every (row, item) at most once."""


@dataclass(frozen=True)
class Memory:
    """Train co-occurrence of items.

    Attributes:
        similarity: float [N, N] CSR, see `window_similarity`.
        last: newest events of a history that vote.
        decay: weight of a vote per step of age.
        floor: similarity that counts as none; smaller lets weak neighbours gain more.
    """

    similarity: sparse.csr_matrix
    last: int
    decay: float
    floor: float

    def bonus(self, rows: Tensor, items: Tensor, batch: int) -> Bonus:
        """log(1 + s / floor) of every neighbour of each history.

        Args:
            rows: int64 [P], ascending.
            items: int64 [P], history items of each row in order of time.
            batch: B.
        """
        votes = recency_weights(
            rows.cpu().numpy(), items.cpu().numpy(), batch, self.similarity.shape[0], self.last, self.decay
        )
        found = (votes @ self.similarity).tocoo()
        value = torch.from_numpy(np.log1p(found.data / self.floor).astype(np.float32))
        row, item = (torch.from_numpy(part.astype(np.int64)) for part in (found.row, found.col))
        keep = (value > 0) & (item > 0)
        return row[keep].to(rows.device), item[keep].to(rows.device), value[keep].to(rows.device)


def build_memory(
    users: np.ndarray,
    items: np.ndarray,
    n_items: int,
    window: int,
    shrink: float,
    last: int,
    decay: float,
    floor: float,
    forward: float = 0.5,
) -> Memory:
    """Memory of TRAIN events.

    Args:
        users: int [E], events grouped by user, in time order inside a user.
        items: int [E].
        n_items: N.
        window: see `window_similarity`.
        shrink: see `window_similarity`.
        last: see `Memory`.
        decay: see `Memory`.
        floor: see `Memory`.
        forward: see `window_similarity`.
    """
    similarity = window_similarity(users, items, n_items, window, shrink, forward).astype(np.float32)
    return Memory(similarity, last, decay, floor)


def add_bonus(scores: Tensor, bonus: Bonus, weight: float) -> Tensor:
    """Dense scores [B, N] plus the weighted bonus, as a new tensor."""
    fused = scores.to(torch.float32, copy=True)
    row, item, value = bonus
    fused[row, item] += weight * value
    return fused


def bonus_of(bonus: Bonus, items: Tensor, n_items: int) -> Tensor:
    """Bonus of chosen items: int64 [B, M] -> float32 [B, M], 0 where an item is no neighbour."""
    row, item, value = bonus
    out = torch.zeros(items.shape, dtype=torch.float32, device=items.device)
    if not len(row):
        return out
    keys, order = torch.sort(row * n_items + item)
    wanted = torch.arange(len(items), device=items.device)[:, None] * n_items + items
    slot = torch.searchsorted(keys, wanted).clamp_max_(len(keys) - 1)
    return torch.where(keys[slot] == wanted, value[order][slot], out)


def strongest(
    bonus: Bonus, batch: int, count: int, apart: Tensor, seen: tuple[Tensor, Tensor] | None, n_items: int
) -> Tensor:
    """The neighbours with the largest bonus, for models that cannot score the whole catalogue.

    Args:
        bonus: votes.
        batch: B.
        count: M, neighbours per row.
        apart: int64 [B, K], items that are candidates already.
        seen: (row, item) pairs that may not be recommended, or None.
        n_items: N.

    Returns:
        int64 [B, M], 0 in empty slots.
    """
    row, item, value = bonus
    keys = row * n_items + item
    here = torch.arange(batch, device=apart.device)[:, None] * n_items
    keep = ~torch.isin(keys, (here + apart).flatten())
    if seen is not None:
        keep &= ~torch.isin(keys, seen[0] * n_items + seen[1])
    row, item, value = row[keep], item[keep], value[keep]
    order = torch.argsort(item, stable=True)
    order = order[torch.argsort(value[order], descending=True, stable=True)]
    order = order[torch.argsort(row[order], stable=True)]
    row, item = row[order], item[order]
    size = torch.bincount(row, minlength=batch)
    place = torch.arange(len(row), device=row.device) - (size.cumsum(0) - size)[row]
    out = torch.zeros(batch, count, dtype=torch.int64, device=apart.device)
    inside = place < count
    out[row[inside], place[inside]] = item[inside]
    return out


def best_of(items: Tensor, scores: Tensor, k: int) -> RankedItems:
    """The best k of given candidates; ties by item id.

    Args:
        items: int64 [B, M], no item twice in a row, 0 in empty slots.
        scores: float [B, M], -inf in empty slots.
        k: list length.
    """
    by_item = torch.argsort(items, dim=1, stable=True)
    items, scores = items.gather(1, by_item), scores.gather(1, by_item)
    scores, order = torch.sort(scores, dim=1, descending=True, stable=True)
    items = items.gather(1, order).masked_fill(torch.isneginf(scores), 0)[:, :k]
    scores = scores[:, :k]
    missing = k - items.shape[1]
    if missing > 0:
        items = torch.nn.functional.pad(items, (0, missing))
        scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
    return RankedItems(items, scores.float())


class CollaborativeMemory:
    """Memory of the TRAIN events of one dataset, with its weight.

    Args:
        config: RecBole config; reads the ``memory_*`` keys.

    Attributes:
        weight: w, or None while validation has not chosen it; nothing is fused then.
    """

    def __init__(self, config: Any) -> None:
        self.keys, self.device = read(MemoryKeys, config), config["device"]
        self.weight: float | None = self.keys.memory_weight if self.keys.memory == "fixed" else None
        self._memory: Memory | None = None

    @property
    def active(self) -> bool:
        """Whether lists are fused."""
        return bool(self.weight)

    def bonus(self, dataset: Any, histories: SeenPairs, rows: int) -> Bonus:
        """Votes for the neighbours of each row's newest events, on the device that lists are made on.

        Args:
            dataset: any part of the split dataset.
            histories: (row, item) pairs, rows ascending, items of a row in order of time.
            rows: rows of the batch.
        """
        if self._memory is None:
            started, keys = time.process_time(), self.keys
            events = dataset.train_events()
            users, items = events.sequences()
            self._memory = build_memory(
                users,
                items,
                dataset.item_num,
                keys.memory_window,
                keys.memory_shrink,
                events.newest(keys.memory_last),
                keys.memory_decay,
                keys.memory_floor,
                keys.memory_forward,
            )
            logging.getLogger().info(
                "Collaborative memory: %s pairs of train items, %.1f CPU seconds",
                f"{self._memory.similarity.nnz:,}",
                time.process_time() - started,
            )
        row, item, value = self._memory.bonus(*histories, rows)
        return row.to(self.device), item.to(self.device), value.to(self.device)
