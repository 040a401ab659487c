"""A table of models under one protocol that survives interruption, and the report made from it."""

from __future__ import annotations

from recbole_sigma.benchmark.folder import RunFolder, write_json
from recbole_sigma.benchmark.plan import make_plan
from recbole_sigma.benchmark.results import collect, format_table, summarize
from recbole_sigma.benchmark.run import rebuild_report, run_benchmark, run_plan
from recbole_sigma.benchmark.variants import Row, rows_of

DEMO_MODELS = ("Pop", "WindowItemKNN", "SIGMA")

__all__ = [
    "DEMO_MODELS",
    "Row",
    "RunFolder",
    "collect",
    "format_table",
    "make_plan",
    "rebuild_report",
    "rows_of",
    "run_benchmark",
    "run_plan",
    "summarize",
    "write_json",
]
