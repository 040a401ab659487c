"""SIGMA: one causal language model, items as [semantic-ID prefix, continuous item token], generation in three
steps.

Method: SIGMA, arXiv 2602.22913. Which sentence of the paper lives in which function, and where we differ, is
written in docs/paper_map.md.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_sigma.data.windows import FIRST_EVENT, packed_sequences
from recbole_sigma.decoding.fusion import MODES, SPACES, beam_spread
from recbole_sigma.language.backbone import build_backbone, embedding_scale
from recbole_sigma.language.lora import lora_options
from recbole_sigma.language.vocabulary import END, PAD, START, code_offsets
from recbole_sigma.models.generation import PrefixGeneration
from recbole_sigma.models.losses import seen_pairs
from recbole_sigma.models.packed import PackedModel, length_groups
from recbole_sigma.models.sigma.item_tokens import SCORES, ItemFusion, Similarity
from recbole_sigma.models.sigma.joint import GlobalObjective
from recbole_sigma.models.sigma.labels import LabelDraw, build_task_labels
from recbole_sigma.models.sigma.paper import PaperObjective
from recbole_sigma.models.sigma.paths import PULL, InterestPath, RecencyPath, WordPath, covariance, divergence
from recbole_sigma.models.sigma.trunk import PackedTrunk, RowLayout
from recbole_sigma.preparation.items import Prepared, prepare
from recbole_sigma.tokenization.catalogue import build_prefixes, warn_of_width
from recbole_sigma.values import UserError

OBJECTIVES, SLOTS = ("paper", "global"), ("tokens", "sum")
_SPREAD_ROWS = 64  # training rows per epoch on which the spread of the beam is measured


class _Catalogue(NamedTuple):
    """All items in one training step: tokens [N, d], the vectors that are scored [N, d], and where there are
    several tasks their `covariance`.
    """

    tokens: Tensor
    vectors: Tensor
    spread: Tensor | None


class SIGMA(PrefixGeneration, PackedModel, SequentialRecommender):
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
        global_ = objective == "global"
        self.mode, self.space = _choice(config, "decode_mode", MODES), _choice(config, "decode_space", SPACES)
        self.beam_width = int(config["decode_beam"])
        self.sharpness = 1.0 / float(config["decode_temperature"])
        self.sigma_reference = float(config["decode_sigma_reference"])
        self.register_buffer("mean_spread", torch.ones(()))
        self.faiss_above = int(config["decode_faiss_above"])
        self._catalogue = None
        self.labels_per_row = int(config["task_labels_per_row"])
        self.label_share = float(config["task_label_share"])
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
            tokenizer=tokenizer,
            lora=lora_options(config, "backbone_lora"),
            checkpointing=bool(config["backbone_checkpointing"]),
        )
        d_model = backbone.get_input_embeddings().weight.shape[1]
        pretrained = str(config["backbone"]).startswith("pretrained:")
        item_scale = embedding_scale(backbone) if pretrained else 1.0
        self.fusion = self._build_fusion(config, d_model)
        self.trunk = PackedTrunk(
            backbone, layout, self.prepared.profiles, prefix_tokens, pad, item_scale, self.fusion.read
        )
        self.register_buffer("instructions", self.prepared.instructions, persistent=False)
        self.task_labels = build_task_labels(config, dataset, self.prepared)
        several = self.task_labels is not None and not pretrained
        self.word_path = WordPath(tokenizer.get_vocab_size(), d_model, pad) if several else None
        # shut for JustForYou alone; several tasks need the instruction from the first step on
        opening = torch.zeros(d_model) if self.task_labels is None else torch.ones(d_model)
        self.instruction_gate = nn.Parameter(opening)
        last = int(config["sigma_recency"])
        self.recency = RecencyPath(d_model, last) if last else None
        dropout = float(config["backbone_dropout"])
        self.interest = InterestPath(d_model, dropout) if config["sigma_interest"] else None
        similarity = Similarity(
            _choice(config, "sigma_score", SCORES), float(config["sigma_temperature"]), 1 if global_ else 2
        )
        self.objective: PaperObjective | GlobalObjective
        if global_:
            conditioned = bool(config["sigma_conditioned"])
            self.objective = GlobalObjective(self.prefixes, d_model, similarity, conditioned)
        else:
            self.objective = PaperObjective(
                self.prefixes,
                d_model,
                similarity,
                float(config["sigma_id_weight"]),
                float(config["sigma_catalogue_weight"]),
                bool(config["sigma_prefix_pooling"]),
                int(config["sigma_negatives"]),
                config["sigma_negatives_from"] == "catalogue",
            )
        self.loss_names = (*self.objective.names, "label")
        if not global_ and not self.beam_width:
            warn_of_width(self.prefixes)

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
            bool(config["fusion_norm"]),
        )

    def _apply(self, fn: Any, recurse: bool = True) -> SIGMA:
        """Bring the prefixes along when the model moves: they are no buffers, and both halves read them."""
        super()._apply(fn, recurse)
        device = self.instruction_gate.device
        if self.prefixes.codes.device != device:
            self.prefixes = self.objective.space = self.prefixes.to(device)
            self.level_tokens = [tokens.to(device) for tokens in self.level_tokens]
            self._catalogue = None
        return self

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

    def prediction_count(self, interaction: Any) -> float:
        """One prediction per history item, plus the weighted labels."""
        labels = self.labels_per_row * self.label_weight * len(interaction)
        return super().prediction_count(interaction) + labels

    def longest_row(self) -> int:
        """Columns of the longest training row, its branches included."""
        layout = self.trunk.layout
        branch = layout.instruction + layout.prefix
        return layout.history_end(super().longest_row()) + self.labels_per_row * branch

    @classmethod
    def has_beam(cls) -> bool:
        """Prefixes are searched by a beam."""
        return True

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """Losses of one batch of packed rows, each weighted: the objective's parts, then the label term.

        The objective's parts are taken at every history position, the last at the labels after the
        instruction. Every prediction counts alike, a label ``sigma_label_weight`` times: a mean of few labels
        beside a mean of many positions would drown the dense signal in noise.
        """
        items, length = packed_sequences(interaction, self.ITEM_SEQ, self.ITEM_SEQ_LEN, self.ITEM_ID)
        users = interaction[self.USER_ID]
        tokens = self.fusion()
        vectors = self.objective.similarity.items(tokens)
        draw = self._draw_branches(interaction, length)
        labels = 0 if draw is None else draw.after.numel()
        scale = 1.0 / (float((length - 1).sum()) + self.label_weight * labels)
        spread = None if draw is None or draw.task is None else covariance(vectors)
        catalogue = _Catalogue(tokens, vectors, spread)
        total: tuple[Tensor, ...] | None = None
        for rows in length_groups(length):
            own = None if draw is None else draw.rows(rows)
            window = items[rows, : int(length[rows].max())]
            part = self._group_losses(users[rows], window, length[rows], catalogue, own, scale)
            total = part if total is None else tuple(a + b for a, b in zip(total, part, strict=True))
        assert total is not None
        return total

    def _group_losses(
        self,
        users: Tensor,
        items: Tensor,
        length: Tensor,
        catalogue: _Catalogue,
        draw: LabelDraw | None,
        scale: float,
    ) -> tuple[Tensor, ...]:
        """`calculate_loss` for rows of similar length; ``scale`` weighs each prediction."""
        tokens, vectors, spread = catalogue
        if draw is None:
            history, branches, start = self.trunk.packed(users, items, length, tokens, None, None, None)
        else:
            label = torch.gather(items, 1, draw.after + 1)
            history, branches, start = self.trunk.packed(
                users, items, length, tokens, draw.after, draw.text, label
            )
        states = self._history_contexts(history, items, tokens)
        valid = torch.arange(items.shape[1] - 1, device=items.device)[None] < (length - 1)[:, None]
        row, column = valid.nonzero(as_tuple=True)
        context, path = states[:, :-1][valid], history[:, 1:, : self.trunk.layout.prefix][valid]
        dense, _ = self._losses(context, path, items, row, column, vectors, scale)
        if draw is None:
            return (*dense, vectors.new_zeros(()))
        row = torch.arange(len(items), device=items.device).repeat_interleave(draw.after.shape[1])
        base, added, path = self._label_states(states, branches, draw.after, start)
        words = None if self.word_path is None else self.word_path(draw.text).flatten(0, 1)
        weight, pull = self.label_weight * scale, vectors.new_zeros(())
        if draw.task is not None and spread is not None:
            general = (draw.task == self.task_labels.general).reshape(-1, 1)
            empty = (draw.text == self.trunk.pad).all(dim=-1).reshape(-1, 1)  # as generation reads it
            added = added.masked_fill(empty, 0.0)
            pull = PULL * weight * self._pull(base, added, words, general, spread)
            added = added.masked_fill(general, 0.0)
            words = None if words is None else words.masked_fill(general, 0.0)
        parts, each = self._losses(
            base + added, path, items, row, draw.after.reshape(-1), vectors, weight, words
        )
        if draw.task is not None:
            self.task_labels.note(draw.task, each)
        return (*dense, torch.stack(parts).sum() + pull)

    def _pull(
        self, base: Tensor, added: Tensor, words: Tensor | None, general: Tensor, spread: Tensor
    ) -> Tensor:
        """Sum of the `divergence` that general instructions cause; the history's state stays untouched."""
        base = base.detach()
        similarity = self.objective.similarity
        change = similarity.queries(base + added, words=words) - similarity.queries(base)
        return (divergence(change, spread) * general[:, 0]).sum()

    def _losses(
        self,
        context: Tensor,
        path: Tensor,
        items: Tensor,
        row: Tensor,
        column: Tensor,
        vectors: Tensor,
        weight: float,
        words: Tensor | None = None,
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """The objective's weighted parts for the predictions of ``items[row, column + 1]``, and each one's
        loss.
        """
        targets = items[row, column + 1]
        weights = torch.full((len(targets),), weight, device=vectors.device)
        seen = seen_pairs(items, row, column) if self.mask_seen else None
        if isinstance(self.objective, GlobalObjective):
            return self.objective.losses(context, targets, weights, vectors, seen, words)
        heads = tuple(self.trunk.output_rows(tokens) for tokens in self.level_tokens)
        return self.objective.losses(context, path, heads, targets, weights, vectors, seen, words)

    def _history_contexts(self, history: Tensor, items: Tensor, tokens: Tensor) -> Tensor:
        """The state that predicts what follows each history item.

        Args:
            history: float [B, T, S, d] states of the item slots.
            items: int64 [B, T].
            tokens: float [N, d].

        Returns:
            float [B, T, d]: the state at the slot's end, plus the straight paths.
        """
        return history[:, :, -1] + self._straight(items, tokens)

    def _label_states(
        self, states: Tensor, branches: Tensor, after: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Both halves of each label's context, and its prefix states.

        The context is the state at the last history item plus the gated state at the end of the instruction:
        the instruction corrects the prediction that the history alone makes, and with the gate shut (as it
        starts) a label is exactly the prediction of its history position.

        Args:
            states: float [B, T, d] from `_history_contexts`.
            branches: float [B, M, I + l, d].
            after: int64 [B, M]; -1 for a label after an empty history.
            start: float [B, d], state at the end of the profile, which stands in for the last history item.

        Returns:
            (the history's float [B * M, d], what the instruction adds [B * M, d], float [B * M, l, d]).
        """
        layout = self.trunk.layout
        end = branches[:, :, layout.instruction - 1]
        base = torch.gather(states, 1, after.clamp(min=0)[:, :, None].expand(-1, -1, end.shape[-1]))
        base = torch.where((after < 0)[:, :, None], start[:, None], base)
        added = self.instruction_gate * end
        return base.flatten(0, 1), added.flatten(0, 1), branches[:, :, layout.instruction :].flatten(0, 1)

    def _draw_branches(self, interaction: Any, length: Tensor) -> LabelDraw | None:
        """Where labels are attached and what their instructions say: by task, or JustForYou anywhere."""
        if not self.labels_per_row or not self.label_weight:
            return None
        if self.label_share < 1.0 and float(torch.rand(())) >= self.label_share:
            return None
        if self.task_labels is not None:
            return self.task_labels.draw(interaction[FIRST_EVENT], length, self.labels_per_row)
        share = torch.rand(len(length), self.labels_per_row, device=length.device)
        after = (share * (length - 1)[:, None]).long()
        return LabelDraw(
            after, self.instructions[torch.randint(len(self.instructions), after.shape, device=length.device)]
        )

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
