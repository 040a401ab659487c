"""Train, compare and use models: ``python run_recbole_sigma.py --help``."""

import sys

from recbole_sigma.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
