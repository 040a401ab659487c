"""Paired bootstrap over users, and Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recbole_sigma.values import UserError

RESAMPLES = 10_000
_CHUNK = 1 << 23  # drawn user numbers held at once: 64 MB


def hit_at(places: np.ndarray, k: int) -> np.ndarray:
    """1.0 where the target is among the first k; places are 1-based, 0 is not in the list."""
    return ((places > 0) & (places <= k)).astype(np.float64)


def ndcg_at(places: np.ndarray, k: int) -> np.ndarray:
    """1 / log2(place + 1) where the target is among the first k: NDCG with one target."""
    gain = 1.0 / np.log2(np.maximum(places, 1) + 1.0)
    return np.where((places > 0) & (places <= k), gain, 0.0)


def bootstrap_means(values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Means of resampled users; every column is resampled with the same users.

    Args:
        values: float [U, M], a value per user and model.
        resamples: R.
        seed: seed of the draws.

    Returns:
        float64 [R, M].
    """
    users = len(values)
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    rows = max(1, _CHUNK // users)
    for start in range(0, resamples, rows):
        n = min(rows, resamples - start)
        drawn = rng.integers(0, users, size=(n, users)) + np.arange(n)[:, None] * users
        counts = np.bincount(drawn.ravel(), minlength=n * users).reshape(n, users)
        means[start : start + n] = counts @ values / users
    return means


@dataclass(frozen=True)
class Comparison:
    """One model against the reference.

    Attributes:
        difference: mean of the paired differences.
        difference_interval: its 95 % percentile interval.
        ratio: ratio of the means, None when the reference's mean is 0.
        ratio_interval: its 95 % percentile interval.
        p: two-sided bootstrap p-value of difference 0, at least 1 / (R + 1).
        p_holm: p after Holm's correction over the family.
    """

    difference: float
    difference_interval: tuple[float, float]
    ratio: float | None
    ratio_interval: tuple[float, float] | None
    p: float
    p_holm: float


def two_sided_p(differences: np.ndarray) -> float:
    """Twice the smaller share of resampled differences on one side of 0, the observed one counted in."""
    n = len(differences)
    below, above = (differences <= 1e-12).sum(), (differences >= -1e-12).sum()  # rounding is no difference
    return float(min(1.0, 2.0 * (min(below, above) + 1) / (n + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * float(p_values[index])))
        adjusted[int(index)] = largest
    return adjusted


def interval(samples: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


def compare(
    values: np.ndarray, reference: int, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[list[Comparison | None], list[tuple[float, float]]]:
    """Compare every model with one of them on the same users.

    Args:
        values: float [U, M], a value per user and model, seeds averaged before.
        reference: column of the reference.
        resamples: number of resamples.
        seed: seed of the draws.

    Returns:
        (per model its comparison, None for the reference; per model the 95 % interval of its mean).
    """
    means = bootstrap_means(values, resamples, seed)
    observed = values.mean(axis=0)
    others = [m for m in range(values.shape[1]) if m != reference]
    p_values = [two_sided_p(means[:, m] - means[:, reference]) for m in others]
    found: list[Comparison | None] = [None] * values.shape[1]
    base = float(observed[reference])
    for m, p, adjusted in zip(others, p_values, holm(p_values), strict=True):
        positive = means[:, reference] > 0
        usable = base > 0 and bool(positive.all())
        found[m] = Comparison(
            difference=float(observed[m]) - base,
            difference_interval=interval(means[:, m] - means[:, reference]),
            ratio=float(observed[m]) / base if base > 0 else None,
            ratio_interval=interval(means[:, m] / means[:, reference]) if usable else None,
            p=p,
            p_holm=adjusted,
        )
    return found, [interval(means[:, m]) for m in range(values.shape[1])]


METRICS = {"ndcg@10": (ndcg_at, 10), "hit@10": (hit_at, 10)}


OWN = "SIGMA"  # rows over this model are what is compared, never the baseline


def places_by_user(
    record: dict[str, Any], policy: bool, what: str = "places"
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Places per row and seed on the targets that all rows were judged on.

    Args:
        record: what `results.collect` gave.
        policy: whether seen items are filtered.
        what: another list of a cell with an entry per target; cells without it are left out.

    Returns:
        (row name -> [seeds, P], {``users``, ``targets``, ``train_counts`` and, where the record has them,
        ``lengths`` and ``pair_counts``} -> int [P]).

    Raises:
        UserError: if the rows share no judged target.
    """
    cells = [cell for cell in record["cells"] if cell["filter_seen"] == policy]
    keys, common = [], None
    for own in record["judged"]:
        pair = np.asarray(own["users"], dtype=np.int64) << 32 | np.asarray(own["targets"], dtype=np.int64)
        keys.append(pair)
    used = {cell["places"]["judged"] for cell in cells}
    for number in used:
        common = keys[number] if common is None else np.intersect1d(common, keys[number])
    if common is None or not len(common):
        raise UserError(
            "the rows were judged on different users or items: use one --output per dataset and split"
        )
    common = np.unique(common)
    index = {number: np.argsort(pair, kind="stable") for number, pair in enumerate(keys)}

    def pick(number: int, values: list[Any]) -> np.ndarray:
        order = index[number]
        return np.asarray(values)[order][np.searchsorted(keys[number][order], common)]

    rows: dict[str, list[np.ndarray]] = {}
    for cell in cells:
        if what in cell["places"]:
            number = cell["places"]["judged"]
            rows.setdefault(cell["row"]["name"], []).append(pick(number, cell["places"][what]))
    about = {"users": common >> 32, "targets": common & 0xFFFFFFFF}
    for name in ("train_counts", "lengths", "pair_counts"):
        known = [number for number, own in enumerate(record["judged"]) if name in own and number in used]
        if known:
            about[name] = pick(known[0], record["judged"][known[0]][name])
    return {name: np.stack(parts) for name, parts in rows.items()}, about


def significance(
    record: dict[str, Any], resamples: int = RESAMPLES, reference: str | None = None
) -> list[dict[str, Any]]:
    """Every row against the best baseline, for each policy and metric.

    A user's value is the mean over the row's seeds; users are resampled in pairs. The baseline is the best
    row by that metric on test among rows that are not SIGMA's, so the choice favours the baseline. Holm's
    correction runs over the rows compared under one policy and metric.

    Args:
        record: what `results.collect` gave.
        resamples: number of resamples.
        reference: name of the row to compare with, in place of the best baseline, under every policy that
            judged it.

    Returns:
        One entry per policy and metric: ``filter_seen``, ``metric``, ``reference``, ``chosen`` (by name),
        ``users`` and ``rows`` (name -> ``mean``, ``interval`` and the fields of `statistics.Comparison`, or
        None for the reference).
    """
    found = []
    base = {cell["row"]["name"]: cell["row"]["base"] for cell in record["cells"]}
    if reference is not None and reference not in base:
        raise UserError(f"--reference={reference} is no row of the table; rows: {', '.join(base)}")
    for policy in dict.fromkeys(cell["filter_seen"] for cell in record["cells"]):
        places, about = places_by_user(record, policy)
        names = list(places)
        # users with several targets are resampled whole: their values are averaged first
        _, person = np.unique(about["users"], return_inverse=True)
        for metric, (gain, k) in METRICS.items():
            values = np.stack(
                [per_user(gain(places[name], k).mean(axis=0), person) for name in names], axis=1
            )
            means = values.mean(axis=0)
            baselines = [m for m, name in enumerate(names) if base[name] != OWN] or list(range(len(names)))
            best = max(baselines, key=lambda m: means[m])
            if reference in names:
                best = names.index(reference)
            comparisons, intervals = compare(values, best, resamples)
            found.append(
                {
                    "filter_seen": policy,
                    "metric": metric,
                    "reference": names[best],
                    "chosen": reference in names,
                    "users": len(values),
                    "resamples": resamples,
                    "rows": {
                        name: {
                            "mean": float(means[m]),
                            "interval": intervals[m],
                            "against": asdict(c) if (c := comparisons[m]) is not None else None,
                        }
                        for m, name in enumerate(names)
                    },
                }
            )
    return found


def per_user(values: np.ndarray, person: np.ndarray) -> np.ndarray:
    """Mean over each user's targets."""
    return np.bincount(person, weights=values) / np.bincount(person)


BINS = (0, 1, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000)


_LEAST = 0.02  # share of the targets below which a bin joins its neighbour


def by_popularity(record: dict[str, Any], policy: bool, k: int = 10) -> dict[str, Any]:
    """HR@k by how often the target stands in training.

    Bins with few targets (fewer than 2 % of all) join the next one, the last of them the one before.

    Returns:
        ``bins`` (labels), ``targets`` (number in each bin) and ``rows`` (name -> HR@k per bin).
    """
    places, about = places_by_user(record, policy)
    fine = np.searchsorted(BINS, about["train_counts"], side="right") - 1
    number = np.bincount(fine, minlength=len(BINS))
    groups: list[list[int]] = [[]]
    for b in np.flatnonzero(number):
        if groups[-1] and number[groups[-1]].sum() >= _LEAST * len(fine):
            groups.append([])
        groups[-1].append(int(b))
    if len(groups) > 1 and number[groups[-1]].sum() < _LEAST * len(fine):
        last = groups.pop()
        groups[-1] += last
    merged = np.zeros(len(BINS), dtype=np.int64)
    for place, group in enumerate(groups):
        merged[group] = place
    which = merged[fine]
    total = np.bincount(which, minlength=len(groups))
    rows = {
        name: (
            np.bincount(which, weights=hit_at(of_row, k).mean(axis=0), minlength=len(groups)) / total
        ).tolist()
        for name, of_row in places.items()
    }
    return {"bins": [_span_label(group) for group in groups], "targets": total.tolist(), "rows": rows}


def _span_label(group: list[int]) -> str:
    low, last = BINS[group[0]], group[-1]
    if last + 1 == len(BINS):
        return f"{low}+"
    high = BINS[last + 1] - 1
    return str(low) if low == high else f"{low}-{high}"


LEVELS = ("ClosedForm", "PackedSASRec", "PackedSASRec-sparse")
"""Rows whose best validation value the others are timed to: the free floor, and the plain neural baseline as
it is set for long histories and for short ones.
"""


def seconds_to_levels(record: dict[str, Any]) -> list[dict[str, Any]]:
    """`seconds_to_level` for each of `LEVELS` that the table has."""
    return [found for name in LEVELS if (found := seconds_to_level(record, name))]


def seconds_to_level(record: dict[str, Any], level_of: str, metric: str = "ndcg@10") -> dict[str, Any]:
    """CPU seconds of training until a row first reaches the best validation value of a reference row.

    Validation values are those of training, seeds one by one; the level is the reference's mean best value.
    Item preparation and training are counted, validation is not. A training-free row needs its preparation.

    Returns:
        ``level``, ``of``, and ``rows`` (name -> ``reached`` of ``seeds`` and ``cpu_seconds``, the mean over
        the seeds that reached it, or None); empty when the reference is not in the table.
    """
    cells = trained_cells(record)
    policy = max((c["filter_seen"] for c in cells), default=True)
    cells = [c for c in cells if c["filter_seen"] == policy]
    reference = [
        best for c in cells if c["row"]["name"] == level_of if (best := _best(c, metric)) is not None
    ]
    if not reference:
        return {}
    level = float(np.mean(reference))
    rows: dict[str, Any] = {}
    for name in dict.fromkeys(c["row"]["name"] for c in cells):
        own = [c for c in cells if c["row"]["name"] == name]
        times = [t for c in own if (t := _time_to(c, metric, level)) is not None]
        rows[name] = {
            "reached": len(times),
            "seeds": len(own),
            "cpu_seconds": float(np.mean(times)) if times else None,
            "best": float(np.mean([b for c in own if (b := _best(c, metric)) is not None] or [0.0])),
        }
    return {"level": level, "of": level_of, "metric": metric, "filter_seen": policy, "rows": rows}


def trained_cells(record: dict[str, Any]) -> list[dict[str, Any]]:
    """One cell per training, in the record's order: the one judged as it was trained, else the first that was
    judged on its weights (its row's decoding differs, and no row has that of the training).
    """
    first: dict[str, dict[str, Any]] = {}
    for cell in record["cells"]:
        known = first.setdefault(cell["training"], cell)
        if known["weights"]["shared"] is not None and cell["weights"]["shared"] is None:
            first[cell["training"]] = cell
    chosen = {id(cell) for cell in first.values()}
    return [cell for cell in record["cells"] if id(cell) in chosen]


def curve(cell: dict[str, Any], metric: str = "ndcg@10") -> list[tuple[float, float]]:
    """(CPU seconds of preparation and training so far, validation value) after each validated epoch."""
    spent, points = cell["seconds"].get("cpu_data", 0.0) + cell["seconds"].get("cpu_model", 0.0), []
    for epoch in cell["history"]:
        spent += epoch.get("train_cpu_seconds", 0.0)
        if metric in epoch.get("valid", {}):
            points.append((spent, epoch["valid"][metric]))
    return points


def _best(cell: dict[str, Any], metric: str) -> float | None:
    return max((value for _, value in curve(cell, metric)), default=None)


def _time_to(cell: dict[str, Any], metric: str, level: float) -> float | None:
    return next((spent for spent, value in curve(cell, metric) if value >= level), None)
