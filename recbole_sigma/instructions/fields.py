"""What the task rules read: events in time order and item metadata, taken from a built dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_sigma.data.dataset import item_names
from recbole_sigma.instructions.phrases import ItemWords
from recbole_sigma.settings.keys import TaskKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RecBoleKeys, RoleKeys
from recbole_sigma.values import UserError

FORBIDDEN = frozenset(
    "sales_rank salesrank sales_type also_buy also_bought also_view also_viewed buy_after_viewing "
    "bought_together related review review_text reviewtext summary".split()
)
"""Item columns that were written after the interactions: they tell the future (rule R3)."""


@dataclass(frozen=True)
class Material:
    """Everything that qualification reads; E events in time order, N items, row 0 is padding.

    Attributes:
        users: int64 [E].
        items: int64 [E].
        times: float64 [E], non-decreasing.
        part: int8 [E], 0 train, 1 validation, 2 test.
        place: int64 [E], 0-based position in the user's own sequence.
        repeated: bool [E], an earlier event has the same user, item and time: no target (rule R4).
        tokens: original item ids [N].
        words: titles, categories and brands.
        labels: category nodes that name an item in Category and Season, [N] tuples.
        flat: categories are labels side by side, not a path.
        queries: what the user typed before each event [E], or None without a query field.
        lag_days: days between use and interaction, None where times say nothing about use.
        dated: times are dates, not only an order.
        southern: seasons of the southern hemisphere.
        empty_history: a user's first event is a target.
        seed: seed of fixed draws.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    part: np.ndarray
    place: np.ndarray
    repeated: np.ndarray
    tokens: list[str]
    words: ItemWords
    labels: list[tuple[str, ...]]
    flat: bool
    queries: list[str] | None
    lag_days: float | None
    dated: bool
    southern: bool
    empty_history: bool
    seed: int

    @property
    def train(self) -> np.ndarray:
        """bool [E]."""
        return self.part == 0

    @property
    def targets(self) -> np.ndarray:
        """Events that may be a target at all: bool [E]."""
        return ((self.place > 0) | self.empty_history) & ~self.repeated

    def train_counts(self) -> np.ndarray:
        """Training events of every item: int64 [N]."""
        return np.bincount(self.items[self.train], minlength=len(self.tokens))


def gather(dataset: Any, config: Any) -> Material:
    """Read the fields that the property file gives a role.

    Args:
        dataset: the train dataset that ``PackedDataset.build`` returned.
        config: RecBole config; reads ``text_fields``, ``category_field``, ``brand_field``, ``query_field``
            and the keys ``task_*``.

    Raises:
        UserError: a named column is not loaded, is no text, or is one that tells the future.
    """
    names, keys = read(RoleKeys, config), read(TaskKeys, config)
    single = {
        "category_field": names.category_field,
        "brand_field": names.brand_field,
        "query_field": names.query_field,
    }
    roles = {
        "text_fields": names.text_fields,
        **{key: (column,) for key, column in single.items() if column},
    }
    for key, fields in roles.items():
        for field in fields:
            if str(field).lower() in FORBIDDEN:
                raise UserError(
                    f"{key}: '{field}' was written after the interactions and tells the future (sales ranks, "
                    "also-bought lists, reviews); choose another column"
                )
    events = dataset.chronology
    whole = np.zeros(len(events), dtype=np.int8)  # a dataset that is not packed keeps no parts
    n = dataset.item_num
    titles = item_values(dataset, roles["text_fields"][0], "text_fields") if roles["text_fields"] else None
    categories = _role(dataset, names.category_field, "category_field", n)
    level = keys.task_category_level
    users, items = events.users.numpy(), events.items.numpy()
    dates = events.seconds
    times = (events.times if dates is None else dates).numpy()
    return Material(
        users=users,
        items=items,
        times=times,
        part=whole if dataset.event_part is None else dataset.event_part,
        place=places(users),
        repeated=repeats(users, items, times),
        tokens=item_names(dataset),
        words=ItemWords(
            [" ".join(parts) for parts in titles] if titles else [""] * n,
            categories,
            [" ".join(parts) for parts in _role(dataset, names.brand_field, "brand_field", n)],
        ),
        labels=[nodes(path, level) for path in categories],
        flat=level == 0,
        queries=event_texts(dataset, names.query_field)
        if names.query_field and dataset.event_feat is not None
        else None,
        lag_days=keys.task_lag_days,
        dated=dates is not None,
        southern=keys.task_hemisphere == "south",
        empty_history=keys.task_empty_history,
        seed=read(RecBoleKeys, config).seed,
    )


def _role(dataset: Any, column: str | None, key: str, n: int) -> list[tuple[str, ...]]:
    return item_values(dataset, column, key) if column else [()] * n


def nodes(path: tuple[str, ...], level: int) -> tuple[str, ...]:
    """Category nodes that name an item.

    >>> nodes(("Beauty", "Makeup", "Nails"), 2), nodes(("Beauty",), 2), nodes(("Drama", "War"), 0)
    (('Makeup',), ('Beauty',), ('Drama', 'War'))
    """
    if level == 0 or not path:
        return tuple(dict.fromkeys(path))
    return (path[min(level, len(path)) - 1],)


def item_values(dataset: Any, field: str, key: str) -> list[tuple[str, ...]]:
    """Values of an item column in id order: one for a token, several for a token sequence.

    Raises:
        UserError: the column is not loaded or is no text.
    """
    feature = dataset.item_feat
    if feature is None or field not in feature.interaction:
        loaded = (
            [] if feature is None else [name for name in feature.interaction if name != dataset.iid_field]
        )
        raise UserError(
            f"{key}: {dataset.dataset_name}.item has no loaded column '{field}' (loaded: {loaded}): add it "
            "to load_col.item or change the key"
        )
    tokens = dataset.field2id_token.get(field)
    if tokens is None:
        raise UserError(
            f"{key}: column '{field}' of {dataset.dataset_name}.item is not of type token or token_seq"
        )
    column = feature[field].numpy()
    if column.ndim == 1:
        column = column[:, None]
    rows = [tuple(str(tokens[i]) for i in row if i) for row in column.tolist()]
    return [(), *rows[1:]]


def event_texts(dataset: Any, field: str) -> list[str]:
    """Text of a column of the .inter file for every event, in time order.

    Raises:
        UserError: the column is not loaded or is no text.
    """
    feature = dataset.event_feat
    if field not in feature.interaction:
        raise UserError(
            f"query_field: {dataset.dataset_name}.inter has no loaded column '{field}': add it "
            "to load_col.inter"
        )
    tokens = dataset.field2id_token.get(field)
    if tokens is None:
        raise UserError(f"query_field: column '{field}' of {dataset.dataset_name}.inter is not of type token")
    column = feature[field].numpy()
    if column.ndim == 2:
        return [" ".join(str(tokens[i]) for i in row if i) for row in column.tolist()]
    return [str(tokens[i]) if i else "" for i in column.tolist()]


def places(users: np.ndarray) -> np.ndarray:
    """Position of each event in its user's own sequence: int64 [E]."""
    order = np.argsort(users, kind="stable")
    _, counts = np.unique(users, return_counts=True)
    place = np.empty(len(users), dtype=np.int64)
    place[order] = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place


def repeats(users: np.ndarray, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Events whose user, item and time an earlier event has too: bool [E]."""
    order = np.lexsort((np.arange(len(users)), times, items, users))
    same = np.zeros(len(users), dtype=bool)
    same[1:] = (
        (users[order][1:] == users[order][:-1])
        & (items[order][1:] == items[order][:-1])
        & (times[order][1:] == times[order][:-1])
    )
    out = np.empty(len(users), dtype=bool)
    out[order] = same
    return out
