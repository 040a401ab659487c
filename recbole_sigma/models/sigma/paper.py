"""How SIGMA scores items from the states of its trunk: the paper's two softmaxes, or one global one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sigma.models.losses import (
    Seen,
    catalogue_cross_entropy,
    catalogue_logits,
    pooled_log_scores,
    random_negative_loss,
    same_prefix_loss,
)
from recbole_sigma.models.sigma.item_tokens import Similarity
from recbole_sigma.tokenization.catalogue import PrefixSpace, child_log_probs


class PaperObjective(nn.Module):
    """L_NTP + gamma L_ID (paper eq. for training), plus a full-catalogue softmax of ours.

    L_NTP predicts the l prefix tokens one after the other, each under the softmax over the codes that can
    follow; L_ID the item among the items of its prefix. The state behind code j is added, through a gate, to
    the state that precedes the prefix.

    Args:
        space: the prefixes.
        d_model: d.
        similarity: of states and items, with a scale for L_ID and one for the whole catalogue.
        id_weight: gamma.
        catalogue_weight: weight of the full-catalogue softmax.
        pooling: add the log of the pooled catalogue scores to the prefix logits.
        negatives: same-prefix negatives per step and prefix; 0 = all.
        random_negatives: draw the negatives of L_ID from the whole catalogue instead: ``negatives`` of them,
            or as many as an average prefix has items.
    """

    names = ("prefix", "item", "catalogue")

    def __init__(
        self,
        space: PrefixSpace,
        d_model: int,
        similarity: Similarity,
        id_weight: float,
        catalogue_weight: float,
        pooling: bool,
        negatives: int,
        random_negatives: bool = False,
    ) -> None:
        super().__init__()
        self.space, self.similarity = space, similarity
        self.random_negatives = random_negatives
        self.id_weight, self.catalogue_weight = id_weight, catalogue_weight
        self.pooling, self.negatives = pooling, negatives
        self.prefix_gate = nn.Parameter(torch.zeros(d_model))

    def losses(
        self,
        context: Tensor,
        path: Tensor,
        heads: tuple[Tensor, ...],
        targets: Tensor,
        weights: Tensor,
        vectors: Tensor,
        seen: Seen | None,
        words: Tensor | None = None,
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Losses of M predictions.

        Args:
            context: float [M, d] states that precede the prefix; also the query over the whole catalogue.
            path: float [M, l, d] states behind each prefix token of the target.
            heads: per level, float [K, d] output vectors of its codes.
            targets: int64 [M].
            weights: float [M], how much each prediction counts.
            vectors: float [N, d] item vectors.
            seen: (prediction, item) pairs left out of the softmaxes over items, or None.
            words: float [M, d] what the words of the instruction add to the query, or None.

        Returns:
            (the weighted sums of ``names``, the loss of each prediction [M] without gradient).
        """
        weight = self.catalogue_weight if self.space.length else 1.0
        nothing = vectors.new_zeros(())
        logits, total, each = None, nothing, vectors.new_zeros(len(targets))
        if self.pooling and self.space.length:
            logits = catalogue_logits(self.similarity.queries(context, 1, words), vectors, seen, targets)
            if weight:
                whole = F.cross_entropy(logits, targets, reduction="none")
                total, each = (whole * weights).sum(), whole.detach()
        elif weight:
            queries = self.similarity.queries(context, 1, words)
            total, each = catalogue_cross_entropy(queries, vectors, targets, weights, seen)
        if not self.space.length:
            return (nothing, nothing, total), each
        parts, factored = self._factored(context, path, heads, targets, weights, vectors, seen, logits, words)
        return (*parts, weight * total), factored + weight * each

    def _factored(
        self,
        context: Tensor,
        path: Tensor,
        heads: tuple[Tensor, ...],
        targets: Tensor,
        weights: Tensor,
        vectors: Tensor,
        seen: Seen | None,
        logits: Tensor | None,
        words: Tensor | None,
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """L_NTP and gamma L_ID."""
        space = self.space
        prefix = vectors.new_zeros(len(targets))
        parents = torch.zeros_like(targets)
        for level in range(space.length):
            state = context if not level else context + self.prefix_gate * path[:, level - 1]
            own = space.nodes[level][targets]
            prior = None if logits is None else self._pooled(logits, level)
            log_probs = child_log_probs(state @ heads[level].T, space.trie, level, parents, own, prior)
            prefix, parents = prefix - log_probs, own
        item = torch.zeros_like(prefix)
        query = self.similarity.queries(context + self.prefix_gate * path[:, -1], words=words)
        if self.id_weight and self.random_negatives:
            count = self.negatives or max(1, round(len(vectors) / space.buckets.n_prefixes))
            item = self.id_weight * random_negative_loss(query, targets, vectors, count, seen)
        elif self.id_weight:
            item = self.id_weight * same_prefix_loss(
                query, targets, vectors, space.buckets, self.negatives, seen
            )
        return ((prefix * weights).sum(), (item * weights).sum()), (prefix + item).detach()

    def _pooled(self, logits: Tensor, level: int) -> Tensor:
        """log of the catalogue scores summed under each node of depth level + 1: float [M, nodes]."""
        trie = self.space.trie
        first = trie.first_leaf[level + 1] if level + 1 < trie.depth else None
        assert first is not None  # the last level of the trie numbers items, it is no level of codes
        return pooled_log_scores(logits, trie.item_of_leaf.long(), first.long())

    def priors(
        self, context: Tensor, vectors: Tensor, seen: Seen | None, words: Tensor | None = None
    ) -> list[Tensor]:
        """What is added to the logits of the children, per level float [B, nodes]: zeros without pooling."""
        trie, levels = self.space.trie, range(self.space.length)
        if not self.pooling:
            return [context.new_zeros(len(context), trie.n_nodes(level + 1)) for level in levels]
        logits = catalogue_logits(self.similarity.queries(context, 1, words), vectors, seen)
        return [self._pooled(logits, level) for level in levels]

    def catalogue(
        self, context: Tensor, vectors: Tensor, sharpness: float, words: Tensor | None = None
    ) -> Tensor:
        """Logits of the full-catalogue head, float [B, N]."""
        return catalogue_logits(self.similarity.queries(context, 1, words) * sharpness, vectors)

    def item_query(
        self, context: Tensor, states: Tensor, sharpness: float, words: Tensor | None = None
    ) -> Tensor:
        """Scaled item queries [B, W, d] from the states behind each prefix."""
        words = None if words is None else words[:, None]
        return self.similarity.queries(context[:, None] + self.prefix_gate * states, words=words) * sharpness
