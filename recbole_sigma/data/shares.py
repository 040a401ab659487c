"""The batches of one training epoch: from any position, for one process of several.

One process iterates RecBole's loader as it is. Of several, each takes its share of every global batch, so
that together they take the steps that one process would take, and no row is left out or seen twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from recbole_sigma.values import UserError


def epoch_length(loader: Any, size: int = 1) -> int:
    """Optimizer steps of one epoch, the same in every process.

    Args:
        loader: a RecBole training loader.
        size: number of processes.
    """
    return max(1, len(loader)) if size == 1 else len(_global_cuts(loader.sample_size, loader.step, size))


def epoch_batches(loader: Any, skip: int = 0, rank: int = 0, size: int = 1) -> Iterator[tuple[Any, float]]:
    """Batches of one epoch after the first ``skip``.

    The order is drawn from ``loader.generator``: the same generator state gives the same epoch.

    Args:
        loader: a RecBole training loader.
        skip: batches that were already taken; they are passed over without being assembled where possible.
        rank: this process.
        size: how many processes there are.

    Yields:
        (RecBole interaction, weight): the weight is ``size`` times this process's share of the global
        batch's rows, so that the mean over processes of weighted mean losses is the mean over all rows. A
        model whose rows hold unequal numbers of predictions is weighed by those instead; see `training`.
    """
    if size > 1:
        yield from _own_share(loader, skip, rank, size)
        return
    iterator = iter(loader)
    for _ in range(skip):
        if loader.num_workers:
            next(iterator)
        else:
            iterator._next_index()  # the indices are drawn, the rows are not assembled
    for batch in iterator:
        yield batch, 1.0


def _own_share(loader: Any, skip: int, rank: int, size: int) -> Iterator[tuple[Any, float]]:
    rows = loader.sample_size
    cuts = _global_cuts(rows, loader.step, size)
    if loader.shuffle:  # the draws of torch's loader and sampler, so that the order is that of one process
        torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
        order = torch.randperm(rows, generator=loader.generator).tolist()
    else:
        order = list(range(rows))
    whole = [order[begin:end] for begin, end in cuts[skip:]]
    own = [batch[rank::size] for batch in whole]
    shares: DataLoader = DataLoader(
        range(rows),  # type: ignore[arg-type]
        batch_sampler=own,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        generator=torch.Generator().manual_seed(rank),
    )
    for batch, mine, everyones in zip(shares, own, whole, strict=True):
        yield batch, size * len(mine) / len(everyones)
    if loader.shuffle:
        torch.randperm(rows, generator=loader.generator)


def _global_cuts(rows: int, step: int, size: int) -> list[tuple[int, int]]:
    """Bounds of the global batches; a last one with fewer rows than processes joins the one before it."""
    if rows < size:
        raise UserError(f"{rows} training rows cannot be shared by {size} processes: lower nproc")
    step = max(step, size)
    bounds = [*range(0, rows, step), rows]
    if rows - bounds[-2] < size:
        del bounds[-2]
    return list(zip(bounds, bounds[1:], strict=False))
