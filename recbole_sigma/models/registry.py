"""Model names, ours and RecBole's: where each lives and which dataset it reads."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
import types
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

from recbole_sigma.settings.recipes import recbole_folder
from recbole_sigma.values import UserError

_PACKED = "recbole_sigma.data.dataset:PackedDataset"
_LABELLED = "recbole_sigma.data.dataset:LabelledDataset"


@dataclass(frozen=True)
class Entry:
    """Where a model of ours lives.

    Attributes:
        module: module that defines the class of the same name as the model.
        why: one sentence on what the row of a table is.
        source: where the model comes from.
        dataset: ``module:class`` of its dataset.
        family: RecBole subpackage under which its name is looked up; the first one RecBole asks, so that
            finding our models does not import every model of RecBole.
    """

    module: str
    why: str
    source: str
    dataset: str = _PACKED
    family: str = "general_recommender"


MODELS: dict[str, Entry] = {
    "SIGMA": Entry(
        "recbole_sigma.models.sigma.model",
        "semantic grounding, hybrid tokens, a list in three steps; one softmax over the catalogue",
        "arXiv 2602.22913; the joint objective is ours",
        "recbole_sigma.models.sigma.history:SIGMADataset",
    ),
    "TIGER": Entry(
        "recbole_sigma.models.tiger",
        "a T5 that reads and writes semantic IDs",
        "arXiv 2305.05065",
        "recbole_sigma.models.tiger:TIGERDataset",
    ),
    "WindowItemKNN": Entry(
        "recbole_sigma.models.window_item_knn", "co-occurrence in a window, nothing trained", "ours"
    ),
    "HistoryEASE": Entry(
        "recbole_sigma.models.history_ease",
        "EASE on the whole history before the judged event, solved once",
        "arXiv 1905.03375",
    ),
    "NextItemRidge": Entry(
        "recbole_sigma.models.next_item_ridge",
        "ridge regression from the newest items to the next, solved once",
        "ours",
    ),
    "ClosedForm": Entry(
        "recbole_sigma.models.closed_form",
        "HistoryEASE, NextItemRidge and WindowItemKNN, weighed on validation: the free floor",
        "ours",
    ),
    "TGH": Entry(
        "recbole_sigma.models.tgh",
        "rings of the graph of train transitions, in order of text, nothing trained",
        "arXiv 2605.07125",
    ),
    "TextLinear": Entry(
        "recbole_sigma.models.text_linear",
        "a linear map from item text to co-occurrence vectors, for cold items, solved once",
        "ours",
    ),
    "PackedSASRec": Entry(
        "recbole_sigma.models.packed_sasrec",
        "SASRec with a full softmax at every position of a packed row",
        "Kang and McAuley 2018 (network); the packed loss is ours",
        "recbole_sigma.models.packed_sasrec:PackedSASRecDataset",
    ),
    "HSTU": Entry(
        "recbole_sigma.models.hstu",
        "gated pointwise attention with a bias by distance and by time, on packed rows",
        "arXiv 2402.17152",
        "recbole_sigma.models.hstu:HSTUDataset",
    ),
    "BSARec": Entry(
        "recbole_sigma.models.bsarec",
        "self-attention beside a low-pass filter, one prefix per row as published",
        "arXiv 2312.10325",
        "recbole_sigma.models.bsarec:BSARecDataset",
    ),
    "GateSID": Entry(
        "recbole_sigma.models.gate_sid",
        "ranks each candidate by semantic IDs and clicks, a gate between them; for cold items",
        "arXiv 2603.22916",
        "recbole_sigma.models.gate_sid:GateSIDDataset",
    ),
    "SORT": Entry(
        "recbole_sigma.models.sort",
        "one transformer over history, profile and all candidates of a request, each candidate alone",
        "arXiv 2603.03988",
        "recbole_sigma.models.sort:SORTDataset",
    ),
    "SSR": Entry(
        "recbole_sigma.ctr.ssr",
        "sparse views of a row's vectors, each with a dense layer of its own; judged by labels",
        "arXiv 2604.08011",
        _LABELLED,
    ),
    "ImplicitRM": Entry(
        "recbole_sigma.ctr.implicit_rm",
        "a click is preference times activity, both learned; ranks by preference, judged by labels",
        "arXiv 2603.23184",
        _LABELLED,
    ),
}


@cache
def available_models() -> tuple[str, ...]:
    """Names of our models whose module is installed."""
    return tuple(name for name, entry in MODELS.items() if importlib.util.find_spec(entry.module) is not None)


RECBOLE_FAMILIES = (
    "general_recommender",
    "context_aware_recommender",
    "sequential_recommender",
    "knowledge_aware_recommender",
)


_EXTERNAL = {"xgboost": "XGBoost", "lightgbm": "LightGBM"}


def find_model(name: str) -> type | None:
    """The class RecBole would find for a model name, or None.

    RecBole's own lookup answers an unknown name with "No module named 'lightgbm'".
    """
    root = recbole_folder() / "model"
    for family in RECBOLE_FAMILIES:
        path = f"recbole.model.{family}.{name.lower()}"
        # looked up on disk: find_spec() imports the family's package and with it all its models
        if path in sys.modules or (root / family / f"{name.lower()}.py").is_file():
            return getattr(importlib.import_module(path), name, None)
    if name in _EXTERNAL.values():
        return vars(importlib.import_module(f"recbole.model.exlib_recommender.{name.lower()}"))[name]
    return None


def model_names() -> list[str]:
    """Every model name that works, RecBole's and ours; read from disk, RecBole is not imported."""
    names = set(available_models())
    for path in (recbole_folder() / "model").glob("*_recommender/*.py"):
        text = path.read_text(encoding="utf-8")
        names.update(
            line.split("(")[0].removeprefix("class ").strip()
            for line in text.splitlines()
            if line.startswith("class ") and line.split("(")[0][6:].strip().lower() == path.stem
        )
    return sorted(names)


def is_model(name: str) -> bool:
    """Whether a name is a model's; a name on disk is believed without importing anything."""
    return name in model_names() or find_model(name) is not None


def adopt(model_class: type) -> None:
    """Let RecBole find a model class that was passed in place of a name: it looks the name up again later.

    Raises:
        UserError: when another model already has that name.
    """
    name = model_class.__name__
    alias = f"recbole.model.{RECBOLE_FAMILIES[0]}.{name.lower()}"
    known = find_model(name)
    if known is model_class:
        return
    if known is not None and "_adopted" not in vars(sys.modules.get(alias, sys)):
        raise UserError(
            f"the class {model_class.__module__}.{name} has the name of an existing model, which RecBole "
            f"would train in its place: rename the class"
        )
    module = types.ModuleType(
        alias, "A model class passed to RecBole, set by recbole_sigma.models.registry.adopt."
    )
    module.__spec__ = ModuleSpec(alias, loader=None)
    module._adopted = True  # type: ignore[attr-defined]
    setattr(module, name, model_class)
    sys.modules[alias] = module


def names_file(word: str) -> bool:
    """Whether a word names a model of the user's own: ``folder/file.py:Class``."""
    return ".py:" in word


def from_file(word: str) -> type:
    """The model class behind ``folder/file.py:Class``; RecBole finds it by its name from now on.

    The file is run. So only what the user types may come here: the word of ``--model`` or ``--models``, never
    a name that a property file or a checkpoint holds.

    Raises:
        UserError: when the file cannot be run, or holds no model of that name.
    """
    from recbole.model.abstract_recommender import AbstractRecommender

    where, _, name = word.rpartition(":")
    path = Path(where).resolve()
    if not path.is_file():
        raise UserError(f"{word}: there is no file {where}")
    spec = importlib.util.spec_from_file_location(f"recbole_sigma_own_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        line = next(
            (
                f":{f.lineno}"
                for f in traceback.extract_tb(error.__traceback__)[::-1]
                if f.filename == str(path)
            ),
            "",
        )
        raise UserError(
            f"{where}{line} cannot be run ({type(error).__name__}: {error}): mend it first"
        ) from error
    found = vars(module).get(name)
    if not (isinstance(found, type) and issubclass(found, AbstractRecommender)):
        raise UserError(
            f"{where} has no model class {name!r}: write a class of that name that derives from one of "
            "RecBole's recommenders (docs/your_model.md)"
        )
    adopt(found)
    _FILES[name] = path
    return found


_FILES: dict[str, Path] = {}


def file_of(name: str) -> Path | None:
    """The file that `from_file` took a model from, or None."""
    return _FILES.get(name)


def adopted(name: str) -> bool:
    """Whether a class of this name was passed to RecBole in this process (`adopt`)."""
    alias = f"recbole.model.{RECBOLE_FAMILIES[0]}.{str(name).lower()}"
    return bool(getattr(sys.modules.get(alias), "_adopted", False))


def ours(model_class: type) -> list[str]:
    """Our models that a class is or derives from, nearest first."""
    return [
        c.__name__
        for c in model_class.__mro__
        if c.__name__ in MODELS and c.__module__ == MODELS[c.__name__].module
    ]


def dataset_class(model_class: type) -> type | None:
    """Dataset class of a model of ours (or derived from ours), else None."""
    for name in ours(model_class):
        module, _, attribute = MODELS[name].dataset.partition(":")
        return vars(importlib.import_module(module))[attribute]
    return None
