"""Labelled rows with a known answer: a click is likely where the kind of the user is that of the item."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any


def clicks_config(root: Path, rows: int = 1600, seed: int = 0, **more: Any) -> dict[str, Any]:
    """Write the data set ``clicks`` and give the config values that read it.

    Its tokens appear in sorted order, so that RecBole numbers them as this project does.
    """
    draw, folder = random.Random(seed), root / "clicks"
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["user_id:token\titem_id:token\tlabel:float\tkind:token\tprice:float\ttimestamp:float"]
    pairs = [(k, k) for k in range(40)] + [(draw.randrange(40), draw.randrange(40)) for _ in range(rows - 40)]
    for number, (user, item) in enumerate(pairs):
        likely = 0.85 if user % 4 == item % 4 else 0.15
        price = "" if number % 50 == 7 else f"{draw.gauss(100, 20):.2f}"
        label, time = int(draw.random() < likely), 1_300_000_000 + number
        lines.append(f"u{user:02d}\ti{item:02d}\t{label}\tk{item % 4}\t{price}\t{time}")
    (folder / "clicks.inter").write_text("\n".join(lines) + "\n")
    return {
        "data_path": str(root), "load_col": {"inter": ["user_id", "item_id", "label", "kind"]}, "epochs": 3,
        "train_batch_size": 128, "learning_rate": 0.01, "embedding_size": 8, "show_progress": False,
        "state": "ERROR", "seed": 7, "metric_decimal_place": 9, **more,
    }  # fmt: skip
