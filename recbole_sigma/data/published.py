"""Published splits: ``benchmark_filename`` names three files of interactions in place of one log.

Each file holds either one event per row, or RecBole's rows for sequential models, a history and its target
each. Every model reads the first form; models that train on packed logs read the second one too, put back
together into the events that it was made from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recbole_sigma.values import UserError

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("training", "validation", "test")


def events_of_rows(
    rows: pd.DataFrame, part: np.ndarray, names: tuple[str, str, str, str | None]
) -> tuple[pd.DataFrame, np.ndarray]:
    """The log from which rows of a history and a target were made.

    A user's events are the history of the first row, which counts as training, and then the target of each
    row in order of time.

    Args:
        rows: one row per prediction; histories are arrays of item tokens.
        part: int [R], the file of each row: 0 training, 1 validation, 2 test.
        names: columns of user, item and history, and of the time or None (order of the files).

    Returns:
        One row per event (columns of user, item and time), and int8 [E], the part of each event.

    Raises:
        UserError: a row's history is not what the rows before it add up to.
    """
    import pandas as pd

    user, item, history, time = names
    order = np.arange(len(rows)) if time is None else np.argsort(rows[time].to_numpy(), kind="stable")
    logs: dict[str, list[tuple[str, float, int]]] = {}
    columns = (rows[user].to_numpy(), rows[item].to_numpy(), rows[history].to_numpy())
    times = np.arange(len(rows), dtype=np.float64) if time is None else rows[time].to_numpy(dtype=np.float64)
    for row in order.tolist():
        owner, target, before = (column[row] for column in columns)
        log = logs.setdefault(owner, [])
        if not log:
            # before the first target, one unit of time apart
            log += [(name, times[row] - len(before) + place, 0) for place, name in enumerate(before.tolist())]
        elif [name for name, _, _ in log[-len(before) :]] != before.tolist():
            raise UserError(
                f"benchmark_filename: the history of user {owner!r} before item {target!r} is not what "
                "that user's earlier rows add up to, so no log can be put together for packed "
                "training: give files of one "
                "event per row"
            )
        log.append((target, times[row], int(part[row])))
    events = [(owner, *event) for owner, log in logs.items() for event in log]
    users, items, moments, parts = zip(*events, strict=True)
    frame = pd.DataFrame({user: users, item: items})
    frame[time or "timestamp"] = np.asarray(moments, dtype=np.float64)
    return frame, np.asarray(parts, dtype=np.int8)


def check_order(users: np.ndarray, part: np.ndarray, names: np.ndarray) -> None:
    """Refuse a split in which somebody's training events lie after his validation or test events.

    Args:
        users: int64 [E], in order of time.
        part: int8 [E], as `events_of_rows` gives it.
        names: user tokens by number.

    Raises:
        UserError: naming a user.
    """
    order = np.argsort(users, kind="stable")
    back = (np.diff(part[order]) < 0) & (np.diff(users[order]) == 0)
    if back.any():
        at = order[1:][back][0]
        raise UserError(
            f"benchmark_filename: user {str(names[users[at]])!r} has an event in the {PARTS[part[at]]} "
            "file that lies after one of a later part, so a history would hold what it must predict: "
            "split in order of time"
        )
