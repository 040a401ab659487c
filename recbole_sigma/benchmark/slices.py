"""NDCG@10 on parts of the targets: by step, by length of the history, and by how cold the target is."""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_sigma.benchmark.statistics import compare, ndcg_at, per_user, places_by_user

_LENGTHS = (0, 1, 6, 11, 21, 51)
_COUNTS = (0, 1, 5, 20)
COLD = "target in train"
RESAMPLES = 2_000  # of an interval per slice


def slices(record: dict[str, Any], policy: bool) -> dict[str, Any]:
    """NDCG@10 on parts of the targets: what is remembered, and what has to be told from something else.

    A target is memorised where train holds its step, from the newest item of the history to the target at
    once (arXiv 2603.19809). The other parts go by the length of the history and by how often train holds the
    target: never (cold), 1 to 4 times, 5 to 19, and 20 or more.

    Returns:
        ``parts``: of each part its ``group``, ``name``, ``targets`` (number) and ``rows`` (name -> NDCG@10,
        mean over seeds). Those by train events also have ``gates`` (name -> mean gate of the targets, for
        rows that have one) and, where the record has a reference row, ``reference`` and ``against`` (name ->
        difference and its 95 % interval, paired bootstrap over users). Parts without a target are left out.
        Empty where the cells do not say it.
    """
    places, about = places_by_user(record, policy)
    if "pair_counts" not in about:
        return {}
    masks: list[tuple[str, str, np.ndarray]] = [
        ("step", "memorisation", about["pair_counts"] > 0),
        ("step", "generalisation", about["pair_counts"] == 0),
    ]
    for group, name, bounds in (("history", "lengths", _LENGTHS), (COLD, "train_counts", _COUNTS)):
        for low, after in zip(bounds, (*bounds[1:], None), strict=True):
            inside = about[name] >= low if after is None else (about[name] >= low) & (about[name] < after)
            label = f"{low}+" if after is None else str(low) if after == low + 1 else f"{low}-{after - 1}"
            masks.append((group, "cold" if (name, low) == ("train_counts", 0) else label, inside))
    gains = {row: ndcg_at(found, 10).mean(axis=0) for row, found in places.items()}
    gates = {row: found.mean(axis=0) for row, found in places_by_user(record, policy, "gates")[0].items()}
    reference = _reference(record, policy)
    parts = []
    for group, name, mask in masks:
        if not mask.any():
            continue
        part: dict[str, Any] = {
            "group": group,
            "name": name,
            "targets": int(mask.sum()),
            "rows": {row: float(gain[mask].mean()) for row, gain in gains.items()},
        }
        if group == COLD:
            part["gates"] = {row: float(gate[mask].mean()) for row, gate in gates.items()}
            if reference in gains and len(gains) > 1:
                part["reference"] = reference
                part["against"] = _against(gains, about["users"], mask, reference)
        parts.append(part)
    return {"parts": parts}


def _reference(record: dict[str, Any], policy: bool) -> str:
    """The row that the table's NDCG@10 is compared with, or an empty name."""
    tests = record.get("significance", [])
    found = [t["reference"] for t in tests if t["filter_seen"] == policy and t["metric"] == "ndcg@10"]
    return str(found[0]) if found else ""


def _against(
    gains: dict[str, np.ndarray], users: np.ndarray, mask: np.ndarray, reference: str
) -> dict[str, tuple[float, float, float]]:
    """Every other row's difference from the reference on the targets of a mask: (mean, low, high)."""
    _, person = np.unique(users[mask], return_inverse=True)
    names = list(gains)
    values = np.stack([per_user(gains[name][mask], person) for name in names], axis=1)
    compared, _ = compare(values, names.index(reference), RESAMPLES)
    return {
        name: (found.difference, *found.difference_interval)
        for name, found in zip(names, compared, strict=True)
        if found is not None
    }
