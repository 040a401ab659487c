"""Where the shipped property files lie, and how they join RecBole's own order of precedence."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from recbole_sigma.settings.reading import load_yaml
from recbole_sigma.values import UserError


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


def properties_dir() -> Path:
    """The folder of the shipped recipes: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "properties", package.parent / "properties"):
        if (folder / "overall.yaml").is_file():
            return folder
    raise UserError(f"the shipped property files are missing beside {package}: reinstall recbole-sigma")


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
