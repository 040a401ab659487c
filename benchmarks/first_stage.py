"""How far GPSD's first stage comes by itself: a model of next items judged on the labelled rows.

    python benchmarks/first_stage.py saved/PackedSASRec-a.safetensors --seeds 2024 2025

Nothing is trained; the seed draws the items that stand beside the last events.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recbole_sigma.evaluation.labels import judge_of  # noqa: E402
from recbole_sigma.quick_start import load_data_and_model  # noqa: E402


def main() -> None:
    """Print AUC per seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2024])
    options = parser.parse_args()
    for seed in options.seeds:
        protocol = {
            "judged_by": "labels",
            "label_rows": "gpsd",
            "data_path": options.data_path,
            "seed": seed,
            "metrics": ["AUC"],
            "valid_metric": "AUC",
            "eval_args": {"mode": "labeled"},
            "eval_batch_size": 4096,
        }
        config, model, _, _, _, test = load_data_and_model(options.checkpoint, protocol)
        print(f"seed {seed}: AUC {judge_of(config).judge(model, test).metrics['auc']:.4f}")


if __name__ == "__main__":
    main()
