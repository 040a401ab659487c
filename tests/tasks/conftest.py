"""Data whose instruction decides the label: the history tells nothing, the category of the target all."""

from pathlib import Path

import numpy as np
import pytest

from tests.instructions.conftest import write_tasks

KINDS, NUMBERS, USERS, EVENTS = ("red", "blue", "green", "black"), 4, 108, 6


def write_chosen(folder: Path) -> None:
    """Every event is a random item; the last twelve users have one event only."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float\tquery:token"]
    for user in range(USERS):
        for step in range(EVENTS if user < USERS - 12 else 1):
            kind = KINDS[int(rng.integers(len(KINDS)))]
            when = 1_300_000_000 + 1000 * step + user if user < USERS - 12 else 1_300_020_000 + user
            lines.append(f"u{user}\t{kind}{int(rng.integers(NUMBERS))}\t{when}\tget {kind}")
    (folder / f"{folder.name}.inter").write_text("\n".join(lines) + "\n")
    items = ["item_id:token\ttitle:token\tkind:token"]
    items += [f"{kind}{n}\tthe {kind} thing {n}\t{kind}" for kind in KINDS for n in range(NUMBERS)]
    (folder / f"{folder.name}.item").write_text("\n".join(items) + "\n")


@pytest.fixture(scope="session")
def chosen(tmp_path_factory):
    """config_dict of a small SIGMA with the task Category on the planted data."""
    root = tmp_path_factory.mktemp("chosen")
    write_chosen(root / "chosen")
    return {
        "data_path": str(root),
        "task_dir": str(write_tasks(root / "task_files")),
        "load_col": {
            "inter": ["user_id", "item_id", "timestamp", "query"],
            "item": ["item_id", "title", "kind"],
        },
        "eval_args": {"split": {"RS": [0.8, 0.0, 0.2]}, "order": "TO", "group_by": "none"},
        "text_fields": ["title", "kind"],
        "category_field": "kind",
        "brand_field": None,
        "query_field": None,
        "profile_fields": [],
        "tasks": ["Category"],
        "task_labels_per_row": 4,
        "checkpoint_dir": str(root / "saved"),
        "artifact_dir": str(root / "artifacts"),
        "log_dir": str(root / "log"),
        "show_progress": False,
        "state": "ERROR",
        "topk": [1, 4, 10],
        "valid_metric": "NDCG@4",
        "filter_seen": False,
        "MAX_ITEM_LIST_LENGTH": 12,
        "train_batch_size": 8,
        "epochs": 25,
        "learning_rate": 0.005,  # at .01 about one training in ten stays on its plateau
        "backbone_dropout": 0.0,
        "grounding_steps": 30,
        "grounding_batch_pairs": 16,
        "tokenizer_codebook_size": 4,
        "tokenizer_bpe_size": 320,
        "train_warmup_epochs": 1,
        "seed": 7,
    }


@pytest.fixture(scope="session")
def valid_chosen(chosen):
    """The same with a validation part, which run asks for."""
    return {
        **chosen,
        "eval_args": {**chosen["eval_args"], "split": {"RS": [0.8, 0.05, 0.15]}},
        "eval_step": 0,
    }


@pytest.fixture(scope="session")
def trained(valid_chosen):
    """Result of one training on the planted data."""
    from recbole_sigma.quick_start import run

    return run("SIGMA", "chosen", config_dict=valid_chosen)
