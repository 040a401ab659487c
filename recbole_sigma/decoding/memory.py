"""Collaborative memory: closed forms over the train events, fused with any model's scores in log space.

    score(i) = log P(i | prompt) + w max(0, m_i - m_M)

m is the sum of z-scores over the catalogue of up to three parts: co-occurrence neighbours of the newest
events (WindowItemKNN), a ridge regression from them to the next one (NextItemRidge) and EASE over the whole
history. They are the parts of the baseline ClosedForm, here with equal weights. m_M is the M-th largest of a
row, at least 0: an item beyond it gains nothing, so few items have to be touched, and a fused list is exact
over the whole catalogue. w is one number per model, read from the validation part.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_sigma.grounding.closed_form import Newest, Part, Whole, standard_scores
from recbole_sigma.grounding.cooccurrence import window_similarity
from recbole_sigma.grounding.regression import LARGEST
from recbole_sigma.grounding.solver import Solver
from recbole_sigma.settings.keys import MemoryKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.values import RankedItems, SeenPairs, UserError

WEIGHTS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
"""What validation chooses w from."""

STRONGEST = 500
"""M: items of a row that may gain."""

Bonus = tuple[Tensor, Tensor, Tensor]
"""(row int64 [nnz], item int64 [nnz], value float32 [nnz] > 0), every (row, item) at most once."""


@dataclass(frozen=True)
class Memory:
    """What train events say of the next item.

    Attributes:
        parts: closed forms, whose z-scores are summed.
        n_items: N.
    """

    parts: tuple[Part, ...]
    n_items: int

    def bonus(self, rows: Tensor, items: Tensor, batch: int) -> Bonus:
        """What the strongest items of each history gain, on the CPU.

        Args:
            rows: int64 [P], ascending.
            items: int64 [P], history items of each row in order of time.
            batch: B.
        """
        found = standard_scores(self.parts, rows.cpu().numpy(), items.cpu().numpy(), batch)
        total = torch.from_numpy(sum(found[1:], start=found[0]))
        total[:, 0] = 0.0  # padding
        values, strongest = total.topk(min(STRONGEST + 1, self.n_items))
        values, strongest = values - values[:, -1:].clamp_min(0.0), strongest[:, :-1]
        row, place = torch.nonzero(values[:, :-1] > 0, as_tuple=True)
        return row, strongest[row, place], values[row, place]


def build_memory(solver: Solver, keys: MemoryKeys, last: int) -> Memory:
    """Memory of TRAIN events.

    Args:
        solver: holds the events.
        keys: its settings.
        last: newest events of a history that ``neighbours`` and ``next`` read.
    """
    n_items = solver.n_items
    parts: list[Part] = []
    if "neighbours" in keys.memory_parts:
        similarity = window_similarity(
            solver.users, solver.items, n_items, keys.memory_window, keys.memory_shrink, keys.memory_forward
        )
        parts.append(Newest(similarity.astype(np.float32), last, keys.memory_decay))
    if "next" in keys.memory_parts:
        weights = solver.next_item_ridge(keys.memory_ridge, last, keys.memory_decay)
        parts.append(Newest(weights, last, keys.memory_decay))
    if "history" in keys.memory_parts:
        parts.append(Whole(solver.ease(keys.memory_ridge)))
    return Memory(tuple(parts), n_items)


def add_bonus(scores: Tensor, bonus: Bonus, weight: float) -> Tensor:
    """Dense scores [B, N] plus the weighted bonus, as a new tensor."""
    fused = scores.to(torch.float32, copy=True)
    row, item, value = bonus
    fused[row, item] += weight * value
    return fused


def bonus_of(bonus: Bonus, items: Tensor, n_items: int) -> Tensor:
    """Bonus of chosen items: int64 [B, M] -> float32 [B, M], 0 where an item gains nothing."""
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
    """The items with the largest bonus, for models that cannot score the whole catalogue.

    Args:
        bonus: see `Memory.bonus`.
        batch: B.
        count: M, items per row.
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
        self.keys, self.device, self.config = read(MemoryKeys, config), config["device"], config
        if not self.keys.memory_parts:
            raise UserError("memory_parts is empty: name at least one part, or set memory: none")
        if self.keys.memory == "fixed" and "memory_floor" in config:
            raise UserError(
                "memory_floor: the memory weight of this checkpoint belongs to an earlier form of the memory "
                "(the logarithm of neighbours' votes): read it with memory: none, or train again"
            )
        self.weight: float | None = self.keys.memory_weight if self.keys.memory == "fixed" else None
        self._memory: Memory | None = None

    @property
    def active(self) -> bool:
        """Whether lists are fused."""
        return bool(self.weight)

    def bonus(self, dataset: Any, histories: SeenPairs, rows: int) -> Bonus:
        """What each row's history speaks for, on the device that lists are made on.

        Args:
            dataset: any part of the split dataset.
            histories: (row, item) pairs, rows ascending, items of a row in order of time.
            rows: rows of the batch.
        """
        if self._memory is None:
            self._memory = self._build(dataset)
        row, item, value = self._memory.bonus(*histories, rows)
        return row.to(self.device), item.to(self.device), value.to(self.device)

    def _build(self, dataset: Any) -> Memory:
        started, keys, log = time.process_time(), self.keys, logging.getLogger()
        if dataset.item_num > LARGEST and keys.memory_parts != ("neighbours",):
            log.warning(
                "memory_parts: %s items make a matrix of items by items too large to invert (at most %s), so "
                "the memory holds neighbours alone",
                f"{dataset.item_num:,}",
                f"{LARGEST:,}",
            )
            keys = replace(keys, memory_parts=("neighbours",))
        parts = ", ".join(keys.memory_parts)
        log.info("Collaborative memory: %s over %s items", parts, f"{dataset.item_num:,}")
        events = dataset.train_events()
        solver = Solver.of(events, dataset.item_num, self.config)
        memory = build_memory(solver, keys, events.newest(keys.memory_last))
        log.info("Collaborative memory: %.1f CPU seconds", time.process_time() - started)
        return memory
