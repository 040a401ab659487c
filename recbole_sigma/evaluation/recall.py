"""The collaborative memory beside a model during evaluation: whose votes, and how much they weigh."""

from __future__ import annotations

import logging
import time
from typing import Any

from recbole_sigma.decoding.memory import Bonus, Memory, build_memory
from recbole_sigma.evaluation.histories import Pairs


class Recall:
    """Memory of the TRAIN events of one dataset, with its weight.

    Args:
        config: RecBole config; reads the ``memory_*`` keys.

    Attributes:
        weight: w, or None while validation has not chosen it; nothing is fused then.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.weight: float | None = float(config["memory_weight"]) if config["memory"] == "fixed" else None
        self._memory: Memory | None = None

    @property
    def active(self) -> bool:
        """Whether lists are fused."""
        return bool(self.weight)

    def bonus(self, dataset: Any, histories: Pairs, rows: int) -> Bonus:
        """Votes for the neighbours of each row's newest events, on the device that lists are made on.

        Args:
            dataset: any part of the split dataset.
            histories: (row, item) pairs, rows ascending, items of a row in order of time.
            rows: rows of the batch.
        """
        if self._memory is None:
            started, config = time.process_time(), self.config
            users, items = dataset.train_events().sequences()
            self._memory = build_memory(
                users,
                items,
                dataset.item_num,
                int(config["memory_window"]),
                float(config["memory_shrink"]),
                int(config["memory_last"]),
                float(config["memory_decay"]),
                float(config["memory_floor"]),
                float(config["memory_forward"]),
            )
            logging.getLogger().info(
                "Collaborative memory: %s pairs of train items, %.1f CPU seconds",
                f"{self._memory.similarity.nnz:,}",
                time.process_time() - started,
            )
        row, item, value = self._memory.bonus(*histories, rows)
        device = self.config["device"]
        return row.to(device), item.to(device), value.to(device)
