"""``python -m recbole_sigma`` is the console script."""

from __future__ import annotations

import sys

from recbole_sigma.commands.main import main

sys.exit(main())
