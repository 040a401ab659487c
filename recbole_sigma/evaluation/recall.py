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
        """Votes for the neighbours of each row's newest events.

        Args:
            dataset: any part of the split dataset.
            histories: (row, item) pairs, rows ascending, items of a row in order of time.
            rows: rows of the batch.
        """
        if self._memory is None:
            started, config = time.process_time(), self.config
            events = dataset.train_events()
            order, _ = events.by_user
            self._memory = build_memory(
                events.users[order].numpy(),
                events.items[order].numpy(),
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
        return self._memory.bonus(*histories, rows)
