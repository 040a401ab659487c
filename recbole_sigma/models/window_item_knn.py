"""WindowItemKNN: a training-free baseline from train co-occurrence inside a window.

Two events of a user at most ``knn_window`` steps apart add 1/sqrt(gap) to their pair of items, in both
directions (``knn_forward`` above 0.5: more from the earlier to the later). The similarity of items i and j is
C_ij / (sqrt(n_i n_j) + knn_shrink), n the items' train counts: a cosine with shrinkage. A candidate's score
is the sum of its similarities to the user's last ``knn_last`` events, each weighted knn_decay^age (the newest
event has age 0). RecBole's ItemKNN is another model: it knows neither order nor recency.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from scipy import sparse
from torch import Tensor, nn

from recbole_sigma.grounding.cooccurrence import recency_weights, window_similarity
from recbole_sigma.models.contract import Contract
from recbole_sigma.settings.keys import KnnKeys
from recbole_sigma.settings.reader import read


class WindowItemKNN(Contract, SequentialRecommender):
    """See the module's docstring; keys ``knn_window``, ``knn_shrink``, ``knn_last``, ``knn_decay``."""

    input_type = InputType.POINTWISE
    training_free = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        keys = read(KnnKeys, config)
        self.last, self.decay = keys.knn_last, keys.knn_decay
        users, items = dataset.train_events().sequences()
        self.similarity = window_similarity(
            users,
            items,
            self.n_items,
            keys.knn_window,
            keys.knn_shrink,
            keys.knn_forward,
        )
        self.fake_loss = nn.Parameter(torch.zeros(1))  # RecBole's optimizers need one parameter
        self.other_parameter_name = ["similarity"]

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Nothing to learn."""
        return self.fake_loss.sum()

    def _weights(self, interaction: Any) -> sparse.csr_matrix:
        """Recency weights of each row's last events: float64 [B, N]."""
        history = interaction[self.ITEM_SEQ].cpu().numpy()
        length = interaction[self.ITEM_SEQ_LEN].cpu().numpy()
        row, column = np.nonzero(np.arange(history.shape[1])[None, :] < length[:, None])
        return recency_weights(row, history[row, column], len(length), self.n_items, self.last, self.decay)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores of all items, float32 [B, N]."""
        scores = (self._weights(interaction) @ self.similarity).toarray()
        return torch.from_numpy(scores).to(self.device, torch.float32)

    def predict(self, interaction: Any) -> Tensor:
        """Scores of one item per row, float32 [B]."""
        candidates = self.similarity[:, interaction[self.ITEM_ID].cpu().numpy()].T
        scores = self._weights(interaction).multiply(candidates).sum(axis=1)
        return torch.from_numpy(np.asarray(scores).ravel()).to(self.device, torch.float32)
