"""Metrics of this project, and RecBole's list metrics made aware of empty slots.

`plugin` puts these classes into RecBole's four metric tables. All of them read what `collector` fills.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from recbole.evaluator import metrics as stock
from recbole.evaluator.base_metric import AbstractMetric
from recbole.utils import EvaluatorType

from recbole_sigma.ctr.metrics import calibration, gauc

OK, EMPTY, INVALID, SEEN, DUPLICATE = range(5)
"""Slot states in ``rec.flags``: good, no item, id outside the catalogue, filtered item, repeat."""


class _FlagMetric(AbstractMetric):
    """Base of the metrics that look at slot states, ``rec.flags`` int8 [rows, K]."""

    metric_type = EvaluatorType.RANKING
    metric_need = ["rec.flags"]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.topk = config["topk"]

    def _at(self, name: str, bad_or_good: np.ndarray) -> dict[str, float]:
        return {f"{name}@{k}": round(float(bad_or_good[:, :k].mean()), self.decimal_place) for k in self.topk}


class Validity(_FlagMetric):
    """Share of the first k slots that hold an item of the catalogue that the policy allows."""

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """See the class."""
        flags = dataobject.get("rec.flags").numpy()
        return self._at("validity", (flags == OK) | (flags == DUPLICATE))


class Duplicate(_FlagMetric):
    """Share of the first k slots that repeat an item from higher up in the same list."""

    smaller = True

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """See the class."""
        return self._at("duplicate", dataobject.get("rec.flags").numpy() == DUPLICATE)


class Shortlist_Rate(_FlagMetric):  # noqa: N801  RecBole names a metric by its lower-cased class name
    """Share of the lists that hold fewer than max(topk) items."""

    smaller = True

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """See the class."""
        short = (dataobject.get("rec.flags").numpy() == EMPTY).any(axis=1)
        return {"shortlist_rate": round(float(short.mean()), self.decimal_place)}


class Prefix_Survival(AbstractMetric):  # noqa: N801  RecBole names a metric by its lower-cased class name
    """Mean share of a user's exact best max(topk) items that a generative model's beam search returned.

    Measured on a sample of rows (``prefix_survival_users``), since it needs the exact list.
    """

    metric_type = EvaluatorType.RANKING
    metric_need = ["rec.survival"]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.longest = max(config["topk"])

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """See the class."""
        share = float(np.nanmean(dataobject.get("rec.survival").double().numpy()))
        return {f"prefix_survival@{self.longest}": round(share, self.decimal_place)}


class _FilledSlots:
    """RecBole's list metrics over filled slots only: item 0 is an empty slot, not a recommendation.

    Coverage, Gini and entropy count the items that were shown; popularity and tail share average over them
    (the formulas in RecBole's docstrings divide by the list's own length).
    """

    topk: list[int]
    decimal_place: int

    def _shown(self, items: np.ndarray) -> np.ndarray:
        return items[items > 0]

    def _mean_over_filled(self, name: str, items: np.ndarray, values: np.ndarray) -> dict[str, float]:
        filled = items > 0
        total = np.cumsum(np.where(filled, values, 0), axis=1)
        means = total / np.maximum(np.cumsum(filled, axis=1), 1)
        return {f"{name}@{k}": round(float(means[:, k - 1].mean()), self.decimal_place) for k in self.topk}


class ItemCoverage(_FilledSlots, stock.ItemCoverage):
    """RecBole's ItemCoverage without the empty slot."""

    def get_coverage(self, item_matrix: np.ndarray, num_items: int) -> float:
        """See the class."""
        return np.unique(self._shown(item_matrix)).size / num_items


class ShannonEntropy(_FilledSlots, stock.ShannonEntropy):
    """RecBole's ShannonEntropy without the empty slot."""

    def get_entropy(self, item_matrix: np.ndarray) -> float:
        """See the class."""
        shown = self._shown(item_matrix)
        return float(super().get_entropy(shown[:, None])) if shown.size else 0.0


class GiniIndex(_FilledSlots, stock.GiniIndex):
    """RecBole's GiniIndex without the empty slot."""

    def get_gini(self, item_matrix: np.ndarray, num_items: int) -> float:
        """See the class."""
        shown = self._shown(item_matrix)
        return float(super().get_gini(shown[:, None], num_items)) if shown.size else 0.0


class AveragePopularity(_FilledSlots, stock.AveragePopularity):
    """RecBole's AveragePopularity without the empty slot."""

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """See the class."""
        items, counts = self.used_info(dataobject)
        return self._mean_over_filled("averagepopularity", items, lookup(items, counts))


class TailPercentage(_FilledSlots, stock.TailPercentage):
    """RecBole's TailPercentage without the empty slot."""

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """See the class."""
        items, counts = self.used_info(dataobject)
        ordered = sorted(counts.items(), key=lambda pair: (pair[1], pair[0]))
        if self.tail > 1:
            tail = {item: 1 for item, count in ordered if count <= self.tail}
        else:
            tail = {item: 1 for item, _ in ordered[: max(int(len(ordered) * self.tail), 1)]}
        return self._mean_over_filled("tailpercentage", items, lookup(items, tail))


def lookup(items: np.ndarray, values: dict[int, int]) -> np.ndarray:
    """Values of an integer matrix's entries, 0 where an entry is absent from the mapping."""
    table = np.zeros(max(int(items.max(initial=0)), max(values, default=0)) + 1)
    for item, value in values.items():
        table[item] = value
    return table[items]


class _LabelMetric(AbstractMetric):
    """Base of the metrics of labelled rows."""

    metric_type = EvaluatorType.VALUE
    metric_need = ["rec.score", "data.label"]

    def _columns(self, data: Any) -> tuple[np.ndarray, np.ndarray]:
        return data.get("rec.score").numpy().ravel(), data.get("data.label").numpy().ravel()

    def _rounded(self, **values: float) -> dict[str, float]:
        """Values with their names; one that no row says is left out."""
        return {n: round(value, self.decimal_place) for n, value in values.items() if not np.isnan(value)}


class GAUC_CTR(_LabelMetric):  # noqa: N801  RecBole names a metric by its lower-cased class name
    """`ctr.metrics.gauc` over users (or ``gauc_group``), with the share of rows that it covers."""

    metric_need = ["rec.score", "data.label", "data.group"]

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """``gauc_ctr``, left out where no group has both labels, and ``gauc_coverage``."""
        value, covered = gauc(*self._columns(dataobject), dataobject.get("data.group").numpy().ravel())
        return self._rounded(gauc_ctr=value, gauc_coverage=covered)


class Calibration(_LabelMetric):
    """`ctr.metrics.calibration`: mean prediction over mean label."""

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """``calibration``."""
        return self._rounded(calibration=calibration(*self._columns(dataobject)))


OURS = (Validity, Duplicate, Shortlist_Rate, Prefix_Survival, GAUC_CTR, Calibration)
REPAIRED = (ItemCoverage, ShannonEntropy, GiniIndex, AveragePopularity, TailPercentage)
