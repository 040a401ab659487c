"""The default objective: one softmax over the catalogue, read as prefix times item."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_sigma.models.losses import (
    Seen,
    catalogue_cross_entropy,
)
from recbole_sigma.models.sigma.item_tokens import Similarity
from recbole_sigma.tokenization.catalogue import PrefixSpace


class GlobalObjective(nn.Module):
    """One softmax over the whole catalogue, read as prefix times item (ours).

    logit(i | h) = <q, v_i + sum_j w_j[c_j(i)]> + <U q, v_i * sum_j e_j[c_j(i)]>,  q = h / (|h| tau) or s h:

    an item competes with all others by its own vector, by what its codes add to it, and by a query that is
    conditioned on its prefix. P(prefix) is the sum over the prefix's items and P(item | prefix) the softmax
    inside it, so the generative reading and every fusion mode stay, without two locally normalised softmaxes
    whose errors multiply. Both sums over codes are folded into the item vectors: one matrix product.

    Args:
        space: the prefixes; with length 0 only <q, v_i> is left.
        d_model: d.
        similarity: of states and items.
        conditioned: keep the second term.
    """

    names = ("next_item",)

    def __init__(self, space: PrefixSpace, d_model: int, similarity: Similarity, conditioned: bool) -> None:
        super().__init__()
        self.space, self.similarity = space, similarity
        self.codes = nn.ModuleList(nn.Embedding(size, d_model) for size in space.sizes)
        for table in self.codes:
            nn.init.zeros_(table.weight)
        self.conditioned = conditioned and bool(space.length)
        if self.conditioned:
            self.condition = nn.Linear(d_model, d_model, bias=False)
            self.conditions = nn.ModuleList(nn.Embedding(size, d_model) for size in space.sizes)
            for table in self.conditions:
                nn.init.normal_(table.weight, std=0.1)

    def losses(
        self,
        context: Tensor,
        targets: Tensor,
        weights: Tensor,
        vectors: Tensor,
        seen: Seen | None,
        words: Tensor | None = None,
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """See `PaperObjective.losses`."""
        queries = self.queries(context, words)
        total, each = catalogue_cross_entropy(queries, self.tower(vectors), targets, weights, seen)
        return (total,), each

    def queries(self, context: Tensor, words: Tensor | None = None) -> Tensor:
        """float [M, d] -> [M, e]."""
        query = self.similarity.queries(context, words=words)
        return torch.cat([query, self.condition(query)], dim=1) if self.conditioned else query

    def tower(self, vectors: Tensor) -> Tensor:
        """float [N, d] item vectors -> [N, e]."""
        codes = self.space.codes
        own = vectors
        for level, table in enumerate(self.codes):
            own = own + table(codes[:, level])
        if not self.conditioned:
            return own
        condition = torch.stack([table(codes[:, j]) for j, table in enumerate(self.conditions)]).sum(dim=0)
        return torch.cat([own, vectors * condition], dim=1)

    def catalogue(
        self, context: Tensor, vectors: Tensor, sharpness: float, words: Tensor | None = None
    ) -> Tensor:
        """Logits of all items, float [B, N], -inf for the padding item."""
        logits = self.queries(context, words) @ self.tower(vectors).T * sharpness
        logits[:, 0] = -torch.inf
        return logits
