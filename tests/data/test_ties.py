"""Events of one time: drawn in a new order where the file's is one of chance, and nothing else moves."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_sigma.data.dataset import name_places
from recbole_sigma.data.windows import BY_CHANCE, rising_share, shuffled_runs, tied_runs
from recbole_sigma.instructions.phrases import words_of
from tests import planted as scenes

EVENTS, PER_TIME = 12, 3  # of every user: four moments of three events


@given(events=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=40), seed=st.integers(0, 99))
def test_a_drawn_order_moves_events_inside_their_run_alone(events, seed):
    events = sorted(events)
    users, times = (np.array([event[part] for event in events], dtype=np.int64) for part in (0, 1))
    runs = tied_runs(users, times.astype(np.float64))
    same = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
    same[1:] &= users[2:] == users[:-2]  # a user's first event stays where it is
    same[:1] = False
    np.testing.assert_array_equal(runs[1:] == runs[:-1], same)
    order = shuffled_runs(runs, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(runs)))
    np.testing.assert_array_equal(runs[order], runs)


def test_every_order_of_a_run_is_as_likely_as_another():
    runs = np.array([0, 1, 1, 1, 2])
    rng, drawn = np.random.default_rng(0), defaultdict(int)
    for _ in range(6000):
        drawn[tuple(shuffled_runs(runs, rng).tolist())] += 1
    assert len(drawn) == 6
    spread = (6000 * (1 / 6) * (5 / 6)) ** 0.5
    assert all(abs(count - 1000) < 5 * spread for count in drawn.values())


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["[PAD]", "10", "9", "100"], [0, 2, 1, 3]),
        (["[PAD]", "b", "a", "10"], [0, 3, 2, 1]),
        (["[PAD]"], [0]),
    ],
)
def test_names_of_digits_are_ordered_by_value(names, places):
    assert name_places(names).tolist() == places


def test_the_share_of_rising_pairs_by_hand():
    runs, place = np.array([0, 0, 0, 1, 1, 2]), np.array([1, 5, 2, 9, 9, 3])
    assert rising_share(runs, place) == 0.5  # 1 < 5, 5 > 2; 9 and 9 are one item, the others stand apart
    assert np.isnan(rising_share(np.arange(3), np.arange(3)))


def rows_in(how: str) -> list[tuple[int, str, int]]:
    """40 users of `EVENTS` events, `PER_TIME` at a time, which the file orders by chance or by item."""
    rng, rows = random.Random(1), []
    for user in range(40):
        own = rng.sample(range(30), EVENTS)
        for begin in range(0, EVENTS, PER_TIME):
            tied = own[begin : begin + PER_TIME]
            if how != "chance":
                tied.sort(reverse=how == "falling")
            rows += [(user, f"i{item:02d}", 1000 + begin) for item in tied]
    return rows


def trained_rows(data, epoch: int) -> dict[int, list[int]]:
    """The items of every user's row of an epoch, its last target included."""
    dataset = data.train._dataset
    dataset.resample(epoch)
    found = {}
    for row in range(len(dataset.inter_feat)):
        one = dataset.inter_feat[row]
        length = int(one["item_length"])
        found[int(one["user_id"])] = [*one["item_id_list"][:length].tolist(), int(one["item_id"])]
    return found


@pytest.mark.parametrize("model", ["PackedSASRec", "HSTU"])
@pytest.mark.parametrize(
    ("file", "asked", "moves"),
    [
        ("chance", "auto", True), ("rising", "auto", False), ("falling", "auto", False),
        ("chance", "file", False), ("rising", "shuffled", True),
    ],
)  # fmt: skip
def test_auto_moves_tied_events_where_the_file_wrote_them_down_by_chance(
    write_dataset, model, file, asked, moves
):
    _, data, _ = scenes.build(model, "small", write_dataset(rows_in(file)), train_tied=asked, n_layers=1)
    dataset = data.train._dataset
    users, items = dataset.train_events().sequences()
    as_filed = {user: items[users == user].tolist() for user in set(users.tolist())}
    epochs = [trained_rows(data, epoch) for epoch in (0, 1, 2)]
    assert trained_rows(data, 1) == epochs[1]  # an epoch's order is that of its number
    for epoch in epochs:
        assert (epoch == as_filed) != moves
        for user, filed in as_filed.items():
            for begin in range(0, len(filed), PER_TIME):
                end = begin + PER_TIME
                assert sorted(epoch[user][begin:end]) == sorted(filed[begin:end])
            assert epoch[user][0] == filed[0]  # no target, in any epoch
    assert (epochs[0] == epochs[1]) != moves
    for part, held in ((data.valid, 1), (data.test, 0)):  # judged rows are the file's
        batch = scenes.one_batch(part)
        for row in range(len(batch)):
            length = int(batch["item_length"][row])
            known = batch["item_id_list"][row, :length].tolist()
            assert length == EVENTS - 1 - held
            assert known[: EVENTS - 2] == as_filed[int(batch["user_id"][row])]


def test_the_choice_reads_train_events_alone(write_dataset):
    """Held-out events that all rise do not make an order of chance one of names."""
    rows = rows_in("chance")
    low, high = BY_CHANCE
    _, data, _ = scenes.build("PackedSASRec", "small", write_dataset(rows), n_layers=1)
    share = []
    for held in ("i00", "i99"):  # the last two events of every user get the least name, or the greatest
        changed = [
            (user, held if place % EVENTS >= EVENTS - 2 else item, time)
            for place, (user, item, time) in enumerate(rows)
        ]
        _, data, _ = scenes.build("PackedSASRec", "small", write_dataset(changed, name="small"), n_layers=1)
        dataset = data.train._dataset
        assert dataset.runs is not None
        places = name_places([str(name) for name in dataset.field2id_token["item_id"]])
        share.append(rising_share(dataset.runs, places[dataset.packer.items]))
    assert low <= share[0] <= high and abs(share[0] - share[1]) < 1e-12


def test_times_of_rows_stay_those_of_their_events(write_dataset):
    """HSTU looks them up by the rank of a row's target."""
    _, data, model = scenes.build("HSTU", "small", write_dataset(rows_in("chance")), n_layers=1)
    dataset = data.train._dataset
    dataset.resample(3)
    (times,) = model.inputs(dataset.inter_feat)
    for row in times.tolist():
        known = [time for time in row if time][: EVENTS - 3]
        assert known == [1000 + place // PER_TIME * PER_TIME for place in range(EVENTS - 3)]


CODES = {"tokenizer_vectors": ["collaborative"], "tokenizer_levels": 2, "tokenizer_codebook_size": 4}


@pytest.mark.parametrize(("model", "keys"), [("GateSID", CODES), ("SORT", {})])
def test_models_that_read_the_moment_or_the_label_of_an_event_keep_the_files_order(
    write_dataset, model, keys
):
    _, data, _ = scenes.build(model, "small", write_dataset(rows_in("chance")), **keys)
    assert data.train._dataset.runs is None
    assert trained_rows(data, 0) == trained_rows(data, 1)


@pytest.mark.parametrize("window", [50, 1])
def test_labels_follow_their_events(valid_chosen, window):
    """An instruction that names a kind hangs before an item of that kind, wherever the epoch has put it, and
    every row has a label of its own, though it may hold one target.
    """
    _, data, model = scenes.build(
        "SIGMA", "chosen", valid_chosen, tasks=["Category"], MAX_ITEM_LIST_LENGTH=window
    )
    labels, dataset = model.task_labels, data.train._dataset
    users = dataset.packer.users
    dataset.runs = tied_runs(users, np.zeros(len(users)))  # as if a user did everything at once
    texts = labels.tasks.texts()
    text_of = {tuple(row): text for text, row in zip(texts, labels.encode(texts).tolist(), strict=True)}
    material, met = labels.tasks.material, 0
    for epoch in (1, 2):
        model.on_epoch_start(epoch, data.train)
        assert not np.array_equal(dataset.order, np.arange(len(users)))
        rows = dataset.inter_feat
        length = rows["item_length"] + 1
        whole = torch.nn.functional.pad(rows["item_id_list"], (0, 1))
        whole[torch.arange(len(whole)), length - 1] = rows["item_id"]
        torch.manual_seed(epoch)
        draw = labels.draw(rows["packed_first"], length, 6)
        assert ((draw.after >= 0) & (draw.after < length[:, None] - 1)).all()
        items = whole.gather(1, draw.after + 1)
        for task, item, text in zip(
            draw.task.ravel().tolist(),
            items.ravel().tolist(),
            draw.text.reshape(-1, labels.width).tolist(),
            strict=True,
        ):
            if labels.names[task] == "Category":
                assert material.labels[item][0] in words_of(text_of[tuple(text)])
                met += 1
    assert met > 20
