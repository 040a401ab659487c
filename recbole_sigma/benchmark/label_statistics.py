"""Comparisons of rows judged by labels: bootstrap over users, nested with seeds, and Holm's correction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from recbole_sigma.benchmark.statistics import Comparison, holm, interval, two_sided_p
from recbole_sigma.ctr.metrics import auc, auc_by_group, calibration, gauc, log_loss
from recbole_sigma.values import UserError

RESAMPLES = 2_000
_CHUNK = 1 << 22  # row weights held at once: 32 MB
NO_DIFFERENCE = 0.001
"""An AUC difference below it is called none, whatever its p-value (Zhu et al. 2021, arXiv 2009.05794)."""
FEWEST = 30
"""Users below which resampling them says nothing."""
OWN = ("SSR", "ImplicitRM")
"""Rows over these models are what is compared, never the baseline."""
SMALLER = ("logloss",)


def metrics_of_rows(names: list[str], rows: dict[str, Any], decimals: int) -> dict[str, float]:
    """The metrics of a cell that follow from its scored rows; names are those of the protocol."""
    labels, groups = np.asarray(rows["labels"]), np.asarray(rows["groups"])
    scores = np.asarray(rows["scores"], dtype=np.float32)
    if not len(scores) or any(len(rows[name]) != len(scores) for name in ("users", "groups", "labels")):
        raise ValueError("its rows are not as many labels as scores")
    if not np.isin(labels, (0, 1)).all() or not np.isfinite(scores).all():
        raise ValueError("its labels are not 0 and 1, or a score is no number")
    found: dict[str, float] = {}
    asked = {name.lower() for name in names}
    if "auc" in asked:
        found["auc"] = auc(scores, labels)
    if "logloss" in asked:
        found["logloss"] = float(log_loss(scores, labels).mean())
    if "gauc_ctr" in asked:
        found["gauc_ctr"], found["gauc_coverage"] = gauc(scores, labels, groups)
    if "calibration" in asked:
        found["calibration"] = calibration(scores, labels)
    return {name: round(value, decimals) for name, value in found.items() if not np.isnan(value)}


Draws = Callable[[np.ndarray], Iterator[np.ndarray]]


def _auc_draws(rows: dict[str, np.ndarray], person: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """AUC of every resample of users: float [R].

    Args:
        rows: ``scores`` and ``labels`` [n].
        person: int64 [n], column of each row's user in ``counts``.
        counts: [R, U], how often each resample holds each user.
    """
    order = np.argsort(rows["scores"], kind="stable")
    scores, positive = rows["scores"][order], rows["labels"][order] > 0
    starts = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]]))
    who, found = person[order], np.empty(len(counts))
    width = max(1, _CHUNK // len(scores))
    for at in range(0, len(counts), width):
        weight = counts[at : at + width][:, who].astype(np.float64)  # [r, n]
        good = np.add.reduceat(weight * positive, starts, axis=1)  # [r, distinct scores]
        bad = np.add.reduceat(weight * ~positive, starts, axis=1)
        pairs = good.sum(axis=1) * bad.sum(axis=1)
        below = np.cumsum(bad, axis=1) - bad / 2
        with np.errstate(invalid="ignore"):
            found[at : at + width] = (good * below).sum(axis=1) / pairs
    return found


def _gauc_draws(rows: dict[str, np.ndarray], person: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """GAUC over users of every resample: an AUC per user does not change with the draw."""
    names, size, value = auc_by_group(rows["scores"], rows["labels"], person)
    both = ~np.isnan(value)
    weight = counts[:, names[both]] * size[both]
    with np.errstate(invalid="ignore"):
        return np.asarray((weight @ value[both]) / weight.sum(axis=1))


def _loss_draws(rows: dict[str, np.ndarray], person: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """LogLoss of every resample."""
    users = counts.shape[1]
    total = np.bincount(person, weights=log_loss(rows["scores"], rows["labels"]), minlength=users)
    with np.errstate(invalid="ignore"):
        return np.asarray((counts @ total) / (counts @ np.bincount(person, minlength=users)))


DRAWS = {"auc": _auc_draws, "gauc_ctr": _gauc_draws, "logloss": _loss_draws}


def significance(
    record: dict[str, Any], resamples: int = RESAMPLES, reference: str | None = None
) -> list[dict[str, Any]]:
    """Every row against the best baseline, for AUC, GAUC and LogLoss.

    Each resample draws users, with all their rows, and seeds: a random split differs from seed to seed, and
    rows of one seed share it, so both are drawn in pairs. The baseline is the best row by that metric among
    those that are not over `OWN`, which favours it. Holm's correction runs over the rows under one metric.

    Args:
        record: ``cells`` and ``judged`` of rows judged by labels.
        resamples: number of resamples.
        reference: a row's name, in place of the best baseline.

    Returns:
        One entry per metric: ``metric``, ``reference``, ``chosen``, ``users``, ``seeds``, ``resamples`` and
        ``rows`` (name -> ``mean``, ``interval`` and the fields of `statistics.Comparison`, or None).

    Raises:
        UserError: the rows share no seed, or were judged on different rows.
    """
    base = {cell["row"]["name"]: cell["row"]["base"] for cell in record["cells"]}
    names = list(base)
    seeds = [
        seed
        for seed in dict.fromkeys(cell["seed"] for cell in record["cells"])
        if all(any((c["row"]["name"], c["seed"]) == (n, seed) for c in record["cells"]) for n in names)
    ]
    if not seeds:
        raise UserError("the rows share no seed: give all of them the same --seeds")
    at = {(cell["row"]["name"], cell["seed"]): cell for cell in record["cells"]}
    for seed in seeds:
        if len({at[name, seed]["rows"]["judged"] for name in names}) > 1:
            raise UserError(
                "the rows were judged on different test rows: use one --output per data set and split"
            )
    sets = [
        {name: np.asarray(own[name]) for name in ("users", "groups", "labels")} for own in record["judged"]
    ]
    known = np.unique(np.concatenate([sets[at[names[0], seed]["rows"]["judged"]]["users"] for seed in seeds]))
    if len(known) < FEWEST:
        raise UserError(
            f"the test rows belong to {len(known)} users, and a bootstrap over users needs {FEWEST} or more"
        )
    rng = np.random.default_rng(0)
    counts = rng.multinomial(len(known), np.full(len(known), 1 / len(known)), size=resamples)
    drawn = rng.integers(0, len(seeds), size=(resamples, len(seeds)))
    found = []
    for metric, draw in DRAWS.items():
        if not all(metric in at[name, seed]["test_result"] for name in names for seed in seeds):
            continue
        means = np.empty((resamples, len(names)))
        for column, name in enumerate(names):
            values = np.empty((resamples, len(seeds)))
            for place, seed in enumerate(seeds):
                own = sets[at[name, seed]["rows"]["judged"]]
                rows = {"scores": np.asarray(at[name, seed]["rows"]["scores"], np.float32), **own}
                values[:, place] = draw(rows, np.searchsorted(known, own["users"]), counts)
            means[:, column] = np.take_along_axis(values, drawn, axis=1).mean(axis=1)
        means = means[~np.isnan(means).any(axis=1)]  # a resample with one label only says nothing
        observed = [
            float(np.mean([at[name, seed]["test_result"][metric] for seed in seeds])) for name in names
        ]
        best = _reference(names, base, observed, metric, reference)
        found.append(_compared(names, means, observed, best, metric))
        found[-1] |= {"chosen": reference in names, "users": len(known), "seeds": seeds}
    return found


def _reference(
    names: list[str], base: dict[str, str], observed: list[float], metric: str, reference: str | None
) -> int:
    if reference in names:
        return names.index(reference)
    baselines = [place for place, name in enumerate(names) if base[name] not in OWN] or range(len(names))
    pick = min if metric in SMALLER else max
    return int(pick(baselines, key=lambda place: observed[place]))


def _compared(
    names: list[str], means: np.ndarray, observed: list[float], best: int, metric: str
) -> dict[str, Any]:
    """One metric's entry of `significance`."""
    others = [place for place in range(len(names)) if place != best]
    p_values = [two_sided_p(means[:, m] - means[:, best]) for m in others]
    against: dict[int, Comparison] = {}
    for m, p, adjusted in zip(others, p_values, holm(p_values), strict=True):
        against[m] = Comparison(
            difference=observed[m] - observed[best],
            difference_interval=interval(means[:, m] - means[:, best]),
            ratio=observed[m] / observed[best] if observed[best] > 0 else None,
            ratio_interval=interval(means[:, m] / means[:, best]) if observed[best] > 0 else None,
            p=p,
            p_holm=adjusted,
        )
    return {
        "metric": metric,
        "reference": names[best],
        "resamples": len(means),
        "rows": {
            name: {
                "mean": observed[m],
                "interval": interval(means[:, m]),
                "against": asdict(against[m]) if m in against else None,
            }
            for m, name in enumerate(names)
        },
    }
