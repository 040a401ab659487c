"""Our defaults, in code and in property files, at RecBole's own precedence; which keys exist at all."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from recbole_sigma.settings.reader import all_keys, keys_of, wrong_value
from recbole_sigma.settings.reading import load_yaml, nearest
from recbole_sigma.settings.stages import KEYS_OF_EVERY_MODEL, KEYS_OF_MODEL
from recbole_sigma.values import UserError


def merge_internal(config: Any, original: Callable[..., None], model_class: type, dataset: str) -> None:
    """Run Config._load_internal_config_dict with our defaults at RecBole's own precedence.

    Order: RecBole's overall, ours; RecBole's model, its ancestors' and ours; sample; RecBole's dataset, ours;
    then RecBole's quick-start file of the model type. Ours are the defaults of `settings.keys`, then the
    property file of that place. Files, dictionaries and the command line outrank all of these. Those of the
    model are merged again behind RecBole's sample and dataset files, which set the history length of every
    model to 50, whatever its own file says.
    """
    load = config._update_internal_config_dict
    here = properties_dir()
    stock: list[Path] = []
    done: set[Path] = set()
    names = [ancestor.__name__ for ancestor in reversed(model_class.__mro__)]

    def load_over(file: str) -> Any:
        answer = load(file)
        for name in names:
            config.internal_config_dict.update(stage_defaults(KEYS_OF_MODEL.get(name, ())))
            path = here / "model" / f"{name}.yaml"
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
            for name in names:
                for root in stock:
                    merge(root / "model" / f"{name}.yaml")
                config.internal_config_dict.update(stage_defaults(KEYS_OF_MODEL.get(name, ())))
                merge(here / "model" / f"{name}.yaml")
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
            config.internal_config_dict.update(stage_defaults(KEYS_OF_EVERY_MODEL))
            merge(here / "overall.yaml")
        return answer

    config._update_internal_config_dict = intercept
    try:
        original(config, model_class.__name__, model_class, dataset)
    finally:
        del config._update_internal_config_dict


def properties_dir() -> Path:
    """The folder of the shipped recipes: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "properties", package.parent / "properties"):
        if (folder / "overall.yaml").is_file():
            return folder
    raise UserError(f"the shipped property files are missing beside {package}: reinstall recbole-sigma")


def recbole_folder() -> Path:
    """The folder of the installed RecBole, found without importing it.

    Raises:
        UserError: RecBole is not installed.
    """
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        # from 3.12 on RecBole's own requirements cannot be met: its ray has no build there
        bare = "--no-deps " if sys.version_info >= (3, 12) else ""
        raise UserError(
            f"recbole is not installed for {sys.executable}: use the Python of .venv (make setup, then "
            f"source .venv/bin/activate), or run {sys.executable} -m pip install {bare}recbole==1.2.1"
        )
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def recbole_properties() -> Path:
    """RecBole's own property folder."""
    return recbole_folder() / "properties"


def stage_defaults(stages: Iterable[type]) -> dict[str, Any]:
    """The defaults of some stages as a property file would hold them."""
    merged = {name: key.default for stage in stages for name, key in keys_of(stage).items()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in merged.items()}


@cache
def shipped_defaults(names: tuple[str, ...], dataset: str | None = None) -> dict[str, Any]:
    """Our defaults for a model (its class names, ancestors first) and a dataset."""
    here = properties_dir()
    merged = stage_defaults(KEYS_OF_EVERY_MODEL)
    merged.update(_load_if_there(here / "overall.yaml"))
    for name in names:
        merged.update(stage_defaults(KEYS_OF_MODEL.get(name, ())))
        merged.update(_load_if_there(here / "model" / f"{name}.yaml"))
    if dataset:
        merged.update(_load_if_there(here / "dataset" / f"{dataset}.yaml"))
    return merged


def label_defaults(dataset: str) -> dict[str, Any]:
    """The protocol of models that are scored by labels: one for all, then what a data set has of its own.

    Property files of data sets hold the protocol of ranked lists, which does not count here.
    """
    here = properties_dir() / "labels"
    return {**load_yaml(here / "overall.yaml"), **_load_if_there(here / f"{dataset}.yaml")}


def _load_if_there(path: Path) -> dict[str, Any]:
    return load_yaml(path) if path.is_file() else {}


# --- files that the user names ---


VARIANT_FIELDS = ("name", "base", "values", "why", "source")
"""Fields of a variant file, a row of a table (`benchmark.variants`)."""


def settings_of(file: Path | str, problems: list[str] | None = None) -> tuple[dict[str, Any], str | None]:
    """The keys of a property file, and the model that they are for where the file is a variant.

    A recipe or a variant of this package may go by its name (``tiger_paper``). A variant, a row of a table,
    stands for its values.

    Args:
        file: path or name.
        problems: see `reading.load_yaml`.
    """
    path = Path(file)
    if not path.suffix and not path.exists():
        kinds = ("recipes", "variants")
        named = [properties_dir() / kind / f"{path.name.lower().replace('-', '_')}.yaml" for kind in kinds]
        path = next((found for found in named if found.is_file()), path)
    values = load_yaml(path, problems)
    if not {"name", "base", "values"} <= values.keys() <= set(VARIANT_FIELDS):
        return values, None
    inner = values["values"]
    if isinstance(inner, str):
        inner = load_yaml(path.parent / inner, problems)
    return {str(key): value for key, value in dict(inner or {}).items()}, str(values["base"])


def foreign_variant(file: Path | str, base: str, model: Any) -> str:
    """The sentence about a variant file that is given to another model than its own."""
    return f"{file} is a variant of {base}, not of {model}: name --model={base}, or another file"


# --- which keys exist ---

# Keys that RecBole 1.2.1's code reads but that none of its lists or property files declares.
UNDECLARED = frozenset(
    "model dataset config_files encoding local_rank nproc world_size offset ip port tail_ratio train_stage "
    "reg_weight pre_model_path pretrain_epochs save_step mask_ratio ft_ratio crop_eta reorder_beta "
    "user_inter_num_interval ITEM_SEQ convert_token_to_onehot token_num double_tower numerical_features "
    "discretization wandb_project kg_reverse_r normalize_all benchmark_filename embedding_size hyper_files "
    "group_offset source_id_field".split()
)
_ARGUMENT_LISTS = ("general_arguments", "training_arguments", "evaluation_arguments", "dataset_arguments")


@cache
def declared_keys() -> frozenset[str]:
    """Every key that some model, dataset or stage of RecBole or of ours declares; RecBole is not imported."""
    keys = set(UNDECLARED) | all_keys().keys() | _argument_lists()
    for root in (recbole_properties(), properties_dir()):
        for path in root.rglob("*.yaml"):
            # these folders hold other things than keys with their defaults
            other = path.parent.name in ("tasks", "variants", "tune")
            if path.name not in ("url.yaml", "kg_url.yaml") and not other:
                keys |= set(_TOP_KEY.findall(path.read_text(encoding="utf-8")))
    return frozenset(keys)


# the keys of a shipped file, whose values do not matter here: reading them as YAML takes half a second
_TOP_KEY = re.compile(r"^([A-Za-z_][\w-]*)\s*:", re.MULTILINE)


def _argument_lists() -> set[str]:
    """The names in RecBole's lists of arguments, read from the source."""
    path = recbole_folder() / "utils" / "argument_list.py"
    return {
        name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in _ARGUMENT_LISTS
        for name in ast.literal_eval(node.value)
    }


def unknown_keys(given: dict[str, Any], source: str, used: Iterable[str] = ()) -> list[str]:
    """Sentences about keys that nothing declares.

    Args:
        given: the keys as the user gave them.
        source: where they were given, for the sentence.
        used: further names that count as known (fields of the dataset's property file, say).
    """
    known = declared_keys() | set(used)
    return [f"unknown key {key!r} in {source}{nearest(key, known)}" for key in given if key not in known]


def key_problems(
    given: Iterable[tuple[str, dict[str, Any]]], shipped: dict[str, Any], used: Iterable[str] = ()
) -> list[str]:
    """Sentences about unknown keys and about values that do not fit.

    Args:
        given: (where, the keys given there), for example a file or the command line.
        shipped: our defaults for the model and the dataset.
        used: further names that count as known.
    """
    problems = []
    for source, values in given:
        problems += unknown_keys(values, source, used)
        wrong = (wrong_value(key, value, shipped.get(key)) for key, value in values.items())
        problems += [f"{problem} (in {source})" for problem in wrong if problem]
    return problems
