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

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from tabulate import tabulate

import recbole_sigma  # noqa: F401  before RecBole
from recbole_sigma.config import SigmaConfig
from recbole_sigma.grounding.stage import ground_items
from recbole_sigma.preparation import (
    QUANTIZERS,
    PreparationOptions,
    item_sources,
    raw_vector_file,
    tokenize_items,
)
from recbole_sigma.quick_start import load_data
from recbole_sigma.settings import parse_arguments
from recbole_sigma.tokenization.health import code_health
from recbole_sigma.values import ItemVectors, UserError


def main(arguments: list[str]) -> int:
    """Print the table; returns the exit code."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    problems: list[str] = []
    given = parse_arguments(arguments, problems)
    try:
        if problems:
            raise UserError("; ".join(problems))
        name = str(given.pop("dataset", "ml-100k"))
        config = SigmaConfig("SIGMA", name, None, {"state": "ERROR", "show_progress": False, **given})
        train = load_data(config, config.model_class).train._dataset
        options = PreparationOptions.from_config(config)
        sources = item_sources(train, config, options)
        events = train.train_events()
        order, _ = events.by_user
        users, items = events.users[order].numpy(), events.items[order].numpy()
        raw_file = raw_vector_file(sources, options.grounding, config)
        text, teacher, _ = ground_items(users, items, sources, options.grounding, False, raw_file)
        vectors = ItemVectors(torch.from_numpy(text.copy()), torch.from_numpy(teacher))
        rows = []
        for quantizer in QUANTIZERS:
            begin = time.process_time()
            codes = tokenize_items(vectors, replace(options, quantizer=quantizer))
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
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(codes.codes) - 1} items of {name}, prefixes of {codes.prefix_length}, seed {config['seed']}")
    print(tabulate(rows, headers="keys", floatfmt=".3f"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
