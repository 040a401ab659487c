"""A table of models under one protocol that survives interruption, and the report made from it."""

from __future__ import annotations

import importlib
from typing import Any

_MODULE_OF = {
    "Row": "variants",
    "RunFolder": "folder",
    "collect": "results",
    "format_table": "results",
    "make_plan": "plan",
    "rebuild_report": "run",
    "rows_of": "variants",
    "run_benchmark": "run",
    "run_plan": "run",
    "summarize": "results",
    "write_json": "records",
}
__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for: listing the rows needs no torch."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return vars(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"))[name]
