"""Which keys exist, what they may hold, and how their text is read; every problem is reported at once.

The shipped property files declare our keys: a key's type is that of its default, its help is the comment
beside it. `CHOICES` and `RANGES` add what YAML cannot say.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from recbole_sigma.values import UserError

CHOICES: dict[str, tuple[Any, ...]] = {
    "filter_seen": (True, False),
    "train_precision": ("fp32", "bf16", "auto"),
    "train_schedule": ("constant", "cosine", "inverse_sqrt"),
    "decode_mode": ("apf", "fixed_temp", "top1_prefix", "id_only"),
    "decode_space": ("logprob", "prob"),
    "grounding_teacher": ("ppmi-svd",),
    "grounding_pairs": ("adjacency", "swing"),
    "learner": ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam"),
    "memory": ("none", "validation", "fixed"),
    "sasrec_loss": ("CE", "BCE"),
    "sasrec_score": ("dot", "cosine"),
    "sigma_negatives_from": ("prefix", "catalogue"),
    "sigma_objective": ("paper", "global"),
    "sigma_score": ("cosine", "dot"),
    "sigma_slot": ("tokens", "sum"),
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
    "backbone_lora_dropout": (0.0, 0.99),
    "backbone_lora_rank": (0, 1 << 12),
    "decode_beam": (0, 1 << 30),
    "decode_faiss_above": (0, 1 << 40),
    "decode_temperature": (1e-3, 1e3),
    "decode_sigma_reference": (0.0, 1e3),
    "fusion_dropout": (0.0, 0.99),
    "fusion_hidden": (0, 1 << 20),
    "grounding_batch_pairs": (2, 1 << 20),
    "grounding_chunk": (0, 1 << 20),
    "grounding_correction": (0.0, 1.0),
    "grounding_dim": (1, 1 << 16),
    "grounding_dropout": (0.0, 0.99),
    "grounding_encoder_rate": (0.0, 10.0),
    "grounding_kd_weight": (0.0, 1e6),
    "grounding_lora_rank": (0, 1 << 12),
    "grounding_max_tokens": (2, 1 << 16),
    "grounding_steps": (1, 1 << 30),
    "grounding_tau": (1e-3, 1e3),
    "grounding_teacher_dim": (1, 1 << 16),
    "grounding_text_dim": (1, 1 << 16),
    "sigma_catalogue_weight": (0.0, 1e6),
    "sigma_id_weight": (0.0, 1e6),
    "sigma_label_weight": (0.0, 1e6),
    "sigma_negatives": (0, 1 << 30),
    "sigma_recency": (0, 100_000),
    "sigma_temperature": (1e-3, 1e3),
    "task_label_share": (0.0, 1.0),
    "task_word_dropout": (0.0, 0.9),
    "task_labels_per_row": (0, 1 << 10),
    "task_instruction_tokens": (4, 1 << 10),
    "task_category_level": (0, 100),
    "task_eval_rows": (0, 1 << 30),
    "task_lag_days": (0.0, 366.0),
    "tokenizer_bpe_size": (1, 1 << 20),
    "tokenizer_codebook_size": (0, 1 << 20),
    "tokenizer_levels": (1, 26),
    "tokenizer_rqvae_epochs": (1, 1 << 20),
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


def properties_dir() -> Path:
    """The folder of the shipped recipes: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "properties", package.parent / "properties"):
        if (folder / "overall.yaml").is_file():
            return folder
    raise UserError(f"the shipped property files are missing beside {package}: reinstall recbole-sigma")


# --- reading ---


class SafeLoader(yaml.SafeLoader):
    """yaml.SafeLoader that reads ``1e-3`` as a number, as RecBole does."""


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


MAX_VALUES = 100_000  # values of a property file, aliases counted as often as they are used
MAX_BRACKETS = 200  # in a value of the command line
MAX_FLOW = 1000  # in a property file: the parser takes quadratic time over nested ones


def _too_large(value: Any) -> bool:
    """Whether a parsed value would fill the memory when it is shown: aliases of aliases double each time."""
    left, stack = MAX_VALUES, [value]
    while stack and left:
        left -= 1
        part = stack.pop()
        if isinstance(part, dict):
            stack.extend(part.values())
        elif isinstance(part, (list, tuple, set)):
            stack.extend(part)
    return bool(stack)


def parse_value(text: str) -> Any:
    """Value of ``--key=value``: YAML's scalars and flow collections, nothing executed.

    Python's ``None``, ``True`` and parentheses for tuples are read too, since RecBole users type them.
    """
    stripped = text.strip()
    if stripped in ("None", "none"):
        return None
    if stripped.startswith("(") and stripped.endswith(")") and ";" not in stripped and "inf" not in stripped:
        stripped = f"[{stripped[1:-1].rstrip(', ')}]"
    if stripped.count("[") + stripped.count("{") > MAX_BRACKETS:
        return text
    try:
        value = yaml.load(stripped, Loader=SafeLoader)  # noqa: S506  a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    if _too_large(value):
        return text
    if isinstance(value, (str, int, float, bool, list, dict)):
        return value if not isinstance(value, str) else text
    return text if stripped not in ("", "~", "null") else None


def load_yaml(path: Path | str, problems: list[str] | None = None) -> dict[str, Any]:
    """Read a property file safely.

    Args:
        path: the file.
        problems: where to put the sentence about a file that cannot be read; None raises it.

    Raises:
        UserError: when the file is missing or is not a YAML mapping, and ``problems`` is None.
    """
    path = Path(path)
    problem = None
    try:
        text = path.read_text(encoding="utf-8")
        if text.count("[") + text.count("{") > MAX_FLOW:
            raise RecursionError
        data = yaml.load(text, Loader=SafeLoader)  # noqa: S506  a SafeLoader
        if _too_large(data):
            problem = f"{path} repeats or nests its values beyond {MAX_VALUES} of them: write them out"
        elif data is None or isinstance(data, dict):
            return {str(key): value for key, value in (data or {}).items()}
        else:
            problem = f"{path} holds a {type(data).__name__}, not `key: value` lines"
    except FileNotFoundError:
        folder = path.parent
        near = nearest(path.name, [p.name for p in folder.glob("*.y*ml")]) if folder.is_dir() else ""
        problem = f"the config file {path} does not exist{near}"
    except (OSError, UnicodeDecodeError) as error:
        problem = f"the config file {path} cannot be read: {error}"
    except RecursionError:
        problem = f"{path} nests its values too deep: write them out"
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = f"{path}{line} is not valid YAML: {getattr(error, 'problem', None) or error}"
    if problems is None:
        raise UserError(problem)
    problems.append(problem)
    return {}


def parse_arguments(arguments: Iterable[str], problems: list[str]) -> dict[str, Any]:
    """Read ``--key=value`` and ``--key value``.

    Args:
        arguments: the words after the program's name and verb.
        problems: receives a sentence for every word that is neither.

    Returns:
        key -> parsed value; a ``--key`` alone is True.
    """
    words = list(arguments)
    found: dict[str, Any] = {}
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not word.startswith("--") or word == "--":
            problems.append(f"{word!r} on the command line is not `--key=value`")
            continue
        key, equals, text = word[2:].partition("=")
        if not equals:
            if position < len(words) and not words[position].startswith("--"):
                text = words[position]
                position += 1
            else:
                text = "true"
        value = parse_value(text)
        if key in found and found[key] != value:
            problems.append(f"--{key} is given twice with different values: {found[key]!r} and {value!r}")
        found[key] = value
    return found


@contextlib.contextmanager
def shielded_argv() -> Iterator[None]:
    """Hide ``sys.argv`` from RecBole's Config, which reads it in library calls and under pytest too."""
    before = sys.argv
    sys.argv = before[:1]
    try:
        yield
    finally:
        sys.argv = before


# --- checking ---


def nearest(name: str, names: Iterable[str], intro: str = "; nearest: ") -> str:
    """``; nearest: x, y`` for a misspelt name, or an empty string."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.7)
    if not close:
        lowered = {n.lower(): n for n in names}
        close = [lowered[m] for m in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.7)]
    return intro + ", ".join(close) if close else ""


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


@cache
def recbole_properties() -> Path:
    """RecBole's own property folder."""
    import recbole

    return Path(recbole.__file__).parent / "properties"


@cache
def shipped_defaults(names: tuple[str, ...], dataset: str | None = None) -> dict[str, Any]:
    """Our defaults for a model (its class names, ancestors first) and a dataset."""
    here = properties_dir()
    files = [here / "overall.yaml", *(here / "model" / f"{name}.yaml" for name in names)]
    if dataset:
        files.append(here / "dataset" / f"{dataset}.yaml")
    merged: dict[str, Any] = {}
    for path in files:
        if path.is_file():
            merged.update(load_yaml(path))
    return merged


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


def raise_all(problems: list[str]) -> None:
    """Raise one `UserError` that holds every problem; nothing to do for an empty list."""
    problems = list(dict.fromkeys(problems))
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        raise UserError(f"{len(problems)} problems:\n" + "\n".join(f"  - {problem}" for problem in problems))
