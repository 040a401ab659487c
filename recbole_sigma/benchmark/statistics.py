"""Paired bootstrap over users, and Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
