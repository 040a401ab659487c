"""Entry point of ``python -m dataset_adapters``."""

from __future__ import annotations

import sys

from dataset_adapters.cli import main

if __name__ == "__main__":
    sys.exit(main())
