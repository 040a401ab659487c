"""Intra-list distance: how far apart the items of a list are, in vectors that no model of the table owns."""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_sigma.grounding.cooccurrence import ppmi_svd, windowed_cooccurrence

WIDTH, WINDOW = 64, 10


def intra_list_distance(lists: np.ndarray, events: Any, n_items: int) -> float | None:
    """Mean over lists of the mean of 1 - cosine over the list's pairs.

    The vectors are the PPMI-SVD of train co-occurrence (`grounding.cooccurrence`), the same for every model.
    Empty slots and items without a train event are left out; lists with fewer than two items left count not.

    Args:
        lists: int64 [rows, K], 0 in empty slots.
        events: the `Chronology` of the train events.
        n_items: N.

    Returns:
        The mean, or None when no list has two items with a vector.
    """
    users, items = events.sequences()
    unit = ppmi_svd(windowed_cooccurrence(users, items, n_items, WINDOW), min(WIDTH, n_items - 1), seed=0)
    has_vector = np.abs(unit).sum(axis=1) > 0
    known = (lists > 0) & has_vector[lists]
    total = (unit[lists] * known[:, :, None]).sum(axis=1)
    n = known.sum(axis=1)
    enough = n >= 2
    if not enough.any():
        return None
    n = n[enough]
    cosine = ((total[enough] ** 2).sum(axis=1) - n) / (n * (n - 1))
    return float((1.0 - cosine).mean())
