"""A small shop of three years whose tasks have known answers, written as atomic files."""

from pathlib import Path

import numpy as np
import pytest

KINDS = ("Lawn", "Sledge", "Lamp", "Gift")
PER_KIND = 8
USERS, EVENTS = 60, 14
DAY = 86_400
START = 1_262_304_000  # 2010-01-01


def write_shop(folder: Path, change=None, kinds=KINDS) -> None:
    """Lawn sells in summer, Sledge in winter, Gift in December; item 0 of a kind sells most.

    ``change(user, step, item, time, query)`` may alter an event; users differ in their start; ``kinds`` are
    the kinds of the catalogue.
    """
    rng = np.random.default_rng(5)
    folder.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float\tquery:token"]
    for user in range(USERS):
        time = START + int(rng.integers(60)) * DAY
        for step in range(EVENTS):
            time += int(rng.integers(60, 100)) * DAY
            month = int(str(np.datetime64(time, "s"))[5:7])
            kind = "Lawn" if month in (6, 7, 8) else "Sledge" if month in (1, 2) else "Lamp"
            if month == 12:
                kind = "Gift"
            number = int(rng.integers(PER_KIND)) if rng.random() < 0.5 else 0
            event = (user, step, f"{kind}{number}", time, f"Cheap {kind}")
            user_, step_, item, when, query = change(*event) if change else event
            lines.append(f"u{user_}\t{item}\t{when}\t{query}")
    (folder / f"{folder.name}.inter").write_text("\n".join(lines) + "\n")
    items = ["item_id:token\ttitle:token\tbrand:token\tcategories:token_seq\tsales_rank:token"]
    for kind in kinds:
        for number in range(PER_KIND):
            colour = ("red", "blue")[number % 2]
            items.append(
                f"{kind}{number}\t{colour} {kind} model {number}\tAcme\tShop|{kind}|{colour} {kind}\t{number}"
            )
    (folder / f"{folder.name}.item").write_text("\n".join(items) + "\n")


def shop_config(root: Path, **changes) -> dict:
    return {
        "data_path": str(root),
        "seq_separator": "|",
        "load_col": {
            "inter": ["user_id", "item_id", "timestamp", "query"],
            "item": ["item_id", "title", "brand", "categories", "sales_rank"],
        },
        "text_fields": ["title", "brand", "categories"],
        "category_field": "categories",
        "brand_field": "brand",
        "query_field": None,
        "profile_fields": [],
        "show_progress": False,
        "state": "ERROR",
        "topk": [1, 5, 10],
        "valid_metric": "NDCG@10",
        "filter_seen": False,
        "tasks": ["all"],
        "task_lag_days": 0.0,
        "seed": 3,
        **changes,
    }


def write_tasks(folder: Path) -> Path:
    """The shipped task files with thresholds of a small shop."""
    from recbole_sigma.settings.recipes import properties_dir

    folder.mkdir(exist_ok=True)
    small = {
        "minimum_support: 300": "minimum_support: 1",
        "minimum_test_rows: 300": "minimum_test_rows: 1",
        "least_items: 20": "least_items: 2",
        "most_share: 0.05": "most_share: 0.5",
        "least_rows: 50": "least_rows: 5",
    }
    for path in (properties_dir() / "tasks").glob("*.yaml"):
        text = path.read_text()
        for old, new in small.items():
            text = text.replace(old, new)
        (folder / path.name).write_text(text)
    return folder


@pytest.fixture(scope="session")
def shop_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shops")
    write_shop(root / "shop")
    write_tasks(root / "task_files")
    return root


@pytest.fixture
def shop(shop_root):
    return lambda **changes: built(shop_root, **changes)


def built(root: Path, files: Path | None = None, **changes):
    """(TaskSet, train dataset) of the shop in ``root``."""
    from recbole_sigma.instructions.samples import build_tasks
    from recbole_sigma.run.config import RunConfig
    from recbole_sigma.run.loaders import load_data

    values = shop_config(root, task_dir=str(files or root / "task_files"), **changes)
    config = RunConfig("SIGMA", "shop", None, values)
    train = load_data(config, config.model_class).train._dataset
    return build_tasks(train, config), train
