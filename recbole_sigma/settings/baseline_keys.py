"""The keys of the baselines, declared as those of `settings.keys`."""

from __future__ import annotations

from dataclasses import dataclass

from recbole_sigma.settings.keys import key, newest_key


@dataclass(frozen=True)
class KnnKeys:
    """WindowItemKNN."""

    knn_window: int = key(10, "Largest gap, in steps, of two events that count as a pair", 1, 1_000_000)
    knn_shrink: float = key(10.0, "Added to the denominator of the cosine", 0.0, 1e9)
    knn_last: int | str = newest_key("of the history that vote")
    knn_decay: float = key(0.8, "Weight of a vote per step of age", 0.0, 1.0)
    knn_forward: float = key(
        0.5, "Share of a pair's vote that goes from the earlier item to the later; 0.5 = symmetric", 0.0, 1.0
    )


@dataclass(frozen=True)
class EaseKeys:
    """EASE over whole histories."""

    ease_ridge: float = key(100.0, "lambda: what keeps EASE's weights small", 1e-6, 1e9)


@dataclass(frozen=True)
class NextKeys:
    """Ridge regression from the newest items to the next."""

    next_ridge: float = key(100.0, "What keeps its weights small", 1e-6, 1e9)
    next_last: int | str = newest_key("that tell the next", 1_000)
    next_decay: float = key(0.8, "Weight of an event per step of age", 0.0, 1.0)


@dataclass(frozen=True)
class TghKeys:
    """Rings of the transition graph."""

    tgh_last: tuple[int, ...] = key((7, 2, 1), "Places of the rings of the last item, nearest ring first")
    tgh_second: tuple[int, ...] = key((), "Places of the rings of the item before the last")


@dataclass(frozen=True)
class TextKeys:
    """A linear map from text to collaborative vectors."""

    text_ridge: float = key(1.0, "What keeps the map small", 1e-9, 1e9)
    text_last: int | str = newest_key("that make the query")
    text_decay: float = key(0.8, "Weight of an event per step of age", 0.0, 1.0)


@dataclass(frozen=True)
class SasrecKeys:
    """PackedSASRec: RecBole's SASRec network and our loss."""

    sasrec_loss: str = key(
        "CE",
        "CE over the catalogue; BCE with one sampled negative, the SASRec paper's; sampled = a softmax over "
        "the target and sasrec_negatives drawn items",
        choices=("CE", "BCE", "sampled"),
    )
    sasrec_negatives: int = key(4096, "Items that sasrec_loss: sampled draws per batch", 1, 1 << 24)
    sasrec_score: str = key(
        "dot", "dot as in SASRec, or cosine with a learned scale", choices=("dot", "cosine")
    )
    sasrec_mask_seen: bool = key(True, "Items of the history are no negatives where filter_seen holds")
    sasrec_temperature: float = key(0.07, "Initial temperature of the cosine score")
    sasrec_low_pass: float = key(
        0.0, "alpha of BSARec's low-pass beside the attention, made causal (ours); 0 = none", 0.0, 1.0
    )
    history_rates: tuple[int, ...] = key(
        (1,), "Experts that read every m-th event counted back from the newest, e.g. [1, 2, 4], gated"
    )
    history_rate_window: int = key(0, "Newest events of its own that an expert reads; 0 = all", 0, 1 << 20)
    loss_type: str = key("CE", "What RecBole's network is built with; sasrec_loss decides")


@dataclass(frozen=True)
class OrderKeys:
    """In which order training reads events of one time."""

    train_tied: str = key(
        "auto",
        "Train events of a user at one time: file: in the order of the file; shuffled: in an order that is "
        "drawn anew for every epoch; auto = shuffled where the file's order among them is one of chance",
        choices=("auto", "file", "shuffled"),
    )


@dataclass(frozen=True)
class EnsembleKeys:
    """Several networks read as one."""

    ensemble_size: int = key(
        1,
        "Networks trained side by side from different random starts, whose scores are averaged; more "
        "accurate at as many times the cost",
        1,
        1_000,
    )


@dataclass(frozen=True)
class BsarecKeys:
    """BSARec's frequency path."""

    bsarec_alpha: float = key(0.7, "Share of the frequency path; the rest is self-attention", 0.0, 1.0)
    bsarec_cutoff: int = key(5, "c: waves of up to c // 2 periods per row count as low", 1, 1_000_000)
    bsarec_padding: bool = key(
        True,
        "Padding takes part in the filter, as published; False = the events alone do (ours), and rows of "
        "similar length share a pass",
    )


@dataclass(frozen=True)
class TransformerKeys:
    """A transformer over item numbers."""

    n_layers: int = key(2, "Transformer layers", 1, 1_000)
    n_heads: int = key(2, "Attention heads", 1, 1_000)
    hidden_size: int = key(64, "Width of the states", 1, 1 << 20)
    inner_size: int = key(256, "Width of the feed-forward layers", 1, 1 << 20)
    hidden_dropout_prob: float = key(0.3, "Dropout of states and embeddings", 0.0, 1.0)
    attn_dropout_prob: float = key(0.3, "Dropout of attention", 0.0, 1.0)
