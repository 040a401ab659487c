"""Planted scenes: small data sets whose answer is known, and settings that train a model on them in seconds.

| scene | what happens | known answer |
|---|---|---|
| chain | 60 users walk round the cycle of their group and meet no item twice | the next item of the walk |
| cycle | 80 users walk round a short cycle of their group again and again | the next item of the walk |
| chosen | every event is a random item of a random kind | an item of the kind that the instruction names |
| shop | 60 users of three years whose purchases follow the calendar | which events each task may use |

`write_SCENE` writes the atomic files into a folder; the folder's name is the dataset's. `SCENE_config` gives
the config values that read them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

DAY = 86_400
EVENT = "user_id:token\titem_id:token\ttimestamp:float"
QUIET = {"show_progress": False, "state": "ERROR"}
# a SIGMA that fits the cycle and the chosen scene in seconds: nothing random beside the seed, few codes
FITS = {
    "show_progress": False,
    "brand_field": None,
    "filter_seen": False,
    "MAX_ITEM_LIST_LENGTH": 12,
    "backbone_dropout": 0.0,
    "fusion_hide_id": 0.0,
    "grounding_steps": 30,
    "grounding_batch_pairs": 16,
    "tokenizer_codebook_size": 4,
    "tokenizer_bpe_size": 320,
    "train_warmup_epochs": 1,
    "seed": 7,
}
_TRANSFORMER = {"epochs": 2, "n_layers": 1, "hidden_size": 8, "inner_size": 8}
_TINY: dict[str, dict[str, Any]] = {
    "Pop": {},
    "BPR": {"epochs": 2, "embedding_size": 8},
    "SASRec": _TRANSFORMER,
    "GRU4Rec": {
        "epochs": 2,
        "MAX_ITEM_LIST_LENGTH": 10,
        "num_layers": 1,
        "hidden_size": 8,
        "embedding_size": 8,
    },
    "BERT4Rec": {**_TRANSFORMER, "epochs": 1, "MAX_ITEM_LIST_LENGTH": 10},
    "WindowItemKNN": {},
    "HistoryEASE": {},
    "NextItemRidge": {},
    "ClosedForm": {},
    "TGH": {},
    "TextLinear": {},
    "PackedSASRec": _TRANSFORMER,
    "HSTU": _TRANSFORMER,
    "BSARec": {**_TRANSFORMER, "epochs": 1, "MAX_ITEM_LIST_LENGTH": 10},
    "GateSID": {"epochs": 1, "gate_size": 8, "gate_negatives": 8, "tokenizer_codebook_size": 4},
    "SORT": {"epochs": 1, "sort_size": 8, "sort_negatives": 8, "sort_window": 4, "sort_keep": 3},
    "SIGMA": {
        "epochs": 1,
        "grounding_text_dim": 8,
        "grounding_teacher_dim": 8,
        "grounding_dim": 8,
        "grounding_steps": 4,
        "tokenizer_bpe_size": 120,
        "tokenizer_codebook_size": 4,
        "fusion_hidden": 8,
    },
    "TIGER": {
        "epochs": 1,
        "eval_step": 1,
        "grounding_text_dim": 8,
        "grounding_teacher_dim": 8,
        "tokenizer_codebook_size": 4,
        "tiger_layers": 1,
        "tiger_decoder_layers": 1,
        "tiger_d_model": 16,
        "tiger_heads": 2,
        "tiger_d_kv": 8,
        "tiger_d_ff": 16,
        "decode_beam": 100,
    },
}


def tiny(model: str, **changes: Any) -> dict[str, Any]:
    """Settings that train a model in a second or two. KeyError for a model without an entry in _TINY."""
    return {**_TINY[model], **changes}


def build(model: str, dataset: str, values: dict[str, Any], **changes: Any) -> tuple[Any, Any, Any]:
    """(config, loaders, model with seeded fresh weights) of a scene."""
    from recbole_sigma.quick_start import build_model
    from recbole_sigma.run.config import RunConfig
    from recbole_sigma.run.loaders import load_data

    config = RunConfig(model, dataset, config_dict={**values, **changes})
    data = load_data(config, config.model_class)
    torch.manual_seed(0)
    return config, data, build_model(config, config.model_class, data.train)


def one_batch(loader: Any) -> Any:
    """The first batch of an evaluation loader."""
    return next(iter(loader))[0]


def write_tables(folder: Path, **tables: Iterable[str]) -> None:
    """Write lines of text as atomic files: ``inter=[...]`` becomes FOLDER/NAME.inter, NAME the folder's."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, lines in tables.items():
        (folder / f"{folder.name}.{suffix}").write_text("\n".join(lines) + "\n", encoding="utf-8")


def events_config(
    folder: Path, events: list[tuple[Any, Any, Any]], header: str = EVENT, spare: int = 0
) -> dict[str, Any]:
    """Write [(user, item, time)] as a dataset and return the values that read it.

    ``spare`` adds items that nobody met: RecBole's samplers refuse a user who met everything.
    """
    write_tables(folder, inter=[header, *("\t".join(map(str, event)) for event in events)])
    columns: dict[str, list[str]] = {"inter": ["user_id", "item_id", "timestamp"]}
    if spare:
        columns["item"] = ["item_id"]
        met = dict.fromkeys(str(event[1]) for event in events)
        write_tables(folder, item=["item_id:token", *met, *(f"spare{k}" for k in range(spare))])
    return {
        **QUIET,
        "data_path": str(folder.parent),
        "load_col": columns,
        "topk": [1, 2],
        "valid_metric": "NDCG@2",
    }


# --- chain ---

CHAIN_GROUPS, CHAIN_ITEMS, CHAIN_EVENTS, CHAIN_USERS = 3, 16, 10, 60


def write_chain(folder: Path) -> None:
    """User u of group g walks from item to item of g: the next item is certain, and nobody meets one twice.

    A walk (10 events) is shorter than the cycle (16 items), so filtering seen items never hides a target.
    """
    lines = [EVENT]
    for user in range(CHAIN_USERS):
        group, start = user % CHAIN_GROUPS, (user // CHAIN_GROUPS) * 5
        lines += [
            f"u{user}\tg{group}i{(start + step) % CHAIN_ITEMS}\t{1_000_000_000 + 1000 * step + user}"
            for step in range(CHAIN_EVENTS)
        ]
    items = ["item_id:token\ttitle:token_seq\tgenre:token"]
    items += [
        f"g{g}i{i}\titem {i} of group {g}\tgenre{g}" for g in range(CHAIN_GROUPS) for i in range(CHAIN_ITEMS)
    ]
    write_tables(folder, inter=lines, item=items)


def chain_config(root: Path) -> dict[str, Any]:
    """Values that read the chain."""
    return {
        **QUIET,
        "data_path": str(root),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title", "genre"]},
        "text_fields": ["title", "genre"],
        "category_field": "genre",
        "train_batch_size": 32,
    }


# --- cycle ---

CYCLE_GROUPS, CYCLE_ITEMS = 4, 6
COLOURS = ("red", "blue", "green", "black")


def write_cycle(
    folder: Path,
    users: int = 80,
    length: int = 16,
    seed: int = 0,
    change: Callable[[int, int, str], str] | None = None,
) -> None:
    """User u of group g walks the cycle of items of g from a random start: the next item is certain.

    A walk passes an item several times, so only a policy that keeps seen items can find every target.
    ``change(user, step, item)`` may put another item in an event's place.
    """
    rng = np.random.default_rng(seed)
    lines = [EVENT]
    for user in range(users):
        group, start = user % CYCLE_GROUPS, int(rng.integers(CYCLE_ITEMS))
        for step in range(length):
            item = f"i{group}_{(start + step) % CYCLE_ITEMS}"
            item = change(user, step, item) if change else item
            lines.append(f"u{user}\t{item}\t{1_300_000_000 + step}")
    items = ["item_id:token\ttitle:token\tcategory:token"]
    items += [
        f"i{g}_{c}\t{COLOURS[g]} thing number {c}\tkind {COLOURS[g]}"
        for g in range(CYCLE_GROUPS)
        for c in range(CYCLE_ITEMS)
    ]
    people = ["user_id:token\tage:token", *(f"u{u}\t{20 + u % 3}" for u in range(users))]
    write_tables(folder, inter=lines, item=items, user=people)


def cycle_config(root: Path, scratch: Path, **changes: Any) -> dict[str, Any]:
    """Values of a small SIGMA that fits the cycle; nothing is written outside ``scratch``."""
    return {
        **FITS,
        **_folders(scratch),
        "data_path": str(root),
        "load_col": {
            "inter": ["user_id", "item_id", "timestamp"],
            "item": ["item_id", "title", "category"],
            "user": ["user_id", "age"],
        },
        "text_fields": ["title", "category"],
        "category_field": "category",
        "profile_fields": ["age"],
        "topk": [1, 5, 10],
        "valid_metric": "NDCG@10",
        "train_batch_size": 16,
        "epochs": 12,
        "learning_rate": 0.01,
        **changes,
    }


def _folders(root: Path) -> dict[str, str]:
    names = {"checkpoint_dir": "saved", "artifact_dir": "artifacts", "log_dir": "log"}
    return {key: str(root / name) for key, name in names.items()}


# --- chosen ---

CHOSEN_NUMBERS, CHOSEN_USERS, CHOSEN_EVENTS = 4, 108, 6


def write_chosen(folder: Path) -> None:
    """Every event is a random item of a random kind: the history tells nothing, the target's kind a quarter.

    The last twelve users have one event only.
    """
    rng = np.random.default_rng(1)
    lines = [f"{EVENT}\tquery:token"]
    for user in range(CHOSEN_USERS):
        single = user >= CHOSEN_USERS - 12
        for step in range(1 if single else CHOSEN_EVENTS):
            kind = COLOURS[int(rng.integers(len(COLOURS)))]
            when = 1_300_020_000 + user if single else 1_300_000_000 + 1000 * step + user
            lines.append(f"u{user}\t{kind}{int(rng.integers(CHOSEN_NUMBERS))}\t{when}\tget {kind}")
    items = ["item_id:token\ttitle:token\tkind:token"]
    items += [f"{kind}{n}\tthe {kind} thing {n}\t{kind}" for kind in COLOURS for n in range(CHOSEN_NUMBERS)]
    write_tables(folder, inter=lines, item=items)


def chosen_config(root: Path) -> dict[str, Any]:
    """Values of a small SIGMA that learns the task Category on the chosen scene; no validation part."""
    return {
        **FITS,
        **QUIET,
        **_folders(root),
        "data_path": str(root),
        "task_dir": str(write_tasks(root / "task_files")),
        "load_col": {
            "inter": ["user_id", "item_id", "timestamp", "query"],
            "item": ["item_id", "title", "kind"],
        },
        "eval_args": {"split": {"RS": [0.8, 0.0, 0.2]}, "order": "TO", "group_by": "none"},
        "text_fields": ["title", "kind"],
        "category_field": "kind",
        "query_field": None,
        "profile_fields": [],
        "tasks": ["Category"],
        "task_labels_per_row": 4,
        "topk": [1, 4, 10],
        "valid_metric": "NDCG@4",
        "train_batch_size": 8,
        "epochs": 25,
        "learning_rate": 0.005,  # at .01 about one training in ten stays on its plateau
    }


# --- shop ---

SHOP_KINDS = ("Lawn", "Sledge", "Lamp", "Gift")
SHOP_NUMBERS, SHOP_USERS, SHOP_EVENTS = 8, 60, 14
SHOP_START = 1_262_304_000  # 2010-01-01


def write_shop(
    folder: Path, change: Callable[..., tuple[Any, ...]] | None = None, kinds: Iterable[str] = SHOP_KINDS
) -> None:
    """Lawn sells in summer, Sledge in winter, Gift in December; item 0 of a kind sells most.

    ``change(user, step, item, time, query)`` may alter an event; users differ in their start; ``kinds`` are
    the kinds of the catalogue.
    """
    rng = np.random.default_rng(5)
    lines = [f"{EVENT}\tquery:token"]
    for user in range(SHOP_USERS):
        time = SHOP_START + int(rng.integers(60)) * DAY
        for step in range(SHOP_EVENTS):
            time += int(rng.integers(60, 100)) * DAY
            month = int(str(np.datetime64(time, "s"))[5:7])
            kind = "Lawn" if month in (6, 7, 8) else "Sledge" if month in (1, 2) else "Lamp"
            if month == 12:
                kind = "Gift"
            number = int(rng.integers(SHOP_NUMBERS)) if rng.random() < 0.5 else 0
            event = (user, step, f"{kind}{number}", time, f"Cheap {kind}")
            user_, step_, item, when, query = change(*event) if change else event
            lines.append(f"u{user_}\t{item}\t{when}\t{query}")
    items = ["item_id:token\ttitle:token\tbrand:token\tcategories:token_seq\tsales_rank:token"]
    for kind in kinds:
        for number in range(SHOP_NUMBERS):
            colour = ("red", "blue")[number % 2]
            items.append(
                f"{kind}{number}\t{colour} {kind} model {number}\tAcme\tShop|{kind}|{colour} {kind}\t{number}"
            )
    write_tables(folder, inter=lines, item=items)


def shop_config(root: Path, **changes: Any) -> dict[str, Any]:
    """Values that read the shop with all seven tasks."""
    return {
        **QUIET,
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


def shop_tasks(root: Path, files: Path | None = None, **changes: Any) -> tuple[Any, Any]:
    """(TaskSet, train dataset) of the shop in ``root``."""
    from recbole_sigma.instructions.samples import build_tasks
    from recbole_sigma.run.config import RunConfig
    from recbole_sigma.run.loaders import load_data

    values = shop_config(root, task_dir=str(files or root / "task_files"), **changes)
    config = RunConfig("SIGMA", "shop", None, values)
    train = load_data(config, config.model_class).train._dataset
    return build_tasks(train, config), train


# --- wardrobe ---

WARDROBE = ("Shoes", "Hats", "Coats & Jackets")
WARDROBE_NUMBERS, WARDROBE_USERS = 16, 40


def write_wardrobe(folder: Path) -> None:
    """A shop whose users buy hats first, then whatever comes; brands alternate, years and prices go up."""
    rng = np.random.default_rng(2)
    lines = [EVENT]
    for user in range(WARDROBE_USERS):
        for step in range(9):
            kind = "Hats" if step < 5 else WARDROBE[int(rng.integers(len(WARDROBE)))]
            item = f"{kind[:4].lower()}{int(rng.integers(WARDROBE_NUMBERS))}"
            lines.append(f"u{user}\t{item}\t{1_300_000_000 + 1000 * step + user}")
    items = ["item_id:token\ttitle:token\tyear:token\tbrand:token\tkind:token\tcost:float"]
    items += [
        f"{kind[:4].lower()}{n}\tmodel {'Oslo Rome Lima Cairo'.split()[n % 4]} {n}\t{1980 + n}"
        f"\t{('Acme', 'St. Burt Inc')[n % 2]}\t{kind}\t{10 + 5 * n}"
        for kind in WARDROBE
        for n in range(WARDROBE_NUMBERS)
    ]
    write_tables(folder, inter=lines, item=items)


def wardrobe_config(root: Path, **changes: Any) -> dict[str, Any]:
    """Values that read the wardrobe."""
    return {
        **QUIET,
        **_folders(root),
        "data_path": str(root),
        "load_col": {
            "inter": ["user_id", "item_id", "timestamp"],
            "item": ["item_id", "title", "year", "brand", "kind", "cost"],
        },
        "text_fields": ["title", "year"],
        "price_field": "cost",
        "category_field": "kind",
        "brand_field": "brand",
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"},
        "topk": [1, 10],
        "valid_metric": "NDCG@10",
        "task_dir": str(write_tasks(root / "task_files")),
        "filter_seen": True,
        **changes,
    }


# --- vectors ---


def clusters(
    groups: int = 4, each: int = 20, width: int = 8, noise: float = 0.05, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(vectors [groups * each, width], group of each vector): far centres, little noise."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(groups, width)) * 5
    group = np.repeat(np.arange(groups), each)
    return (centre[group] + rng.normal(size=(len(group), width)) * noise).astype(np.float32), group
