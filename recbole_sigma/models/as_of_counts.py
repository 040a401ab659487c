"""What was known of an item at a moment: how often it had been met, since when, and how often of late.

Counts at the end of training would tell a model about the future of the very events that it learns from.
Here only train events count, and of these only the ones before the moment that is asked about.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

DAY = 86_400.0
FEATURES = ("count", "age", "recent")


class AsOfCounts(nn.Module):
    """Statistics of items as of a moment, from train events.

    Args:
        items: int64 [E], items of the train events.
        ranks: int64 [E], their positions in time among all events of the data set.
        seconds: float64 [A], time of every position; None where times are no dates: age and recent are 0.
        count: N, number of items.
        days: how long ago still counts as recent.
    """

    def __init__(self, items: Tensor, ranks: Tensor, seconds: Tensor | None, count: int, days: float) -> None:
        super().__init__()
        last = max(int(ranks.max()) if len(ranks) else 0, 0 if seconds is None else len(seconds) - 1)
        self.stride = last + 2
        keys, order = torch.sort(items * self.stride + ranks)
        start = torch.searchsorted(keys, torch.arange(count + 1) * self.stride)
        self._table("keys", keys)
        self._table("start", start)
        in_time = torch.sort(ranks, stable=True)
        self._table("ranks", in_time.values)
        self._table("items", items[in_time.indices])
        self.dated = seconds is not None
        times = torch.zeros(self.stride, dtype=torch.float64) if seconds is None else seconds
        times = torch.cat([times, times[-1:].expand(self.stride - len(times))])
        self._table("seconds", times)
        self._table("recent_from", torch.searchsorted(times, times - days * DAY))
        first = torch.zeros(count, dtype=torch.float64)
        met = start[1:] > start[:-1]
        first[met] = times[ranks[order[start[:-1][met]]]]
        self._table("first", first)

    def _table(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values, persistent=False)

    @classmethod
    def of(cls, dataset: Any, days: float) -> AsOfCounts:
        """Those of a train dataset; see the class."""
        events = dataset.train_events()
        seconds = dataset.chronology.seconds
        return cls(events.items, events.ranks, seconds, dataset.item_num, days)

    def forward(self, items: Tensor, moments: Tensor) -> Tensor:
        """log(1 + x) of the count, of the age in days, and of the recent count.

        Args:
            items: int64 [...].
            moments: int64, positions in time, of a shape that goes with ``items``; what happened there and
                later does not count.

        Returns:
            float [..., 3], in the order of `FEATURES`; an item that was not met before has zeros.
        """
        items, moments = torch.broadcast_tensors(items, moments.clamp(0, self.stride - 1))
        base = items * self.stride
        until = torch.searchsorted(self.keys, base + moments)
        count = until - self.start[items]
        if not self.dated:
            zeros = torch.zeros(count.shape, device=count.device)
            return torch.stack([count.float().log1p(), zeros, zeros], dim=-1)
        recent = until - torch.searchsorted(self.keys, base + self.recent_from[moments])
        age = ((self.seconds[moments] - self.first[items]) / DAY).clamp_min(0) * (count > 0)
        return torch.stack([count.float(), age.float(), recent.float()], dim=-1).log1p()

    def of_all(self, moment: Tensor) -> Tensor:
        """`forward` of every item at one moment: one pass over the events, no search per item.

        Args:
            moment: int64 [], a position in time.

        Returns:
            float [N, 3].
        """
        moment, count = moment.clamp(0, self.stride - 1), len(self.first)
        bounds = torch.stack([self.recent_from[moment], moment])
        begin, end = torch.searchsorted(self.ranks, bounds).tolist()
        met = torch.bincount(self.items[:end], minlength=count).float()
        if not self.dated:
            return torch.stack([met.log1p(), torch.zeros_like(met), torch.zeros_like(met)], dim=-1)
        recent = torch.bincount(self.items[begin:end], minlength=count).float()
        age = ((self.seconds[moment] - self.first) / DAY).clamp_min(0) * (met > 0)
        return torch.stack([met, age.float(), recent], dim=-1).log1p()
