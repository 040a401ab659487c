"""Keys of models that are scored by labels: how they are judged, and what is done to their columns."""

from __future__ import annotations

from dataclasses import dataclass

from recbole_sigma.settings.keys import key


@dataclass(frozen=True)
class LabelKeys:
    """Scores of labelled rows (clicks, ratings above a threshold) in place of ranked lists."""

    judged_by: str = key(
        "auto",
        "Labels (AUC, LogLoss) or ranked lists; auto = labels for context-aware models, DIN and DIEN",
        choices=("auto", "labels", "lists"),
    )
    gauc_group: str | None = key(None, "Column whose values are the groups of GAUC_CTR; ~ = the user")
    rare_below: int = key(
        0,
        "Labels: values of a .inter text column with fewer train rows become one value; 0 = none do",
        0,
        1_000_000,
    )
    numeric_scaling: str = key(
        "standard",
        "Labels: what numerical_features go through, with statistics of train rows; log = log(1 + x), then "
        "standard",
        choices=("none", "standard", "log"),
    )
