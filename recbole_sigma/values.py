"""The small values that pass between the rooms of the house, and the error every room raises for users.

``N`` is RecBole's ``item_num`` everywhere: row 0 is RecBole's padding item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line reads this module before it knows whether it needs torch
    from torch import Tensor


class UserError(ValueError):
    """A failure that the user can cause and mend: one sentence with what, where and what to do."""


@dataclass(frozen=True)
class ItemVectors:
    """Frozen item vectors that grounding hands to tokenization and to the models.

    Attributes:
        text: float32 [N, d_t], unit rows (row 0 and items without text are zero).
        collaborative: float32 [N, d_c], unit rows (row 0 and items without train events are zero).
        image: float32 [N, d_i] or None when no real image vectors were given.
    """

    text: Tensor
    collaborative: Tensor
    image: Tensor | None = None


@dataclass(frozen=True)
class ItemCodes:
    """Semantic IDs: one row of codebook indices per item.

    Attributes:
        codes: int64 [N, L]; row 0 (padding) is all zero and never used.
        sizes: the codebook sizes (K_1, ..., K_L); ``codes[i, l] < sizes[l]``.
        prefix_length: how many leading levels SIGMA uses as its prefix, 0 <= prefix_length <= L.
    """

    codes: Tensor
    sizes: tuple[int, ...]
    prefix_length: int


@dataclass(frozen=True)
class RankedItems:
    """A batch of recommendation lists, best first.

    Attributes:
        items: int64 [B, K]; 0 marks an empty slot at the end of a list that ran short.
        scores: float32 [B, K], descending; ``-inf`` in empty slots.
    """

    items: Tensor
    scores: Tensor

    def __post_init__(self) -> None:
        if self.items.shape != self.scores.shape or self.items.dim() != 2:
            raise ValueError(
                f"items {tuple(self.items.shape)} and scores {tuple(self.scores.shape)} must be [B, K]"
            )
        if str(self.items.dtype) != "torch.int64":
            raise ValueError(f"items must be int64, got {self.items.dtype}")

    @property
    def short(self) -> Tensor:
        """Number of empty slots per row, int64 [B]."""
        return (self.items == 0).sum(dim=1)


SeenPairs = tuple["Tensor", "Tensor"]
"""(row int64 [nnz], item int64 [nnz]): items that a row's user met, or that may not be recommended to it."""
