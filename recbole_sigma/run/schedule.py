"""How the learning rate runs over the steps of a training."""

from __future__ import annotations

import math

FLOOR = 0.05  # the cosine schedule ends at this share of the learning rate


def learning_rate_factor(step: int, total: int, warmup: int, schedule: str) -> float:
    """Share of the base learning rate at an optimizer step.

    Args:
        step: 0-based step.
        total: steps of the whole training.
        warmup: steps of linear warm-up.
        schedule: ``constant``, ``cosine`` (down to `FLOOR`), or ``inverse_sqrt`` (TIGER, arXiv 2305.05065,
            section 4.1): constant during the warm-up, then the square root of warm-up steps over steps.
    """
    if schedule == "inverse_sqrt":
        return math.sqrt(max(1, warmup) / max(1, warmup, step + 1))
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + math.cos(math.pi * progress))
