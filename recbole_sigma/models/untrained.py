"""What the models share that count or solve once over the train events and take no step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_sigma.grounding.closed_form import Part
from recbole_sigma.models.contract import Contract


class Untrained(Contract, SequentialRecommender):
    """A sequential model without training; a subclass gives its ``part``, or `scores` of its own.

    What it counts is made again from the train events when a checkpoint is loaded.
    """

    input_type = InputType.POINTWISE
    training_free = True
    part: Part

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.fake_loss = nn.Parameter(torch.zeros(1))  # RecBole's optimizers need one parameter

    def scores(self, rows: np.ndarray, items: np.ndarray, batch: int) -> np.ndarray:
        """Scores of all items, float [B, N].

        Args:
            rows: int64 [P], ascending; the row of each history event.
            items: int64 [P], events of a row in order of time.
            batch: B.
        """
        return self.part.scores(rows, items, batch)

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Nothing to learn."""
        return self.fake_loss.sum()

    def history(self, interaction: Any) -> tuple[np.ndarray, np.ndarray, int]:
        """The histories of a batch, as `scores` takes them."""
        history = interaction[self.ITEM_SEQ].cpu().numpy()
        length = interaction[self.ITEM_SEQ_LEN].cpu().numpy()
        row, column = np.nonzero(np.arange(history.shape[1])[None, :] < length[:, None])
        return row, history[row, column], len(length)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores of all items, float32 [B, N]."""
        return torch.from_numpy(self.scores(*self.history(interaction))).to(self.device, torch.float32)

    def predict(self, interaction: Any) -> Tensor:
        """Scores of one item per row, float32 [B]."""
        scores = self.full_sort_predict(interaction)
        return scores.gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)
