"""Does alignment earn its place? Recall@10 of held-out train partners by raw and by aligned text vectors.

    python benchmarks/grounding.py --dataset=amazon-beauty --data_path=dataset
    python benchmarks/grounding.py --dataset=ml-100k --each_view=True

Prints one row per variant: warm items (partners that held-out train users met) and cold items (items taken
out of every interaction that the grounding sees), each with the ratio to the raw text vectors. Any grounding_
key of properties/model/SIGMA.yaml can be given. Only train interactions are read.
"""

from __future__ import annotations

import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from tabulate import tabulate
from train_items import train_items

from recbole_sigma.grounding.stage import alignment_report
from recbole_sigma.preparation import raw_vector_file
from recbole_sigma.settings import parse_arguments
from recbole_sigma.values import UserError


def main(arguments: list[str]) -> int:
    """Print the table; returns the exit code."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    problems: list[str] = []
    given = parse_arguments(arguments, problems)
    each_view = bool(given.pop("each_view", False))
    try:
        if problems:
            raise UserError("; ".join(problems))
        name = str(given.pop("dataset", "ml-100k"))
        data = train_items(name, given)
        begin = time.process_time()
        rows = alignment_report(
            data.users,
            data.items,
            data.sources,
            data.options.grounding,
            each_view,
            ablations=each_view,
            raw_file=raw_vector_file(data.sources, data.options.grounding, data.config),
            device=str(data.config["device"]),
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(tabulate(rows, headers="keys", floatfmt=".4f"))
    print(f"{time.process_time() - begin:.0f} CPU-seconds, seed {data.config['seed']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
