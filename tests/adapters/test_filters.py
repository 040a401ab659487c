from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_adapters.errors import AdapterError
from dataset_adapters.events import EventLog, Events
from dataset_adapters.filters import apply_filters, duplicates, k_core
from dataset_adapters.statistics import last_of_user, repeats, sorted_share, split_statistics

EVENTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 4)), min_size=1, max_size=60)
NONE = {"since": None, "until": None, "min_rating": None, "how_duplicates": "keep", "k": 0}


def log_of(rows) -> Events:
    log = EventLog()
    for user, item, time in rows:
        log.add(f"u{user}", f"i{item}", time)
    return log.freeze()


def rows_of(events: Events) -> list[tuple[str, str, int]]:
    users = [events.user_names[u] for u in events.user]
    return list(zip(users, [events.item_names[i] for i in events.item], events.time.tolist(), strict=True))


def slow_k_core(rows, k):
    """The definition, one removal at a time."""
    rows = list(rows)
    while True:
        users, items = Counter(r[0] for r in rows), Counter(r[1] for r in rows)
        low = next((r for r in rows if users[r[0]] < k or items[r[1]] < k), None)
        if low is None:
            return rows
        rows.remove(low)


@given(EVENTS, st.integers(0, 5))
def test_k_core_equals_its_definition(rows, k):
    events = log_of(rows)
    kept = events.take(k_core(events.user, events.item, k))
    assert Counter(rows_of(kept)) == Counter(slow_k_core(rows_of(events), k))
    order = {id(r): n for n, r in enumerate(rows)}
    assert len(order) and list(k_core(events.user, events.item, k)) == sorted(
        k_core(events.user, events.item, k)
    )


def test_k_core_needs_many_rounds():
    """A chain that unravels from its end, one pair a round."""
    user = np.repeat(np.arange(300), 2)
    item = np.stack([np.arange(300), np.arange(1, 301)], 1).ravel()
    assert len(k_core(user, item, 2)) == 0
    ring = np.append(item[:-1], 0)
    assert len(k_core(user, ring, 2)) == 600


@given(EVENTS)
def test_order_is_a_stable_sort_by_time_within_users(rows):
    events = log_of(rows)
    first = {user: n for n, user in reversed(list(enumerate(r[0] for r in rows_of(events))))}
    expected = sorted(rows_of(events), key=lambda r: (first[r[0]], r[2]))
    assert rows_of(events.in_order()) == expected


@given(EVENTS)
def test_duplicates(rows):
    events = log_of(rows)
    exact = rows_of(events.take(duplicates(events, "exact")))
    assert exact == list(dict.fromkeys(rows_of(events)))
    first = rows_of(events.take(duplicates(events, "first")))
    earliest = {}
    for user, item, time in rows_of(events):
        earliest[user, item] = min(time, earliest.get((user, item), time))
    assert {(u, i): t for u, i, t in first} == earliest and len(first) == len(earliest)
    assert len(events.take(duplicates(events, "keep"))) == len(rows)


@given(EVENTS)
def test_repeats_and_last(rows):
    events = log_of(rows).in_order()
    seen: set = set()
    expected = []
    for user, item, _ in rows_of(events):
        expected.append((user, item) in seen)
        seen.add((user, item))
    assert repeats(events).tolist() == expected
    users = [r[0] for r in rows_of(events)]
    assert last_of_user(events.user).tolist() == [
        n for n in range(len(users)) if users[n : n + 2] != [users[n]] * 2
    ]


def test_filters_are_counted_in_order():
    log = EventLog(numbers=("rating",))
    for user, item, time, rating in [
        ("a", "x", 1, 5),
        ("a", "y", 2, 1),
        ("b", "x", 3, 5),
        ("b", "x", 3, 4),
        ("b", "y", 9, 5),
    ]:
        log.add(user, item, time, (rating,))
    events, steps = apply_filters(
        log.freeze(), **{**NONE, "until": 9, "min_rating": 4, "how_duplicates": "exact"}
    )
    assert [(s.name, s.interactions, s.users, s.items) for s in steps] == [
        ("usable rows", 5, 2, 2),
        ("time window", 4, 2, 2),
        ("rating >= 4", 3, 2, 1),
        ("duplicates: exact", 2, 2, 1),
    ]
    assert rows_of(events) == [("a", "x", 1), ("b", "x", 3)]


def test_nothing_left_names_the_step():
    with pytest.raises(AdapterError, match="after the step '3-core'"):
        apply_filters(log_of([(1, 1, 1)]), **{**NONE, "k": 3})
    with pytest.raises(AdapterError, match="no ratings"):
        apply_filters(log_of([(1, 1, 1)]), **{**NONE, "min_rating": 3})


def test_sorted_share_looks_only_inside_users():
    user = np.repeat(np.arange(40), 3)
    assert sorted_share(user, np.tile([1, 2, 3], 40)) == 1.0
    assert sorted_share(user, np.tile([1, 3, 2], 40)) == 0.0
    half = np.concatenate([np.tile([1, 2, 3], 20), np.tile([3, 2, 1], 20)])
    assert sorted_share(user, half) == 0.5
    assert sorted_share(user[:30], np.tile([1, 2, 3], 10)) == 0.0  # too few users to judge


def test_split_sizes():
    events = log_of([(u, i, 10 * i + u) for u in range(5) for i in range(2 + u)]).in_order()
    assert split_statistics(events, "leave-one-out") == {"train": 11, "valid": 4, "test": 5}
    sizes = split_statistics(events, "global-time")
    assert (sizes["train"], sizes["valid"], sizes["test"]) == (16, 2, 2)
    assert sizes["test_events_of_items_not_in_train"] == 1.0  # items 4 and 5, at times 44 and 54
    assert sizes["test_events_of_users_not_in_train"] == 0.0
