"""What an objective of SIGMA is asked: a loss for predictions, and lists behind prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from recbole_sigma.models.sigma.item_tokens import Similarity
from recbole_sigma.models.sigma.trunk import Prompt
from recbole_sigma.tokenization.catalogue import Catalogue
from recbole_sigma.values import RankedItems, SeenPairs


@dataclass(frozen=True)
class Predictions:
    """M places of a batch where the next item is predicted.

    Attributes:
        context: float [M, d], the state before the next item.
        path: float [M, l, d], states behind each prefix token of the target; l is 0 where prefix and item
            share a position.
        targets: int64 [M].
        weight: how much each prediction counts.
        seen: (prediction, item) pairs left out of the softmaxes over items, or None.
        words: float [M, d], what the words of an instruction add to the query, or None.
    """

    context: Tensor
    path: Tensor
    targets: Tensor
    weight: float
    seen: SeenPairs | None = None
    words: Tensor | None = None

    @property
    def weights(self) -> Tensor:
        """float [M]."""
        return self.context.new_full((len(self.targets),), self.weight)


@dataclass(frozen=True)
class Decoding:
    """How a list is made.

    Attributes:
        mode: of `decoding.fusion.MODES`.
        width: prefixes in the beam; 0 = all.
    """

    mode: str
    width: int


class Objective(nn.Module, ABC):
    """From states to losses and lists; `joint.JointObjective` and `paper.PaperObjective`.

    Args:
        catalogue: the items by prefix; it follows the module to its device.
        similarity: of states and items.
    """

    names: tuple[str, ...]

    def __init__(self, catalogue: Catalogue, similarity: Similarity) -> None:
        super().__init__()
        self.catalogue, self.similarity = catalogue, similarity

    def _apply(self, fn: Any, recurse: bool = True) -> Objective:
        """Bring the catalogue along when the module moves: it is no buffer."""
        super()._apply(fn, recurse)
        device = self.similarity.log_scale.device
        if self.catalogue.order.device != device:
            self.catalogue = self.catalogue.to(device)
        return self

    @abstractmethod
    def losses(self, predictions: Predictions, vectors: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Losses of M predictions.

        Args:
            predictions: where, and what follows there.
            vectors: float [N, d] item vectors (`Similarity.items`).

        Returns:
            (the weighted sums that ``names`` name, the loss of each prediction [M] without gradient).
        """

    @abstractmethod
    def log_probs(self, prompt: Prompt, vectors: Tensor, how: Decoding, seen: SeenPairs | None) -> Tensor:
        """log P(item | prompt): float [B, N], -inf for padding, seen items and items outside the beam."""

    @abstractmethod
    def rank(
        self, prompt: Prompt, vectors: Tensor, k: int, how: Decoding, seen: SeenPairs | None
    ) -> RankedItems:
        """The best k items behind each prompt, exact over the prefixes of the beam."""

    def rows_at_once(self, prompt: int, width: int) -> int | None:
        """Rows of ``prompt`` positions that one search of this width can hold in memory; None: any number."""
        return None
