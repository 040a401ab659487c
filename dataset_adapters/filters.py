"""Exact filters on columns of integers; each tells what it left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataset_adapters.errors import AdapterError
from dataset_adapters.events import Events

DUPLICATES = ("keep", "exact", "first")


@dataclass(frozen=True)
class Step:
    """Size of the log after one filter."""

    name: str
    interactions: int
    users: int
    items: int


def step(name: str, events: Events) -> Step:
    """Count a log."""
    return Step(name, len(events), len(np.unique(events.user)), len(np.unique(events.item)))


def k_core(user: NDArray[Any], item: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Rows of the largest part of the log in which every user and every item has at least ``k`` events.

    Repeated events count each time, as in the S3-Rec preprocessing. Rounds of removal go on until nothing
    changes, so the result does not depend on which side is looked at first.

    Args:
        user: int [E].
        item: int [E].
        k: least number of events; 0 and 1 keep everything.

    Returns:
        int64 [E'] row numbers, ascending.
    """
    rows = np.arange(len(user))
    while k > 1 and len(rows):
        keep = (np.bincount(user[rows]) >= k)[user[rows]]
        keep &= (np.bincount(item[rows]) >= k)[item[rows]]
        if keep.all():
            break
        rows = rows[keep]
    return rows


def duplicates(events: Events, how: str) -> NDArray[np.bool_]:
    """Mask of the events to keep.

    Args:
        events: the log in file order.
        how: ``exact`` drops a row whose user, item and time occurred before; ``first`` keeps the
            earliest event (by time, then file order) of each user and item; ``keep`` keeps all.

    Returns:
        bool [E].
    """
    keep = np.ones(len(events), dtype=bool)
    if how == "keep" or not len(events):
        return keep
    order = np.lexsort((events.time, events.item, events.user))
    same = (np.diff(events.user[order]) == 0) & (np.diff(events.item[order]) == 0)
    if how == "exact":
        same &= np.diff(events.time[order]) == 0
    keep[order[1:][same]] = False
    return keep


def apply_filters(
    events: Events,
    *,
    since: int | None,
    until: int | None,
    min_rating: float | None,
    how_duplicates: str,
    k: int,
) -> tuple[Events, list[Step]]:
    """Filter a log in the order time window, rating, duplicates, k-core, and say what each step left.

    Args:
        events: the log in file order.
        since: earliest time kept, in stored steps.
        until: first time no longer kept.
        min_rating: least rating kept.
        how_duplicates: one of ``DUPLICATES``.
        k: k-core, 0 for none.

    Raises:
        AdapterError: the log has no times or ratings to filter by, or nothing is left.
    """
    steps = [step("usable rows", events)]
    if since is not None or until is not None:
        if not events.timed or events.scale == 1:
            raise AdapterError("--since and --until: this source has no dates; leave the options out")
        keep = np.ones(len(events), dtype=bool)
        if since is not None:
            keep &= events.time >= since
        if until is not None:
            keep &= events.time < until
        events = events.take(keep)
        steps.append(step("time window", events))
    if min_rating is not None:
        if "rating" not in events.numbers:
            raise AdapterError("--min-rating: this source has no ratings; leave the option out")
        events = events.take(events.numbers["rating"] >= min_rating)
        steps.append(step(f"rating >= {min_rating:g}", events))
    if how_duplicates != "keep":
        events = events.take(duplicates(events, how_duplicates))
        steps.append(step(f"duplicates: {how_duplicates}", events))
    if k > 1:
        events = events.take(k_core(events.user, events.item, k))
        steps.append(step(f"{k}-core", events))
    if not len(events):
        empty = next(s.name for s in steps if not s.interactions)
        raise AdapterError(
            f"no interaction is left after the step '{empty}'; loosen that filter or check the input files"
        )
    return events, steps
