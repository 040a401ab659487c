"""Metrics of labelled rows: AUC with mid-rank ties, its mean over users (GAUC), calibration.

RecBole's own ``GAUC`` ranks the whole catalogue and is another figure; here ``gauc_ctr`` is that of the
literature on click-through rates (Zhu et al. 2017, arXiv 1703.02091, equation 8). `evaluation.metrics` has
them as RecBole asks for them.
"""

from __future__ import annotations

import numpy as np


def auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Share of (positive, negative) pairs in the right order; equal scores count one half.

    Args:
        scores: [n].
        labels: [n], 0 or 1.
        weights: [n], how often each row counts; None is once.

    Returns:
        NaN where one of the labels has no row.

    >>> auc(np.array([.9, .5, .5, .1]), np.array([1, 1, 0, 0]))
    0.875
    """
    positive = labels > 0 if weights is None else weights * (labels > 0)
    negative = labels <= 0 if weights is None else weights * (labels <= 0)
    _, place = np.unique(scores, return_inverse=True)
    good, bad = np.bincount(place, weights=positive), np.bincount(place, weights=negative)
    pairs = good.sum() * bad.sum()
    below = np.cumsum(bad) - bad / 2
    return float((good * below).sum() / pairs) if pairs else float("nan")


def auc_by_group(
    scores: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AUC inside every group, ties in the middle.

    Args:
        scores: [n].
        labels: [n], 0 or 1.
        groups: [n], integers.

    Returns:
        (names [G], rows of each [G], AUC of each [G], NaN where a group has one label only).
    """
    names, group, rows = np.unique(groups, return_inverse=True, return_counts=True)
    _, place = np.unique(scores, return_inverse=True)
    # the mid-rank of a row inside its group; a tie is one (group, score) pair
    tie, member, size = np.unique(
        group * (place.max(initial=0) + 1) + place, return_inverse=True, return_counts=True
    )
    start = np.concatenate([[0], np.cumsum(rows)[:-1]])
    first = np.cumsum(size) - size  # places before the tie, over all groups
    owner = tie // (place.max(initial=0) + 1)
    middle = first - start[owner] + (size + 1) / 2
    positive = labels > 0
    count = np.bincount(group, weights=positive, minlength=len(names))
    ranks = np.bincount(group, weights=middle[member] * positive, minlength=len(names))
    pairs = count * (rows - count)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(pairs > 0, (ranks - count * (count + 1) / 2) / pairs, np.nan)
    return names, rows, found


def gauc(scores: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """AUC of every group, weighted by its rows; groups with one label have none and are left out.

    Returns:
        (GAUC, share of the rows that lie in groups with both labels).

    >>> gauc(np.array([.9, .1, .2, .8, .5]), np.array([1, 0, 1, 0, 1]), np.array([1, 1, 2, 2, 3]))
    (0.5, 0.8)
    """
    _, rows, found = auc_by_group(scores, labels, groups)
    both = ~np.isnan(found)
    covered = rows[both].sum()
    value = float((rows[both] * found[both]).sum() / covered) if covered else float("nan")
    return value, float(covered / rows.sum())


def calibration(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean prediction over mean label: 1 is calibrated, above 1 promises too much; NaN without a positive."""
    mean = float(np.mean(labels, dtype=np.float64))
    return float(np.mean(scores, dtype=np.float64)) / mean if mean else float("nan")


def log_loss(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-log of the probability given to each row's label, float64 [n]; probabilities are cut at 1e-15."""
    p = np.clip(scores.astype(np.float64), 1e-15, 1 - 1e-15)
    loss: np.ndarray = -(labels * np.log(p) + (1 - labels) * np.log1p(-p))
    return loss
