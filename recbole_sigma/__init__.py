"""SIGMA and TIGER for RecBole: generative recommendation with one fair evaluator.

Importing this package makes its model names work wherever a RecBole model name works. Import it before
``recbole.quick_start``: the shims in ``_compat`` must be in place when RecBole's modules run. By itself it
loads neither RecBole nor torch.
"""

from __future__ import annotations

from recbole_sigma import plugin

plugin.register()

__version__ = "0.1.0"
__all__ = ["__version__"]
