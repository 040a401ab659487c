"""Item encoders that the alignment trains: ids in, unit vectors of the grounded space out (PAPER 1a: encoder,
down-projection, L2 normalisation).

Every tower has ``forward(items)`` (int64 [B] -> unit rows [B, dim]), ``known`` (bool [N], items that have a
text) and ``groups(...)`` (its parameters by optimizer). The language-model tower is in ``causal``.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sigma.grounding.text import TermText


class TextProjection(nn.Module):
    """Down-projection of text vectors to the grounded space; unit rows out ([n, d_in] -> [n, dim])."""

    def __init__(self, d_in: int, hidden: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(d_in, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, dim),
        )
        self.skip = nn.Linear(d_in, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.net(x) + self.skip(x), dim=-1)


class Tower(nn.Module):
    """Base of the item encoders.

    Attributes:
        n_items: N, padding row included.
    """

    n_items: int

    @abstractmethod
    def known(self) -> np.ndarray:
        """bool [N]: items that have a text."""

    def sparse_parameters(self) -> list[nn.Parameter]:
        """Parameters whose gradients are sparse."""
        return []

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Dense parameters of the text encoder itself, which take a step size of their own."""
        return []

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @torch.no_grad()
    def vectors(self, chunk: int = 1024) -> np.ndarray:
        """All items: float32 [N, dim], unit rows, zero where there is no text."""
        training = self.training
        self.eval()
        known = np.flatnonzero(self.known())
        parts = [self(torch.from_numpy(known[i : i + chunk])).cpu() for i in range(0, len(known), chunk)]
        self.train(training)
        out = np.zeros((self.n_items, parts[0].shape[1] if parts else 1), dtype=np.float32)
        if parts:
            out[known] = torch.cat(parts).float().numpy()
        return out


class FrozenTower(Tower):
    """A projection on vectors that stay as they are.

    Args:
        text: float32 [N, d_t], zero rows for items without text; may be memory-mapped.
        hidden, dim, dropout: of `TextProjection`.
    """

    def __init__(self, text: np.ndarray, hidden: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.text, self.n_items = text, len(text)
        self.projection = TextProjection(text.shape[1], hidden, dim, dropout)

    def known(self) -> np.ndarray:
        return np.concatenate([np.abs(part).sum(axis=1) > 0 for part in np.array_split(self.text, 64)])

    def forward(self, items: Tensor) -> Tensor:
        rows = np.asarray(self.text[items.cpu().numpy()], dtype=np.float32)
        return self.projection(torch.from_numpy(rows).to(self.device))


class TermTower(Tower):
    """TF-IDF terms whose vectors are trained, then the projection.

    The vectors start at the SVD's, so that the tower starts from the raw text vectors. A projection alone can
    only mix the SVD's directions; words that tell which items go together drown in them (docs/language_models
    .md has the measurement).

    Args:
        text: terms of every item.
        hidden, dim, dropout: of `TextProjection`; terms are dropped at the same rate.
    """

    def __init__(self, text: TermText, hidden: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.terms, self.n_items, self.dropout = text.terms, text.terms.shape[0], dropout
        self.words = nn.EmbeddingBag.from_pretrained(
            torch.from_numpy(text.components.copy()), freeze=False, mode="sum", sparse=True
        )
        self.projection = TextProjection(text.components.shape[1], hidden, dim, dropout)

    def known(self) -> np.ndarray:
        return np.diff(self.terms.indptr) > 0

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.words.weight]

    def forward(self, items: Tensor) -> Tensor:
        rows = self.terms[items.cpu().numpy()]
        weight = torch.from_numpy(rows.data).to(self.device)
        if self.training and self.dropout:
            weight = F.dropout(weight, self.dropout)
        index = torch.from_numpy(rows.indices.astype(np.int64)).to(self.device)
        begin = torch.from_numpy(rows.indptr[:-1].astype(np.int64)).to(self.device)
        return self.projection(F.normalize(self.words(index, begin, per_sample_weights=weight), dim=-1))
