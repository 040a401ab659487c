"""SIGMA: one causal language model, items as [semantic-ID prefix, continuous item token], generation in three
steps.

Method: SIGMA, arXiv 2602.22913. Which sentence of the paper lives in which function, and where we differ, is
written in docs/paper_map.md.
"""

from __future__ import annotations

import json
import math
from typing import Any

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_sigma.data import FIRST_EVENT, packed_sequences
from recbole_sigma.decoding.fusion import MODES, SPACES, beam_spread
from recbole_sigma.decoding.hybrid import build_buckets, fused_scores, hybrid_search, prefix_beam, step_one
from recbole_sigma.instructions.prompts import END, PAD, START, code_offsets
from recbole_sigma.models.backbone import build_backbone, hidden_states
from recbole_sigma.models.fusion import ItemFusion
from recbole_sigma.models.losses import (
    catalogue_logits,
    pooled_log_scores,
    same_prefix_loss,
    seen_pairs,
)
from recbole_sigma.models.packed_model import PackedModel
from recbole_sigma.models.packing import RowLayout, branch_allowed, branch_positions, history_allowed
from recbole_sigma.models.task_labels import INSTRUCTION, LabelDraw, build_task_labels
from recbole_sigma.preparation import Prepared, prepare
from recbole_sigma.ranking import top_k
from recbole_sigma.values import RankedItems, UserError


class SIGMA(PackedModel, SequentialRecommender):
    """RecBole model SIGMA.

    Args:
        config: RecBole config with the keys of ``properties/model/SIGMA.yaml``.
        dataset: the train dataset of a built ``SIGMADataset``.

    Raises:
        UserError: an option out of range or a dataset without item text.
    """

    input_type = InputType.POINTWISE
    generative = True
    needs_item_text = True
    beam_bounds_list = False  # every prefix of the beam brings many items
    loss_names = ("prefix", "item", "catalogue", "label")

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.prepared: Prepared = prepare(dataset, config)
        codes, tokenizer = self.prepared.codes, self.prepared.tokenizer
        self.prefix_length = codes.prefix_length
        if self.prefix_length > 1:
            raise UserError("tokenizer_prefix_length: SIGMA decodes prefixes of length 0 or 1; use 0 or 1")
        self.mode, self.space = _choice(config, "decode_mode", MODES), _choice(config, "decode_space", SPACES)
        self.beam_width = int(config["decode_beam"])
        self.labels_per_row = int(config["task_labels_per_row"])
        self.negatives = int(config["sigma_negatives"])
        self.mask_seen = bool(config["sigma_mask_seen"]) and bool(config["filter_seen"])
        self.id_weight = float(config["sigma_id_weight"])
        self.catalogue_weight = float(config["sigma_catalogue_weight"])
        self.label_weight = float(config["sigma_label_weight"])
        self.window = int(config["MAX_ITEM_LIST_LENGTH"])
        self.pad = tokenizer.token_to_id(PAD)

        self.layout = RowLayout(
            self.prepared.profiles.shape[1], self.prefix_length, self.prepared.instructions.shape[1]
        )
        self.register_buffer("profiles", self.prepared.profiles, persistent=False)
        self.register_buffer("instructions", self.prepared.instructions, persistent=False)
        self.task_labels = build_task_labels(config, dataset, self.prepared)
        sizes = codes.sizes[: self.prefix_length]
        self.code_offset = code_offsets(tokenizer, sizes)
        prefix = codes.codes[:, 0] if self.prefix_length else torch.zeros(self.n_items, dtype=torch.int64)
        self.buckets = build_buckets(prefix, sizes[0] if sizes else 1)

        self.backbone = build_backbone(
            str(config["backbone"]),
            tokenizer.get_vocab_size(),
            self.layout.longest_position(self.window),
            float(config["backbone_dropout"]),
            self.pad,
            tokenizer.token_to_id(START),
            tokenizer.token_to_id(END),
        )
        d_model = self.backbone.get_input_embeddings().weight.shape[1]
        modalities = {"id": self.prepared.vectors.collaborative, "text": self.prepared.vectors.text}
        unknown = [name for name in config["fusion_inputs"] if name not in modalities]
        if unknown:
            raise UserError(f"fusion_inputs: {unknown} unknown; choose from {list(modalities)}")
        self.fusion = ItemFusion(
            {name: vectors for name, vectors in modalities.items() if name in config["fusion_inputs"]},
            d_model,
            int(config["fusion_hidden"]),
            float(config["fusion_dropout"]),
            bool(config["fusion_id_residual"]),
        )
        # shut for JustForYou alone; several tasks need the instruction from the first step on
        opening = torch.zeros(d_model) if self.task_labels is None else torch.ones(d_model)
        self.instruction_gate = nn.Parameter(opening)
        self.prefix_gate = nn.Parameter(torch.zeros(d_model))
        self.pooling = bool(config["sigma_prefix_pooling"])
        start = math.log(1.0 / float(config["sigma_temperature"]))
        self.log_scale = nn.Parameter(torch.tensor([start, start]))
        self.decode_temperature = float(config["decode_temperature"])
        self.sigma_reference = float(config["decode_sigma_reference"])
        self.register_buffer("mean_spread", torch.ones(()))

    # --- training -------------------------------------------------------------------------------------------

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """Losses of one batch of packed rows: (L_NTP, gamma L_ID, catalogue term, label term), each weighted.

        The first three are taken at every history position, the last at the labels after the instruction.
        Every prediction counts alike, a label ``sigma_label_weight`` times: a mean of few labels beside a
        mean of many positions would drown the dense signal in noise.
        """
        items, length = packed_sequences(interaction, self.ITEM_SEQ, self.ITEM_SEQ_LEN, self.ITEM_ID)
        users = interaction[self.USER_ID]
        tokens = self.fusion()
        unit = F.normalize(tokens, dim=-1)
        draw = self._draw_branches(interaction, length)
        history, branches, start = self._packed_forward(users, items, length, tokens, draw)

        depth = self.prefix_length
        valid = torch.arange(items.shape[1] - 1, device=items.device)[None] < (length - 1)[:, None]
        targets = items[:, 1:][valid]
        row, column = valid.nonzero(as_tuple=True)
        context = history[:, :-1, depth][valid]
        queries = context + self.prefix_gate * history[:, 1:, depth - 1][valid] if depth else context
        dense = len(targets)
        if draw is not None:
            after = draw.after
            label_context, label_queries = self._label_states(history, branches, after, start)
            targets = torch.cat([targets, torch.gather(items, 1, after + 1).reshape(-1)])
            label_row = torch.arange(len(items), device=items.device).repeat_interleave(after.shape[1])
            row, column = torch.cat([row, label_row]), torch.cat([column, after.reshape(-1)])
            context = torch.cat([context, label_context])
            queries = torch.cat([queries, label_queries])
        seen = seen_pairs(items, row, column) if self.mask_seen else None
        losses = self._prediction_losses(context, queries, targets, unit, seen)
        labels = len(targets) - dense
        scale = 1.0 / (dense + self.label_weight * labels)
        label = sum((loss[dense:].sum() for loss in losses), start=unit.new_zeros(()))
        if draw is not None and draw.task is not None:
            self.task_labels.note(draw.task, torch.stack([loss[dense:] for loss in losses]).sum(dim=0))
        return (*(loss[:dense].sum() * scale for loss in losses), self.label_weight * scale * label)

    def _label_states(
        self, history: Tensor, branches: Tensor, after: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Context and item query of each label.

        The context is the state at the last history item plus the gated state at the end of the instruction:
        the instruction corrects the prediction that the history alone makes, and with the gate shut (as it
        starts) a label is exactly the prediction of its history position. The query adds the state at the
        last prefix token.

        Args:
            history: float [B, T, S, d].
            branches: float [B, M, I + l, d].
            after: int64 [B, M]; -1 for a label after an empty history.
            start: float [B, d], state at the end of the profile, which stands in for the last history item.

        Returns:
            (context, query), both float [B * M, d].
        """
        end = branches[:, :, self.layout.instruction - 1]
        base = torch.gather(
            history[:, :, self.prefix_length], 1, after.clamp(min=0)[:, :, None].expand(-1, -1, end.shape[-1])
        )
        base = torch.where((after < 0)[:, :, None], start[:, None], base)
        context = (base + self.instruction_gate * end).flatten(0, 1)
        if not self.prefix_length:
            return context, context
        return context, context + self.prefix_gate * branches[:, :, -1].flatten(0, 1)

    def _prediction_losses(
        self,
        context: Tensor,
        queries: Tensor,
        targets: Tensor,
        unit: Tensor,
        seen: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, ...]:
        """L_NTP, gamma L_ID and the weighted catalogue term of M predictions, each float [M].

        Args:
            context: float [M, d] states that precede the prefix; also the query over the whole catalogue.
            queries: float [M, d] item queries after the prefix.
            targets: int64 [M].
            unit: float [N, d] unit item tokens.
            seen: (prediction, item) pairs left out of the softmaxes over items, or None.
        """
        zero = unit.new_zeros(len(targets))
        logits = whole = zero
        if self.catalogue_weight or self.pooling or not self.prefix_length:
            logits = catalogue_logits(context, unit, self.log_scale[1].exp(), seen, targets)
            whole = F.cross_entropy(logits, targets, reduction="none")
        if not self.prefix_length:
            return zero, zero, whole
        prefix_logits = self._prefix_logits(context)
        if self.pooling:
            prefix_logits = prefix_logits + pooled_log_scores(logits, self.buckets)
        self._track_spread(prefix_logits[-256:].detach())
        prefix = F.cross_entropy(prefix_logits, self.buckets.prefix[targets], reduction="none")
        item = zero
        if self.id_weight:
            item = same_prefix_loss(
                queries, targets, unit, self.buckets, self.log_scale[0].exp(), self.negatives, seen
            )
        return prefix, self.id_weight * item, self.catalogue_weight * whole

    def _draw_branches(self, interaction: Any, length: Tensor) -> LabelDraw | None:
        """Where labels are attached and what their instructions say: by task, or JustForYou anywhere."""
        if not self.labels_per_row or not self.label_weight:
            return None
        if self.task_labels is not None:
            return self.task_labels.draw(interaction[FIRST_EVENT], length, self.labels_per_row)
        share = torch.rand(len(length), self.labels_per_row, device=length.device)
        after = (share * (length - 1)[:, None]).long()
        return LabelDraw(
            after, self.instructions[torch.randint(len(self.instructions), after.shape, device=length.device)]
        )

    def _packed_forward(
        self, users: Tensor, items: Tensor, length: Tensor, tokens: Tensor, draw: LabelDraw | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Trunk over packed rows.

        Returns:
            (states of the item slots [B, T, S, d], states of the branches [B, M, I + l, d], state at the end
            of the profile [B, d]).
        """
        batch, slots = items.shape
        layout = self.layout
        after = text = label = None
        if draw is not None:
            after, text = draw.after, draw.text
            label = torch.gather(items, 1, after + 1)
        rows, positions, allowed, width = self._assemble(users, items, length, tokens, after, text, label)
        states = hidden_states(self.backbone, rows, positions, allowed)
        history = states[:, layout.profile : width].reshape(batch, slots, layout.slot, -1)
        start = states[:, layout.profile - 1]
        if after is None:
            return history, states[:, :0], start
        shape = (batch, after.shape[1], layout.instruction + layout.prefix, -1)
        return history, states[:, width:].reshape(shape), start

    def _assemble(
        self,
        users: Tensor,
        items: Tensor,
        length: Tensor,
        tokens: Tensor,
        after: Tensor | None,
        text: Tensor | None,
        label: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """Rows as the trunk reads them: profile, history, and a branch per label.

        Args:
            users: int64 [B].
            items: int64 [B, T], right-padded histories.
            length: int64 [B].
            tokens: float [N, d] fused item tokens.
            after: int64 [B, M], the item that each branch follows, or None for rows without branches.
            text: int64 [B, M, I], instruction tokens of the branches.
            label: int64 [B, M], items whose prefix tokens end the branches; None ends them after the text.

        Returns:
            (embeddings [B, Q, d], position ids [B, Q], attention bool [B, Q, Q], columns before branches).
        """
        batch, slots = items.shape
        layout = self.layout
        profile = self.profiles[users]
        rows = torch.cat([self._embed(profile), self._item_slots(items, tokens)], dim=1)
        width = rows.shape[1]
        positions = torch.arange(width, device=items.device).expand(batch, -1)
        allowed = history_allowed(profile, self.pad, length, slots, layout)
        if after is None or text is None:
            return rows, positions, allowed, width
        parts, tail = [self._embed(text)], 0
        if label is not None and layout.prefix:
            parts.append(self._embed(self._prefix_tokens(label)))
            tail = layout.prefix
        block = torch.cat(parts, dim=2)
        rows = torch.cat([rows, block.reshape(batch, -1, rows.shape[2])], dim=1)
        positions = torch.cat([positions, branch_positions(after, layout, tail).reshape(batch, -1)], dim=1)
        allowed = branch_allowed(allowed, profile, text, self.pad, after, layout, tail)
        return rows, positions, allowed, width

    def _track_spread(self, prefix_logits: Tensor) -> None:
        """Running mean of the beam spread in training: the reference of ``decode_sigma_reference: 0``."""
        _, scores = prefix_beam(prefix_logits.log_softmax(dim=-1), self.buckets, self.beam_width)
        self.mean_spread.lerp_(beam_spread(scores, self.space).mean(), 0.01)

    # --- pieces shared by training and generation -----------------------------------------------------------

    def _embed(self, ids: Tensor) -> Tensor:
        return self.backbone.get_input_embeddings()(ids)

    def _prefix_tokens(self, items: Tensor) -> Tensor:
        """Vocabulary ids of the items' prefix tokens: int64 [*items.shape, l]."""
        codes = [self.buckets.prefix[items] + offset for offset in self.code_offset]
        return torch.stack(codes, dim=-1)

    def _item_slots(self, items: Tensor, tokens: Tensor) -> Tensor:
        """Input embeddings of items [B, T]: prefix tokens, then the fused token: float [B, T * S, d]."""
        fused = tokens[items][:, :, None]
        if self.prefix_length:
            fused = torch.cat([self._embed(self._prefix_tokens(items)), fused], dim=2)
        return fused.flatten(1, 2)

    def _prefix_logits(self, states: Tensor) -> Tensor:
        """Logits of the level's semantic-ID tokens: the rows of the output embedding that belong to it."""
        begin = self.code_offset[0]
        return (
            states @ self.backbone.get_output_embeddings().weight[begin : begin + self.buckets.n_prefixes].T
        )

    # --- generation -----------------------------------------------------------------------------------------

    def _prompt(self, interaction: Any) -> tuple[Tensor, Tensor, Any, Tensor, Tensor]:
        """Encode each user's prompt once.

        Returns:
            (context [B, d] at the end of the instruction, unit items [N, d], the KV cache, readable columns
            bool [B, S], position id of the next token int64 [B]).
        """
        from transformers import DynamicCache

        items, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        items = items[:, : max(int(length.max()), 1)]
        batch, layout = len(items), self.layout
        tokens = self.fusion()
        text = self.instructions[:1].expand(batch, 1, -1)
        if INSTRUCTION in interaction.interaction:
            text = interaction[INSTRUCTION][:, None]
        users, after = interaction[self.USER_ID], (length - 1)[:, None]
        rows, positions, allowed, _ = self._assemble(users, items, length, tokens, after, text, None)
        cache = DynamicCache(config=self.backbone.config)
        states = hidden_states(self.backbone, rows, positions, allowed, cache)
        last_item = layout.profile + length * layout.slot - 1
        context = (
            states[torch.arange(batch, device=items.device), last_item]
            + self.instruction_gate * states[:, -1]
        )
        readable = allowed[:, -1]
        return context, F.normalize(tokens, dim=-1), cache, readable, layout.profile + length * layout.slot

    def _beam_queries(
        self, context: Tensor, beam: Tensor, cache: Any, readable: Tensor, position: Tensor
    ) -> Tensor:
        """One trunk step over the beam: unit item queries [B, W, d]; beams are query positions over one
        shared cache.
        """
        batch, width = beam.shape
        embeddings = self._embed(beam + self.code_offset[0])
        own = torch.eye(width, dtype=torch.bool, device=beam.device).expand(batch, -1, -1)
        allowed = torch.cat([readable[:, None, :].expand(-1, width, -1), own], dim=2)
        states = hidden_states(self.backbone, embeddings, position[:, None].expand(-1, width), allowed, cache)
        return F.normalize(context[:, None] + self.prefix_gate * states, dim=-1)

    def _prefix_log_probs(self, context: Tensor, unit: Tensor, seen: tuple[Tensor, Tensor] | None) -> Tensor:
        """log P(code | prompt), float [B, C]."""
        logits = self._prefix_logits(context)
        if self.pooling:
            whole = catalogue_logits(context, unit, self.log_scale[1].exp(), seen)
            logits = logits + pooled_log_scores(whole, self.buckets)
        return logits.log_softmax(dim=-1)

    def _inverse_temperature(self, which: int) -> Tensor:
        return self.log_scale[which].exp() / self.decode_temperature

    def _reference(self) -> float:
        return self.sigma_reference or float(self.mean_spread)

    @torch.inference_mode()
    def rank(self, interaction: Any, k: int, seen: tuple[Tensor, Tensor] | None = None) -> RankedItems:
        """Recommend: prefix beam, search inside the prefixes, fusion.

        Args:
            interaction: rows with a history (``item_id_list``, ``item_length``, ``user_id``).
            k: list length.
            seen: (row, item) pairs that may not be recommended, or None.

        Returns:
            ``RankedItems`` [B, k]; scores are log P(item | prompt).
        """
        if self.mode == "id_only" or not self.prefix_length:
            return top_k(self.full_sort_predict(interaction), k, seen)
        context, unit, cache, readable, position = self._prompt(interaction)
        return hybrid_search(
            self._prefix_log_probs(context, unit, seen),
            lambda beam: self._beam_queries(context, beam, cache, readable, position),
            unit,
            self.buckets,
            k,
            1.0 / float(self._inverse_temperature(0)),
            self.mode,
            self.beam_width,
            self.space,
            self._reference(),
            seen,
        )

    @torch.inference_mode()
    def full_sort_predict(self, interaction: Any) -> Tensor:
        """log P(item | prompt) of every item: float [B, N], -inf for padding and for items outside the
        beam.
        """
        context, unit, cache, readable, position = self._prompt(interaction)
        if self.mode == "id_only" or not self.prefix_length:
            return catalogue_logits(context, unit, self._inverse_temperature(1)).log_softmax(dim=-1)
        log_probs = self._prefix_log_probs(context, unit, None)
        beam, score, scale = step_one(
            log_probs, self.buckets, self.mode, self.beam_width, self.space, self._reference()
        )
        queries = self._beam_queries(context, beam, cache, readable, position)
        return fused_scores(
            queries, beam, score, unit, self.buckets, 1.0 / float(self._inverse_temperature(0)), scale
        )

    def predict(self, interaction: Any) -> Tensor:
        """log P of each row's own target item: float [B]."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None])[:, 0]

    # --- checkpoints ----------------------------------------------------------------------------------------

    def checkpoint_extra(self) -> dict[str, Any]:
        """Item preparation travels with the weights: vectors, codes, prompt tokens, tokenizer."""
        return {
            **self.prepared.tensors(),
            "prepared_header": json.dumps(self.prepared.header(), ensure_ascii=False),
        }


def _choice(config: Any, key: str, allowed: tuple[str, ...]) -> str:
    value = str(config[key])
    if value not in allowed:
        raise UserError(f"{key}: '{value}' is unknown; use one of {', '.join(allowed)}")
    return value
