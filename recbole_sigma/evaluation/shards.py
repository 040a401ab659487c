"""Evaluation by several processes: every row counts once, in the order of one process.

RecBole gives each process every n-th row of an evaluation set and repeats the first rows until all processes
have equally many. What the processes found is put together here; metrics are computed on the whole, in every
process, so that sums run over the same numbers in the same order as in a single process.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler


class Shard:
    """The rows of an evaluation set that this process judges.

    Args:
        loader: a RecBole evaluation loader; it is sharded if its sampler is a ``DistributedSampler``.

    Attributes:
        rows: int64 [R], row numbers in the order in which the loader gives them, padding included.
        total: rows of the whole evaluation set.
    """

    def __init__(self, loader: Any) -> None:
        self.rows = torch.tensor(list(loader.sampler), dtype=torch.int64)
        self.total = len(loader.dataset)
        self.shared = isinstance(loader.sampler, DistributedSampler) and loader.sampler.num_replicas > 1

    def sample(self, number: int, seed: int) -> Tensor:
        """A seeded sample of the whole set, the same in every process: bool [total].

        Args:
            number: rows to draw; 0 or more than there are takes all.
            seed: seed of the draw.
        """
        chosen = torch.ones(self.total, dtype=torch.bool)
        if 0 < number < self.total:
            order = torch.randperm(self.total, generator=torch.Generator().manual_seed(seed))
            chosen[order[number:]] = False
        return chosen

    def merge(self, rows: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put the entries of all processes together.

        Args:
            rows: int64 [E], the row that every entry belongs to (a row may have several entries).
            values: name -> [E, ...], on the CPU; the same names in every process.

        Returns:
            name -> the entries of all rows in row order; a row that several processes judged counts in the
            lowest of them only.
        """
        if not self.shared:
            return values
        parts = _gather(rows)
        source = torch.cat([torch.full_like(part, rank) for rank, part in enumerate(parts)])
        number, entry = torch.unique(torch.cat(parts), return_inverse=True)
        lowest = torch.full_like(number, len(parts)).scatter_reduce_(0, entry, source, "amin")
        kept = (source == lowest[entry]).nonzero().flatten()
        kept = kept[entry[kept].argsort(stable=True)]
        return {name: torch.cat(_gather(value))[kept] for name, value in values.items()}


def _gather(value: Tensor) -> list[Tensor]:
    """The tensor of every process; their first dimensions may differ."""
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
    length = torch.tensor([len(value)], device=device)
    lengths = [torch.zeros_like(length) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, length)
    longest = max(int(each) for each in lengths)
    padded = torch.zeros(longest, *value.shape[1:], dtype=value.dtype, device=device)
    padded[: len(value)] = value.to(device)
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return [part[: int(each)].cpu() for part, each in zip(parts, lengths, strict=True)]
