"""Which model reads which stages."""

from __future__ import annotations

from recbole_sigma.settings.baseline_keys import (
    BsarecKeys,
    EaseKeys,
    EnsembleKeys,
    KnnKeys,
    NextKeys,
    OrderKeys,
    SasrecKeys,
    TextKeys,
    TghKeys,
    TransformerKeys,
)
from recbole_sigma.settings.keys import (
    ArtifactKeys,
    BackboneKeys,
    BeamKeys,
    CodeKeys,
    DecodeKeys,
    FileKeys,
    FusionKeys,
    GroundingKeys,
    LoraKeys,
    MemoryKeys,
    ProcessKeys,
    ProtocolKeys,
    RowKeys,
    RqVaeKeys,
    SigmaKeys,
    SoftmaxKeys,
    TaskKeys,
    TigerKeys,
    TokenizerKeys,
    TrainKeys,
    VectorKeys,
)
from recbole_sigma.settings.label_keys import ImplicitRmKeys, LabelKeys, SsrKeys
from recbole_sigma.settings.policy_keys import PolicyKeys
from recbole_sigma.settings.ranker_keys import GateSidKeys, SortKeys

KEYS_OF_EVERY_MODEL: tuple[type, ...] = (
    ProtocolKeys, LabelKeys, MemoryKeys, TrainKeys, ProcessKeys, FileKeys,
)  # fmt: skip

KEYS_OF_MODEL: dict[str, tuple[type, ...]] = {
    "SIGMA": (
        GroundingKeys, TokenizerKeys, FusionKeys, BackboneKeys, LoraKeys, TaskKeys, SigmaKeys,
        RowKeys, OrderKeys, SoftmaxKeys, DecodeKeys, ArtifactKeys, PolicyKeys, EnsembleKeys,
    ),
    "TIGER": (
        CodeKeys, VectorKeys, RqVaeKeys, ArtifactKeys, TigerKeys, OrderKeys, BeamKeys, PolicyKeys,
    ),
    "WindowItemKNN": (KnnKeys,),
    "HistoryEASE": (EaseKeys,),
    "NextItemRidge": (NextKeys,),
    "ClosedForm": (EaseKeys, NextKeys, KnnKeys),
    "TGH": (TghKeys, VectorKeys),
    "TextLinear": (TextKeys, VectorKeys),
    "PackedSASRec": (SasrecKeys, RowKeys, OrderKeys, SoftmaxKeys, TransformerKeys, EnsembleKeys),
    "HSTU": (SasrecKeys, RowKeys, OrderKeys, SoftmaxKeys, TransformerKeys, EnsembleKeys),
    "BSARec": (BsarecKeys, OrderKeys, SoftmaxKeys, TransformerKeys, EnsembleKeys),
    "GateSID": (CodeKeys, VectorKeys, RqVaeKeys, ArtifactKeys, GateSidKeys),
    "SORT": (SortKeys,),
    "SSR": (SsrKeys,),
    "ImplicitRM": (ImplicitRmKeys,),
}  # fmt: skip
"""Model -> the stages it reads besides those of every model; its property file may change a default."""
