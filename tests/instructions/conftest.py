from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.planted import shop_tasks, write_shop, write_tasks


@pytest.fixture(scope="session")
def shop_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the dataset `shop` and its task files."""
    root = tmp_path_factory.mktemp("shops")
    write_shop(root / "shop")
    write_tasks(root / "task_files")
    return root


@pytest.fixture
def shop(shop_root: Path) -> Callable[..., tuple[Any, Any]]:
    """Function from changed settings to (TaskSet, train dataset) of the shop."""
    return lambda **changes: shop_tasks(shop_root, **changes)
