from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_sigma.instructions.samples import build_tasks
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.loaders import load_data
from recbole_sigma.understanding.build import lexicon_of
from recbole_sigma.understanding.lexicon import Lexicon
from recbole_sigma.understanding.reader import Understanding
from tests.planted import shop_tasks, wardrobe_config, write_shop, write_tasks, write_wardrobe


@pytest.fixture(scope="session")
def wardrobe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Config values of the wardrobe."""
    root = tmp_path_factory.mktemp("wardrobe")
    write_wardrobe(root / "wardrobe")
    return wardrobe_config(root)


@pytest.fixture(scope="session")
def understanding(wardrobe: dict[str, Any]) -> Understanding:
    """Reads sentences about the wardrobe."""
    config = RunConfig("SIGMA", "wardrobe", config_dict=wardrobe)
    train = load_data(config, config.model_class).train._dataset
    tasks = build_tasks(train, config, "all")
    return Understanding(lexicon_of(train, config, tasks.material, tasks.rows))


@pytest.fixture(scope="session")
def seasonal(tmp_path_factory: pytest.TempPathFactory) -> Understanding:
    """Reads sentences about the shop, which has all seven tasks."""
    root: Path = tmp_path_factory.mktemp("shop")
    write_shop(root / "shop")
    tasks, _ = shop_tasks(root, write_tasks(root / "task_files"))
    return Understanding(Lexicon(tasks.material, tasks.rows))
