"""RecBole's Collector, fed by ranked lists in place of dense scores."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from recbole.evaluator import Collector
from recbole.evaluator.collector import DataStruct
from torch import Tensor

from recbole_sigma.data.events import ExactTime
from recbole_sigma.evaluation.metrics import DUPLICATE, EMPTY, INVALID, OK, SEEN
from recbole_sigma.evaluation.shards import Shard
from recbole_sigma.values import RankedItems


def slot_flags(items: Tensor, n_items: int, seen: tuple[Tensor, Tensor] | None) -> Tensor:
    """State of every slot of a batch of lists (see `metrics.OK` and its neighbours).

    Args:
        items: int64 [B, K].
        n_items: N; ids 1..N-1 are real.
        seen: forbidden (row, item) pairs or None.

    Returns:
        int8 [B, K].
    """
    flags = torch.full(items.shape, OK, dtype=torch.int8, device=items.device)
    if items.shape[1] > 1:
        order = torch.sort(items, dim=1, stable=True)
        repeat = torch.zeros_like(items, dtype=torch.bool)
        repeat.scatter_(1, order.indices[:, 1:], order.values[:, 1:] == order.values[:, :-1])
        flags.masked_fill_(repeat, DUPLICATE)
    if seen is not None:
        rows = torch.arange(len(items), device=items.device)[:, None]
        flags.masked_fill_(torch.isin(rows * n_items + items, seen[0] * n_items + seen[1]), SEEN)
    flags.masked_fill_((items < 0) | (items >= n_items), INVALID)
    return flags.masked_fill_(items == 0, EMPTY)


class RankedCollector(Collector):
    """Fills ``rec.items``, ``rec.topk``, ``rec.flags`` and ``data.*`` from `RankedItems`.

    Slots that are empty, invalid, filtered or repeated become item 0 and can never be a hit.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._parts: dict[str, list[Tensor]] = defaultdict(list)
        self.has_data = False

    def data_collect(self, train_data: Any) -> None:
        """Collect what metrics need from the training data.

        Item counts are those of the train *events*, so that they are the same for every model; RecBole
        counts training rows, which differ between general, sequential and packed datasets.
        """
        dataset = train_data._dataset
        struct = self.data_struct
        struct.set("data.num_items", dataset.item_num)
        struct.set("data.num_users", dataset.user_num)
        for need, field in (("data.count_items", "items"), ("data.count_users", "users")):
            if not self.register.need(need):
                continue
            if isinstance(dataset, ExactTime) and dataset.held_out is not None:
                events = dataset.train_events()
                ids = events.items if field == "items" else events.users
                ids, counts = torch.unique(ids, return_counts=True)
                struct.set(need, dict(zip(ids.tolist(), counts.tolist(), strict=True)))
            else:
                struct.set(need, dict(dataset.item_counter if field == "items" else dataset.user_counter))
        self.has_data = True

    def collect_ranked(
        self,
        ranked: RankedItems,
        positive_u: Tensor,
        positive_i: Tensor,
        n_items: int,
        seen: tuple[Tensor, Tensor] | None,
        survival: Tensor | None = None,
    ) -> Tensor:
        """Take one batch.

        Args:
            ranked: lists [B, K], K >= max(topk).
            positive_u: int64 [P], row of each target.
            positive_i: int64 [P], item id of each target.
            n_items: N.
            seen: forbidden pairs of the batch, or None.
            survival: float [B], share of each row's exact list that a beam kept, NaN where it was not
                measured; or None.

        Returns:
            int64 [P]: 1-based place of every target in its list, 0 when it is not there.
        """
        items = ranked.items[:, : max(self.topk)]
        flags = slot_flags(items, n_items, seen)
        items = items.masked_fill(flags != OK, 0)
        rows = torch.arange(len(items), device=items.device)[:, None]
        hits = torch.isin(rows * n_items + items, positive_u * n_items + positive_i) & (items > 0)
        lengths = torch.zeros_like(items[:, 0]).index_add_(0, positive_u, torch.ones_like(positive_u))
        self._parts["rec.items"].append(items)  # they stay where they are until the last batch
        self._parts["rec.flags"].append(flags)
        self._parts["rec.topk"].append(torch.cat([hits.to(torch.int64), lengths[:, None]], dim=1))
        if survival is not None:
            self._parts["rec.survival"].append(survival)
        match = items[positive_u] == positive_i[:, None]
        return torch.where(match.any(1), match.to(torch.int8).argmax(1) + 1, 0)

    def get_data_struct(self, shard: Shard | None = None) -> DataStruct:
        """Everything collected since the last call; the data of the training set stays.

        Args:
            shard: the rows that were judged, so that those of other processes are added; None = all rows.

        RecBole's own method calls ``.cpu()`` on integers and counters, which crashes ItemCoverage, GiniIndex,
        AveragePopularity and TailPercentage in 1.2.1.
        """
        struct = DataStruct()
        for key, value in self.data_struct._data_dict.items():
            struct.set(key, value)
        found = {key: torch.cat(parts).cpu() for key, parts in self._parts.items()}
        self._parts.clear()
        for key, value in (found if shard is None else shard.merge(shard.rows, found)).items():
            struct.set(key, value)
        return struct
