"""SIGMA and TIGER for RecBole: generative recommendation with one fair evaluator.

Importing this package makes its model names work wherever a RecBole model name works. Import it before
``recbole.quick_start``: the shims in ``_compat`` must be in place when RecBole is imported.
"""

from __future__ import annotations

from recbole_sigma import _compat

_compat.apply()

from recbole_sigma import plugin  # noqa: E402

plugin.register()

__version__ = "0.1.0"
__all__ = ["__version__"]
