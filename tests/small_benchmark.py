"""Benchmarks of one epoch on the planted set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_sigma.benchmark import make_plan, rows_of, run_benchmark


def plan_of(
    planted: Mapping[str, Any], models: list[str], seeds: Any = (1,), policies: Any = None, **values: Any
) -> Any:
    """The plan of a benchmark of one epoch on the planted set."""
    return make_plan(rows_of(models), "planted", seeds, policies, values={**planted, "epochs": 1, **values})


def bench(planted: Mapping[str, Any], models: list[str], output: str = "o", **more: Any) -> dict[str, Any]:
    """Run such a benchmark."""
    values = {**planted, "epochs": 1, **more.pop("values", {})}
    return run_benchmark(models, "planted", config_dict=values, output=output, **more)
