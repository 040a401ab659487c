"""The parts of SIGMA from its options and its prepared items; `model.SIGMA.__init__` puts them together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_sigma.language.backbone import build_backbone, embedding_scale
from recbole_sigma.language.vocabulary import PAD, code_offsets
from recbole_sigma.models.as_of_counts import AsOfCounts
from recbole_sigma.models.etf_head import etf_frame
from recbole_sigma.models.sigma.item_tokens import ItemFusion, Similarity
from recbole_sigma.models.sigma.joint import JointObjective
from recbole_sigma.models.sigma.objective import Objective
from recbole_sigma.models.sigma.options import SigmaOptions
from recbole_sigma.models.sigma.paper import PaperObjective, PrefixLanguage, warn_of_width
from recbole_sigma.models.sigma.soft_targets import SoftTargets
from recbole_sigma.models.sigma.trunk import PackedTrunk, RowLayout
from recbole_sigma.preparation.items import Prepared
from recbole_sigma.tokenization.catalogue import build_catalogue
from recbole_sigma.values import UserError

_RECENT_DAYS = 30.0  # of late, as GateSID's gate_recent_days


def build_language(options: SigmaOptions, prepared: Prepared) -> Any:
    """The causal language model, long enough for packed rows."""
    tokenizer = prepared.tokenizer
    return build_backbone(
        options.backbone,
        tokenizer.get_vocab_size(),
        _layout(options, prepared).longest_position(),
        options.dropout,
        tokenizer=tokenizer,
        lora=options.lora,
        checkpointing=options.checkpointing,
    )


def build_item_tokens(options: SigmaOptions, prepared: Prepared, width: int, dataset: Any) -> ItemFusion:
    """One continuous token per item from the frozen vectors that ``fusion_inputs`` names.

    The catalogue is computed once for all rows of a step, so what a gate knows of an item is how train ended
    for it, and no statistic as of a row's moment.

    Raises:
        UserError: an input that the prepared items lack.
    """
    vectors = prepared.vectors
    modalities = {"id": vectors.collaborative, "text": vectors.text}
    if vectors.image is not None:
        modalities["image"] = vectors.image
    if not set(options.inputs) <= modalities.keys():
        raise UserError(
            "fusion_inputs: image needs real image vectors: name them in grounding_visual_file, or take "
            "image out of the list"
        )
    known = None
    if options.item_gate:
        if options.fusion_hidden or not options.id_residual or "text" not in options.inputs:
            raise UserError(
                "item_gate weighs text against a trained vector per item: set fusion_hidden: 0, "
                "fusion_id_residual: true, and name text in fusion_inputs"
            )
        counts = AsOfCounts.of(dataset, _RECENT_DAYS)
        known = counts.of_all(torch.tensor(counts.stride - 1))
    return ItemFusion(
        {name: vectors for name, vectors in modalities.items() if name in options.inputs},
        width,
        options.fusion_hidden,
        options.id_residual,
        norm=options.paper,
        known=known,
        hide_id=options.hide_id,
    )


def build_trunk(options: SigmaOptions, prepared: Prepared, backbone: Any, items: ItemFusion) -> PackedTrunk:
    """The language model with the columns of its rows, which hold tokens of ``items``."""
    tokenizer, codes = prepared.tokenizer, prepared.codes.codes
    columns = [first + codes[:, level] for level, first in enumerate(_first_tokens(prepared))]
    prefix_tokens: Tensor = torch.stack(columns, dim=1) if columns else codes[:, :0]
    return PackedTrunk(
        backbone,
        _layout(options, prepared),
        prepared.profiles,
        prefix_tokens,
        tokenizer.token_to_id(PAD),
        embedding_scale(backbone) if options.pretrained else 1.0,
        items.read,
        items.hide,
    )


def build_objective(options: SigmaOptions, prepared: Prepared, trunk: PackedTrunk, width: int) -> Objective:
    """The objective that ``sigma_objective`` names."""
    codes = prepared.codes
    catalogue = build_catalogue(codes.codes, codes.sizes, codes.prefix_length)
    if options.frame is not None and (options.paper or not catalogue.length):
        raise UserError(
            "prefix_head: etf stands in place of what sigma_objective: joint learns for first-level codes: "
            "set that objective, and a prefix"
        )
    if options.paper and options.rdrop:
        raise UserError("sigma_rdrop needs sigma_objective: joint: the paper's losses read a row once")
    if not options.paper:
        length = options.frame
        frame = None if length is None else length * etf_frame(catalogue.code_sizes[0], width, 0)
        return JointObjective(catalogue, Similarity(cosine=False), width, frame)
    if not options.beam and catalogue.length:
        warn_of_width(catalogue)
    language = PrefixLanguage(trunk, _first_tokens(prepared), codes.sizes[: codes.prefix_length])
    return PaperObjective(catalogue, Similarity(cosine=True), width, language, options.id_weight)


def build_soft_targets(options: SigmaOptions, dataset: Any) -> SoftTargets | None:
    """Neighbours that share the targets; None where nothing goes to them.

    Raises:
        UserError: a share under the paper's losses.
    """
    if not options.soft_targets:
        return None
    if options.paper:
        raise UserError(
            "sigma_soft_targets needs sigma_objective: joint: the paper's losses have hard targets"
        )
    users, items = dataset.train_events().sequences()
    return SoftTargets(users, items, dataset.item_num, options.soft_targets)


def _first_tokens(prepared: Prepared) -> list[int]:
    """Vocabulary id of code 0 of each prefix level."""
    codes = prepared.codes
    return code_offsets(prepared.tokenizer, codes.sizes[: codes.prefix_length])


def _layout(options: SigmaOptions, prepared: Prepared) -> RowLayout:
    """With the paper's objective a position per prefix token and one for the item; else one for both."""
    length = prepared.codes.prefix_length
    pure = length == len(prepared.codes.sizes)  # semantic IDs alone: their slots hold no item token
    return RowLayout(
        prepared.profiles.shape[1],
        length if options.paper else 0,
        prepared.instructions.shape[1],
        item_token=not options.paper or not pure,
        newest_first=options.newest_first,
        window=options.window,
    )
