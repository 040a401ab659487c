"""Shared set-up: one thread, no leaking argv, a scratch folder, and a dataset with a certain next item."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

import recbole_sigma  # noqa: F401  before RecBole

torch.set_num_threads(1)
hypothesis.settings.register_profile("repository", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("repository")

GROUPS, CYCLE, EVENTS, USERS = 3, 16, 10, 60


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder and hide pytest's own arguments from RecBole."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    monkeypatch.setenv(
        "PYTHONPATH", str(Path(__file__).resolve().parents[1])
    )  # for tests that start a process
    yield tmp_path


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Config values of a tiny dataset: each user walks round the cycle of its group.

    A walk is shorter than the cycle, so nobody meets an item twice.
    """
    root = tmp_path_factory.mktemp("datasets")
    write_planted(root / "planted", "planted")
    return {
        "data_path": str(root),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title", "genre"]},
        "text_fields": ["title", "genre"],
        "category_field": "genre",
        "show_progress": False,
        "state": "ERROR",
        "train_batch_size": 32,
    }


def write_planted(folder: Path, name: str) -> None:
    """Write the atomic files of the planted dataset."""
    folder.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(USERS):
        group, start = user % GROUPS, (user // GROUPS) * 5
        lines += [
            f"u{user}\tg{group}i{(start + step) % CYCLE}\t{1_000_000_000 + 1000 * step + user}"
            for step in range(EVENTS)
        ]
    (folder / f"{name}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    items = ["item_id:token\ttitle:token_seq\tgenre:token"]
    items += [f"g{g}i{i}\titem {i} of group {g}\tgenre{g}" for g in range(GROUPS) for i in range(CYCLE)]
    (folder / f"{name}.item").write_text("\n".join(items) + "\n", encoding="utf-8")


@pytest.fixture
def write_dataset(tmp_path: Path) -> Any:
    """Function that writes [(user, item, time)] as a dataset and returns the config values to read it.

    ``spare`` adds items that nobody met: RecBole's samplers refuse a user who met everything.
    """

    def write(
        events: list[tuple[Any, Any, Any]], name: str = "small", header: str | None = None, spare: int = 0
    ) -> dict[str, Any]:
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        head = header or "user_id:token\titem_id:token\ttimestamp:float"
        lines = [head, *("\t".join(str(value) for value in event) for event in events)]
        (folder / f"{name}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
        columns: dict[str, list[str]] = {"inter": ["user_id", "item_id", "timestamp"]}
        if spare:
            columns["item"] = ["item_id"]
            items = dict.fromkeys([str(event[1]) for event in events] + [f"spare{k}" for k in range(spare)])
            (folder / f"{name}.item").write_text(
                "\n".join(["item_id:token", *items]) + "\n", encoding="utf-8"
            )
        return {
            "data_path": str(tmp_path / "data"),
            "load_col": columns,
            "show_progress": False,
            "state": "ERROR",
            "topk": [1, 2],
            "valid_metric": "NDCG@2",
        }

    return write


TINY: dict[str, dict[str, Any]] = {
    "Pop": {},
    "BPR": {"epochs": 2, "embedding_size": 8},
    "SASRec": {"epochs": 2, "n_layers": 1, "hidden_size": 8, "inner_size": 8},
    "GRU4Rec": {
        "epochs": 2,
        "MAX_ITEM_LIST_LENGTH": 10,
        "num_layers": 1,
        "hidden_size": 8,
        "embedding_size": 8,
    },
    "BERT4Rec": {
        "epochs": 1,
        "MAX_ITEM_LIST_LENGTH": 10,
        "n_layers": 1,
        "hidden_size": 8,
        "inner_size": 8,
    },
    "WindowItemKNN": {},
    "PackedSASRec": {"epochs": 2, "n_layers": 1, "hidden_size": 8, "inner_size": 8},
    "SIGMA": {
        "epochs": 1,
        "grounding_text_dim": 8,
        "grounding_teacher_dim": 8,
        "grounding_dim": 8,
        "grounding_steps": 4,
        "tokenizer_bpe_size": 120,
        "tokenizer_codebook_size": 4,
        "fusion_hidden": 8,
    },
    "TIGER": {
        "epochs": 1,
        "eval_step": 1,
        "grounding_text_dim": 8,
        "grounding_teacher_dim": 8,
        "tokenizer_codebook_size": 4,
        "tiger_layers": 1,
        "tiger_decoder_layers": 1,
        "tiger_d_model": 16,
        "tiger_heads": 2,
        "tiger_d_kv": 8,
        "tiger_d_ff": 16,
        "decode_beam": 100,
    },
}


@pytest.fixture(scope="session")
def tiny() -> dict[str, dict[str, Any]]:
    """Settings that make each model train in a second or two."""
    return TINY
