"""A scene that a small model half knows, and the stage on it without files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_sigma.quick_start import build_started, build_trainer, run
from recbole_sigma.run import checkpoint
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.loaders import load_data
from recbole_sigma.run.policy import make_policy_trainer
from tests.planted import cycle_config, tiny

POLICY = {
    "policy_epochs": 2,
    "policy_group": 8,
    "policy_batch": 16,
    "policy_learning_rate": 0.003,
    "policy_contexts": 1,
}


@pytest.fixture(scope="session")
def started(
    planted: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[str, Any]]:
    """(model, keys...) -> config values with ``policy_from``, the checkpoint of a short supervised
    training.
    """
    kept: dict[str, dict[str, Any]] = {}

    def give(model: str, **keys: Any) -> dict[str, Any]:
        name = f"{model}{sorted(keys.items())}"
        if name not in kept:
            root: Path = tmp_path_factory.mktemp("start")
            places = {"checkpoint_dir": str(root / "saved"), "artifact_dir": str(root / "items")}
            values = tiny(model, **{**planted, "topk": [5, 10], **places, "epochs": 4, **keys})
            found = run(model, "planted", config_dict=values)
            kept[name] = {**values, **POLICY, "policy_from": str(Path(found["checkpoint"]).absolute())}
        return {**kept[name], "checkpoint_dir": "saved"}

    return give


@pytest.fixture(scope="session")
def half(cycle_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Config values of a SIGMA that half knows the cycle, where the next item is certain."""
    scratch = tmp_path_factory.mktemp("half")
    values = cycle_config(cycle_root, scratch, epochs=1, learning_rate=0.001, state="ERROR")
    found = run("SIGMA", "cycle", config_dict=values)
    start = str(Path(found["checkpoint"]).absolute())
    return {**values, **POLICY, "policy_contexts": 2, "policy_epochs": 4, "policy_from": start}


def go(
    model: str, values: dict[str, Any], valid: bool = False, dataset: str = "planted"
) -> tuple[dict[str, Any], Any]:
    """(weights after the last step, the trainer) of a policy stage without files."""
    config = RunConfig(model, dataset, config_dict=values)
    start = checkpoint.read(values["policy_from"])
    data = load_data(config, config.model_class)
    network = build_started(config, config.model_class, data.train, start)
    trainer = build_trainer(config, network, make_policy_trainer)
    loader = trainer.prepare(data.train, start)
    trainer.fit(loader, data.valid if valid else None, saved=False)
    return {name: value.clone() for name, value in network.state_dict().items()}, trainer


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two sets of weights agree in every bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
