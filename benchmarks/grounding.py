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
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from train_items import TrainItems, print_table

from recbole_sigma.grounding.ground import alignment_report
from recbole_sigma.preparation.items import raw_vector_file


def measure(data: TrainItems, own: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Recall of every variant."""
    begin, each_view = time.process_time(), bool(own.get("each_view", False))
    rows = alignment_report(
        data.users,
        data.items,
        data.sources,
        data.options.grounding,
        each_view,
        ablations=each_view,
        raw_file=raw_vector_file(data.sources, data.options.grounding, data.config["artifact_dir"]),
        device=str(data.config["device"]),
    )
    return rows, f"{time.process_time() - begin:.0f} CPU-seconds, seed {data.config['seed']}"


if __name__ == "__main__":
    sys.exit(print_table(sys.argv[1:], measure, 4, own=("each_view",)))
