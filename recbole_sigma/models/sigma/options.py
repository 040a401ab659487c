"""SIGMA's keys as one typed value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recbole_sigma.decoding.fusion import MODES
from recbole_sigma.language.lora import LoraOptions, lora_options
from recbole_sigma.models.sigma.history import OBJECTIVES
from recbole_sigma.models.sigma.paths import PATHS
from recbole_sigma.values import UserError


@dataclass(frozen=True)
class SigmaOptions:
    """What `model.SIGMA` is built from; `history.settle` has filled in what was left to the data.

    Attributes:
        paper: the paper's two losses; otherwise one softmax over the catalogue.
        id_weight: gamma of L_NTP + gamma L_ID.
        paths: straight paths around the trunk, of `paths.PATHS`.
        mask_seen: items of the history are no negatives (where the protocol filters them).
        inputs: frozen vectors inside the item token.
        fusion_hidden: hidden width of the fusion MLP; 0 sums the projections.
        id_residual: add a trained vector per item.
        backbone: ``scratch:<size>`` or ``pretrained:<name or folder>``.
        dropout: of a scratch backbone.
        lora: adapters of a pretrained backbone.
        checkpointing: recompute activations in the backward pass.
        labels_per_row: M, instruction labels of a packed row.
        label_share: share of the batches that carry labels.
        window: longest history.
        mode: of `decoding.fusion.MODES`.
        beam: prefixes in the beam; 0 = all.
    """

    paper: bool
    id_weight: float
    paths: tuple[str, ...]
    mask_seen: bool
    inputs: tuple[str, ...]
    fusion_hidden: int
    id_residual: bool
    backbone: str
    dropout: float
    lora: LoraOptions
    checkpointing: bool
    labels_per_row: int
    label_share: float
    window: int
    mode: str
    beam: int

    @property
    def pretrained(self) -> bool:
        """Whether the backbone knew a language before."""
        return self.backbone.startswith("pretrained:")

    @classmethod
    def read(cls, config: Any) -> SigmaOptions:
        """Read a config whose dataset is built.

        Raises:
            UserError: a name that a list key does not know.
        """
        unknown = [name for name in config["sigma_paths"] if name not in PATHS]
        if unknown:
            raise UserError(f"sigma_paths: {unknown} unknown; choose from {list(PATHS)}")
        if config["decode_mode"] not in MODES:
            raise UserError(
                f"decode_mode: '{config['decode_mode']}' is unknown; use one of {', '.join(MODES)}"
            )
        return cls(
            paper=config["sigma_objective"] == "paper",
            id_weight=config["sigma_id_weight"],
            paths=tuple(config["sigma_paths"]),
            mask_seen=config["sigma_mask_seen"] and config["filter_seen"],
            inputs=tuple(config["fusion_inputs"]),
            fusion_hidden=config["fusion_hidden"],
            id_residual=config["fusion_id_residual"],
            backbone=config["backbone"],
            dropout=config["backbone_dropout"],
            lora=lora_options(config),
            checkpointing=config["backbone_checkpointing"],
            labels_per_row=config["task_labels_per_row"],
            label_share=config["task_label_share"],
            window=config["MAX_ITEM_LIST_LENGTH"],
            mode=config["decode_mode"],
            beam=config["decode_beam"],
        )

    @staticmethod
    def masks_seen(config: Any) -> bool:
        """`mask_seen` of a config that may not be settled yet, whatever the protocol."""
        asked = config["sigma_mask_seen"]
        return bool(OBJECTIVES[str(config["sigma_objective"])]["sigma_mask_seen"] if asked is None else asked)
