"""What a reader of a result has to know about a data set, counted on the log as written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataset_adapters.events import Events, FeatureTable
from dataset_adapters.filters import duplicates
from dataset_adapters.values import SECOND


def log_statistics(events: Events) -> dict[str, Any]:
    """Describe a log that is grouped by user and in time order.

    ``repeated_last_events`` is a share of the users with two events or more: only they can repeat.

    Args:
        events: result of :meth:`Events.in_order`.

    Returns:
        counts, sequence lengths, shares of ties and repeats (rounded to 6 digits), and the time span.
    """
    users, lengths = np.unique(events.user, return_counts=True)
    items, popularity = np.unique(events.item, return_counts=True)
    last = last_of_user(events.user)
    repeat = repeats(events)
    found: dict[str, Any] = {
        "users": len(users),
        "items": len(items),
        "interactions": len(events),
        "density": _share(len(events), len(users) * len(items)),
        "events_per_user": _spread(lengths),
        "events_per_item": _spread(popularity),
        "users_with_fewer_than_3_events": int((lengths < 3).sum()),
        "repeated_events": _share(int(repeat.sum()), len(events)),
        "repeated_last_events": _share(int(repeat[last].sum()), int((lengths >= 2).sum())),
    }
    if events.timed:
        found["exact_duplicates"] = int((~duplicates(events, "exact")).sum())
    dated = events.timed and events.scale == SECOND
    if dated:
        same_user = events.user[1:] == events.user[:-1]
        tied = same_user & (events.time[1:] == events.time[:-1])
        found["tied_consecutive_events"] = _share(int(tied.sum()), int(same_user.sum()))
        tied_last = np.concatenate([[False], tied])[last]
        found["users_whose_last_event_is_tied"] = _share(int(tied_last.sum()), len(users))
        found["first_time"] = date_text(int(events.time.min()))
        found["last_time"] = date_text(int(events.time.max()))
    return found


def split_statistics(events: Events, protocol: str) -> dict[str, Any]:
    """Sizes of train, valid and test as RecBole will cut them under a protocol.

    Args:
        events: result of :meth:`Events.in_order`.
        protocol: ``leave-one-out``, ``global-time`` or ``random``.
    """
    total = len(events)
    if protocol == "leave-one-out":
        _, lengths = np.unique(events.user, return_counts=True)
        test, valid = int((lengths >= 2).sum()), int((lengths >= 3).sum())
        return {"train": total - valid - test, "valid": valid, "test": test}
    tenth = int(0.1 * total)
    sizes: dict[str, Any] = {"train": total - 2 * tenth, "valid": tenth, "test": tenth}
    if protocol == "global-time":
        order = np.argsort(events.time, kind="stable")
        early, late = order[: total - 2 * tenth], order[total - tenth :]
        sizes["test_events_of_items_not_in_train"] = _share(
            int((~np.isin(events.item[late], events.item[early])).sum()), tenth
        )
        sizes["test_events_of_users_not_in_train"] = _share(
            int((~np.isin(events.user[late], events.user[early])).sum()), tenth
        )
        if tenth and events.scale == SECOND:
            sizes["first_test_time"] = date_text(int(events.time[late[0]]))
    return sizes


def coverage(table: FeatureTable) -> dict[str, float]:
    """Share of rows with a value, for each column and (``any_text``) for the text columns together."""
    columns = {f.name: table.column(f.name) for f in table.fields}
    shares = {name: _share(sum(map(bool, values)), len(values)) for name, values in columns.items()}
    text = [columns[name] for name in table.roles.text]
    if text:
        shares["any_text"] = _share(sum(map(any, zip(*text, strict=True))), len(table.rows))
    return shares


def repeats(events: Events) -> NDArray[np.bool_]:
    """Mask of the events whose user had the same item earlier in the (ordered) log."""
    order = np.lexsort((np.arange(len(events)), events.item, events.user))
    again = (np.diff(events.user[order]) == 0) & (np.diff(events.item[order]) == 0)
    mask = np.zeros(len(events), dtype=bool)
    mask[order[1:][again]] = True
    return mask


def last_of_user(user: NDArray[Any]) -> NDArray[np.int64]:
    """Positions of each user's last event in a log grouped by user."""
    return np.flatnonzero(np.append(user[1:] != user[:-1], True))


def sorted_share(users: NDArray[Any], ranks: NDArray[Any]) -> float:
    """Share of the users with three events or more whose items ascend by ``ranks`` (log grouped by user)."""
    lengths = np.diff(np.concatenate([[0], last_of_user(users) + 1]))
    falls = (users[1:] == users[:-1]) & (ranks[1:] < ranks[:-1])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    fallen = np.add.reduceat(np.append(falls, False).astype(np.int64), starts) > 0
    long = lengths >= 3
    return float((long & ~fallen).sum() / max(long.sum(), 1)) if long.sum() >= 20 else 0.0


def date_text(time: int) -> str:
    """Microseconds since 1970 as an ISO date and time in UTC."""
    return (
        (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time)).isoformat().replace("+00:00", "Z")
    )


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _spread(counts: NDArray[Any]) -> dict[str, float]:
    return {
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "mean": round(float(counts.mean()), 4),
        "max": int(counts.max()),
    }
