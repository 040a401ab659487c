"""What the trainer and the evaluator may ask of a model."""

from __future__ import annotations


def without_beam(model_class: type) -> str | None:
    """The sentence about a model that has no beam search for ``prefix_survival`` to judge, or None."""
    if hasattr(model_class, "prefix_survival"):
        return None
    return (
        "metric prefix_survival compares a beam search with the exact list, and "
        f"{model_class.__name__} has no beam search: take it out of metrics"
    )
