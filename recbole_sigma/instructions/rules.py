"""Which interactions qualify for a task, and with what slot; one function per rule.

The definitions are ours, on public data. Everything that is counted or estimated here is counted over TRAIN
events; held-out events are only looked up in the result, so that no training row depends on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from recbole_sigma.instructions.calendar import DAY, HOLIDAYS, LEXICON, SEASONS, holiday_of, season_of
from recbole_sigma.instructions.fields import Material
from recbole_sigma.instructions.phrases import WordIndex, normalise_query, pseudo_queries, words_of
from recbole_sigma.instructions.tasks import Task

YEAR = 365.25 * DAY


class TaskOff(Exception):
    """A dataset cannot carry a task; the text says why, in one sentence."""


@dataclass(frozen=True)
class TaskRows:
    """The events that qualify for a task.

    Attributes:
        task: the task.
        ranks: int64 [n] ascending, events by their place in time.
        slots: int32 [n, C], indices into ``values``; column 0 is the slot of evaluation, training draws among
            the C columns; C = 0 for a task without slot.
        values: slot texts.
        known: how many of ``values`` occur in training or in metadata; later ones are held-out queries.
        kind: what the slot is, for reports: '' | 'typed' | 'pseudo' | 'category' | 'season' | 'holiday'.
        match: slot value (0 for a task without slot) -> the items that suit it, bool [N]; None where that
            depends on the history (Discover).
    """

    task: Task
    ranks: np.ndarray
    slots: np.ndarray
    values: tuple[str, ...]
    known: int
    kind: str = ""
    match: Callable[[int], np.ndarray] | None = None

    def text(self, template: str, row: int, column: int = 0) -> str:
        """The instruction of a row."""
        slot = self.values[self.slots[row, column]] if self.slots.shape[1] else None
        return self.task.fill(template, slot)


def qualify(task: Task, material: Material) -> TaskRows:
    """Rows of a task.

    Raises:
        TaskOff: the dataset lacks the fields, the times or the years.
    """
    return RULES[task.rule](task, material)


def _without_slot(
    task: Task, chosen: np.ndarray, match: Callable[[int], np.ndarray] | None = None
) -> TaskRows:
    ranks = np.flatnonzero(chosen)
    return TaskRows(task, ranks, np.zeros((len(ranks), 0), dtype=np.int32), (), 0, match=match)


def _next_item(task: Task, material: Material) -> TaskRows:
    return _without_slot(task, (material.place > 0) | material.empty_history)


# --- slots that follow from the target's metadata ---


def _query(task: Task, material: Material) -> TaskRows:
    if material.queries is not None:
        return _typed_query(task, material, material.queries)
    options, words = task.options, material.words
    if not any(words.titles) and not any(words.categories):
        raise TaskOff("items have neither titles nor categories (text_fields, category_field)")
    counted = material.train_counts() > 0
    n = int(counted.sum())
    phrases = pseudo_queries(
        words,
        WordIndex(words, counted),
        material.tokens,
        material.flat,
        max(options["least_items"], options["least_share"] * n),
        options["most_share"] * n,
        options["per_item"],
        material.seed,
    )
    return _by_item(task, material, phrases, "pseudo", _text_match(material))


def _text_match(material: Material) -> Callable[[str], np.ndarray]:
    """Query -> items that hold all its words, over the whole catalogue."""
    index = cache(lambda: WordIndex(material.words, np.ones(len(material.tokens), dtype=bool)))
    return lambda text: index().mask(text)


def _typed_query(task: Task, material: Material, queries: Sequence[str]) -> TaskRows:
    """The dataset's own query of each event; values of training come first."""
    texts = np.array([normalise_query(text, task.options["longest"]) for text in queries], dtype=object)
    chosen = material.targets & (texts != "")
    ranks = np.flatnonzero(chosen)
    known = sorted(set(texts[chosen & material.train].tolist()))
    new = sorted(set(texts[ranks].tolist()) - set(known))
    number = {text: i for i, text in enumerate([*known, *new])}
    slots = np.array([number[text] for text in texts[ranks].tolist()], dtype=np.int32)
    values, match = (*known, *new), _text_match(material)
    return TaskRows(
        task, ranks, slots[:, None], values, len(known), "typed", lambda value: match(values[value])
    )


def _category(task: Task, material: Material) -> TaskRows:
    _need_categories(material)
    counted = material.train_counts() > 0
    sizes: dict[str, int] = {}
    for item in np.flatnonzero(counted).tolist():
        for node in material.labels[item]:
            sizes[node] = sizes.get(node, 0) + 1
    least = task.options["least_items"]
    kept = [[node for node in nodes if sizes.get(node, 0) >= least] for nodes in material.labels]
    members: dict[str, list[int]] = {}
    for item, nodes in enumerate(material.labels):
        for node in nodes:
            members.setdefault(node, []).append(item)

    def match(node: str) -> np.ndarray:
        mask = np.zeros(len(kept), dtype=bool)
        mask[members[node]] = True
        return mask

    return _by_item(task, material, kept, "category", match)


def _need_categories(material: Material) -> None:
    if not any(material.labels):
        raise TaskOff("the property file names no category_field, or no item has a value in it")


def _by_item(
    task: Task,
    material: Material,
    slots_of: Sequence[Sequence[str]],
    kind: str,
    match: Callable[[str], np.ndarray],
) -> TaskRows:
    """Rows whose slot is drawn among the values of the target item, by a fixed hash of user and item."""
    values = sorted({value for row in slots_of for value in row})
    number = {value: i for i, value in enumerate(values)}
    width = max((len(row) for row in slots_of), default=0)
    if not width:
        raise TaskOff("no item has a slot value that occurs often enough")
    count = np.array([len(row) for row in slots_of])
    table = np.zeros((len(slots_of), width), dtype=np.int32)
    for item, row in enumerate(slots_of):
        table[item, : len(row)] = [number[value] for value in row]
    ranks = np.flatnonzero(material.targets & (count[material.items] > 0))
    items = material.items[ranks]
    first = draw_hash(material.users[ranks], items, material.seed)
    column = (first[:, None] + np.arange(width, dtype=np.uint64)) % count[items][:, None].astype(np.uint64)
    slots = table[items[:, None], column.astype(np.int64)]
    return TaskRows(task, ranks, slots, tuple(values), len(values), kind, lambda value: match(values[value]))


def draw_hash(users: np.ndarray, items: np.ndarray, seed: int) -> np.ndarray:
    """A fixed pseudo-random uint64 per (user, item) (the splitmix64 finaliser): [n]."""
    with np.errstate(over="ignore"):
        x = users.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + items.astype(np.uint64)
        x = x + np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (x ^ (x >> np.uint64(31))) >> np.uint64(8)


# --- rows selected by a property of the target, no slot ---


def _longtail(task: Task, material: Material) -> TaskRows:
    tail = tail_items(material.train_counts(), task.options["head_share"])
    if not tail.any():
        raise TaskOff("every item with training events belongs to the head")
    return _without_slot(task, material.targets & tail[material.items], lambda _: tail)


def tail_items(counts: np.ndarray, head_share: float) -> np.ndarray:
    """Items with training events outside the smallest head set that covers ``head_share`` of them: bool [N].

    Equal counts enter the head in order of item id.
    """
    order = np.argsort(-counts, kind="stable")
    covered = np.cumsum(counts[order])
    total = int(covered[-1]) if len(covered) else 0
    head = int(np.searchsorted(covered, head_share * total, side="left")) + 1
    tail = counts > 0
    tail[order[:head]] = False
    return tail


def _discover(task: Task, material: Material) -> TaskRows:
    _need_categories(material)
    group = category_groups(material.labels)[material.items]
    fresh = unseen_before(material.users, group, material.place, task.options["window"])
    chosen = material.targets & (group >= 0) & (material.place >= task.options["least_history"]) & fresh
    return _without_slot(task, chosen)


def category_groups(labels: Sequence[tuple[str, ...]]) -> np.ndarray:
    """A number per distinct set of category nodes, -1 for items without any: int64 [N]."""
    names = {label: i for i, label in enumerate(sorted(set(labels)))}
    return np.array([names[label] if label else -1 for label in labels])


def unseen_before(users: np.ndarray, group: np.ndarray, place: np.ndarray, window: int) -> np.ndarray:
    """Events whose group occurs nowhere in the user's last ``window`` earlier events: bool [E].

    Args:
        users: int [E], in time order.
        group: int [E], the event's category.
        place: int [E], position in the user's sequence.
        window: length of the history that counts.
    """
    order = np.lexsort((place, group, users))
    u, g, p = users[order], group[order], place[order]
    last = np.full(len(p), -(window + 1), dtype=np.int64)
    if len(p):
        same = (u[1:] == u[:-1]) & (g[1:] == g[:-1])
        last[1:][same] = p[:-1][same]
    fresh = np.empty(len(p), dtype=bool)
    fresh[order] = (last < 0) | (p - last > window)
    return fresh


# --- slots that follow from the time of the request ---


def _season(task: Task, material: Material) -> TaskRows:
    _need_categories(material)
    lag = _need_times(task, material)
    season = season_of(material.times, lag, material.southern)
    lifted = _lifted(task, material, season, len(SEASONS))
    ranks = np.flatnonzero(material.targets & lifted[season, material.items])
    slots = season[ranks, None].astype(np.int32)
    return TaskRows(task, ranks, slots, SEASONS, len(SEASONS), "season", lambda value: lifted[value])


def _holiday(task: Task, material: Material) -> TaskRows:
    lag = _need_times(task, material)
    holiday = holiday_of(material.times, lag)
    suits = np.zeros((len(HOLIDAYS) + 1, len(material.tokens)), dtype=bool)
    if any(material.labels):
        suits |= _lifted(task, material, holiday % (len(HOLIDAYS) + 1), len(HOLIDAYS) + 1)
    for number, name in enumerate(HOLIDAYS):
        for item, title in enumerate(material.words.titles):
            suits[number, item] |= not LEXICON[name].isdisjoint(words_of(title))
    chosen = material.targets & (holiday >= 0) & suits[holiday, material.items]
    ranks = np.flatnonzero(chosen)
    slots = holiday[ranks, None].astype(np.int32)
    return TaskRows(task, ranks, slots, HOLIDAYS, len(HOLIDAYS), "holiday", lambda value: suits[value])


def _need_times(task: Task, material: Material) -> float:
    if material.lag_days is None:
        raise TaskOff(
            "task_lag_days is unset (~), which says that its times say nothing about when an item was used; "
            "set the days from use to interaction if they do"
        )
    if not material.dated:
        raise TaskOff("its times are no dates between 1980 and 2100, so they tell no season")
    times = material.times[material.train]
    years = float(times.max() - times.min()) / YEAR if len(times) else 0.0
    if years < task.options["least_years"]:
        raise TaskOff(
            f"the training interactions span {years:.1f} years, and below {task.options['least_years']:g} a "
            "seasonal lift would be the drift of one year"
        )
    return material.lag_days


def _lifted(task: Task, material: Material, state: np.ndarray, states: int) -> np.ndarray:
    """Whether a state of the calendar lifts (one of) an item's categories: bool [states, N]."""
    names = {name: i for i, name in enumerate(sorted({node for row in material.labels for node in row}))}
    pairs = [(item, names[node]) for item, row in enumerate(material.labels) for node in row]
    item, category = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    events = np.zeros((states, len(material.tokens)), dtype=np.int64)
    np.add.at(events, (state[material.train], material.items[material.train]), 1)
    table = np.zeros((states, len(names)), dtype=np.int64)
    np.add.at(table.T, category, events.T[item])
    good = lift_table(table, events.sum(axis=1), task.options["least_rows"]) >= task.options["least_lift"]
    lifted = np.zeros((states, len(material.tokens)), dtype=bool)
    np.logical_or.at(lifted.T, item, good.T[category])
    return lifted


def lift_table(table: np.ndarray, totals: np.ndarray, least_rows: int) -> np.ndarray:
    """lift(s, c) = P(s | c) / P(s), both with add-one smoothing; 0 for categories with too few rows.

    Args:
        table: int [S, C], train events of category c in state s.
        totals: int [S], train events in state s.
        least_rows: fewest train events of a category.

    Returns:
        float64 [S, C].
    """
    states = len(table)
    given = (table + 1.0) / (table.sum(axis=0) + states)
    plain = (totals + 1.0) / (totals.sum() + states)
    return np.where(table.sum(axis=0) >= least_rows, given / plain[:, None], 0.0)


RULES: dict[str, Callable[[Task, Material], TaskRows]] = {
    "next_item": _next_item,
    "query": _query,
    "category": _category,
    "longtail": _longtail,
    "discover": _discover,
    "season": _season,
    "holiday": _holiday,
}
