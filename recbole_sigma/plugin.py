"""The seam: the only module that touches RecBole's registries.

`register()` may run any number of times, before or after RecBole is imported. A hook on a RecBole module
runs when that module is first imported, so importing this package stays cheap. tests/plugin/test_hooks.py
holds one test per hook.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from recbole_sigma.settings import properties_dir
from recbole_sigma.values import UserError


@dataclass(frozen=True)
class Entry:
    """Where a model of ours lives.

    Attributes:
        module: module that defines the class of the same name as the model.
        family: RecBole subpackage under which its name is looked up; the first one RecBole asks, so that
            finding our models does not import every model of RecBole.
        dataset: ``module:class`` of its dataset; None for RecBole's sequential dataset with exact time.
    """

    module: str
    family: str = "general_recommender"
    dataset: str | None = None


MODELS: dict[str, Entry] = {
    "SIGMA": Entry("recbole_sigma.models.sigma", dataset="recbole_sigma.data:SIGMADataset"),
    "TIGER": Entry("recbole_sigma.models.tiger", dataset="recbole_sigma.models.tiger:TIGERDataset"),
    "WindowItemKNN": Entry(
        "recbole_sigma.models.window_item_knn", dataset="recbole_sigma.data:PackedDataset"
    ),
    "PackedSASRec": Entry(
        "recbole_sigma.models.packed_sasrec", dataset="recbole_sigma.models.packed_sasrec:PackedSASRecDataset"
    ),
}


@cache
def available_models() -> tuple[str, ...]:
    """Names of our models whose module is installed."""
    return tuple(name for name, entry in MODELS.items() if importlib.util.find_spec(entry.module) is not None)


def register() -> None:
    """Make RecBole find our models, datasets, trainers, property files and metrics."""
    for name in available_models():
        entry = MODELS[name]
        alias = f"recbole.model.{entry.family}.{name.lower()}"
        if alias not in sys.modules:
            sys.modules[alias] = _ModelAlias(alias, name, entry.module)
    if not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())
    for module_name in HOOKS:
        if module_name in sys.modules:
            _run_hook(sys.modules[module_name])


# --- model lookup: get_model() asks sys.modules for recbole.model.<family>.<name> ---


class _ModelAlias(types.ModuleType):
    """A module under RecBole's name for a model; imports the real one when the class is asked for."""

    def __init__(self, alias: str, model: str, target: str) -> None:
        super().__init__(alias, f"Alias of {target}, set by recbole_sigma.plugin.")
        self.__spec__ = ModuleSpec(alias, loader=None)  # find_spec() refuses a module without one
        self._model, self._target = model, target

    def __getattr__(self, name: str) -> Any:
        if name == self.__dict__.get("_model"):
            return getattr(importlib.import_module(self._target), name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


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
    import recbole.model

    root = Path(recbole.model.__path__[0])
    for family in RECBOLE_FAMILIES:
        path = f"recbole.model.{family}.{name.lower()}"
        # looked up on disk: find_spec() imports the family's package and with it all its models
        if path in sys.modules or (root / family / f"{name.lower()}.py").is_file():
            return getattr(importlib.import_module(path), name, None)
    if name in _EXTERNAL.values():
        return getattr(importlib.import_module(f"recbole.model.exlib_recommender.{name.lower()}"), name)
    return None


def model_names() -> list[str]:
    """Every model name that works: RecBole's and ours."""
    import recbole.model

    names = set(available_models())
    for path in Path(recbole.model.__path__[0]).glob("*_recommender/*.py"):
        text = path.read_text(encoding="utf-8")
        names.update(
            line.split("(")[0].removeprefix("class ").strip()
            for line in text.splitlines()
            if line.startswith("class ") and line.split("(")[0][6:].strip().lower() == path.stem
        )
    return sorted(names)


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
    if known is not None and not getattr(sys.modules.get(alias), "_adopted", False):
        raise UserError(
            f"the class {model_class.__module__}.{name} has the name of an existing model, which RecBole "
            "would train in its "
            f"place: rename the class"
        )
    module = types.ModuleType(alias, "A model class passed to RecBole, set by recbole_sigma.plugin.adopt.")
    module.__spec__ = ModuleSpec(alias, loader=None)
    module._adopted = True  # type: ignore[attr-defined]
    setattr(module, name, model_class)
    sys.modules[alias] = module


def ours(model_class: type) -> list[str]:
    """Our models that a class is or derives from, nearest first."""
    return [
        c.__name__
        for c in model_class.__mro__
        if c.__name__ in MODELS and c.__module__ == MODELS[c.__name__].module
    ]


# --- dataset and trainer lookup: RecBole asks its modules for <Model>Dataset and <Model>Trainer ---


def dataset_class(model_class: type) -> type | None:
    """Dataset class of a model of ours (or derived from ours), else None."""
    from recbole.data.dataset import SequentialDataset

    from recbole_sigma.chronology import exact

    for name in ours(model_class):
        where = MODELS[name].dataset
        if where is None:
            return exact(SequentialDataset)
        module, _, attribute = where.partition(":")
        found = getattr(importlib.import_module(module), attribute, None)
        if found is None:  # a generative model without its own dataset shares SIGMA's
            found = importlib.import_module("recbole_sigma.data").SIGMADataset
        return found
    return None


def trainer_class(model_class: type) -> type | None:
    """Trainer class of a model of ours (or derived from ours), else None."""
    if not ours(model_class):
        return None
    from recbole.trainer import Trainer

    from recbole_sigma.training import make_trainer

    return make_trainer(Trainer)


def _lookup(suffix: str, resolve: Callable[[type], type | None]) -> Callable[[str], Any]:
    def __getattr__(name: str) -> Any:  # noqa: N807  PEP 562, set on a RecBole module
        if name.endswith(suffix) and not name.startswith("_"):
            model = find_model(name.removesuffix(suffix)) if name != suffix else None
            found = resolve(model) if model is not None else None
            if found is not None:
                return found
        raise AttributeError(f"no attribute {name!r}")

    return __getattr__


def _hook_dataset(module: types.ModuleType) -> None:
    module.__getattr__ = _lookup("Dataset", dataset_class)  # type: ignore[method-assign]


def _hook_trainer(module: types.ModuleType) -> None:
    module.__getattr__ = _lookup("Trainer", trainer_class)  # type: ignore[method-assign]


# --- property files: ours at the places where RecBole merges its own ---


def merge_internal(config: Any, original: Callable[..., None], model_class: type, dataset: str) -> None:
    """Run Config._load_internal_config_dict with our property files at RecBole's own precedence.

    Order: RecBole's overall, ours; RecBole's model, its ancestors' and ours; sample; RecBole's dataset, ours;
    then RecBole's quick-start file of the model type. Files, dictionaries and the command line outrank all of
    these. Our model files are read again behind RecBole's sample and dataset files, which set the history
    length of every model to 50, whatever its own file says.
    """
    load = config._update_internal_config_dict
    here = properties_dir()
    stock: list[Path] = []
    done: set[Path] = set()
    own = [here / "model" / f"{ancestor.__name__}.yaml" for ancestor in reversed(model_class.__mro__)]

    def load_over(file: str) -> Any:
        answer = load(file)
        for path in own:
            if path.is_file():
                load(str(path))
        return answer

    def merge(path: Path) -> None:
        if path.is_file() and path not in done:
            done.add(path)
            load(str(path))

    def intercept(file: str) -> Any:
        path = Path(file)
        if path.parent.name == "dataset" and path.name == "sample.yaml":
            for ancestor in reversed(model_class.__mro__):
                for root in (*stock, here):
                    merge(root / "model" / f"{ancestor.__name__}.yaml")
            answer = load_over(file)
            if not (path.parent / f"{dataset}.yaml").is_file():
                merge(here / "dataset" / f"{dataset}.yaml")
            return answer
        done.add(path.resolve())
        if path.parent.name == "dataset":
            answer = load_over(file)
            merge(here / "dataset" / f"{dataset}.yaml")
            return answer
        answer = load(file)
        if path.name == "overall.yaml":
            stock.append(path.resolve().parent)
            merge(here / "overall.yaml")
        return answer

    config._update_internal_config_dict = intercept
    try:
        original(config, model_class.__name__, model_class, dataset)
    finally:
        del config._update_internal_config_dict


def _hook_config(module: types.ModuleType) -> None:
    config_class = module.Config
    load_internal, find = config_class._load_internal_config_dict, config_class._get_model_and_dataset

    def _load_internal_config_dict(self: Any, model: str, model_class: type, dataset: str) -> None:
        if ours(model_class):
            merge_internal(self, load_internal, model_class, dataset)
        else:
            load_internal(self, model, model_class, dataset)

    def _get_model_and_dataset(self: Any, model: Any, dataset: Any) -> tuple[str, type, str]:
        if isinstance(model, type):
            adopt(model)
        return find(self, model, dataset)

    config_class._load_internal_config_dict = _load_internal_config_dict
    config_class._load_internal_config_dict.stock = load_internal
    config_class._get_model_and_dataset = _get_model_and_dataset


# --- metrics: RecBole scans one module at import; its four tables are shared objects ---


def _hook_metrics(module: types.ModuleType) -> None:
    from recbole_sigma.evaluation import metrics

    for metric in (*metrics.OURS, *metrics.REPAIRED):
        name = metric.__name__.lower()
        module.metrics_dict[name] = metric
        module.metric_information[name] = metric.metric_need
        module.metric_types[name] = metric.metric_type
        if metric.smaller and name not in module.smaller_metrics:
            module.smaller_metrics.append(name)


# --- quick start: workers import us, and our checkpoints are read by our loader ---


def run_recboles(rank: int, *args: Any) -> None:
    """RecBole's worker of a multi-process run; unpickling it in a spawned process imports this package."""
    import recbole.quick_start.quick_start as quick_start

    quick_start._stock_run_recboles(rank, *args)


def _hook_quick_start(module: types.ModuleType) -> None:
    stock_load, stock_flops = module.load_data_and_model, module.get_flops

    def get_flops(model: Any, *args: Any, **kwargs: Any) -> float:
        """RecBole's count; 1, as RecBole says for Pop, for our models.

        Counting deep-copies the model and calls predict on a row of the unsplit dataset, which for packed
        datasets is a bare event without history.
        """
        return 1 if ours(type(model)) else stock_flops(model, *args, **kwargs)

    def load_data_and_model(model_file: str) -> tuple[Any, ...]:
        """RecBole's function; a checkpoint of recbole_sigma is read by recbole_sigma."""
        from recbole_sigma import checkpoint, quick_start

        if checkpoint.is_checkpoint(model_file):
            return quick_start.load_data_and_model(model_file)
        return stock_load(model_file)

    module._stock_run_recboles, module.run_recboles = module.run_recboles, run_recboles
    module.load_data_and_model, module.get_flops = load_data_and_model, get_flops
    package = sys.modules.get("recbole.quick_start")
    if package is not None and hasattr(package, "load_data_and_model"):  # imported before us
        package.load_data_and_model, package.run_recboles = load_data_and_model, run_recboles


# --- the mechanism ---

HOOKS: dict[str, Callable[[types.ModuleType], None]] = {
    "recbole.config.configurator": _hook_config,
    "recbole.data.dataset": _hook_dataset,
    "recbole.trainer": _hook_trainer,
    "recbole.evaluator.register": _hook_metrics,
    "recbole.quick_start.quick_start": _hook_quick_start,
}


def _run_hook(module: types.ModuleType) -> None:
    if not getattr(module, "_recbole_sigma", False):
        module._recbole_sigma = True  # type: ignore[attr-defined]
        HOOKS[module.__name__](module)


class _AfterImport:
    """Import finder that runs a hook right after RecBole's module has been executed."""

    def __init__(self) -> None:
        self._busy: set[str] = set()

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname not in HOOKS or fullname in self._busy:
            return None
        self._busy.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._busy.discard(fullname)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            execute(module)
            _run_hook(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
