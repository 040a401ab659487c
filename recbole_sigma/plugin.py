"""The seam: the only module that touches RecBole's registries.

`register()` may run any number of times, before or after RecBole is imported. The hook on RecBole itself, the
shims of `_compat`, runs right before RecBole is first imported; a hook on one of its modules runs right after
that module was imported. So importing this package stays cheap. tests/plugin/test_hooks.py holds one test per
hook.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import types
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any

from recbole_sigma import _compat
from recbole_sigma.models import stock
from recbole_sigma.models.registry import MODELS, adopt, available_models, dataset_class, find_model, ours
from recbole_sigma.settings.reader import keys_of
from recbole_sigma.settings.recipes import UNDECLARED, merge_internal, settings_of, unknown_keys
from recbole_sigma.settings.stages import KEYS_OF_EVERY_MODEL
from recbole_sigma.values import UserError


def register() -> None:
    """Make RecBole find our models, datasets, trainers, property files and metrics."""
    for name in available_models():
        entry = MODELS[name]
        alias = f"recbole.model.{entry.family}.{name.lower()}"
        if alias not in sys.modules:
            sys.modules[alias] = _ModelAlias(alias, name, entry.module)
    if not any(isinstance(finder, _ImportHooks) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ImportHooks())
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
            return vars(importlib.import_module(self._target))[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


# --- dataset and trainer lookup: RecBole asks its modules for <Model>Dataset and <Model>Trainer ---


def trainer_class(model_class: type) -> type | None:
    """Trainer class of a model of ours (or derived from ours), else None."""
    if not ours(model_class):
        return None
    from recbole.trainer import Trainer

    from recbole_sigma.run.trainer import make_trainer

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


def _hook_config(module: types.ModuleType) -> None:
    config_class = module.Config
    load_internal, find = config_class._load_internal_config_dict, config_class._get_model_and_dataset
    load_files = config_class._load_config_files

    def _load_internal_config_dict(self: Any, model: str, model_class: type, dataset: str) -> None:
        if ours(model_class):
            merge_internal(self, load_internal, model_class, dataset)
        else:
            load_internal(self, model, model_class, dataset)
        for sentence in unread_settings(self, model_class):
            warnings.warn(sentence, stacklevel=2)

    def _load_config_files(self: Any, file_list: Any) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for file in file_list or ():
            values, self._variant_of = settings_of(file)
            if self._variant_of is None and os.path.exists(file):
                values = load_files(self, [file])  # as RecBole reads it
            merged.update(values)
        return merged

    def _get_model_and_dataset(self: Any, model: Any, dataset: Any) -> tuple[str, type, str]:
        if isinstance(model, type):
            adopt(model)
        base = vars(self).pop("_variant_of", None)
        found = find(self, model if model is not None else base, dataset)
        if base is not None and base != found[0]:
            raise UserError(f"the config file is a variant of {base}, not of {found[0]}: name model={base!r}")
        return found

    config_class._load_internal_config_dict = _load_internal_config_dict
    config_class._load_internal_config_dict.stock = load_internal
    config_class._get_model_and_dataset = _get_model_and_dataset
    config_class._load_config_files = _load_config_files


def unread_settings(config: Any, model_class: type) -> list[str]:
    """Sentences about settings of a stock run that nothing reads, so that no run is silently another one.

    Args:
        config: RecBole's, with its external settings read.
        model_class: a model of RecBole or of ours; nobody knows what a class of the user's own reads.
    """
    known = ours(model_class)
    if not known and not model_class.__module__.startswith("recbole."):
        return []
    given = config.external_config_dict
    found = unknown_keys(given, "the settings", config.internal_config_dict)
    found = [f"{sentence}: it has no effect" for sentence in found]
    if not known:
        name, mine = (
            model_class.__name__,
            {field for stage in KEYS_OF_EVERY_MODEL for field in keys_of(stage)},
        )
        found += [
            f"{key} has no effect on {name} under RecBole's own runner: use recbole_sigma.quick_start.run"
            for key in given
            if key in mine - UNDECLARED and key not in config.internal_config_dict
        ]
    return found


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


def _flops_of(stock_flops: Callable[..., float]) -> Callable[..., float]:
    """RecBole's count of operations; 1, as RecBole says for Pop, for our models.

    Counting deep-copies the model and calls predict on a row of the unsplit dataset, which for packed
    datasets is a bare event without history.
    """

    @functools.wraps(stock_flops)
    def get_flops(model: Any, *args: Any, **kwargs: Any) -> float:
        return 1 if ours(type(model)) else stock_flops(model, *args, **kwargs)

    return get_flops


def _hook_utils(module: types.ModuleType) -> None:
    module.get_flops = _flops_of(module.get_flops)  # type: ignore[attr-defined]
    package = sys.modules.get("recbole.utils")
    if package is not None and hasattr(package, "get_flops"):  # imported before us
        package.get_flops = module.get_flops  # type: ignore[attr-defined]


def _hook_quick_start(module: types.ModuleType) -> None:
    stock_load = module.load_data_and_model

    def load_data_and_model(model_file: str) -> tuple[Any, ...]:
        """RecBole's function; a checkpoint of recbole_sigma is read by recbole_sigma."""
        from recbole_sigma import quick_start
        from recbole_sigma.run import checkpoint

        if checkpoint.is_checkpoint(model_file):
            return quick_start.load_data_and_model(model_file)
        stored = _compat.plain_checkpoint(model_file)
        return stock_load(model_file) if stored is None else _reload(module, stored)

    module._stock_run_recboles, module.run_recboles = module.run_recboles, run_recboles
    module.load_data_and_model, module.get_flops = load_data_and_model, _flops_of(module.get_flops)
    package = sys.modules.get("recbole.quick_start")
    if package is not None and "load_data_and_model" in vars(package):  # imported before us
        package.load_data_and_model, package.run_recboles = load_data_and_model, run_recboles


def _reload(module: Any, stored: dict[str, Any]) -> tuple[Any, ...]:
    """RecBole's load_data_and_model on a checkpoint that `_compat.plain_checkpoints` stored."""
    values = stored["config"]
    config = module.Config(values["model"], values["dataset"], config_dict=values)
    module.init_seed(config["seed"], config["reproducibility"])
    module.init_logger(config)
    dataset = module.create_dataset(config)
    train, valid, test = module.data_preparation(config, dataset)
    module.init_seed(config["seed"], config["reproducibility"])
    model = module.get_model(config["model"])(config, train._dataset).to(config["device"])
    model.load_state_dict(stored["state_dict"])
    model.load_other_parameter(stored.get("other_parameter"))
    return config, model, dataset, train, valid, test


# --- RecBole's models: no eval, no pickle ---


def _hook_model(module: types.ModuleType) -> None:
    from recbole_sigma.run.checkpoint import weights_of

    stock.disarm(module, weights_of)


# --- RecBole's own trainer: checkpoints that today's torch reads ---


def _hook_stock_trainer(module: types.ModuleType) -> None:
    from recbole_sigma.run.config import requested_values

    _compat.plain_checkpoints(module, requested_values)


# --- the mechanism ---

HOOKS: dict[str, Callable[[types.ModuleType], object]] = {
    "recbole": lambda module: _compat.apply(),
    "recbole.config.configurator": _hook_config,
    "recbole.data.dataset": _hook_dataset,
    "recbole.data.transform": _compat.negatives_of_masks,
    "recbole.trainer": _hook_trainer,
    "recbole.trainer.trainer": _hook_stock_trainer,
    "recbole.trainer.hyper_tuning": _compat.generator_of_hyperopt,
    "recbole.evaluator.register": _hook_metrics,
    "recbole.utils.utils": _hook_utils,
    "recbole.quick_start.quick_start": _hook_quick_start,
    "recbole.model.abstract_recommender": lambda module: _compat.restore_dok_update(),
    **dict.fromkeys(stock.LOADERS, _hook_model),
}


def _run_hook(module: types.ModuleType) -> None:
    if "_recbole_sigma" not in vars(module):
        module._recbole_sigma = True  # type: ignore[attr-defined]
        HOOKS[module.__name__](module)


BEFORE = ("recbole",)
"""Hooks that run before the body of their module; the others run after it."""


class _ImportHooks:
    """Import finder that wraps the loaders of the hooked modules; looking one up runs no hook yet."""

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
            if fullname in BEFORE:
                _run_hook(module)
            execute(module)
            _run_hook(module)  # once per module

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
