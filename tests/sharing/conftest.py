"""One small model per kind, trained once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_sigma.quick_start import run
from tests import planted as scenes


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Function of a model's name and changed keys to (checkpoint, config values) on the cycle."""
    root = tmp_path_factory.mktemp("sharing")
    scenes.write_cycle(root / "cycle", users=32, length=10)
    made: dict[str, tuple[str, dict[str, Any]]] = {}

    def get(model: str, **changes: Any) -> tuple[str, dict[str, Any]]:
        key = f"{model}{changes}"
        if key not in made:
            small = {"epochs": 1, "grounding_steps": 2, "MAX_ITEM_LIST_LENGTH": 6}
            if model != "SIGMA":
                small = {**scenes.tiny(model), "MAX_ITEM_LIST_LENGTH": 6}
            values = scenes.cycle_config(root, root, **{**small, **changes})
            made[key] = run(model, "cycle", config_dict=values)["checkpoint"], values
        return made[key]

    return get


@pytest.fixture
def new_items(tmp_path: Path) -> Path:
    """A file with two new items; the first has the very text of the old item i1_3."""
    path = tmp_path / "new.item"
    rows = ["item_id:token\ttitle:token\tcategory:token", "n1\tblue thing number 3\tkind blue", "n2\t\t"]
    path.write_text("\n".join(rows) + "\n")
    return path
