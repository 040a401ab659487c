"""SIGMA's keys as one typed value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from recbole_sigma.language.lora import LoraOptions, lora_options
from recbole_sigma.models.sigma.history import OBJECTIVES
from recbole_sigma.settings.keys import (
    BackboneKeys,
    DecodeKeys,
    FusionKeys,
    ProtocolKeys,
    RowKeys,
    SigmaKeys,
    TaskKeys,
)
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RecBoleKeys

Value = TypeVar("Value")


@dataclass(frozen=True)
class SigmaOptions:
    """What `model.SIGMA` is built from; `history.settle` has filled in what was left to the data.

    Attributes:
        paper: the paper's two losses; otherwise one softmax over the catalogue.
        id_weight: gamma of L_NTP + gamma L_ID.
        frame: length of the fixed vectors of first-level codes; None where they are learned.
        paths: straight paths around the trunk, as ``sigma_paths`` lists them.
        mask_seen: items of the history are no negatives (where the protocol filters them).
        soft_targets: share of a target that goes to neighbours of the newest item.
        rdrop: alpha of R-Drop; 0 reads every row once.
        inputs: frozen vectors inside the item token.
        fusion_hidden: hidden width of the fusion MLP; 0 sums the projections.
        id_residual: add a trained vector per item.
        hide_id: share of history items that training reads without that vector.
        item_gate: weigh text against the rest of an item's token by a gate per item.
        backbone: ``scratch:<size>`` or ``pretrained:<name or folder>``.
        dropout: of a scratch backbone.
        lora: adapters of a pretrained backbone.
        checkpointing: recompute activations in the backward pass.
        labels_per_row: M, instruction labels of a packed row.
        label_share: share of the batches that carry labels.
        prefixes: a training row has one prediction, at its last position.
        window: longest history.
        mode: of `decoding.fusion.MODES`.
        beam: prefixes in the beam; 0 = all.
    """

    paper: bool
    id_weight: float
    frame: float | None
    paths: tuple[str, ...]
    mask_seen: bool
    soft_targets: float
    rdrop: float
    inputs: tuple[str, ...]
    fusion_hidden: int
    id_residual: bool
    hide_id: float
    item_gate: bool
    backbone: str
    dropout: float
    lora: LoraOptions
    checkpointing: bool
    labels_per_row: int
    label_share: float
    prefixes: bool
    window: int
    mode: str
    beam: int

    @property
    def newest_first(self) -> bool:
        """Whether positions are counted back from the end of the history.

        A row with predictions inside has no one end, the paper counts from the beginning, and so does a
        language model that knew its order before.
        """
        return self.prefixes and not self.paper and not self.pretrained

    @property
    def pretrained(self) -> bool:
        """Whether the backbone knew a language before."""
        return self.backbone.startswith("pretrained:")

    @classmethod
    def read(cls, config: Any) -> SigmaOptions:
        """Read a config whose dataset is built.

        Raises:
            UserError: a value that its key does not allow.
        """
        keys, fusion, tasks = read(SigmaKeys, config), read(FusionKeys, config), read(TaskKeys, config)
        backbone, decode = read(BackboneKeys, config), read(DecodeKeys, config)
        return cls(
            paper=keys.sigma_objective == "paper",
            id_weight=keys.sigma_id_weight,
            frame=keys.prefix_head_scale if keys.prefix_head == "etf" else None,
            paths=_settled("sigma_paths", keys.sigma_paths),
            mask_seen=_settled("sigma_mask_seen", keys.sigma_mask_seen)
            and read(ProtocolKeys, config).filter_seen,
            soft_targets=_settled("sigma_soft_targets", keys.sigma_soft_targets),
            rdrop=_settled("sigma_rdrop", keys.sigma_rdrop),
            inputs=_settled("fusion_inputs", fusion.fusion_inputs),
            fusion_hidden=fusion.fusion_hidden,
            id_residual=_settled("fusion_id_residual", fusion.fusion_id_residual),
            hide_id=_settled("fusion_hide_id", fusion.fusion_hide_id),
            item_gate=fusion.item_gate,
            backbone=backbone.backbone,
            dropout=_settled("backbone_dropout", backbone.backbone_dropout),
            lora=lora_options(config),
            checkpointing=backbone.backbone_checkpointing,
            labels_per_row=_settled("task_labels_per_row", tasks.task_labels_per_row),
            label_share=_settled("task_label_share", tasks.task_label_share),
            prefixes=read(RowKeys, config).train_rows == "prefixes",
            window=read(RecBoleKeys, config).MAX_ITEM_LIST_LENGTH,
            mode=_settled("decode_mode", decode.decode_mode),
            beam=decode.decode_beam,
        )

    @staticmethod
    def masks_seen(config: Any) -> bool:
        """`mask_seen` of a config that may not be settled yet, whatever the protocol."""
        keys = read(SigmaKeys, config)
        asked = keys.sigma_mask_seen
        return bool(OBJECTIVES[keys.sigma_objective]["sigma_mask_seen"] if asked is None else asked)


def _settled(key: str, value: Value | None) -> Value:
    if value is None:
        raise ValueError(f"{key} was not settled: build the dataset with SIGMADataset first")
    return value
