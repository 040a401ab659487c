"""What an objective of SIGMA is asked: a loss for predictions, and lists behind prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recbole_sigma.models.losses import by_pass, catalogue_cross_entropy
from recbole_sigma.models.sampled_softmax import Drawn, sampled_cross_entropy
from recbole_sigma.models.sigma.item_tokens import Similarity, rows_of
from recbole_sigma.models.sigma.soft_targets import softened
from recbole_sigma.models.sigma.trunk import Prompt
from recbole_sigma.tokenization.catalogue import Catalogue
from recbole_sigma.values import RankedItems, SeenPairs


@dataclass(frozen=True)
class Predictions:
    """M places of a batch where the next item is predicted.

    Attributes:
        context: float [M, d], the state before the next item; with ``rdrop`` [2M, d], the states of a first
            pass under one dropout mask, then those of a second one.
        path: float [M, l, d], states behind each prefix token of the target; l is 0 where prefix and item
            share a position.
        targets: int64 [M].
        weights: float [M], how much each prediction counts.
        hidden: int64 [M, H], items left out of the softmaxes over items, 0 in empty slots; or None.
        words: float [M, d], what the words of an instruction add to the query, or None.
        soft: (int64 [M, K] items, float [M, K] parts of the target that go to them), or None.
        rdrop: alpha of `losses.catalogue_cross_entropy`; 0 for one pass.
    """

    context: Tensor
    path: Tensor
    targets: Tensor
    weights: Tensor
    hidden: Tensor | None = None
    words: Tensor | None = None
    soft: tuple[Tensor, Tensor] | None = None
    rdrop: float = 0.0


@dataclass(frozen=True)
class ItemTable:
    """The catalogue, computed once per training step and once per evaluation; or the n items that a step
    meets.

    Attributes:
        tokens: float [N or n, d], what the trunk reads.
        vectors: float [N or n, d], what states are compared with.
        scored: float [N or n, e], what an objective multiplies its queries with; see `Objective.scored`.
        place: int64 [N], the row of each of the n items, anything for the others; None: an item's row is its
            number.
        drawn: the negatives that stand for the catalogue in a softmax over it; None: there are all.
    """

    tokens: Tensor
    vectors: Tensor
    scored: Tensor
    place: Tensor | None = None
    drawn: Drawn | None = None

    def rows(self, items: Tensor) -> Tensor:
        """Where items [...] stand in the table: int64 [...]; item 0 in row 0."""
        return items if self.place is None else self.place[items]


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
    fixed_shapes: bool = True  # what a loss computes has the same shapes for all predictions of equal shapes

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

    def table(self, tokens: Tensor) -> ItemTable:
        """The catalogue from its item tokens float [N, d]."""
        vectors = self.similarity.items(tokens)
        return ItemTable(tokens, vectors, self.scored(vectors))

    def part(self, items: Tensor, tokens: Tensor, place: Tensor, drawn: Drawn | None) -> ItemTable:
        """The table of some items.

        Args:
            items: int64 [n], ascending, the first of them 0.
            tokens: float [n, d].
            place: int64 [N], of which the places of these items are overwritten.
            drawn: see `ItemTable`.
        """
        place[items] = torch.arange(len(items), device=items.device)
        vectors = self.similarity.items(tokens)
        return ItemTable(tokens, vectors, self.scored(vectors, items), place, drawn)

    @abstractmethod
    def scored(self, vectors: Tensor, items: Tensor | None = None) -> Tensor:
        """From item vectors float [N, d] to the rows that queries are multiplied with; or those of some items
        int64 [n], in their order.
        """

    @property
    def over_catalogue(self) -> bool:
        """Whether a loss is a softmax over the catalogue."""
        return True

    def met(self, items: Tensor) -> Tensor:
        """What the losses of a batch compare its items [...] with, beside these and drawn ones: int64 [n]."""
        return items.new_zeros(0)

    @staticmethod
    def catalogue_loss(queries: Tensor, predictions: Predictions, table: ItemTable) -> tuple[Tensor, Tensor]:
        """Cross-entropy of queries float [M, e] (of two passes [2M, e]) over the catalogue, or over what was
        drawn from it; see `losses.catalogue_cross_entropy`.
        """
        targets, weights, hidden = predictions.targets, predictions.weights, predictions.hidden
        how = (weights, hidden, predictions.rdrop)
        if table.drawn is None:
            total, each = catalogue_cross_entropy(queries, table.scored, targets, *how)
        else:
            own, others = (rows_of(table.scored, table.rows(items)) for items in (targets, table.drawn.items))
            total, each = sampled_cross_entropy(queries, own, others, targets, table.drawn, *how)
        if predictions.soft is None:
            return total, each
        items, parts = predictions.soft
        queries = by_pass(queries, predictions.rdrop).mean(dim=0)  # what follows is linear
        more = softened(queries, table.scored, table.rows(targets), table.rows(items), parts)
        return total + (weights * more).sum(), each + more.detach()

    @property
    def reads_cache(self) -> bool:
        """Whether lists need the keys and values of the prompt: a prefix is decoded behind it."""
        return False

    @abstractmethod
    def losses(self, predictions: Predictions, table: ItemTable) -> tuple[tuple[Tensor, ...], Tensor]:
        """Losses of M predictions.

        Args:
            predictions: where, and what follows there.
            table: the catalogue.

        Returns:
            (the weighted sums that ``names`` name, the loss of each prediction [M] without gradient).
        """

    @abstractmethod
    def log_probs(self, prompt: Prompt, table: ItemTable, how: Decoding, seen: SeenPairs | None) -> Tensor:
        """log P(item | prompt): float [B, N], -inf for padding, seen items and items outside the beam."""

    @abstractmethod
    def rank(
        self, prompt: Prompt, table: ItemTable, k: int, how: Decoding, seen: SeenPairs | None
    ) -> RankedItems:
        """The best k items behind each prompt, exact over the prefixes of the beam."""

    @abstractmethod
    def token_log_probs(
        self, prompt: Prompt, path: Tensor | None, items: Tensor, table: ItemTable, seen: SeenPairs | None
    ) -> Tensor:
        """log P of each token of given items, with gradient; their sum is `log_probs` without fusion.

        Args:
            prompt: B prompts.
            path: float [B, G, l, d], states behind the items' own prefix tokens; None where prefix and item
                share a position.
            items: int64 [B, G], none of them seen.
            table: the catalogue.
            seen: (row, item) pairs that are taken out of the softmax over items, or None.

        Returns:
            float [B, G, l + 1]: the l codes of the prefix, then the item inside it.
        """

    def rows_at_once(self, prompt: int, width: int) -> int | None:
        """Rows of ``prompt`` positions that one search of this width can hold in memory; None: any number."""
        return None
