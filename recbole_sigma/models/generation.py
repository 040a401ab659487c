"""How SIGMA generates: a beam of prefixes, search inside them, fusion; or one softmax read in three steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sigma.decoding.approximate import PrefixIndexes, index_prefixes
from recbole_sigma.decoding.beam import Beams, SeenItems, search_prefixes, states_of
from recbole_sigma.decoding.exact import prefix_survival
from recbole_sigma.decoding.fusion import fuse_dense, fused_scores, item_scale, prefix_log_weights
from recbole_sigma.decoding.inside_prefix import search_in_prefixes
from recbole_sigma.decoding.prompted import PromptedDecoder
from recbole_sigma.decoding.top_k import pairs_of_rows, top_k
from recbole_sigma.decoding.votes import Bonus, add_bonus
from recbole_sigma.language.backbone import hidden_states
from recbole_sigma.models.losses import Seen, hide
from recbole_sigma.models.packed import length_groups
from recbole_sigma.models.sigma.item_tokens import ItemFusion
from recbole_sigma.models.sigma.joint import GlobalObjective
from recbole_sigma.models.sigma.labels import INSTRUCTION, TaskLabels
from recbole_sigma.models.sigma.paper import PaperObjective
from recbole_sigma.models.sigma.paths import InterestPath, RecencyPath, WordPath
from recbole_sigma.models.sigma.trunk import PackedTrunk, Prompt
from recbole_sigma.tokenization.catalogue import (
    PrefixSpace,
    SortedItems,
    rows_at_once,
    search_widths,
    sort_items,
)
from recbole_sigma.values import RankedItems

_DENSE_CELLS = 1 << 25  # [row, item] scores held at once
_BEAMS = 128  # prefixes per row whose states are read at once


class PrefixGeneration:
    """The generating half of `models.sigma.SIGMA`: it reads the model's parts and changes nothing."""

    trunk: PackedTrunk
    fusion: ItemFusion
    objective: PaperObjective | GlobalObjective
    prefixes: PrefixSpace
    level_tokens: list[Tensor]
    instructions: Tensor
    instruction_gate: Tensor
    recency: RecencyPath | None
    interest: InterestPath | None
    word_path: WordPath | None
    task_labels: TaskLabels | None
    mean_spread: Tensor
    mode: str
    space: str
    beam_width: int
    sharpness: float
    sigma_reference: float
    faiss_above: int
    _catalogue: tuple[Tensor, SortedItems, PrefixIndexes | None] | None
    n_items: int
    ITEM_SEQ: str
    ITEM_SEQ_LEN: str
    USER_ID: str
    ITEM_ID: str

    def _prompt(self, interaction: Any) -> tuple[Prompt, Tensor, Tensor]:
        """Encode each user's prompt once: (prompt, context float [B, d], item vectors float [N, d]).

        Where nothing is asked, a model of several tasks answers from the history alone (`models.neutral`).
        """
        items, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        items = items[:, : max(int(length.max()), 1)]
        tokens = self.fusion()
        text = self.instructions[:1].expand(len(items), -1)
        if INSTRUCTION in interaction.interaction:
            text = interaction[INSTRUCTION]
        elif self.task_labels is not None:
            text = torch.full_like(text, self.trunk.pad)
        prompt = self.trunk.prompt(interaction[self.USER_ID], items, length, tokens, text)
        asked = (text != self.trunk.pad).any(dim=1, keepdim=True)
        context = prompt.last + (self.instruction_gate * prompt.end).masked_fill(~asked, 0.0)
        if self.word_path is not None:
            prompt = replace(prompt, words=self.word_path(text))
        row = torch.arange(len(items), device=items.device)
        straight = self._straight(items, tokens)[row, (length - 1).clamp(min=0)]
        context = context + straight * (length > 0)[:, None]  # an empty history has no items to read
        return prompt, context, self.objective.similarity.items(tokens)

    def _straight(self, items: Tensor, tokens: Tensor) -> Tensor:
        """What the paths around the trunk add to the state at every position.

        Args:
            items: int64 [B, T] histories, oldest first.
            tokens: float [N, d] item tokens.

        Returns:
            float [B, T, d], zeros without a path.
        """
        added = tokens.new_zeros((*items.shape, tokens.shape[1]))
        if self.recency is not None:
            added = added + self.recency(F.normalize(tokens[items], dim=-1))
        if self.interest is not None:
            added = added + self.interest(self.objective.similarity.items(tokens)[items])
        return added

    def _search(
        self, prompt: Prompt, context: Tensor, vectors: Tensor, seen: Seen | None, width: int
    ) -> tuple[PromptedDecoder, Beams]:
        """Step 1 of the paper's objective: the best prefixes, behind a prompt that is run once."""
        objective, trunk, trie = self.objective, self.trunk, self.prefixes.trie
        assert isinstance(objective, PaperObjective)

        def head(states: Tensor, ids: Tensor | None) -> Tensor:
            assert ids is not None
            return (context[:, None] + objective.prefix_gate * states) @ trunk.output_rows(ids).T

        decoder = PromptedDecoder(
            partial(_forward, trunk.backbone),
            trunk.embed,
            head,
            prompt.cache,
            prompt.readable,
            prompt.position,
            context,
            context @ trunk.output_rows(self.level_tokens[0]).T,
        )
        depth = self.prefixes.length
        hidden = None if seen is None else SeenItems(trie, *seen, len(context))
        inner, last = search_widths(trie, depth, width)
        beams = search_prefixes(
            decoder,
            trie,
            self.level_tokens,
            inner,
            depth,
            hidden,
            score="level",
            last=last,
            prior=objective.priors(context, vectors, seen, prompt.words),
        )
        return decoder, beams

    def _fused_beam(self, beams: Beams) -> tuple[Tensor, Tensor, Tensor]:
        """Prefixes [B, W], their log weights [B, W] and the item scale [B] of the decoding mode."""
        nodes, scores = beams.nodes, beams.scores
        scale = item_scale(scores, self.mode, self.space, self._reference())
        if self.mode == "top1_prefix":
            nodes, scores = nodes[:, :1], scores[:, :1]
        return nodes, prefix_log_weights(scores), scale

    def _reference(self) -> float:
        return self.sigma_reference or float(self.mean_spread)

    def _prefix_beam(self, interaction: Any, seen: Seen | None) -> tuple[Tensor, Tensor]:
        """The beam of prefixes int64 [B, W] and their log-probabilities float [B, W], best first."""
        prompt, context, vectors = self._prompt(interaction)
        if isinstance(self.objective, PaperObjective):
            _, beams = self._search(prompt, context, vectors, seen, self.beam_width)
            return beams.nodes, beams.scores
        logits = hide(self.objective.catalogue(context, vectors, 1.0, prompt.words), seen)
        _, nodes, scores = fuse_dense(logits, self.prefixes.buckets, "fixed_temp", self.beam_width)
        return nodes, scores

    @torch.inference_mode()
    def rank(
        self, interaction: Any, k: int, seen: Seen | None = None, width: int | None = None
    ) -> RankedItems:
        """Recommend: prefix beam, search inside the prefixes, fusion.

        With the paper's objective the items of a prefix are scored only while the next prefix can still enter
        the list (exact; `search_in_prefixes`).

        Args:
            interaction: rows with a history (``item_id_list``, ``item_length``, ``user_id``).
            k: list length.
            seen: (row, item) pairs that may not be recommended, or None.
            width: prefixes in the beam instead of ``decode_beam``; 0 = all.

        Returns:
            ``RankedItems`` [B, k]; scores are log P(item | prompt) over the items that are left.
        """
        width = self.beam_width if width is None else width
        if not self._factored:
            return top_k(self.score_all(interaction, seen, width), k, seen)
        items, scores = self._in_parts(
            interaction, seen, width, lambda some, own: self._rank(some, k, own, width)
        )
        return RankedItems(items, scores)

    def _rank(self, interaction: Any, k: int, seen: Seen | None, width: int) -> tuple[Tensor, ...]:
        """`rank` for rows of similar length: items and scores [B, k]."""
        assert isinstance(self.objective, PaperObjective)
        objective = self.objective
        prompt, context, vectors = self._prompt(interaction)
        decoder, beams = self._search(prompt, context, vectors, seen, width)
        nodes, weights, scale = self._fused_beam(beams)
        items, indexes = self._sorted_items(vectors)
        ranked, _ = search_in_prefixes(
            lambda columns, _: objective.item_query(
                context, states_of(decoder, beams, columns), self.sharpness, prompt.words
            ),
            nodes,
            weights,
            items,
            k,
            scale,
            seen,
            seen_keep_mass=False,
            approximate=indexes,
        )
        return ranked.items, ranked.scores

    def _in_parts(
        self,
        interaction: Any,
        seen: Seen | None,
        width: int,
        of_rows: Callable[[Any, Seen | None], tuple[Tensor, ...]],
    ) -> tuple[Tensor, ...]:
        """Apply a function of (interaction, seen pairs) to rows of similar length, few enough for the memory
        that a search of this width takes, and put its results, one row each, back in order.
        """
        length = interaction[self.ITEM_SEQ_LEN]
        groups = length_groups(length)
        if self._factored and self.prefixes.length > 1:
            inner, _ = search_widths(self.prefixes.trie, self.prefixes.length, width)
            prompt = self.trunk.layout.history_end(int(length.max()))
            groups = [part for rows in groups for part in rows.split(rows_at_once(inner, prompt))]
        if len(groups) == 1:
            return of_rows(interaction, seen)
        batch = len(interaction)
        parts = [of_rows(interaction[rows], pairs_of_rows(seen, rows, batch)) for rows in groups]
        back = torch.argsort(torch.cat(groups))
        return tuple(torch.cat(column)[back] for column in zip(*parts, strict=True))

    def _sorted_items(self, vectors: Tensor) -> tuple[SortedItems, PrefixIndexes | None]:
        """The catalogue by prefix, and inverted lists of prefixes above ``decode_faiss_above`` items; made
        once for all batches that see the same item tokens.
        """
        if self._catalogue is None or not torch.equal(self._catalogue[0], vectors):
            buckets = self.prefixes.buckets
            items, indexes = sort_items(vectors, buckets.order, buckets.start), None
            if self.faiss_above:
                indexes = index_prefixes(items.vectors, items.start, self.faiss_above)
            self._catalogue = (vectors, items, indexes)
        return self._catalogue[1:]

    @property
    def _factored(self) -> bool:
        """Whether items are scored prefix by prefix."""
        paper = isinstance(self.objective, PaperObjective)
        return paper and bool(self.prefixes.length) and self.mode != "id_only"

    @torch.inference_mode()
    def score_all(self, interaction: Any, seen: Seen | None = None, width: int | None = None) -> Tensor:
        """log P(item | prompt) of every item that is left: float [B, N].

        Args:
            interaction: see `rank`.
            seen: pairs that are taken out of the distribution, or None.
            width: see `rank`.

        Returns:
            -inf for padding, for what is taken out and for items outside the beam.
        """
        width = self.beam_width if width is None else width
        return self._in_parts(
            interaction, seen, width, lambda some, own: (self._score_all(some, own, width),)
        )[0]

    def _score_all(self, interaction: Any, seen: Seen | None, width: int) -> Tensor:
        """`score_all` for rows of similar length."""
        prompt, context, vectors = self._prompt(interaction)
        buckets = self.prefixes.buckets
        if not self._factored:
            logits = self.objective.catalogue(context, vectors, self.sharpness, prompt.words)
            logits = hide(logits, seen)
            if self.mode == "id_only" or not self.prefixes.length:
                return logits.log_softmax(dim=-1)
            return fuse_dense(logits, buckets, self.mode, width, self.space, self._reference())[0]
        assert isinstance(self.objective, PaperObjective)
        decoder, beams = self._search(prompt, context, vectors, seen, width)
        nodes, weights, scale = self._fused_beam(beams)
        columns = torch.arange(nodes.shape[1], device=nodes.device).split(_BEAMS)
        states = torch.cat([states_of(decoder, beams, part) for part in columns], dim=1)
        queries = self.objective.item_query(context, states, self.sharpness, prompt.words)
        parts = []
        for rows in torch.arange(len(nodes), device=nodes.device).split(max(1, _DENSE_CELLS // self.n_items)):
            own = pairs_of_rows(seen, rows, len(nodes))
            parts.append(
                fused_scores(queries[rows], nodes[rows], weights[rows], vectors, buckets, scale[rows], own)
            )
        return torch.cat(parts)

    def rank_fused(
        self, interaction: Any, k: int, seen: Seen | None, bonus: Bonus, weights: tuple[float, ...]
    ) -> list[RankedItems]:
        """Lists by log P(item | prompt) + weight * bonus, exact over all items, one per weight."""
        scores = self.score_all(interaction, seen)
        return [top_k(add_bonus(scores, bonus, weight), k, seen) for weight in weights]

    def prefix_survival(self, interaction: Any, k: int, seen: Seen | None = None) -> Tensor:
        """Share of the exact top k (all prefixes) that the beam kept: float [B]."""
        return prefix_survival(self.rank(interaction, k, seen, width=0), self.rank(interaction, k, seen))

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """log P(item | prompt) of every item, nothing taken out: float [B, N]."""
        return self.score_all(interaction)

    def predict(self, interaction: Any) -> Tensor:
        """log P of each row's own target item: float [B]."""
        return self.score_all(interaction).gather(1, interaction[self.ITEM_ID][:, None])[:, 0]


def _forward(backbone: nn.Module, rows: Tensor, positions: Tensor, allowed: Tensor, cache: Any) -> Tensor:
    return hidden_states(backbone, rows, positions, allowed, cache)
