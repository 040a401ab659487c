"""Item encoders that the alignment trains: ids in, unit vectors of the grounded space out
(arXiv 2602.22913, multi-view semantic grounding: encoder, down-projection, L2 normalisation).

Every tower has ``forward(items)`` (int64 [B] -> unit rows [B, dim]), ``known`` (bool [N], items that have a
text) and ``groups(...)`` (its parameters by optimizer). The language-model tower is in ``causal``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sigma.language.transformer import Dropout
from recbole_sigma.values import UserError


class TextProjection(nn.Module):
    """Down-projection of text vectors to the grounded space; unit rows out ([n, d_in] -> [n, dim])."""

    def __init__(self, d_in: int, hidden: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            Dropout(dropout),
            nn.Linear(d_in, hidden),
            nn.GELU(),
            Dropout(dropout),
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


def filled_texts(texts: Sequence[str]) -> list[int]:
    """Rows that have a text, without the padding row 0.

    Raises:
        UserError: there is none.
    """
    filled = [i for i, text in enumerate(texts) if i > 0 and text.strip()]
    if not filled:
        raise UserError(
            "no item has any text: check `text_fields` in the property file against the header of the .item"
            " file"
        )
    return filled
