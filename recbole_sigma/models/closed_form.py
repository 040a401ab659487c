"""ClosedForm: what seconds of linear algebra give, the free floor of every table.

The sum of HistoryEASE, NextItemRidge and WindowItemKNN, each made a z-score over the catalogue. Validation
chooses the three weights of `MIXTURES`.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from recbole_sigma.decoding.top_k import top_k
from recbole_sigma.grounding.closed_form import standard_scores
from recbole_sigma.models.history_ease import HistoryEASE
from recbole_sigma.models.next_item_ridge import NextItemRidge
from recbole_sigma.models.untrained import Untrained
from recbole_sigma.models.window_item_knn import WindowItemKNN
from recbole_sigma.values import RankedItems, SeenPairs

PARTS = (HistoryEASE, NextItemRidge, WindowItemKNN)
MIXTURES = tuple(mix for mix in itertools.product((0.0, 0.5, 1.0), repeat=len(PARTS)) if max(mix) == 1.0)
"""Weights of `PARTS`; the largest is 1, since a list does not change with the scale."""


class ClosedForm(Untrained):
    """See the module's docstring; the keys are those of its parts.

    Attributes:
        mixture: the weights of the parts; equal until validation has chosen.
    """

    whole_history = True
    choices = len(MIXTURES)

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.parts = torch.nn.ModuleList(part(config, dataset) for part in PARTS)
        self.mixture = [1.0] * len(PARTS)
        self.other_parameter_name = ["mixture"]

    def standard(self, rows: np.ndarray, items: np.ndarray, batch: int) -> list[np.ndarray]:
        """The z-scores of each part, float32 [B, N]; the arguments are those of `Untrained.scores`."""
        return standard_scores([part.part for part in self.parts], rows, items, batch)

    def scores(self, rows: np.ndarray, items: np.ndarray, batch: int) -> np.ndarray:
        """The weighted sum of `standard`."""
        return _mixed(self.standard(rows, items, batch), self.mixture)

    def rank_choices(self, interaction: Any, k: int, seen: SeenPairs | None) -> list[RankedItems]:
        """Lists under every mixture; see `Contract.rank_choices`."""
        parts = self.standard(*self.history(interaction))
        mixed = (torch.from_numpy(_mixed(parts, mixture)) for mixture in MIXTURES)
        return [top_k(scores.to(self.device, torch.float32), k, seen) for scores in mixed]

    def choose(self, number: int) -> None:
        """Take one of `MIXTURES`."""
        self.mixture = list(MIXTURES[number])


def _mixed(parts: list[np.ndarray], mixture: list[float] | tuple[float, ...]) -> np.ndarray:
    mixed = np.zeros_like(parts[0])
    for weight, part in zip(mixture, parts, strict=True):
        if weight:
            mixed += weight * part
    return mixed
