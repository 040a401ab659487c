"""Splits of exact-time events, and the packer that cuts training histories into windows."""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_sigma.values import UserError

FIRST_EVENT = "packed_first"
"""Row field: the row's first event, as a position in the packer's arrays (training rows)."""


def split_events(users: np.ndarray, eval_args: dict[str, Any]) -> np.ndarray:
    """Assign every event to train (0), validation (1) or test (2).

    Args:
        users: int [E], user of each event, in time order.
        eval_args: RecBole's ``eval_args``; split ``LS`` (leave one out per user) or ``RS`` (ratio by time,
            over all events when ``group_by`` is none, within each user when it is ``user``).

    Returns:
        int8 [E].

    Raises:
        UserError: another split.
    """
    ((kind, how),) = eval_args["split"].items()
    n = len(users)
    part = np.zeros(n, dtype=np.int8)
    by_user = np.argsort(users, kind="stable")
    _, count = np.unique(users, return_counts=True)
    place = np.empty(n, dtype=np.int64)
    place[by_user] = np.arange(n) - np.repeat(np.cumsum(count) - count, count)
    total = np.empty(n, dtype=np.int64)
    total[by_user] = np.repeat(count, count)
    from_end = total - 1 - place
    if kind == "LS":
        tail = {"valid_and_test": (2, 1), "test_only": (2,), "valid_only": (1,)}.get(how)
        if tail is None:
            raise UserError(f"eval_args: split LS takes valid_and_test, valid_only or test_only, not '{how}'")
        for back, which in enumerate(tail):
            part[(from_end == back) & (place > 0)] = which
        return part
    if kind == "RS":
        ratio = np.asarray(how, dtype=float)
        if ratio.shape != (3,) or (ratio < 0).any() or ratio.sum() <= 0:
            raise UserError(f"eval_args: split RS needs three ratios [train, valid, test], got {how}")
        ratio = ratio / ratio.sum()
        group = str(eval_args.get("group_by") or "none").lower()
        position, size = (place, total) if group == "user" else (np.arange(n), np.full(n, n))
        test = (size * ratio[2]).astype(np.int64)
        valid = (size * ratio[1]).astype(np.int64)
        part[position >= size - test - valid] = 1
        part[position >= size - test] = 2
        return part
    raise UserError(f"eval_args: split '{kind}' is not supported by packed training; use LS or RS")


# The order of events of equal time is the file's. Where the file wrote them down by chance it is noise, and a
# network that sees one order in every epoch learns it by heart; where the file sorts them by item (Amazon's
# days), the held-out events were chosen by the same order, which is not thrown away.
BY_CHANCE = (0.45, 0.55)
"""Share of tied neighbours whose second item has the greater name, where the file's order says nothing."""


def tied_runs(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Number the runs of events of one user at one time: int64 [E], ascending.

    A user's first event is a run of its own. It is never a target, so no label of a task is made for it; the
    other events always are, and stay so in any order of their runs.

    Args:
        users: int64 [E], events grouped by user, in time order inside a user.
        times: float64 [E].
    """
    first = np.r_[True, users[1:] != users[:-1]][: len(users)]
    new = first.copy()
    new[1:] |= first[:-1] | (times[1:] != times[:-1])
    return np.cumsum(new)


def rising_share(runs: np.ndarray, place: np.ndarray) -> float:
    """Of neighbours in one run, the share whose second item has the greater name; nan where none are tied.

    Args:
        runs: int64 [E] from `tied_runs`.
        place: int64 [E], where the name of each event's item stands among all names.
    """
    pairs = (runs[1:] == runs[:-1]) & (place[1:] != place[:-1])
    return float((place[1:] > place[:-1])[pairs].mean()) if pairs.any() else float("nan")


def shuffled_runs(runs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A drawn order of the events of every run: int64 [E], which event stands where."""
    return np.lexsort((rng.random(len(runs)), runs))


class WindowPacker:
    """Cuts each user's training sequence into windows of at most ``window`` targets.

    The number of windows per user is fixed, ceil(targets / window); their boundaries are redrawn every epoch,
    so that every target is visited once per epoch with histories of varying length.

    Args:
        users, items, ranks: int64 [E] training events grouped by user, in time order inside a user.
        window: largest number of targets (and of history items) in a row.
        seed: seed of the draws; epoch e always gives the same cut.
        cold: keep users with a single event as rows without history, whose target is that event.
    """

    def __init__(
        self,
        users: np.ndarray,
        items: np.ndarray,
        ranks: np.ndarray,
        window: int,
        seed: int,
        cold: bool = False,
    ) -> None:
        self.users, self.items, self.ranks, self.window, self.seed = users, items, ranks, window, seed
        starts = (
            np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
            if len(users)
            else np.zeros(0, dtype=np.int64)
        )
        targets = np.diff(np.r_[starts, len(users)]) - 1
        keep = targets >= (0 if cold else 1)
        self.starts, self.targets, self.cold = starts[keep], targets[keep], cold
        self.windows = np.maximum(-(-self.targets // window), 1)

    def __len__(self) -> int:
        """Rows per epoch."""
        return int(self.windows.sum())

    @property
    def predictions(self) -> int:
        """Targets per epoch."""
        return int(self.targets.sum())

    def draw(self, epoch: int) -> np.ndarray:
        """Spans [rows, 2] of one epoch: first event and last target of each window, in event positions."""
        rng = np.random.default_rng((self.seed, epoch))
        owner = np.repeat(np.arange(len(self.windows)), self.windows)
        first_row = np.cumsum(self.windows) - self.windows
        place = np.arange(len(owner)) - first_row[owner]
        slack = (self.windows * self.window - self.targets)[owner]
        shift = np.where(place == 0, 0, rng.integers(0, slack + 1))
        # Sorting (owner, shift) keeps each user's shifts together and ascending, and the first row's shift at
        # 0.
        shift = shift[np.lexsort((shift, owner))]
        cut = place * self.window - shift
        last = np.r_[place[1:] == 0, True] if len(place) else np.zeros(0, dtype=bool)
        end = np.where(last, self.targets[owner], np.r_[cut[1:], 0])
        begin = self.starts[owner]
        return np.stack([begin + cut, begin + end], axis=1)


class PrefixPacker(WindowPacker):
    """Training rows of one target each: a history of at most ``window`` items and its next item.

    Args:
        users, items, ranks: int64 [E] training events grouped by user, in time order inside a user.
        window: longest history.
        seed: seed of the draws; epoch e always gives the same rows.
        every: one row per event with a history; otherwise random such rows of every user, redrawn every
            epoch.
        per_user: how many of them.
        cold: with ``every``, keep users with a single event as rows without history.
    """

    def __init__(
        self,
        users: np.ndarray,
        items: np.ndarray,
        ranks: np.ndarray,
        window: int,
        seed: int,
        every: bool,
        per_user: int = 1,
        cold: bool = False,
    ) -> None:
        super().__init__(users, items, ranks, window, seed, cold and every)
        self.every, self.per_user = every, per_user

    def __len__(self) -> int:
        """Rows per epoch."""
        if not self.every:
            return self.per_user * len(self.starts)
        return int(np.maximum(self.targets, 1).sum())

    def draw(self, epoch: int) -> np.ndarray:
        """Spans [rows, 2] of one epoch: first event of the history and the target, in event positions."""
        if self.every:
            rows = np.maximum(self.targets, 1)  # one for a user with a single event
            start = np.repeat(self.starts, rows)
            place = np.arange(len(start)) - np.repeat(np.cumsum(rows) - rows, rows)
            place -= np.repeat(self.targets == 0, rows)  # whose target is that event
        else:
            start, targets = (np.repeat(each, self.per_user) for each in (self.starts, self.targets))
            place = np.random.default_rng((self.seed, epoch)).integers(0, targets)
        target = start + 1 + place
        return np.stack([np.maximum(start, target - self.window), target], axis=1)
