"""SIGMA: one causal language model, items as [semantic-ID prefix, continuous item token], three-step lists.

Method: SIGMA, arXiv 2602.22913. docs/paper_map.md says which sentence of the paper lives in which function,
and where we differ. From top to bottom this file builds the model, takes its loss, and makes its lists.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_sigma.decoding.exact import prefix_survival
from recbole_sigma.decoding.memory import Bonus, add_bonus
from recbole_sigma.decoding.top_k import pairs_of_rows, top_k
from recbole_sigma.language.backbone import compiled_parts
from recbole_sigma.models.losses import history_of
from recbole_sigma.models.packed import (
    PackedBatch,
    PackedModel,
    PackedRows,
    RowGroup,
    host_length,
    length_groups,
)
from recbole_sigma.models.sampled_softmax import sampler_of
from recbole_sigma.models.sigma.branches import LABEL_WEIGHT, InstructionBranches, LabelStates
from recbole_sigma.models.sigma.build import (
    build_item_tokens,
    build_language,
    build_objective,
    build_soft_targets,
    build_trunk,
)
from recbole_sigma.models.sigma.labels import INSTRUCTION, LabelDraw, build_task_labels
from recbole_sigma.models.sigma.objective import Decoding, ItemTable, Predictions
from recbole_sigma.models.sigma.options import SigmaOptions
from recbole_sigma.models.sigma.paths import StraightPaths
from recbole_sigma.models.sigma.trunk import Histories, Prompt
from recbole_sigma.preparation.items import PreparationOptions, Prepared, prepare, quantized
from recbole_sigma.values import RankedItems, SeenPairs


class SIGMA(PackedModel, SequentialRecommender):
    """RecBole model SIGMA.

    Args:
        config: RecBole config with SIGMA's keys (``--help --model=SIGMA``).
        dataset: the train dataset of a built ``SIGMADataset``.

    Raises:
        UserError: an option out of range or a dataset without item text.
    """

    input_type = InputType.POINTWISE
    generative = True
    needs_item_text = True
    beam_bounds_list = False  # every prefix of the beam brings many items
    reads_instructions = True
    decoding_keys = frozenset({"decode_mode", "decode_beam"})
    token_likelihoods = True
    averages_scores = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.options = options = SigmaOptions.read(config)
        self.decoding = Decoding(options.mode, options.beam)
        self.one_target = options.prefixes
        self.prepared: Prepared = prepare(dataset, config)  # (a) grounding, (b) hybrid tokenization
        self.item_codes = self.prepared.codes
        backbone = build_language(options, self.prepared)
        width = backbone.get_input_embeddings().weight.shape[1]
        self.item_tokens = build_item_tokens(options, self.prepared, width, dataset)
        self.trunk = build_trunk(options, self.prepared, backbone, self.item_tokens)
        self.branches = InstructionBranches(  # (c) instructions
            self.prepared.instructions,
            build_task_labels(config, dataset, self.prepared),
            options.labels_per_row,
            options.label_share,
            width,
            0 if options.pretrained else self.prepared.tokenizer.get_vocab_size(),
            self.trunk.pad,
        )
        self.paths = StraightPaths(options.paths, width, options.dropout)
        self.objective = build_objective(options, self.prepared, self.trunk, width)  # (d) losses and lists
        self.soft = build_soft_targets(options, dataset)
        self.loss_names = (*self.objective.names, "label")
        self.negatives = sampler_of(config, dataset)
        if self.negatives is not None and self.item_tokens.residual is not None:
            self.item_tokens.residual.sparse = True
        self._table: tuple[list[Any], ItemTable] | None = None  # see `_kept_table`

    @property
    def task_labels(self) -> Any:
        """The instruction tasks that labels are drawn from, or None."""
        return self.branches.tasks

    @classmethod
    def follows_filter(cls, config: Any) -> bool:
        """Whether items of the history are no negatives where they are filtered."""
        return SigmaOptions.masks_seen(config)

    @classmethod
    def has_beam(cls) -> bool:
        """Prefixes are searched by a beam."""
        return True

    def item_table(self) -> ItemTable:
        """The catalogue from today's weights."""
        return self.objective.table(self.item_tokens())

    def _table_of(self, items: Tensor, soft: tuple[Tensor, Tensor] | None = None) -> ItemTable:
        """What a step reads of the catalogue.

        Args:
            items: int64 [B, T], the batch's rows, targets included.
            soft: see `Predictions`.
        """
        if self.negatives is None:
            return self.item_table()
        drawn = self.negatives.draw() if self.objective.over_catalogue else None
        parts = [items.new_zeros(1), items.flatten(), self.objective.met(items)]
        if soft is not None:
            parts.append(soft[0].flatten())
        met = torch.unique(torch.cat(parts if drawn is None else [*parts, drawn.items]))
        place = torch.empty_like(self.objective.catalogue.row)
        return self.objective.part(met, self.item_tokens(met), place, drawn)

    # --- training -------------------------------------------------------------------------------------------

    def on_epoch_start(self, epoch: int, train_data: Any) -> None:
        """Redraw the training rows; the labels follow their events."""
        super().on_epoch_start(epoch, train_data)
        order = train_data._dataset.order
        if self.task_labels is not None and order is not None:
            self.task_labels.follow(order)

    def calculate_loss(self, interaction: Any) -> tuple[Tensor, ...]:
        """Losses of one batch of packed rows, each weighted: the objective's parts, then the label term.

        The objective's parts are taken at every history position, the last at the labels after the
        instruction. Every prediction counts alike, a label `LABEL_WEIGHT` times: a mean of few labels
        beside a mean of many positions would drown the dense signal in noise.
        """
        self._table = None  # a step will follow, and fused optimizers do not count up a weight's version
        rows = self.packed_rows(interaction)
        labelled = interaction.labelled if isinstance(interaction, PackedBatch) else self.branches.take_part()
        draw = self.branches.draw(rows.first, rows.length, self.one_target) if labelled else None
        labels = 0.0 if draw is None else LABEL_WEIGHT * draw.after.numel()
        row, column = rows.row, rows.column
        hidden = history_of(rows.items, row, column) if self.options.mask_seen else None
        soft = None if self.soft is None else self.soft.of(rows.items[row, column], hidden)
        table = self._table_of(rows.items, soft)  # once per step
        found = [self._read(rows, group, table, draw) for group in rows.groups]
        rdrop = self.options.rdrop  # reads all rows again, under other dropout; labels are asked once
        again = [self._read(rows, group, table, None) for group in rows.groups] if rdrop else []
        context = torch.cat([states for states, _, _ in (*found, *again)])
        dense = Predictions(
            context=context,
            path=torch.cat([states for _, states, _ in found]),
            targets=rows.items[row, column + 1],
            weights=rows.weights(labels),
            hidden=hidden,
            soft=soft,
            rdrop=rdrop,
        )
        parts, _ = self.objective.losses(dense, table)
        if draw is None:
            return (*parts, context.new_zeros(()))
        asked = LabelStates.of_groups([labels for _, _, labels in found])
        weight = LABEL_WEIGHT * rows.mean_weight(labels)
        label = self.branches.loss(
            self.objective, draw, asked, rows.items, table, weight, self.options.mask_seen
        )
        return (*parts, label)

    def _read(
        self, rows: PackedRows, group: RowGroup, table: ItemTable, draw: LabelDraw | None
    ) -> tuple[Tensor, Tensor, LabelStates | None]:
        """One pass of the trunk over rows of similar length.

        Returns:
            (states float [M, d] before each of the group's targets, states float [M, l, d] behind the
            target's own prefix tokens, states at the rows' labels).
        """
        own, layout = group.rows, self.trunk.layout
        items, length = rows.items[own, : group.width], rows.length[own]
        labels = None if draw is None else draw.rows(own)
        # where nothing is predicted inside a row, its target need not be read
        ends = self.one_target and not layout.prefix
        read, known = (items[:, : max(group.width - 1, 1)], length - 1) if ends else (items, length)
        histories = Histories(rows.users[own], read, known, table.rows(read))
        # the paths read the items directly
        straight = self.paths(histories.rows, table.tokens, table.vectors)  # [R, T, d]
        nothing = table.tokens[:0]  # states behind prefix tokens, of which a row of single positions has none
        if ends and labels is None:
            return self.trunk.ends(histories, table.tokens)[group.place] + group.pick(straight), nothing, None
        slots, branches, start = self.trunk.packed(
            histories, table.tokens, None if labels is None else self.branches.of(labels, items)
        )
        # the state at a slot's end predicts what follows its item
        states = slots[:, :, -1] + straight
        # teacher forcing: the states behind the prefix tokens of the item that did follow
        path = nothing if ends else group.pick(slots[:, 1:, : layout.prefix])
        asked = None if labels is None else self.branches.states(labels, states, branches, start)
        return group.pick(states), path, asked

    def prediction_count(self, interaction: Any) -> float:
        """One prediction per history item, plus the weighted labels."""
        labels = self.options.labels_per_row * LABEL_WEIGHT * len(interaction)
        return super().prediction_count(interaction) + labels

    def on_device(self, interaction: Any, device: Any) -> PackedBatch:
        """See `Contract.on_device`; whether the step takes labels is drawn here, on the host."""
        batch = super().on_device(interaction, device)
        batch.labelled = self.training and self.branches.take_part()
        return batch

    def step_shapes(self, batch: Any) -> Hashable | None:
        """See `Contract.step_shapes`; a loss per prefix has shapes of its own in every batch, and so have the
        items that a step meets.
        """
        shapes, fixed = super().step_shapes(batch), self.objective.fixed_shapes and self.negatives is None
        return (shapes, batch.labelled) if shapes and fixed else None

    def train(self, mode: bool = True) -> SIGMA:
        """Forget the catalogue that lists are made from: steps change it."""
        self._table = None
        return super().train(mode)

    def compiled_parts(self) -> list[nn.Module]:
        """The language model."""
        return compiled_parts(self.trunk.backbone)

    def longest_row(self) -> int:
        """Columns of the longest training row, its branches included, and of its second pass."""
        layout = self.trunk.layout
        branch = layout.instruction + layout.prefix
        row = layout.history_end(super().longest_row())
        return row * (2 if self.options.rdrop else 1) + self.options.labels_per_row * branch

    def target_gates(self, interaction: Any, row: Tensor, items: Tensor) -> Tensor | None:
        """The gate of the items' tokens (`item_gate`); see `Contract.target_gates`."""
        return None if self.item_tokens.gate is None else self.item_tokens.gates(items)

    # --- lists ----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def rank(
        self, interaction: Any, k: int, seen: SeenPairs | None = None, width: int | None = None
    ) -> RankedItems:
        """Recommend in three steps: prefix beam, items inside the prefixes, fusion.

        Args:
            interaction: rows with a history (``item_id_list``, ``item_length``, ``user_id``).
            k: list length.
            seen: (row, item) pairs that may not be recommended, or None.
            width: prefixes in the beam instead of ``decode_beam``; 0 = all.

        Returns:
            ``RankedItems`` [B, k]; scores are log P(item | prompt) over the items that are left.
        """
        return self._rank(interaction, k, seen, self._how(width))

    def _how(self, width: int | None) -> Decoding:
        return self.decoding if width is None else replace(self.decoding, width=width)

    def _rank(self, interaction: Any, k: int, seen: SeenPairs | None, how: Decoding) -> RankedItems:
        def of_rows(prompt: Prompt, table: ItemTable, own: SeenPairs | None) -> tuple[Tensor, ...]:
            ranked = self.objective.rank(prompt, table, k, how, own)
            return ranked.items, ranked.scores

        items, scores = self._in_parts(interaction, seen, how.width, of_rows)
        return RankedItems(items, scores)

    def score_all(self, interaction: Any, seen: SeenPairs | None = None, width: int | None = None) -> Tensor:
        """log P(item | prompt) of every item that is left: float [B, N].

        Args:
            interaction: see `rank`.
            seen: pairs that are taken out of the distribution, or None.
            width: see `rank`.

        Returns:
            -inf for padding, for what is taken out and for items outside the beam.
        """
        how = self._how(width)
        with torch.inference_mode():
            (scores,) = self._in_parts(
                interaction,
                seen,
                how.width,
                lambda prompt, table, own: (self.objective.log_probs(prompt, table, how, own),),
            )
        return scores.clone()  # RecBole's functions write into it, which an inference tensor refuses

    def _in_parts(
        self,
        interaction: Any,
        seen: SeenPairs | None,
        width: int,
        of_rows: Callable[[Prompt, ItemTable, SeenPairs | None], tuple[Tensor, ...]],
    ) -> tuple[Tensor, ...]:
        """Encode prompts of similar length together, few enough for the memory that a search of this width
        takes; apply a function of (prompts, catalogue, seen pairs) and put its results back in order.
        """
        length = host_length(interaction, self.ITEM_SEQ_LEN)
        table, device = self._kept_table(), interaction[self.ITEM_SEQ].device
        groups = length_groups(length, device)
        most = self.objective.rows_at_once(self.trunk.layout.history_end(int(length.max())), width)
        if most is not None:
            groups = [part for rows in groups for part in rows.split(most)]
        if len(groups) == 1:
            return of_rows(self._prompt(interaction, length, table), table, seen)
        parts = []
        for rows in groups:
            there = rows.to(device)
            own = pairs_of_rows(seen, there, len(interaction))
            parts.append(of_rows(self._prompt(interaction[there], length[rows], table), table, own))
        back = torch.argsort(torch.cat(groups)).to(device)
        return tuple(torch.cat(column)[back] for column in zip(*parts, strict=True))

    def _kept_table(self) -> ItemTable:
        """The catalogue for lists, kept until a step is taken or one of its weights is written to."""
        parts = (self.item_tokens, self.objective)
        weights = [weight for part in parts for weight in (*part.parameters(), *part.buffers())]
        state = [(weight.data_ptr(), weight._version, weight.device) for weight in weights]
        if self._table is None or self._table[0] != state:
            self._table = (state, self.item_table())
        return self._table[1]

    def _prompt(self, interaction: Any, known: Tensor, table: ItemTable) -> Prompt:
        """Encode each user's prompt once: profile, history, instruction, and the paths around the trunk.

        Args:
            interaction: B rows.
            known: int64 [B], their lengths on the host.
            table: the catalogue.
        """
        histories, text = self._asked(interaction, known)
        prompt = self.trunk.prompt(histories, table.tokens, text, self.objective.reads_cache)
        return self._with_paths(prompt, histories, text, table)

    def _asked(self, interaction: Any, known: Tensor) -> tuple[Histories, Tensor]:
        """Histories as wide as the longest, and the instruction of each row: int64 [B, I]."""
        items = interaction[self.ITEM_SEQ][:, : max(int(known.max()), 1)]
        histories = Histories(interaction[self.USER_ID], items, interaction[self.ITEM_SEQ_LEN], items)
        return histories, self.branches.text(interaction, INSTRUCTION, len(items))

    def _with_paths(self, prompt: Prompt, histories: Histories, text: Tensor, table: ItemTable) -> Prompt:
        items, length = histories.items, histories.length
        row = torch.arange(len(items), device=items.device)
        straight = self.paths(items, table.tokens, table.vectors)[row, (length - 1).clamp(min=0)]
        straight = straight * (length > 0)[:, None]  # an empty history has no items to read
        return prompt.at(self.branches.context(prompt) + straight, self.branches.words(text))

    def beams(self, interaction: Any, k: int, seen: SeenPairs | None = None) -> RankedItems:
        """`rank` by log P as it is, without adaptive fusion; see `Contract.beams`."""
        with torch.inference_mode():
            ranked = self._rank(interaction, k, seen, Decoding("fixed_temp", self.decoding.width))
        return RankedItems(ranked.items.clone(), ranked.scores.clone())

    def candidate_log_probs(self, interaction: Any, items: Tensor, seen: SeenPairs | None = None) -> Tensor:
        """See `Contract.candidate_log_probs`."""
        self._table = None  # a step will follow
        length = host_length(interaction, self.ITEM_SEQ_LEN)
        table, groups, parts = self.item_table(), length_groups(length, items.device), []
        for rows in groups:
            there = rows.to(items.device)
            histories, text = self._asked(interaction[there], length[rows])
            path: Tensor | None = None
            if self.trunk.layout.prefix:
                prompt, path = self.trunk.forced(histories, table.tokens, text, items[there])
            else:
                prompt = self.trunk.prompt(histories, table.tokens, text, cached=False)
            prompt = self._with_paths(prompt, histories, text, table)
            own = pairs_of_rows(seen, there, len(items))
            parts.append(self.objective.token_log_probs(prompt, path, items[there], table, own))
        return torch.cat(parts)[torch.argsort(torch.cat(groups)).to(items.device)]

    def rank_fused(
        self,
        interaction: Any,
        k: int,
        seen: SeenPairs | None,
        bonus: Bonus,
        weights: tuple[float, ...],
    ) -> list[RankedItems]:
        """Lists by log P(item | prompt) + weight * bonus, exact over all items, one per weight."""
        scores = self.score_all(interaction, seen)
        return [top_k(add_bonus(scores, bonus, weight), k, seen) for weight in weights]

    def rank_exactly(self, interaction: Any, k: int, seen: SeenPairs | None = None) -> RankedItems:
        """`rank` over all prefixes."""
        return self.rank(interaction, k, seen, width=0)

    def prefix_survival(self, interaction: Any, k: int, seen: SeenPairs | None = None) -> Tensor:
        """Share of the exact top k (all prefixes) that the beam kept: float [B]."""
        return prefix_survival(self.rank_exactly(interaction, k, seen), self.rank(interaction, k, seen))

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """log P(item | prompt) of every item, nothing taken out: float [B, N]."""
        return self.score_all(interaction)

    def predict(self, interaction: Any) -> Tensor:
        """log P of each row's own target item: float [B]."""
        return self.score_all(interaction).gather(1, interaction[self.ITEM_ID][:, None])[:, 0]

    # --- checkpoints ----------------------------------------------------------------------------------------

    def item_vectors(self) -> Tensor:
        """What states are compared with, before the codes' own share: float [N, d]."""
        with torch.no_grad():
            return self._kept_table().vectors

    def code_sources(self, dataset: Any) -> Tensor | None:
        """The quantized vectors; None for codes from an RQ-VAE."""
        options = PreparationOptions.from_config(dataset.config)
        if not options.quantizer.startswith("rq-kmeans"):
            return None
        vectors = torch.from_numpy(quantized(self.prepared.vectors, options))
        return torch.cat([vectors.new_zeros(1, vectors.shape[1]), vectors])

    def checkpoint_extra(self) -> dict[str, Any]:
        """Item preparation travels with the weights: vectors, codes, prompt tokens, tokenizer."""
        header = json.dumps(self.prepared.header(), ensure_ascii=False)
        return {**self.prepared.tensors(), "prepared_header": header}
