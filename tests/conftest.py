"""Fixtures of every room: one thread, no leaking argv, a scratch folder, the planted scenes."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

import recbole_sigma  # noqa: F401  before RecBole
from tests import planted as scenes

torch.set_num_threads(1)
hypothesis.settings.register_profile("repository", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("repository")


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
    """Config values of the chain, the dataset `planted`."""
    root = tmp_path_factory.mktemp("datasets")
    scenes.write_chain(root / "planted")
    return scenes.chain_config(root)


@pytest.fixture
def write_dataset(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Function that writes [(user, item, time)] as a dataset and returns the config values to read it."""

    def write(events: list[tuple[Any, Any, Any]], name: str = "small", **more: Any) -> dict[str, Any]:
        return scenes.events_config(tmp_path / "data" / name, events, **more)

    return write


@pytest.fixture(scope="session")
def cycle_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the dataset `cycle`."""
    root = tmp_path_factory.mktemp("cycle")
    scenes.write_cycle(root / "cycle")
    return root


@pytest.fixture
def cycle_settings(cycle_root: Path, tmp_path: Path) -> dict[str, Any]:
    """Config values of a small SIGMA on the cycle; nothing is written outside tmp_path."""
    return scenes.cycle_config(cycle_root, tmp_path)


@pytest.fixture(scope="session")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Config values of a small SIGMA with the task Category on the dataset `chosen`."""
    root = tmp_path_factory.mktemp("chosen")
    scenes.write_chosen(root / "chosen")
    return scenes.chosen_config(root)


@pytest.fixture(scope="session")
def valid_chosen(chosen: dict[str, Any]) -> dict[str, Any]:
    """The same with a validation part, which run asks for."""
    split = {**chosen["eval_args"], "split": {"RS": [0.8, 0.05, 0.15]}}
    return {**chosen, "eval_args": split, "eval_step": 0}


@pytest.fixture(scope="session")
def chosen_run(valid_chosen: dict[str, Any]) -> dict[str, Any]:
    """Result of one training on the chosen scene."""
    from recbole_sigma.quick_start import run

    return run("SIGMA", "chosen", config_dict=valid_chosen)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Function from a family's name to the folder of a small language model of it."""
    root, made = tmp_path_factory.mktemp("models"), {}

    def get(family: str) -> str:
        if family not in made:
            from tests.language_models import save_model

            made[family] = save_model(root / family, family)
        return made[family]

    return get
