"""CPU seconds of this process, with what stored work took when it was done.

A row's cost is what it takes to make the row. Work that an artifact spares is part of it, or the first of two
rows that share the artifact would pay for both.
"""

from __future__ import annotations

import time

_spared = 0.0


def cpu_seconds() -> float:
    """CPU seconds of this process so far, those that it was spared included."""
    return time.process_time() + _spared


def spare(seconds: float) -> None:
    """Count CPU seconds of work whose result was read instead."""
    global _spared
    _spared += seconds
