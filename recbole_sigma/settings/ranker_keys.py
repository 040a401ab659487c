"""The keys of the rankers that read the candidate, declared as those of `settings.keys`."""

from __future__ import annotations

from dataclasses import dataclass

from recbole_sigma.settings.keys import key


@dataclass(frozen=True)
class GateSidKeys:
    """GateSID: a gate per candidate between semantic IDs and clicks."""

    gate_mode: str = key(
        "learned",
        "The gate: learned; hand = 1 / (1 + n / gate_half_at) for n train events; id, half or sid = 0, .5 "
        "or 1 for every item; concat = both attentions side by side",
        choices=("learned", "hand", "id", "half", "sid", "concat"),
    )
    gate_features: tuple[str, ...] = key(
        ("count", "age", "recent"),
        "What the gate knows of a candidate as of the moment: train events before, days since the first, "
        "events of late",
        choices=("count", "age", "recent"),
    )
    gate_recent_days: float = key(30.0, "Days that count as of late", 1e-3, 1e6)
    gate_half_at: float = key(5.0, "Train events at which the gate by hand is .5", 1e-6, 1e9)
    gate_align: float = key(0.1, "lambda, weight of the alignment of an item's two vectors", 0.0, 1e6)
    gate_align_weights: str = key(
        "gate", "Items weigh in the alignment by their gate, or equally", choices=("gate", "equal")
    )
    gate_detach: bool = key(True, "The alignment sends no gradient into the gate")
    gate_tau: float = key(0.07, "Temperature of the alignment", 1e-4, 1e4)
    gate_negatives: int = key(16, "Sampled negatives per row", 1, 1 << 20)
    gate_size: int = key(32, "Width of the vectors", 1, 1 << 14)
    gate_hidden: tuple[int, ...] = key((128, 64), "Layers of the perceptron that ranks")
    gate_dropout: float = key(0.2, "Dropout of these layers", 0.0, 0.99)


@dataclass(frozen=True)
class SortKeys:
    """SORT: all candidates of a request in one sequence."""

    sort_size: int = key(32, "Width of the states", 2, 1 << 14)
    sort_layers: int = key(2, "Layers", 1, 1000)
    sort_heads: int = key(2, "Attention heads; twice their number divides sort_size", 1, 1000)
    sort_window: int = key(32, "Newest tokens that a history token reads", 1, 1 << 20)
    sort_keep: int = key(16, "History tokens that the last layer computes; each layer drops some", 1, 1 << 20)
    sort_qk_norm: bool = key(True, "Normalise queries and keys")
    sort_gate: bool = key(True, "Gate the attention output, one gate per head")
    sort_marks: bool = key(True, "Special tokens: BOS before the history, SEP around the profile")
    sort_experts: int = key(1, "Experts of the feed-forward layer; a router sends each token to one", 1, 1024)
    sort_dropout: float = key(0.2, "Dropout", 0.0, 0.99)
    sort_profile: tuple[str, ...] = key((), "Text columns of the users, a token each")
    sort_loss: str = key(
        "softmax", "Over the request's candidates, or logistic", choices=("softmax", "logistic")
    )
    sort_negatives: int = key(16, "Sampled negatives of a request", 1, 1 << 20)
    sort_items_from: str | None = key(
        None,
        "Item vectors of another model: a folder that `export --what=items` wrote; ~ = learn them; random = "
        "drawn ones, the control",
    )
    sort_freeze: bool = key(True, "Vectors of sort_items_from stay as they are")
