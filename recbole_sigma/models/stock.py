"""What RecBole's own models may not do here: run text of a setting as code, unpickle, read a foreign file.

RecBole 1.2.1 evaluates one setting (KD_DAGFM's ``teacher``) and loads pickles in seven models. Each place has
a guard: `problems` refuses the setting before anything is built, and `disarm` takes the power from the module
itself, for callers that never pass our settings. tests/reliability/test_no_code.py walks RecBole's source and
fails when a place appears that neither this file nor the test's list of unreachable places names.
"""

from __future__ import annotations

import importlib.util
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any

from recbole_sigma._compat import Shadow

KNOWN_TEACHERS = ("CrossNet", "CIN")
_FAMILY = "recbole.model"
EVALUATES = f"{_FAMILY}.context_aware_recommender.kd_dagfm"
LOADS_ARRAY = f"{_FAMILY}.general_recommender.ldiffrec"
LOADS_WEIGHTS = tuple(
    f"{_FAMILY}.{name}"
    for name in (
        "general_recommender.convncf",
        "general_recommender.nais",
        "general_recommender.neumf",
        "general_recommender.ract",
        "context_aware_recommender.kd_dagfm",
        "sequential_recommender.s3rec",
    )
)

TREES = ("XGBoost", "LightGBM")
NEEDS_PACKAGE = {"KGAT": "dgl", "KGIN": "torch_scatter", "MCCLK": "torch_scatter"}
"""Model -> a package that RecBole imports for it and that this project does not install."""

READS_FILES: dict[str, dict[str, Any]] = {
    "ConvNCF": {"train_method": "no_pretrain", "pre_model_path": ""},
    "NAIS": {"pretrain_path": None},
    "NeuMF": {"use_pretrain": False, "mf_pretrain_path": None, "mlp_pretrain_path": None},
    "RaCT": {"train_stage": "actor_pretrain", "pre_model_path": ""},
    "KD_DAGFM": {"phase": "teacher_training", "warm_up": ""},
    "S3Rec": {"train_stage": "pretrain", "pre_model_path": ""},
    "LDiffRec": {"n_cate": 1},
}
"""Model -> the settings under which it opens no file of weights beside the dataset."""

LOADERS = (*LOADS_WEIGHTS, EVALUATES, LOADS_ARRAY)
"""Modules of RecBole that `disarm` changes when they are imported."""


READS_FEATURES = {
    "selected_features": ("SASRecF", "GRU4RecF", "FDSA"),
    "item_attribute": ("S3Rec",),
}
"""Key -> the models that read the item columns which it names."""


def refusal(model: str) -> str | None:
    """Why a model of RecBole's cannot run here at all; None where it can."""
    if model in TREES:
        return (
            f"{model} grows decision trees, which are not trained by epochs over tensors: run it with "
            "RecBole's own run_recbole"
        )
    package = NEEDS_PACKAGE.get(model)
    if package is not None and importlib.util.find_spec(package) is None:
        return (
            f"{model} needs the package {package}, which is not installed: install it, or take another model"
        )
    return None


def problems(model: str, values: Mapping[str, Any]) -> list[str]:
    """Sentences about settings under which a model of RecBole's would run code or cannot start."""
    found = []
    if model == "KD_DAGFM" and values.get("teacher") not in KNOWN_TEACHERS:
        found.append(
            f"teacher must be one of {', '.join(KNOWN_TEACHERS)}, not {str(values.get('teacher'))[:60]!r}: "
            "RecBole would run any other text as Python code"
        )
    needs_file = {
        "ConvNCF": values.get("train_method") == "after_pretrain",
        "RaCT": values.get("train_stage") in ("critic_pretrain", "finetune"),
        "S3Rec": values.get("train_stage") == "finetune",
    }
    if needs_file.get(model) and not values.get("pre_model_path"):
        found.append(
            f"pre_model_path is empty, but {model} starts from trained weights under these settings: name "
            "the checkpoint of the stage before"
        )
    for key, models in READS_FEATURES.items():
        if model in models and not values.get(key):
            found.append(f"{key} is empty, but {model} reads the item columns that it names: name one")
    if isinstance(values.get("item_attribute"), list):
        found.append(f"item_attribute must be the name of one item column, not {values['item_attribute']!r}")
    if model == "KD_DAGFM" and values.get("phase") != "teacher_training" and not values.get("warm_up"):
        found.append("warm_up is empty: name the checkpoint of KD_DAGFM's stage before")
    return found


def column_problems(model: str, values: Mapping[str, Any], columns: Collection[str]) -> list[str]:
    """Sentences about item columns that a model of RecBole's reads and that were not loaded.

    Args:
        model: its name.
        values: the resolved settings.
        columns: those of the item file that were loaded, whatever ``load_col`` and ``unload_col`` say.
    """
    found = []
    for key, models in READS_FEATURES.items():
        named = values[key] if model in models else ()
        for field in [named] if isinstance(named, str) else named:
            if field not in columns:
                found.append(
                    f"{key} names {field!r}, which is no item column that is loaded (those are "
                    f"{', '.join(columns)}): name another one, or load it with load_col: {{item: [...]}}"
                )
    return found


def without_files(model: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a checkpoint, changed so that its model opens no other file of weights.

    The checkpoint holds every weight that such a file once gave.
    """
    changes = {key: value for key, value in READS_FILES.get(model, {}).items() if key in values}
    return {**values, **changes}


# --- the modules themselves ---------------------------------------------------------------------------------


def disarm(module: types.ModuleType, read_weights: Callable[[Any], dict[str, Any]]) -> None:
    """Take `eval` and pickle from a module of RecBole's that `LOADERS` names.

    Args:
        module: just imported.
        read_weights: gives ``{"state_dict": ...}`` of one of our checkpoints.
    """
    if module.__name__ == EVALUATES:
        module.eval = lambda name: _class_named(module, name)  # type: ignore[attr-defined]
    if module.__name__ == LOADS_ARRAY:
        numpy = module.np
        module.np = Shadow(  # type: ignore[attr-defined]
            numpy, load=lambda path, **_: numpy.load(path, allow_pickle=False)
        )
    if module.__name__ in LOADS_WEIGHTS:
        module.torch = Shadow(  # type: ignore[attr-defined]
            module.torch, load=lambda path, *_, **__: read_weights(path)
        )


def _class_named(module: types.ModuleType, name: str) -> type:
    if name not in KNOWN_TEACHERS:
        raise ValueError(f"teacher {name[:60]!r} is not one of {', '.join(KNOWN_TEACHERS)}")
    return vars(module)[name]  # type: ignore[no-any-return]
