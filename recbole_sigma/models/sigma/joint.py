"""The default objective: one softmax over the catalogue, read as prefix times item (ours)."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise

import torch
from torch import Tensor, nn

from recbole_sigma.decoding.fusion import fuse_dense
from recbole_sigma.decoding.top_k import top_k
from recbole_sigma.models.losses import hide, log_sum, open_log_softmax
from recbole_sigma.models.sigma.item_tokens import Similarity
from recbole_sigma.models.sigma.objective import Decoding, ItemTable, Objective, Predictions
from recbole_sigma.models.sigma.trunk import Prompt
from recbole_sigma.tokenization.catalogue import Catalogue
from recbole_sigma.values import RankedItems, SeenPairs


class FixedTable(nn.Module):
    """An embedding that is a buffer: rows of ``weight`` float [K, d]."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, rows: Tensor) -> Tensor:
        """int64 [...] -> float [..., d]."""
        return self.weight[rows]


class JointObjective(Objective):
    """Item logits that know the item's prefix, under one softmax over all items.

        logit(i | h) = <q, v_i + sum_j w_j[c_j(i)]> + <U q, v_i * sum_j e_j[c_j(i)]>,    q = s h

    An item competes with all others by its own vector, by what its codes add to it (w_j), and by a query
    that is conditioned on its prefix (U, e_j). P(prefix) is the sum over the prefix's items and P(item |
    prefix) the softmax inside it, so the generative reading of the paper and every fusion mode stay, without
    two locally normalised softmaxes whose errors multiply.

    Args:
        catalogue: the items by prefix; with prefixes of length 0 only <q, v_i> is left.
        similarity: of states and items.
        d_model: d.
        frame: float [K, d], fixed vectors in place of the learned w_1 of the K first-level codes; or None. A
            checkpoint keeps them.
    """

    names = ("next_item",)

    def __init__(
        self, catalogue: Catalogue, similarity: Similarity, d_model: int, frame: Tensor | None = None
    ) -> None:
        super().__init__(catalogue, similarity)
        self.code_vectors = nn.ModuleList(nn.Embedding(size, d_model) for size in catalogue.code_sizes)
        for table in self.code_vectors:
            nn.init.zeros_(table.weight)
        if frame is not None:
            self.code_vectors[0] = FixedTable(frame)
        if catalogue.length:
            self.condition = nn.Linear(d_model, d_model, bias=False)
            self.conditions = nn.ModuleList(nn.Embedding(size, d_model) for size in catalogue.code_sizes)
            for table in self.conditions:
                nn.init.normal_(table.weight, std=0.1)

    def losses(self, predictions: Predictions, table: ItemTable) -> tuple[tuple[Tensor, ...], Tensor]:
        """Cross-entropy over the catalogue; see `Objective.losses`."""
        queries = self.queries(predictions.context, predictions.words)
        total, each = self.catalogue_loss(queries, predictions, table)
        return (total,), each

    # Both sums over codes are folded into two vectors of e = 2d numbers, [q, U q] and [v + w, v * e], so
    # that the logits of all items are one matrix product.

    def queries(self, context: Tensor, words: Tensor | None = None) -> Tensor:
        """float [M, d] -> [M, e]."""
        query = self.similarity.queries(context, words)
        return torch.cat([query, self.condition(query)], dim=1) if self.catalogue.length else query

    def scored(self, vectors: Tensor, items: Tensor | None = None) -> Tensor:
        """float [N, d] item vectors -> [N, e]."""
        if not self.catalogue.length:
            return vectors
        codes = self.catalogue.codes if items is None else self.catalogue.codes[items]
        own, condition = (self._by_codes(tables, codes) for tables in (self.code_vectors, self.conditions))
        return torch.cat([vectors + own, vectors * condition], dim=1)

    @staticmethod
    def _by_codes(tables: nn.ModuleList, codes: Tensor) -> Tensor:
        """Sum over the levels of what the tables hold for each item's code: int64 [n, l] -> float [n, d]."""
        return reduce(torch.add, (table(codes[:, level]) for level, table in enumerate(tables)))

    def log_probs(self, prompt: Prompt, table: ItemTable, how: Decoding, seen: SeenPairs | None) -> Tensor:
        """Step 1 to 3 in one: prefixes by the sum of their items, then fusion; see `Objective.log_probs`."""
        logits = self._logits(prompt, table, seen)
        if self._fuses_nothing(how):
            return open_log_softmax(logits)
        return fuse_dense(logits, self.catalogue, how.mode, how.width)[0]

    def _logits(self, prompt: Prompt, table: ItemTable, seen: SeenPairs | None) -> Tensor:
        return hide(self.queries(prompt.context, prompt.words) @ table.scored.T, seen)

    def _fuses_nothing(self, how: Decoding) -> bool:
        """All prefixes at one temperature are the softmax itself."""
        return not self.catalogue.length or (how.mode == "fixed_temp" and not how.width)

    def token_log_probs(
        self, prompt: Prompt, path: Tensor | None, items: Tensor, table: ItemTable, seen: SeenPairs | None
    ) -> Tensor:
        """P(prefix) is the sum over its items, so a code's share is one such sum over the one above it; see
        `Objective.token_log_probs`.
        """
        log_probs = open_log_softmax(self._logits(prompt, table, seen))
        share = log_probs.exp()
        reached = [torch.zeros_like(items, dtype=share.dtype)]  # log P of the empty prefix
        for node in self.catalogue.nodes:
            under = share.new_zeros(len(share), int(node.max()) + 1).index_add(1, node, share)
            # rounding may put a sum below its only item, and an item of no probability at zero
            reached.append(under.gather(1, node[items]).clamp_min(torch.finfo(share.dtype).tiny).log())
        reached.append(log_probs.gather(1, items))
        return torch.stack([here - above for above, here in pairwise(reached)], dim=2)

    def rank(
        self, prompt: Prompt, table: ItemTable, k: int, how: Decoding, seen: SeenPairs | None
    ) -> RankedItems:
        """See `Objective.rank`."""
        if not self._fuses_nothing(how):
            return top_k(self.log_probs(prompt, table, how, seen), k, seen)
        logits = self._logits(prompt, table, seen)
        ranked = top_k(logits, k, seen)  # the order is known before the sum, which only the list then needs
        return RankedItems(ranked.items, ranked.scores - log_sum(logits))
