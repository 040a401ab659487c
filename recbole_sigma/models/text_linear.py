"""TextLinear: a linear map from item text to collaborative vectors, the plain baseline for cold items.

Items with train events have vectors from train co-occurrence (PPMI and a truncated SVD, SIGMA's teacher). A
ridge regression tells them from the text vectors, and gives items without a train event theirs. A candidate's
score is its cosine with each of the newest events' vectors, weighted by recency and summed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_sigma.grounding.cooccurrence import ppmi_svd, recency_weights, unit_rows, windowed_cooccurrence
from recbole_sigma.grounding.ground import TEACHER_WINDOW, encode_texts
from recbole_sigma.models.untrained import Untrained
from recbole_sigma.preparation.fields import item_texts
from recbole_sigma.settings.baseline_keys import TextKeys
from recbole_sigma.settings.keys import VectorKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RecBoleKeys, RoleKeys


class TextLinear(Untrained):
    """See the module's docstring; keys ``text_ridge``, ``text_last``, ``text_decay``.

    Attributes:
        vectors: float32 [N, d], unit rows, of warm and cold items.
    """

    needs_item_text = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        own, keys, seed = read(TextKeys, config), read(VectorKeys, config), read(RecBoleKeys, config).seed
        events = dataset.train_events()
        users, items = events.sequences()
        self.last, self.decay = events.newest(own.text_last), own.text_decay
        pairs = windowed_cooccurrence(users, items, self.n_items, TEACHER_WINDOW)
        warm = ppmi_svd(pairs, keys.grounding_teacher_dim, seed)
        texts = item_texts(dataset, read(RoleKeys, config).text_fields)
        text = encode_texts(texts, keys.grounding_text_encoder, keys.grounding_text_dim, seed)
        known = np.bincount(items, minlength=self.n_items) > 0
        self.vectors = with_cold(text, warm, known, own.text_ridge)

    def scores(self, rows: np.ndarray, items: np.ndarray, batch: int) -> np.ndarray:
        """Recency-weighted cosines; see `Untrained.scores`."""
        weights = recency_weights(rows, items, batch, self.n_items, self.last, self.decay)
        return np.asarray(weights @ self.vectors) @ self.vectors.T


def with_cold(text: np.ndarray, warm: np.ndarray, known: np.ndarray, ridge: float) -> np.ndarray:
    """The vectors of known items, and for the others what a ridge regression reads off their text.

    Args:
        text: float [N, t].
        warm: float [N, d].
        known: bool [N], which rows of ``warm`` count.
        ridge: what keeps the map small.

    Returns:
        float32 [N, d], unit rows; an item with neither text nor train events has zeros.
    """
    left, right = text[known].astype(np.float64), warm[known].astype(np.float64)
    linear = np.linalg.solve(left.T @ left + ridge * np.eye(text.shape[1]), left.T @ right)
    return unit_rows(np.where(known[:, None], warm, text @ linear))
