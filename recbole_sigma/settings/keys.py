"""Which keys exist, what they may hold, and how their text is read; every problem is reported at once.

The shipped property files declare our keys: a key's type is that of its default, its help is the comment
beside it. `CHOICES` and `RANGES` add what YAML cannot say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from recbole_sigma.settings.reading import SafeLoader, load_yaml, nearest
from recbole_sigma.settings.recipes import properties_dir, recbole_properties

CHOICES: dict[str, tuple[Any, ...]] = {
    "filter_seen": (True, False),
    "train_precision": ("fp32", "bf16", "auto"),
    "train_schedule": ("constant", "cosine", "inverse_sqrt"),
    "decode_mode": ("fixed_temp", "apf", "top1_prefix"),
    "learner": ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam"),
    "memory": ("none", "validation", "fixed"),
    "sasrec_loss": ("CE", "BCE"),
    "sasrec_score": ("dot", "cosine"),
    "sigma_history": ("auto", "short", "long"),
    "sigma_objective": ("joint", "paper"),
    "task_hemisphere": ("north", "south"),
    "state": ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
}
"""Key -> allowed values (text is compared without case)."""

RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 1_000_000),
    "train_batch_size": (1, 1 << 30),
    "eval_batch_size": (1, 1 << 40),
    "learning_rate": (0.0, 100.0),
    "weight_decay": (0.0, 100.0),
    "stopping_step": (0, 1_000_000),
    "eval_step": (0, 1_000_000),
    "train_warmup_epochs": (0, 1_000_000),
    "train_accumulation": (1, 1 << 20),
    "train_clip_norm": (0.0, 1e9),
    "lora_dropout": (0.0, 0.99),
    "lora_rank": (0, 1 << 12),
    "MAX_ITEM_LIST_LENGTH": (1, 1_000_000),
    "metric_decimal_place": (1, 17),
    "prefix_survival_users": (0, 1 << 40),
    "seed": (0, 2**32 - 1),
    "checkpoint_steps": (0, 1_000_000_000),
    "nproc": (1, 1 << 16),
    "world_size": (-1, 1 << 20),
    "port": (0, 65535),
    "group_offset": (0, 1 << 20),
    "backbone_dropout": (0.0, 0.99),
    "decode_beam": (0, 1 << 30),
    "fusion_hidden": (0, 1 << 20),
    "grounding_batch_pairs": (2, 1 << 20),
    "grounding_chunk": (0, 1 << 20),
    "grounding_dim": (1, 1 << 16),
    "grounding_encoder_rate": (0.0, 10.0),
    "grounding_kd_weight": (0.0, 1e6),
    "grounding_max_tokens": (2, 1 << 16),
    "grounding_steps": (1, 1 << 30),
    "grounding_teacher_dim": (1, 1 << 16),
    "grounding_text_dim": (1, 1 << 16),
    "sigma_id_weight": (0.0, 1e6),
    "task_label_share": (0.0, 1.0),
    "task_labels_per_row": (0, 1 << 10),
    "task_instruction_tokens": (4, 1 << 10),
    "task_category_level": (0, 100),
    "task_eval_rows": (0, 1 << 30),
    "task_lag_days": (0.0, 366.0),
    "tokenizer_bpe_size": (1, 1 << 20),
    "tokenizer_codebook_size": (0, 1 << 20),
    "tokenizer_levels": (1, 26),
    "memory_weight": (0.0, 1e6),
    "memory_window": (1, 1_000_000),
    "memory_shrink": (0.0, 1e9),
    "memory_last": (1, 1_000_000),
    "memory_decay": (0.0, 1.0),
    "memory_forward": (0.0, 1.0),
    "memory_floor": (1e-12, 1e6),
    "knn_window": (1, 1_000_000),
    "knn_shrink": (0.0, 1e9),
    "knn_last": (1, 1_000_000),
    "knn_decay": (0.0, 1.0),
    "knn_forward": (0.0, 1.0),
    "hidden_dropout_prob": (0.0, 1.0),
    "attn_dropout_prob": (0.0, 1.0),
}
"""Key -> (least, greatest) value."""

WORDS: dict[str, tuple[str, ...]] = {"tokenizer_prefix_length": ("all",)}
"""Key -> words that are allowed in place of a value of the key's type."""

# Keys that RecBole 1.2.1's code reads but that none of its lists or property files declares.
UNDECLARED = frozenset(
    "model dataset config_files encoding local_rank nproc world_size offset ip port tail_ratio "
    "train_stage reg_weight "
    "pre_model_path pretrain_epochs save_step mask_ratio ft_ratio crop_eta reorder_beta "
    "user_inter_num_interval ITEM_SEQ "
    "convert_token_to_onehot token_num double_tower numerical_features discretization wandb_project "
    "kg_reverse_r "
    "normalize_all benchmark_filename embedding_size hyper_files group_offset source_id_field".split()
)


# --- reading ---


SafeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
        |\.[0-9_]+(?:[eE][-+][0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
        re.X,
    ),
    list("-+0123456789."),
)


# --- checking ---


@cache
def _yaml_keys(path: Path) -> frozenset[str]:
    return frozenset(load_yaml(path))


@cache
def declared_keys() -> frozenset[str]:
    """Every key that some model, dataset or stage of RecBole or of ours declares."""
    import recbole.utils as stock

    keys = set(UNDECLARED) | CHOICES.keys() | RANGES.keys()
    for name in ("general_arguments", "training_arguments", "evaluation_arguments", "dataset_arguments"):
        keys.update(getattr(stock, name))
    for root in (recbole_properties(), properties_dir()):
        for path in root.rglob("*.yaml"):
            # these folders hold other things than keys with their defaults
            other = path.parent.name in ("tasks", "variants", "tune")
            if path.name not in ("url.yaml", "kg_url.yaml") and not other:
                keys |= _yaml_keys(path)
    return frozenset(keys)


def unknown_keys(given: dict[str, Any], source: str, used: Iterable[str] = ()) -> list[str]:
    """Sentences about keys that nothing declares.

    Args:
        given: the keys as the user gave them.
        source: where they were given, for the sentence.
        used: further names that count as known (fields of the dataset's property file, say).
    """
    known = declared_keys() | set(used)
    return [f"unknown key {key!r} in {source}{nearest(key, known)}" for key in given if key not in known]


_KINDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
}


def wrong_value(key: str, value: Any, default: Any) -> str | None:
    """The sentence about a value that does not fit its key, or None.

    Args:
        key: the key.
        value: what the user gave.
        default: the key's default in our property files (None: any type).
    """
    if value in WORDS.get(key, ()):
        return None
    if default is not None and value is not None:
        kind = type(default)
        fits = {
            bool: isinstance(value, bool),
            int: isinstance(value, int) and not isinstance(value, bool),
            float: isinstance(value, (int, float)) and not isinstance(value, bool),
            list: not isinstance(value, dict),
        }.get(kind, isinstance(value, kind))
        if not fits:
            return f"{key} must be {_KINDS.get(kind, kind.__name__)}, not {value!r}"
    if key in CHOICES and value is not None:
        plain = {str(choice).lower() for choice in CHOICES[key]}
        if str(value).lower() not in plain:
            options = ", ".join(str(choice) for choice in CHOICES[key])
            return (
                f"{key} must be one of {options}; not {value!r}{nearest(str(value), map(str, CHOICES[key]))}"
            )
    if key in RANGES and value is not None:
        low, high = RANGES[key]
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return f"{key} must be a number, not {value!r}"
        if not low <= value <= high:  # also refuses NaN
            return f"{key} must lie in [{low:g}, {high:g}], not {value!r}"
    return None
