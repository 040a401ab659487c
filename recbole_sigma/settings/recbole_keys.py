"""Keys that RecBole owns and this package reads: their meaning, and the values that can work.

The defaults are RecBole's own (a test compares them); what ours are stands in the property files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recbole_sigma.settings.keys import key


@dataclass(frozen=True)
class RoleKeys:
    """Which columns of a dataset play which part; its property file says so."""

    text_fields: tuple[str, ...] = key(
        (), "Text columns of the items, joined in this order; the first is the title"
    )
    category_field: str | None = key(None, "Category column of the items")
    brand_field: str | None = key(None, "Brand column of the items")
    price_field: str | None = key(
        None, "Price column of the items (float), for sentences that ask for cheap ones"
    )
    query_field: str | None = key(None, "Search words column of the events")
    profile_fields: tuple[str, ...] = key((), "Columns of the users that become words of the prompt")


@dataclass(frozen=True)
class RecBoleKeys:
    """Keys of RecBole that this package reads or checks, with RecBole's own defaults."""

    eval_args: dict[str, Any] = key(
        {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user", "order": "RO", "mode": "full"},
        "Split, order, grouping and candidates of the evaluation",
    )
    metrics: tuple[str, ...] = key(
        ("Recall", "MRR", "NDCG", "Hit", "Precision"),
        "Top-k metrics; those that need all scores (AUC and the like) are refused",
    )
    topk: tuple[int, ...] = key((10,), "List lengths at which metrics are read")
    valid_metric: str = key("MRR@10", "Metric that picks the best epoch")
    eval_batch_size: int = key(4096, "Users per evaluation batch, for every model", 1, 1 << 40)
    metric_decimal_place: int = key(4, "Decimals kept", 1, 17)
    MAX_ITEM_LIST_LENGTH: int = key(50, "Longest history", 1, 1_000_000)
    epochs: int | None = key(
        300, "Passes over the training targets; SIGMA: ~ = by sigma_history and train_tied", 1, 1_000_000
    )
    train_batch_size: int | None = key(2048, "Rows per step; SIGMA: ~ = by sigma_history", 1, 1 << 30)
    learner: str = key(
        "adam", "Optimizer", choices=("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")
    )
    learning_rate: float | None = key(0.001, "Peak step size; SIGMA: ~ = by sigma_history", 0.0, 100.0)
    weight_decay: float = key(0.0, "Weight decay; of our models on matrices only", 0.0, 100.0)
    train_neg_sample_args: dict[str, Any] | None = key(
        {"distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": False, "candidate_num": 0},
        "Sampled negatives; ~ where a loss brings its own",
    )
    stopping_step: int = key(10, "Validations without improvement before training stops", 0, 1_000_000)
    eval_step: int = key(1, "Epochs between validations", 0, 1_000_000)
    state: str = key(
        "INFO",
        "Least level of the messages on the console",
        choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
    )
    seed: int = key(2020, "Seed of every random draw", 0, 2**32 - 1)
    encoding: str | None = key(None, "Encoding of the atomic files; ~ = utf-8")
    data_path: str = key("dataset/", "Folder that holds the folder of the dataset")
    checkpoint_dir: str = key("saved", "Folder of the checkpoints")
    worker: int = key(0, "Processes that assemble batches; 0 = none beside the run itself", 0, 256)
    show_progress: bool = key(True, "Progress bars")
    reproducibility: bool = key(True, "Deterministic kernels")
    loss_decimal_place: int = key(4, "Decimals of the training loss in the log", 0, 17)
