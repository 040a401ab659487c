"""How healthy are the semantic IDs of each quantizer? Collisions, codes in use, largest prefix.

    python benchmarks/codes.py --dataset=ml-100k
    python benchmarks/codes.py --dataset=amazon-beauty --data_path=dataset --tokenizer_rqvae_epochs=50

Items are grounded once, as SIGMA does with the same keys; then every quantizer runs on the same vectors. Any
key of properties/model/SIGMA.yaml can be given. Only train interactions are read.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from train_items import TrainItems, print_table

from recbole_sigma.grounding.ground import ground_items
from recbole_sigma.preparation.items import QUANTIZERS, raw_vector_file, tokenize
from recbole_sigma.tokenization.health import code_health
from recbole_sigma.values import ItemVectors


def measure(data: TrainItems, own: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Health of every quantizer's codes on the same vectors."""
    how = data.options.grounding
    raw_file = raw_vector_file(data.sources, how, data.config["artifact_dir"])
    text, teacher, _ = ground_items(data.users, data.items, data.sources, how, False, raw_file)
    vectors = ItemVectors(torch.from_numpy(text.copy()), torch.from_numpy(teacher))
    rows = []
    for quantizer in QUANTIZERS:
        begin = time.process_time()
        codes = tokenize(vectors, replace(data.options, quantizer=quantizer))
        health = code_health(codes.codes[1:].numpy(), codes.sizes, codes.prefix_length)
        rows.append(
            {
                "quantizer": quantizer,
                "collision": health.collision_rate,
                "codes used": " ".join(f"{level.used}/{level.size}" for level in health.levels),
                "perplexity": " ".join(f"{level.perplexity:.1f}" for level in health.levels),
                "largest prefix": health.largest_bucket,
                "CPU-seconds": time.process_time() - begin,
                "warnings": len(health.warnings),
            }
        )
    about = f"{len(codes.codes) - 1} items of {data.config['dataset']}, prefixes of {codes.prefix_length}"
    return rows, f"{about}, seed {data.config['seed']}"


if __name__ == "__main__":
    sys.exit(print_table(sys.argv[1:], measure, 3))
