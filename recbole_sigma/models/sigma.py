"""SIGMA: one causal language model, items as [semantic-ID prefix, continuous item token], generation in three
steps.

Method: SIGMA, arXiv 2602.22913. Which sentence of the paper lives in which function, and where we differ, is
written in docs/paper_map.md.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_sigma.data import packed_sequences
from recbole_sigma.decoding.beam import Beams, SeenItems, search_prefixes, states_of
from recbole_sigma.decoding.exact import prefix_survival
from recbole_sigma.decoding.fusion import MODES, SPACES, beam_spread, item_scale, prefix_log_weights
from recbole_sigma.decoding.hybrid import fuse_dense, fused_scores
from recbole_sigma.decoding.local import search_in_prefixes, sort_items
from recbole_sigma.decoding.memory import Bonus, add_bonus
from recbole_sigma.decoding.prompted import PromptedDecoder
from recbole_sigma.instructions.prompts import END, PAD, START, code_offsets
from recbole_sigma.models.backbone import build_backbone, hidden_states
from recbole_sigma.models.fusion import ItemFusion
from recbole_sigma.models.losses import Seen, hide, seen_pairs
from recbole_sigma.models.objectives import GlobalObjective, PaperObjective
from recbole_sigma.models.packed_model import PackedModel
from recbole_sigma.models.packing import RowLayout
from recbole_sigma.models.prefixes import build_prefixes
from recbole_sigma.models.trunk import PackedTrunk, Prompt
from recbole_sigma.preparation import Prepared, lora_options, prepare
from recbole_sigma.ranking import top_k
from recbole_sigma.values import RankedItems, UserError

OBJECTIVES, SLOTS = ("paper", "global"), ("tokens", "sum")
_SPREAD_ROWS = 64  # training rows per epoch on which the spread of the beam is measured
_DENSE_CELLS = 1 << 25  # [row, item] scores held at once
_BEAMS = 128  # prefixes per row whose states are read at once


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

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.prepared: Prepared = prepare(dataset, config)
        codes, tokenizer = self.prepared.codes, self.prepared.tokenizer
        length = codes.prefix_length
        objective, slot = _choice(config, "sigma_objective", OBJECTIVES), _choice(config, "sigma_slot", SLOTS)
        if objective == "paper" and slot == "sum" and length:
            raise UserError(
                "sigma_slot: sum leaves no position to predict the item behind its prefix, which"
                " sigma_objective: paper does; use sigma_slot: tokens or sigma_objective: global"
            )
        self.mode, self.space = _choice(config, "decode_mode", MODES), _choice(config, "decode_space", SPACES)
        self.beam_width = int(config["decode_beam"])
        self.sharpness = 1.0 / float(config["decode_temperature"])
        self.sigma_reference = float(config["decode_sigma_reference"])
        self.register_buffer("mean_spread", torch.ones(()))
        self.labels_per_row = int(config["task_labels_per_row"])
        self.label_weight = float(config["sigma_label_weight"])
        self.mask_seen = bool(config["sigma_mask_seen"]) and bool(config["filter_seen"])
        self.window = int(config["MAX_ITEM_LIST_LENGTH"])

        self.prefixes = build_prefixes(codes.codes, codes.sizes, length)
        self.level_tokens = [
            torch.arange(offset, offset + size)
            for offset, size in zip(
                code_offsets(tokenizer, codes.sizes[:length]), codes.sizes[:length], strict=True
            )
        ]
        columns = [tokens[codes.codes[:, level]] for level, tokens in enumerate(self.level_tokens)]
        prefix_tokens = torch.stack(columns, dim=1) if columns else codes.codes[:, :0]
        pad = tokenizer.token_to_id(PAD)
        layout = RowLayout(
            self.prepared.profiles.shape[1],
            length if slot == "tokens" else 0,
            self.prepared.instructions.shape[1],
            item_token=slot == "sum" or not length or length < len(codes.sizes),
        )
        backbone = build_backbone(
            str(config["backbone"]),
            tokenizer.get_vocab_size(),
            layout.longest_position(self.window),
            float(config["backbone_dropout"]),
            pad,
            tokenizer.token_to_id(START),
            tokenizer.token_to_id(END),
            tokenizer,
            lora_options(config, "backbone_lora"),
            bool(config["backbone_checkpointing"]),
        )
        d_model = backbone.get_input_embeddings().weight.shape[1]
        self.trunk = PackedTrunk(backbone, layout, self.prepared.profiles, prefix_tokens, pad)
        self.register_buffer("instructions", self.prepared.instructions, persistent=False)
        self.fusion = self._build_fusion(config, d_model)
        self.instruction_gate = nn.Parameter(torch.zeros(d_model))
        temperature = float(config["sigma_temperature"])
        self.objective: PaperObjective | GlobalObjective
        if objective == "global":
            conditioned = bool(config["sigma_conditioned"])
            self.objective = GlobalObjective(self.prefixes, d_model, temperature, conditioned)
        else:
            self.objective = PaperObjective(
                self.prefixes,
                d_model,
                temperature,
                float(config["sigma_id_weight"]),
                float(config["sigma_catalogue_weight"]),
                bool(config["sigma_prefix_pooling"]),
                int(config["sigma_negatives"]),
            )
        self.loss_names = (*self.objective.names, "label")

    def _build_fusion(self, config: Any, d_model: int) -> ItemFusion:
        modalities = {"id": self.prepared.vectors.collaborative, "text": self.prepared.vectors.text}
        if self.prepared.vectors.image is not None:
            modalities["image"] = self.prepared.vectors.image
        unknown = [name for name in config["fusion_inputs"] if name not in modalities]
        if unknown:
            raise UserError(f"fusion_inputs: {unknown} unknown; choose from {list(modalities)}")
        return ItemFusion(
            {name: vectors for name, vectors in modalities.items() if name in config["fusion_inputs"]},
            d_model,
            int(config["fusion_hidden"]),
            float(config["fusion_dropout"]),
            bool(config["fusion_id_residual"]),
        )

    # --- training -------------------------------------------------------------------------------------------

    def on_epoch_start(self, epoch: int, train_data: Any) -> None:
        """Redraw the rows and measure the spread of the beam that ``decode_sigma_reference: 0`` refers to."""
        super().on_epoch_start(epoch, train_data)
        if self.mode != "apf" or self.sigma_reference or not self.prefixes.length:
            return
        rows = train_data._dataset.inter_feat
        rows = rows[: min(_SPREAD_ROWS, len(rows))].to(self.device)
        self.eval()
        with torch.inference_mode():
            _, scores = self._prefix_beam(rows, None)
        self.train()
        self.mean_spread.copy_(beam_spread(scores.clone(), self.space).mean())

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """Losses of one batch of packed rows, each weighted: the objective's parts, then the label term.

        The objective's parts are taken at every history position, the last at the labels after the
        instruction. Every prediction counts alike, a label ``sigma_label_weight`` times: a mean of few labels
        beside a mean of many positions would drown the dense signal in noise.
        """
        items, length = packed_sequences(interaction, self.ITEM_SEQ, self.ITEM_SEQ_LEN, self.ITEM_ID)
        tokens = self.fusion()
        unit = F.normalize(tokens, dim=-1)
        after = self._draw_branches(length)
        history, branches = self._packed_forward(interaction[self.USER_ID], items, length, tokens, after)

        valid = torch.arange(items.shape[1] - 1, device=items.device)[None] < (length - 1)[:, None]
        row, column = valid.nonzero(as_tuple=True)
        labels = 0 if after is None else after.numel()
        scale = 1.0 / (len(row) + self.label_weight * labels)
        context, path = self._history_states(history, valid)
        dense = self._losses(context, path, items, row, column, unit, scale)
        label = unit.new_zeros(())
        if after is not None:
            row = torch.arange(len(items), device=items.device).repeat_interleave(after.shape[1])
            context, path = self._label_states(history, branches, after)
            parts = self._losses(
                context, path, items, row, after.reshape(-1), unit, self.label_weight * scale
            )
            label = torch.stack(parts).sum()
        return (*dense, label)

    def _losses(
        self,
        context: Tensor,
        path: Tensor,
        items: Tensor,
        row: Tensor,
        column: Tensor,
        unit: Tensor,
        weight: float,
    ) -> tuple[Tensor, ...]:
        """The objective's parts for the predictions of ``items[row, column + 1]``."""
        targets = items[row, column + 1]
        weights = torch.full((len(targets),), weight, device=unit.device)
        seen = seen_pairs(items, row, column) if self.mask_seen else None
        if isinstance(self.objective, GlobalObjective):
            return self.objective.losses(context, targets, weights, unit, seen)[0]
        heads = tuple(self.trunk.output_rows(tokens.to(unit.device)) for tokens in self.level_tokens)
        return self.objective.losses(context, path, heads, targets, weights, unit, seen)[0]

    def _history_states(self, history: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Context float [M, d] and prefix states of the targets float [M, l, d] of dense predictions.

        Args:
            history: float [B, T + 1, S, d].
            valid: bool [B, T].
        """
        layout = self.trunk.layout
        return history[:, :-1, layout.slot - 1][valid], history[:, 1:, : layout.prefix][valid]

    def _label_states(self, history: Tensor, branches: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """Context and prefix states of each label.

        The context is the state at the last history item plus the gated state at the end of the instruction:
        the instruction corrects the prediction that the history alone makes, and with the gate shut (as it
        starts) a label is exactly the prediction of its history position.

        Args:
            history: float [B, T, S, d].
            branches: float [B, M, I + l, d].
            after: int64 [B, M].

        Returns:
            (float [B * M, d], float [B * M, l, d]).
        """
        layout = self.trunk.layout
        end = branches[:, :, layout.instruction - 1]
        base = torch.gather(
            history[:, :, layout.slot - 1], 1, after[:, :, None].expand(-1, -1, end.shape[-1])
        )
        context = base + self.instruction_gate * end
        return context.flatten(0, 1), branches[:, :, layout.instruction :].flatten(0, 1)

    def _draw_branches(self, length: Tensor) -> Tensor | None:
        """Random history positions (0-based item numbers) after which a label is attached: int64 [B, M]."""
        if not self.labels_per_row or not self.label_weight:
            return None
        share = torch.rand(len(length), self.labels_per_row, device=length.device)
        return (share * (length - 1)[:, None]).long()

    def _packed_forward(
        self, users: Tensor, items: Tensor, length: Tensor, tokens: Tensor, after: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Trunk over packed rows; each branch gets a random wording of the instruction."""
        if after is None:
            return self.trunk.packed(users, items, length, tokens, None, None, None)
        text = self.instructions[torch.randint(len(self.instructions), after.shape, device=items.device)]
        label = torch.gather(items, 1, after + 1)
        return self.trunk.packed(users, items, length, tokens, after, text, label)

    # --- generation -----------------------------------------------------------------------------------------

    def _prompt(self, interaction: Any) -> tuple[Prompt, Tensor, Tensor]:
        """Encode each user's prompt once: (prompt, context float [B, d], unit item tokens float [N, d])."""
        items, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        items = items[:, : max(int(length.max()), 1)]
        tokens = self.fusion()
        text = self.instructions[:1].expand(len(items), -1)
        prompt = self.trunk.prompt(interaction[self.USER_ID], items, length, tokens, text)
        context = prompt.last + self.instruction_gate * prompt.end
        return prompt, context, F.normalize(tokens, dim=-1)

    def _search(
        self, prompt: Prompt, context: Tensor, unit: Tensor, seen: Seen | None, width: int
    ) -> tuple[PromptedDecoder, Beams]:
        """Step 1 of the paper's objective: the best prefixes, behind a prompt that is run once."""
        objective, trunk, trie = self.objective, self.trunk, self.prefixes.trie
        assert isinstance(objective, PaperObjective)
        level_tokens = [tokens.to(context.device) for tokens in self.level_tokens]

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
            context @ trunk.output_rows(level_tokens[0]).T,
        )
        depth = self.prefixes.length
        hidden = None if seen is None else SeenItems(trie, *seen, len(context))
        every = max(trie.n_nodes(level + 1) for level in range(depth))
        width = min(width or every, every)
        beams = search_prefixes(
            decoder,
            trie,
            level_tokens,
            width,
            depth,
            hidden,
            score="level",
            last=min(width, trie.n_nodes(depth)),
            prior=objective.priors(context, unit, seen),
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
        prompt, context, unit = self._prompt(interaction)
        if isinstance(self.objective, PaperObjective):
            _, beams = self._search(prompt, context, unit, seen, self.beam_width)
            return beams.nodes, beams.scores
        logits = hide(self.objective.catalogue(context, unit, 1.0), seen)
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
        assert isinstance(self.objective, PaperObjective)
        objective = self.objective
        prompt, context, unit = self._prompt(interaction)
        decoder, beams = self._search(prompt, context, unit, seen, width)
        nodes, weights, scale = self._fused_beam(beams)
        buckets = self.prefixes.buckets
        return search_in_prefixes(
            lambda columns, _: objective.item_query(
                context, states_of(decoder, beams, columns), self.sharpness
            ),
            nodes,
            weights,
            sort_items(unit, buckets.order, buckets.start),
            k,
            scale,
            seen,
            seen_keep_mass=False,
        )[0]

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
        prompt, context, unit = self._prompt(interaction)
        buckets = self.prefixes.buckets
        if not self._factored:
            logits = hide(self.objective.catalogue(context, unit, self.sharpness), seen)
            if self.mode == "id_only" or not self.prefixes.length:
                return logits.log_softmax(dim=-1)
            return fuse_dense(logits, buckets, self.mode, width, self.space, self._reference())[0]
        assert isinstance(self.objective, PaperObjective)
        decoder, beams = self._search(prompt, context, unit, seen, width)
        nodes, weights, scale = self._fused_beam(beams)
        columns = torch.arange(nodes.shape[1], device=nodes.device).split(_BEAMS)
        states = torch.cat([states_of(decoder, beams, part) for part in columns], dim=1)
        queries = self.objective.item_query(context, states, self.sharpness)
        rows = max(1, _DENSE_CELLS // self.n_items)
        parts = []
        for begin in range(0, len(nodes), rows):
            piece = slice(begin, begin + rows)
            own = None if seen is None else _rows_of(seen, begin, begin + rows)
            parts.append(
                fused_scores(queries[piece], nodes[piece], weights[piece], unit, buckets, scale[piece], own)
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

    # --- checkpoints ----------------------------------------------------------------------------------------

    def checkpoint_extra(self) -> dict[str, Any]:
        """Item preparation travels with the weights: vectors, codes, prompt tokens, tokenizer."""
        return {
            **self.prepared.tensors(),
            "prepared_header": json.dumps(self.prepared.header(), ensure_ascii=False),
        }


def _forward(backbone: nn.Module, rows: Tensor, positions: Tensor, allowed: Tensor, cache: Any) -> Tensor:
    return hidden_states(backbone, rows, positions, allowed, cache)


def _rows_of(seen: Seen, begin: int, end: int) -> Seen:
    inside = (seen[0] >= begin) & (seen[0] < end)
    return seen[0][inside] - begin, seen[1][inside]


def _choice(config: Any, key: str, allowed: tuple[str, ...]) -> str:
    value = str(config[key])
    if value not in allowed:
        raise UserError(f"{key}: '{value}' is unknown; use one of {', '.join(allowed)}")
    return value
