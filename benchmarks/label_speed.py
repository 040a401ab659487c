"""Training rows per CPU-second of SSR beside DCNV2, on ml-100k and one thread.

    python benchmarks/label_speed.py

One batch of 2,048 rows is stepped twenty times after three steps of warm-up; the first DCNV2 has as many
weights as SSR, about, and the second is of RecBole's size.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

import recbole_sigma  # noqa: F401  before RecBole
from recbole_sigma.benchmark.tables import markdown_table
from recbole_sigma.quick_start import build_model
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.loaders import load_data

ROWS, STEPS = 2048, 20
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("DCNV2 of SSR's size", "DCNV2", {"mlp_hidden_size": [128, 128]}),
    ("DCNV2", "DCNV2", {}),
    ("SSR", "SSR", {}),
    ("SSR-static", "SSR", {"ssr_filter": "static"}),
    ("SSR-ReLU", "SSR", {"ssr_sparsity": "relu"}),
]


def speed(model: str, values: dict[str, Any]) -> tuple[int, float]:
    """(weights, rows per CPU-second)."""
    fixed = {"show_progress": False, "state": "ERROR", "train_batch_size": ROWS, "embedding_size": 16}
    config = RunConfig(model, "ml-100k", config_dict={**fixed, **values})
    train = load_data(config, config.model_class).train
    network = build_model(config, config.model_class, train).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    batch = next(iter(train))
    started = 0.0
    for step in range(STEPS + 3):
        if step == 3:
            started = time.process_time()
        optimizer.zero_grad()
        network.calculate_loss(batch).backward()
        optimizer.step()
    weights = sum(parameter.numel() for parameter in network.parameters())
    return weights, ROWS * STEPS / (time.process_time() - started)


if __name__ == "__main__":
    sys.argv = sys.argv[:1]
    torch.set_num_threads(1)
    body = []
    for name, model, values in CASES:
        weights, rate = speed(model, values)
        body.append([(name, 0), (f"{weights:,}", 0), (f"{rate:,.0f}", 0)])
    print(markdown_table(["model", "weights", "rows per CPU-second"], body))
