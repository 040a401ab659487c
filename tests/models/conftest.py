"""A tiny dataset with a known answer, written as atomic files, and a SIGMA that fits it in seconds."""

from pathlib import Path

import numpy as np
import pytest

GROUPS, CYCLE = 4, 6


def write_planted(folder: Path, users: int = 80, length: int = 16, seed: int = 0, change=None) -> None:
    """User group g walks the cycle of items of its group, from a random start: the next item is certain."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(users):
        group, start = user % GROUPS, int(rng.integers(CYCLE))
        for step in range(length):
            item = f"i{group}_{(start + step) % CYCLE}"
            if change is not None:
                item = change(user, step, item)
            lines.append(f"u{user}\t{item}\t{1_300_000_000 + step}")
    (folder / f"{folder.name}.inter").write_text("\n".join(lines) + "\n")
    words = ["red", "blue", "green", "black"]
    rows = [
        f"i{g}_{c}\t{words[g]} thing number {c}\tkind {words[g]}" for g in range(GROUPS) for c in range(CYCLE)
    ]
    (folder / f"{folder.name}.item").write_text(
        "item_id:token\ttitle:token\tcategory:token\n" + "\n".join(rows) + "\n"
    )
    (folder / f"{folder.name}.user").write_text(
        "user_id:token\tage:token\n" + "\n".join(f"u{u}\t{20 + u % 3}" for u in range(users)) + "\n"
    )


@pytest.fixture(scope="session")
def planted_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("planted")
    write_planted(root / "planted")
    return root


@pytest.fixture
def planted_settings(planted_root, tmp_path):
    """config_dict of a small SIGMA on the planted data; nothing is written outside tmp_path."""
    return planted_config(planted_root, tmp_path)


def planted_config(root: Path, scratch: Path) -> dict:
    return {
        "data_path": str(root),
        "load_col": {
            "inter": ["user_id", "item_id", "timestamp"],
            "item": ["item_id", "title", "category"],
            "user": ["user_id", "age"],
        },
        "text_fields": ["title", "category"],
        "category_field": "category",
        "brand_field": None,
        "profile_fields": ["age"],
        "checkpoint_dir": str(scratch / "saved"),
        "artifact_dir": str(scratch / "artifacts"),
        "log_dir": str(scratch / "log"),
        "show_progress": False,
        "topk": [1, 5, 10],
        "valid_metric": "NDCG@10",
        "filter_seen": False,
        "MAX_ITEM_LIST_LENGTH": 12,
        "train_batch_size": 16,
        "epochs": 12,
        "learning_rate": 0.01,
        "backbone_dropout": 0.0,
        "grounding_steps": 30,
        "grounding_batch_pairs": 16,
        "tokenizer_codebook_size": 4,
        "tokenizer_bpe_size": 320,
        "train_warmup_epochs": 1,
        "seed": 7,
    }
