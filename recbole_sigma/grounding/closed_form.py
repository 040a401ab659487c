"""What train events say about the next item in closed form: item-to-item matrices, applied to histories.

Neighbours (windowed co-occurrence), a ridge regression from the newest items to the next one, and EASE over
the whole history. Each is a baseline of its own; their sum is the baseline ClosedForm, and what the
collaborative memory adds to a model's scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from recbole_sigma.grounding.cooccurrence import recency_weights


@dataclass(frozen=True)
class Newest:
    """The newest events of a history speak, each with decay^age: h M.

    Attributes:
        matrix: float [N, N], dense or CSR; row i holds what a history item i says.
        last: newest events that speak.
        decay: weight of an event per step of age.
    """

    matrix: np.ndarray | sparse.csr_matrix
    last: int
    decay: float

    def scores(self, rows: np.ndarray, items: np.ndarray, batch: int) -> np.ndarray:
        """float [B, N]; the arguments are those of `recency_weights`."""
        history = recency_weights(rows, items, batch, self.matrix.shape[0], self.last, self.decay)
        found = history.astype(self.matrix.dtype) @ self.matrix
        return found.toarray() if sparse.issparse(found) else found


@dataclass(frozen=True)
class Whole:
    """Every item of a history speaks, once: x M.

    Attributes:
        matrix: float32 [N, N]; row i holds what a history item i says.
    """

    matrix: np.ndarray

    def scores(self, rows: np.ndarray, items: np.ndarray, batch: int) -> np.ndarray:
        """float32 [B, N].

        Args:
            rows: int64 [P], the row of each history event.
            items: int64 [P].
            batch: B.
        """
        met = sparse.csr_matrix(
            (np.ones(len(rows), dtype=np.float32), (rows, items)), shape=(batch, len(self.matrix))
        )
        met.data[:] = 1.0  # an item that occurs twice counts once
        return np.asarray(met @ self.matrix)


Part = Newest | Whole


def standard_scores(
    parts: Sequence[Part], rows: np.ndarray, items: np.ndarray, batch: int
) -> list[np.ndarray]:
    """The scores of each part as z-scores over the catalogue, float32 [B, N].

    Args:
        parts: what is asked.
        rows: int64 [P], ascending; the row of each history event.
        items: int64 [P], events of a row in order of time.
        batch: B.
    """
    found = []
    for part in parts:
        scores = part.scores(rows, items, batch).astype(np.float32, copy=False)
        scores -= scores.mean(axis=1, keepdims=True)
        spread = scores.std(axis=1, keepdims=True)
        spread[spread == 0.0] = 1.0  # a row that says nothing, such as one without history, stays at zero
        found.append(scores / spread)
    return found
