"""The paper's objective and its three-step generation (arXiv 2602.22913).

    L = L_NTP + gamma L_ID

L_NTP predicts the l prefix tokens one after the other, L_ID the item among the items of its prefix. A list
is made in three steps: the best prefixes by beam search, the items inside each of them, and one sort over all
candidates, whose item logits adaptive probabilistic fusion may scale.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sigma.decoding.beam import Beams, SeenItems, search_prefixes, states_of
from recbole_sigma.decoding.causal import CausalDecoder
from recbole_sigma.decoding.fusion import fuse_beam, fused_scores
from recbole_sigma.decoding.inside_prefix import by_column, search_in_prefixes
from recbole_sigma.decoding.kv import Step
from recbole_sigma.decoding.top_k import pairs_of_rows, top_k
from recbole_sigma.language.backbone import hidden_states
from recbole_sigma.models.losses import hide, open_log_softmax
from recbole_sigma.models.sigma.item_tokens import Similarity
from recbole_sigma.models.sigma.objective import Decoding, ItemTable, Objective, Predictions
from recbole_sigma.models.sigma.trunk import PackedTrunk, Prompt
from recbole_sigma.tokenization.catalogue import Catalogue, ItemsByPrefix
from recbole_sigma.tokenization.trie import Trie
from recbole_sigma.values import RankedItems, SeenPairs

WIDEST = 1024
"""Prefixes per inner level that a search for all keeps; memory and time grow with their square."""
_CELLS = 1 << 26  # pairs of query and key positions of one pass
_DENSE_CELLS = 1 << 25  # [row, item] scores held at once
_RESERVE = 160  # positions to make room for behind a prompt
_BEAMS = 128  # prefixes per row whose states are read at once


class PrefixLanguage:
    """The trunk as a language over prefix tokens: output vectors of codes, and decoding behind prompts.

    It is no module, so that the trunk's weights are not counted twice.

    Args:
        trunk: the language model.
        first: per level, vocabulary id of code 0.
        sizes: per level, codes.
    """

    def __init__(self, trunk: PackedTrunk, first: list[int], sizes: tuple[int, ...]) -> None:
        self.trunk, self.first, self.sizes = trunk, first, sizes

    def tokens(self) -> list[Tensor]:
        """Per level, int64 [K] vocabulary ids of its codes."""
        device = self.trunk.profiles.device
        return [
            torch.arange(first, first + size, device=device)
            for first, size in zip(self.first, self.sizes, strict=True)
        ]

    def heads(self) -> list[Tensor]:
        """Per level, float [K, d] output vectors of its codes."""
        return [self.trunk.output_rows(tokens) for tokens in self.tokens()]

    def decoder(self, prompt: Prompt, gate: Tensor) -> CausalDecoder:
        """Stand behind prompts that were run once: beams are fed prefix tokens.

        The state behind a code is added, through the gate, to the state that precedes the prefix, as in
        training.
        """
        context, trunk = prompt.context, self.trunk

        def head(step: Step, ids: Tensor | None) -> Tensor:
            if step.logits is not None:
                return step.logits
            return (context[:, None] + gate * step.hidden) @ trunk.output_rows(ids).T

        root = context @ trunk.output_rows(self.tokens()[0]).T  # the first code has no state behind it yet
        return CausalDecoder(
            partial(hidden_states, trunk.backbone),
            trunk.embed,
            head,
            prompt.cache.continuing(_RESERVE),
            prompt.readable,
            prompt.position,
            Step(context[:, None], root[:, None]),
        )


class PaperObjective(Objective):
    """L_NTP + gamma L_ID with the paper's cosine and a position for every prefix token.

    Args:
        catalogue: the items by prefix.
        similarity: of states and items.
        d_model: d.
        language: the trunk as a language over prefix tokens.
        id_weight: gamma.
    """

    names = ("prefix", "item")
    fixed_shapes = False  # a product per prefix that the batch touches

    def __init__(
        self,
        catalogue: Catalogue,
        similarity: Similarity,
        d_model: int,
        language: PrefixLanguage,
        id_weight: float,
    ) -> None:
        super().__init__(catalogue, similarity)
        self.language, self.id_weight = language, id_weight
        self.prefix_gate = nn.Parameter(torch.zeros(d_model))

    @property
    def reads_cache(self) -> bool:
        """See `Objective.reads_cache`."""
        return bool(self.catalogue.length)

    def scored(self, vectors: Tensor, items: Tensor | None = None) -> Tensor:
        """The item vectors; those of all items, which lists are made from, sorted by prefix, so that those of
        a prefix are one slice.
        """
        if items is not None or not self.catalogue.length:
            return vectors
        vectors = vectors[self.catalogue.order]
        return vectors if torch.is_grad_enabled() else by_column(vectors)

    @property
    def over_catalogue(self) -> bool:
        """See `Objective.over_catalogue`."""
        return not self.catalogue.length

    def met(self, items: Tensor) -> Tensor:
        """The items that share a prefix with one of these."""
        if self.over_catalogue:
            return super().met(items)
        return self.catalogue.under(self.catalogue.prefix[items].unique())[0]

    # --- training -------------------------------------------------------------------------------------------

    def losses(self, predictions: Predictions, table: ItemTable) -> tuple[tuple[Tensor, ...], Tensor]:
        """L_NTP and gamma L_ID; without a prefix L_ID is a softmax over the catalogue. See
        `Objective.losses`.
        """
        context, targets, weights = predictions.context, predictions.targets, predictions.weights
        if not self.catalogue.length:
            query = self.similarity.queries(context, predictions.words)
            total, each = self.catalogue_loss(query, predictions, table)
            return (total.new_zeros(()), total), each
        prefix = -sum(self._code_log_probs(context, predictions.path, targets), torch.zeros_like(weights))
        item = torch.zeros_like(prefix)
        if self.id_weight:
            query = self.similarity.queries(
                context + self.prefix_gate * predictions.path[:, -1], predictions.words
            )
            item = self.id_weight * same_prefix_loss(
                query, targets, table, self.catalogue, predictions.hidden
            )
        return ((prefix * weights).sum(), (item * weights).sum()), (prefix + item).detach()

    def _code_log_probs(self, context: Tensor, path: Tensor, targets: Tensor) -> list[Tensor]:
        """What L_NTP sums: per level float [M], log P(code | codes before it)."""
        found = []
        parents = torch.zeros_like(targets)
        for level, head in enumerate(self.language.heads()):
            state = context if not level else context + self.prefix_gate * path[:, level - 1]
            node = self.catalogue.nodes[level][targets]
            found.append(child_log_probs(state @ head.T, self.catalogue.trie, level, parents, node))
            parents = node
        return found

    # --- generation -----------------------------------------------------------------------------------------

    def token_log_probs(
        self, prompt: Prompt, path: Tensor | None, items: Tensor, table: ItemTable, seen: SeenPairs | None
    ) -> Tensor:
        """L_NTP's factors, then L_ID's; see `Objective.token_log_probs`."""
        if path is None:
            return self.log_probs(prompt, table, Decoding("fixed_temp", 0), seen).gather(1, items)[:, :, None]
        each, targets = items.shape[1], items.flatten()
        context = prompt.context.repeat_interleave(each, dim=0)
        words = None if prompt.words is None else prompt.words.repeat_interleave(each, dim=0)
        behind = path.flatten(0, 1)  # [B G, l, d]
        codes = self._code_log_probs(context, behind, targets)
        query = self.similarity.queries(context + self.prefix_gate * behind[:, -1], words)
        hidden = None if seen is None else padded(seen, len(items)).repeat_interleave(each, dim=0)
        item = -same_prefix_loss(query, targets, table, self.catalogue, hidden)
        return torch.stack([*codes, item], dim=1).view(*items.shape, -1)

    def rank(
        self, prompt: Prompt, table: ItemTable, k: int, how: Decoding, seen: SeenPairs | None
    ) -> RankedItems:
        """Prefix beam, search inside the prefixes, fusion; see `Objective.rank`.

        The items of a prefix are scored only while the next prefix can still enter the list, which is exact.
        """
        if not self.catalogue.length:
            return top_k(self.log_probs(prompt, table, how, seen), k, seen)
        decoder, beams = self._search(prompt, how.width, seen)
        nodes, weights, scale = fuse_beam(beams.nodes, beams.scores, how.mode)
        ranked, _ = search_in_prefixes(
            lambda columns, _: self._item_queries(prompt, states_of(decoder, beams, columns)),
            nodes,
            weights,
            self.catalogue,
            table.scored,
            k,
            scale,
            seen,
            seen_keep_mass=False,
        )
        return ranked

    def log_probs(self, prompt: Prompt, table: ItemTable, how: Decoding, seen: SeenPairs | None) -> Tensor:
        """See `Objective.log_probs`."""
        if not self.catalogue.length:
            queries = self.similarity.queries(prompt.context, prompt.words)
            return open_log_softmax(hide(queries @ table.scored.T, seen))
        decoder, beams = self._search(prompt, how.width, seen)
        fused = fuse_beam(beams.nodes, beams.scores, how.mode)
        columns = torch.arange(fused[0].shape[1], device=prompt.context.device).split(_BEAMS)
        states = torch.cat([states_of(decoder, beams, part) for part in columns], dim=1)
        queries = self._item_queries(prompt, states)
        parts = []
        for rows in torch.arange(len(queries), device=queries.device).split(
            max(1, _DENSE_CELLS // len(table.vectors))
        ):
            beam = (fused[0][rows], fused[1][rows], fused[2][rows])
            own = pairs_of_rows(seen, rows, len(queries))
            parts.append(fused_scores(queries[rows], beam, table.scored, self.catalogue, own))
        return torch.cat(parts)

    def _search(self, prompt: Prompt, width: int, seen: SeenPairs | None) -> tuple[CausalDecoder, Beams]:
        """Step 1: the best prefixes, behind a prompt that is run once."""
        trie, depth = self.catalogue.trie, self.catalogue.length
        decoder = self.language.decoder(prompt, self.prefix_gate)
        hidden = None if seen is None else SeenItems(trie, *seen, len(prompt.context))
        inner, last = search_widths(trie, depth, width)
        tokens = self.language.tokens()
        return decoder, search_prefixes(
            decoder, trie, tokens, inner, depth, hidden, score="children", last=last
        )

    def _item_queries(self, prompt: Prompt, states: Tensor) -> Tensor:
        """Step 2: scaled item queries [B, W, d] from the states [B, W, d] behind each prefix."""
        words = None if prompt.words is None else prompt.words[:, None]
        return self.similarity.queries(prompt.context[:, None] + self.prefix_gate * states, words)

    def rows_at_once(self, prompt: int, width: int) -> int | None:
        """See `Objective.rows_at_once`; a search of depth 1 reads no inner prefixes."""
        if self.catalogue.length <= 1:
            return None
        inner, _ = search_widths(self.catalogue.trie, self.catalogue.length, width)
        return rows_of_width(inner, prompt)


# --- losses -------------------------------------------------------------------------------------------------


def child_log_probs(logits: Tensor, trie: Trie, level: int, parents: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of one child each, under the softmax over all children of its parent.

    Args:
        logits: float [M, K] over the level's codes.
        trie: the tree.
        level: 0-based level of the code.
        parents: int64 [M], nodes of depth ``level``.
        targets: int64 [M], children (nodes of depth ``level + 1``) of the parents.

    Returns:
        float [M].
    """
    start, degree = trie.children(level, parents)
    offset = torch.arange(int(degree.max()), device=logits.device)
    child = (start[:, None] + offset).clamp_max(trie.n_nodes(level + 1) - 1)
    values = logits.gather(1, trie.tokens[level][child].long())
    values = values.masked_fill(offset >= degree[:, None], float("-inf"))
    return values.log_softmax(dim=1).gather(1, (targets - start)[:, None])[:, 0]


def padded(pairs: SeenPairs, batch: int) -> Tensor:
    """(row, item) pairs, rows in any order, as int64 [batch, S], 0 in empty slots."""
    row, order = torch.sort(pairs[0], stable=True)
    size = torch.bincount(row, minlength=batch)
    place = torch.arange(len(row), device=row.device) - (size.cumsum(0) - size)[row]
    table = row.new_zeros(batch, max(int(size.max()), 1) if batch else 1)
    table[row, place] = pairs[1][order]
    return table


def same_prefix_loss(
    queries: Tensor,
    targets: Tensor,
    table: ItemTable,
    catalogue: ItemsByPrefix,
    hidden: Tensor | None = None,
) -> Tensor:
    """L_ID: softmax of the target against items that share its prefix (paper: hard negatives N_c).

    Predictions are grouped by prefix, so that each prefix costs one matrix product with its own items.

    Args:
        queries: float [M, d], scaled: logits are inner products with the table's ``vectors``.
        targets: int64 [M] item ids.
        table: at least the items that share a prefix with a target.
        catalogue: the items by prefix.
        hidden: int64 [M, H], items that are no negatives, 0 in empty slots; never the target. None for
            nothing.

    Returns:
        float [M], one loss per prediction.
    """
    prefix = catalogue.prefix[targets]
    order = torch.argsort(prefix, stable=True)
    touched, counts = torch.unique_consecutive(prefix[order], return_counts=True)
    # The rows of all touched prefixes in one gather: the backward pass of a slice per prefix would fill a
    # whole [n, d] for each of them.
    items, sizes = catalogue.under(touched)
    members = table.vectors[table.rows(items)].split(sizes.tolist())
    place, own = catalogue.place(targets)[order], counts.tolist()
    blocked: Sequence[Tensor | None] = [None] * len(own)
    if hidden is not None:
        inside = (catalogue.prefix[hidden] == prefix[:, None]) & (hidden > 0)
        blocked = torch.where(inside, catalogue.place(hidden), -1)[order].split(own)
    parts = []
    for query, target, block, no in zip(
        queries[order].split(own), place.split(own), members, blocked, strict=True
    ):
        if len(block) == 1:
            parts.append(query.new_zeros(len(query)))  # the prefix names the item
            continue
        logits = query @ block.T
        if no is not None:  # one column more, where empty slots are marked
            closed = torch.zeros(len(query), len(block) + 1, dtype=torch.bool, device=query.device)
            closed.scatter_(1, torch.where(no < 0, len(block), no), True)
            logits = logits.masked_fill(closed[:, :-1], float("-inf"))
        parts.append(F.cross_entropy(logits, target, reduction="none"))
    return torch.empty_like(place, dtype=queries.dtype).scatter(0, order, torch.cat(parts))


# --- how wide a search may be -------------------------------------------------------------------------------


def search_widths(trie: Trie, depth: int, asked: int) -> tuple[int, int]:
    """Prefixes to keep at each inner level and at the last one.

    Args:
        trie: the catalogue.
        depth: levels of the prefix.
        asked: ``decode_beam``; 0 = all, at inner levels at most `WIDEST`.

    Returns:
        (inner width, last width); with depth 1, which has no inner level, both are the last.
    """
    inner, last = _most_inner(trie, depth), trie.n_nodes(depth)
    if asked:
        return min(asked, max(inner, last)), min(asked, last)
    return min(inner, WIDEST) or last, last


def _most_inner(trie: Trie, depth: int) -> int:
    """Nodes of the fullest level above the last; 0 without one."""
    return max((trie.n_nodes(level) for level in range(1, depth)), default=0)


def rows_of_width(inner: int, prompt: int) -> int:
    """Rows of a batch whose inner prefixes one pass can hold, each ``prompt`` positions long."""
    return max(1, _CELLS // (inner * (inner + prompt)))


def warn_of_width(catalogue: Catalogue) -> None:
    """Say that a search for all prefixes keeps `WIDEST` of a level that has more."""
    most = _most_inner(catalogue.trie, catalogue.length)
    if most > WIDEST:
        logging.getLogger().warning(
            f"decode_beam: 0 would keep {most} prefixes of one level in the beam; the search keeps the best "
            f"{WIDEST}. Name a width: fewer are faster (200 is plenty), more are nearer to exact"
        )
