"""TIGER (Rajput et al. 2023, arXiv 2305.05065): a T5 that reads and writes semantic IDs.

An item is its residual-quantization code plus a digit that tells items with equal codes apart (section 3.1).
A history is the sequence of these tokens, optionally behind a hashed user token (section 3.2). Lists come
from constrained beam search over a trie of the catalogue, so every recommended item exists; the paper decodes
without constraint and drops what does not. properties/recipes/ holds the published settings with their
sources.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from recbole_sigma.data.dataset import item_names
from recbole_sigma.decoding.beam import beam_search
from recbole_sigma.decoding.exact import exact_top_k, prefix_survival, score_candidates
from recbole_sigma.decoding.memory import Bonus, best_of, bonus_of, strongest
from recbole_sigma.decoding.t5 import T5Decoder
from recbole_sigma.language.t5 import PackedPrompts, code_logits
from recbole_sigma.language.transformer import with_cheap_dropout
from recbole_sigma.models.packed import PackedModel, RowGroup
from recbole_sigma.preparation.codes import CodedDataset, code_vectors, codes_extra, prepare_codes
from recbole_sigma.settings.keys import BeamKeys, CodeKeys, TigerKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.tokenization.published_ids import items_fingerprint
from recbole_sigma.tokenization.trie import Trie, build_trie, contiguous_tokens
from recbole_sigma.values import ItemCodes, RankedItems

PAD = 0
_CHUNK = 64  # rows whose candidates share a pass


class TIGERDataset(CodedDataset):
    """RecBole's rows for evaluation; training rows are drawn per epoch (``tiger_samples``)."""

    def every_prefix(self) -> bool:
        """See `PrefixDataset`."""
        return read(TigerKeys, self.config).tiger_samples == "all"


class TIGER(PackedModel, SequentialRecommender):
    """RecBole model TIGER.

    Args:
        config: RecBole config with the keys of ``properties/model/TIGER.yaml``.
        dataset: the train part of a built :class:`TIGERDataset`.

    Raises:
        UserError: an option out of range, items without text, or codes that do not fit the dataset.
    """

    input_type = InputType.POINTWISE
    generative = True
    loss_names = ("code",)
    decoding_keys = frozenset({"decode_beam"})
    token_likelihoods = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.codes = self.item_codes = dataset.prepared or prepare_codes(dataset, config)
        self.items_sha256 = items_fingerprint(item_names(dataset)[1:])
        self.beam = read(BeamKeys, config).decode_beam
        keys = read(TigerKeys, config)
        self.user_tokens = keys.tiger_user_tokens
        offset = 1 + self.user_tokens
        self.level_tokens = contiguous_tokens(self.codes.sizes, offset)
        self._trie = build_trie(self.codes.codes, self.codes.sizes)
        vocabulary = offset + sum(self.codes.sizes)
        columns = [tokens[self.codes.codes[:, level]] for level, tokens in enumerate(self.level_tokens)]
        item_tokens = torch.stack(columns, dim=1)
        item_tokens[0] = PAD
        self.register_buffer("item_tokens", item_tokens, persistent=False)
        self.t5 = T5ForConditionalGeneration(
            T5Config(
                vocab_size=vocabulary,
                d_model=keys.tiger_d_model,
                d_kv=keys.tiger_d_kv,
                num_heads=keys.tiger_heads,
                d_ff=keys.tiger_d_ff,
                num_layers=keys.tiger_layers,
                num_decoder_layers=keys.tiger_decoder_layers,
                dropout_rate=keys.tiger_dropout,
                pad_token_id=PAD,
                decoder_start_token_id=PAD,
                eos_token_id=None,
            )
        )
        with_cheap_dropout(self.t5)

    # --- training -------------------------------------------------------------------------------------------

    @classmethod
    def has_beam(cls) -> bool:
        """Lists come from constrained beam search."""
        return True

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Cross-entropy of the next item's tokens, the mean over rows and levels."""
        items, users = interaction[self.ITEM_SEQ], interaction[self.USER_ID]
        passes, labels = self.passes(interaction), self.item_tokens[interaction[self.ITEM_ID]]
        if passes.order is not None:
            items, users, labels = items[passes.order], users[passes.order], labels[passes.order]
        total, begin = self.t5.shared.weight.new_zeros(()), 0
        for group in passes.groups:  # rows of similar length share a pass
            counted = passes.counted[begin : begin + len(group.place)]
            begin += len(group.place)
            prompts = self._packed_prompts(group, counted, items[group.rows], users[group.rows])
            logits = code_logits(self.t5, prompts, labels[group.rows])
            total = total + F.cross_entropy(
                logits.flatten(0, 1).float(), labels[group.rows].flatten(), reduction="sum"
            )
        return total / labels.numel()

    def _packed_prompts(
        self, group: RowGroup, counted: Tensor, items: Tensor, users: Tensor
    ) -> PackedPrompts:
        """The histories of R rows as tokens, one after the other: the users' tokens, then every item's.

        Args:
            group: where the P events of the rows stand.
            counted: float [P], 0 for an event that only fills up the shape.
            items: int64 [R, T].
            users: int64 [R].
        """
        levels, first = self.item_tokens.shape[1], int(self.user_tokens > 0)
        rows, width = len(items), first + (group.width - 1) * levels
        ids = self.item_tokens[group.pick(items)]
        level = torch.arange(levels, device=items.device)
        slot = (group.place * width + first + group.column * levels)[:, None] + level
        slot = slot.masked_fill(counted[:, None] == 0, rows * width)
        ids, slot = ids.flatten(), slot.flatten()
        if first:
            ids = torch.cat([self._user_ids(users), ids])
            slot = torch.cat([torch.arange(rows, device=items.device) * width, slot])
        return PackedPrompts(ids, slot, rows, width)

    def _user_ids(self, users: Tensor) -> Tensor:
        """The users' tokens, by a multiplicative hash (Knuth), so that neighbouring user ids do not share a
        token by construction.
        """
        return 1 + (users * 2654435761 % 2**32) * self.user_tokens // 2**32

    def _prompt(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """Token ids and mask [B, S] of the histories, right-padded: user token, then every item's tokens."""
        ids = self.item_tokens[interaction[self.ITEM_SEQ]].flatten(1)
        if self.user_tokens:
            ids = torch.cat([self._user_ids(interaction[self.USER_ID])[:, None], ids], dim=1)
        return ids, (ids != PAD).long()

    # --- generation -----------------------------------------------------------------------------------------

    def rank(self, interaction: Any, k: int, seen: tuple[Tensor, Tensor] | None = None) -> RankedItems:
        """Recommend by constrained beam search.

        Args:
            interaction: rows with a history (``item_id_list``, ``item_length``, ``user_id``).
            k: list length, at most ``decode_beam``.
            seen: (row, item) pairs that must not be recommended, or None.

        Returns:
            ``RankedItems`` [B, k]; scores are log P(code | history).
        """
        return beam_search(
            self._decoder(interaction), self._catalogue(), self._level_tokens(), k, self.beam, seen
        )

    def rank_fused(
        self,
        interaction: Any,
        k: int,
        seen: tuple[Tensor, Tensor] | None,
        bonus: Bonus,
        weights: tuple[float, ...],
    ) -> list[RankedItems]:
        """Lists by log P + weight * bonus over the beam's items and the memory's strongest, one per weight.

        Those that the beam did not reach are scored by teacher forcing, so every candidate has its exact
        score; an item that is neither in the beam nor among the memory's ``decode_beam`` strongest is not
        considered.
        """
        beam = self.rank(interaction, min(self.beam, self.n_items - 1), seen)
        near = strongest(bonus, len(beam.items), self.beam, beam.items, seen, self.n_items)
        items = torch.cat([beam.items, near], dim=1)
        scores = torch.cat([beam.scores, self.score_candidates(interaction, near)], dim=1)
        gain = bonus_of(bonus, items, self.n_items)
        return [best_of(items, scores + weight * gain, k) for weight in weights]

    def rank_exactly(
        self, interaction: Any, k: int, seen: tuple[Tensor, Tensor] | None = None
    ) -> RankedItems:
        """The true best k items: the beam's k-th score bounds a certified search; slow."""
        return self._exact(interaction, k, seen, self.rank(interaction, k, seen))

    def _exact(
        self, interaction: Any, k: int, seen: tuple[Tensor, Tensor] | None, kept: RankedItems
    ) -> RankedItems:
        bound = kept.scores[:, -1]
        return exact_top_k(
            self._decoder(interaction), self._catalogue(), self._level_tokens(), k, bound, seen
        )

    def prefix_survival(self, interaction: Any, k: int, seen: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Share of each user's exact top k that the beam search returned, float [B]; slow."""
        kept = self.rank(interaction, k, seen)
        return prefix_survival(self._exact(interaction, k, seen, kept), kept)

    def score_candidates(self, interaction: Any, items: Tensor) -> Tensor:
        """log P of given candidates, exactly: what another source of candidates is fused with.

        Args:
            interaction: rows with a history.
            items: int64 [B, M], each row's own candidates; 0 fills up short rows.

        Returns:
            float [B, M], the scores that :meth:`rank` gives; ``-inf`` for 0.
        """
        return score_candidates(self._decoder(interaction), self._catalogue(), self._level_tokens(), items)

    def candidate_log_probs(
        self, interaction: Any, items: Tensor, seen: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """See `Contract.candidate_log_probs`; the softmax runs over the vocabulary, so ``seen`` changes
        nothing.
        """
        ids, mask = self._prompt(interaction)
        labels = self.item_tokens[items]  # [B, G, L]
        order = mask.sum(dim=1).argsort(descending=True)
        parts = []
        for rows in order.split(_CHUNK):  # rows of similar length share a pass, as in training
            width = int(mask[rows[0]].sum())
            own, forced = mask[rows, :width], labels[rows]
            encoded = self.t5.encoder(input_ids=ids[rows, :width], attention_mask=own).last_hidden_state
            each = forced.shape[1]  # the encoder runs once per row, the decoder once per candidate
            logits = self.t5(
                encoder_outputs=BaseModelOutput(last_hidden_state=encoded.repeat_interleave(each, dim=0)),
                attention_mask=own.repeat_interleave(each, dim=0),
                labels=forced.flatten(0, 1),
            ).logits
            chosen = logits.log_softmax(dim=-1).gather(2, forced.flatten(0, 1)[..., None])
            parts.append(chosen.view(forced.shape))
        return torch.cat(parts)[order.argsort()]

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """The beam's items in dense scores [B, N], ``-inf`` elsewhere; for RecBole's own tools."""
        ranked = self.rank(interaction, min(self.beam, self.n_items - 1))
        scores = torch.full((len(ranked.items), self.n_items), -torch.inf, device=ranked.scores.device)
        scores.scatter_(1, ranked.items, ranked.scores)
        scores[:, 0] = -torch.inf
        return scores

    def predict(self, interaction: Any) -> Tensor:
        """log P of each row's own target item, float [B]."""
        ids, mask = self._prompt(interaction)
        labels = self.item_tokens[interaction[self.ITEM_ID]]
        log_probs = self.t5(input_ids=ids, attention_mask=mask, labels=labels).logits.log_softmax(dim=-1)
        return log_probs.gather(2, labels[..., None]).sum(dim=(1, 2))

    def _decoder(self, interaction: Any) -> T5Decoder:
        return T5Decoder(self.t5, *self._prompt(interaction))

    def _catalogue(self) -> Trie:
        if self._trie.item_of_leaf.device != self.item_tokens.device:
            self._trie = self._trie.to(self.item_tokens.device)
        return self._trie

    def _level_tokens(self) -> list[Tensor]:
        return [tokens.to(self.item_tokens.device) for tokens in self.level_tokens]

    # --- checkpoints ----------------------------------------------------------------------------------------

    def semantic_ids(self) -> ItemCodes:
        """The codes with their digit."""
        return self.codes

    def code_sources(self, dataset: Any) -> Tensor | None:
        """The quantized vectors; None for codes from a file or from an RQ-VAE."""
        if not read(CodeKeys, dataset.config).tokenizer_quantizer.startswith("rq-kmeans"):
            return None
        vectors = torch.from_numpy(code_vectors(dataset, dataset.config))
        return torch.cat([vectors.new_zeros(1, vectors.shape[1]), vectors])

    def quantized_levels(self) -> int:
        """All levels but the digit."""
        return self.codes.codes.shape[1] - 1

    def checkpoint_extra(self) -> dict[str, Any]:
        """The semantic IDs travel with the weights."""
        return codes_extra(self.codes, self.items_sha256)
