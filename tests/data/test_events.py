from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_sigma.data.events import Chronology, ExactTime, build_chronology, exact
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.loaders import load_data
from recbole_sigma.values import UserError


def loaders(model: str, dataset: str, values: dict):
    config = RunConfig(model, dataset, config_dict=values)
    return load_data(config, config.model_class)


def targets(loader) -> dict[str, str]:
    """user token -> target token of an evaluation loader."""
    dataset, found = loader._dataset, {}
    for interaction, _, row, item in loader:
        users = interaction[dataset.uid_field][row]
        names = np.atleast_1d(dataset.id2token(dataset.uid_field, users))
        found.update(zip(names, np.atleast_1d(dataset.id2token(dataset.iid_field, item)), strict=True))
    return found


@pytest.fixture(scope="module")
def ml100k() -> pd.DataFrame:
    from pathlib import Path

    import recbole

    path = Path(recbole.__file__).parent / "dataset_example" / "ml-100k" / "ml-100k.inter"
    frame = pd.read_csv(path, sep="\t", dtype={"user_id:token": str, "item_id:token": str})
    return frame.rename(columns=lambda c: c.split(":")[0])


def last_items(frame: pd.DataFrame, times) -> dict[str, str]:
    return (
        frame.assign(t=times).sort_values("t", kind="stable").groupby("user_id")["item_id"].last().to_dict()
    )


def test_float32_moves_targets_of_ml100k_and_ours_moves_none(ml100k) -> None:
    times = ml100k["timestamp"].to_numpy()
    truth = last_items(ml100k, times)
    scaled = ((times - times.min()) / (times.max() - times.min())).astype(
        np.float32
    )  # RecBole's ml-100k.yaml normalizes
    assert sum(truth[u] != item for u, item in last_items(ml100k, scaled).items()) == 4
    assert sum(truth[u] != item for u, item in last_items(ml100k, times.astype(np.float32)).items()) == 149
    for model in ("BPR", "PackedSASRec"):
        assert targets(loaders(model, "ml-100k", {}).test) == truth


def test_stock_recbole_has_the_rounded_targets(ml100k) -> None:
    """The reason for the module; when this fails, RecBole keeps exact time and `chronology` may go."""
    from recbole.data import create_dataset, data_preparation

    config = RunConfig("BPR", "ml-100k")
    _, _, test = data_preparation(config, create_dataset(config))
    truth = last_items(ml100k, ml100k["timestamp"].to_numpy())
    assert sum(truth[u] != item for u, item in targets(test).items()) == 149


@pytest.mark.parametrize("model", ["BPR", "SASRec", "PackedSASRec"])
def test_ties_keep_the_order_of_the_file(model, write_dataset) -> None:
    events = [("a", f"i{k}", 7) for k in (3, 1, 4, 2, 5)] + [("b", f"i{k}", 9 - k) for k in (1, 2, 3, 4)]
    data = loaders(model, "small", write_dataset(events, spare=2))
    assert targets(data.test) == {"a": "i5", "b": "i1"}
    assert targets(data.valid) == {"a": "i2", "b": "i2"}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 4)), max_size=40))
def test_before_equals_a_plain_loop(events) -> None:
    users, items, times = (np.array([e[k] for e in events], dtype=np.int64) for k in range(3))
    chronology, ranks = build_chronology(users, items, times)
    ordered = sorted(range(len(events)), key=lambda e: times[e])  # Python's sort is stable
    assert chronology.items.tolist() == [events[e][1] for e in ordered]
    assert [ordered[r] for r in ranks] == list(range(len(events)))
    asked = [(u, moment) for u in range(5) for moment in range(len(events) + 1)]
    row, item = chronology.before(torch.tensor([u for u, _ in asked]), torch.tensor([m for _, m in asked]))
    for position, (user, moment) in enumerate(asked):
        want = [events[e][1] for r, e in enumerate(ordered) if events[e][0] == user and r < moment]
        assert item[row == position].tolist() == want


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9)), min_size=1, max_size=30),
    st.sets(st.integers(0, 29)),
)
def test_a_part_with_gaps_in_its_ranks_keeps_users_together_and_in_order(events, held_out) -> None:
    """Train events keep the ranks of the whole dataset; late ones must not sort among the next user's."""
    kept = [(rank, user, item) for rank, (user, item) in enumerate(events) if rank not in held_out]
    if not kept:
        return
    ranks, users, items = (torch.tensor(column) for column in zip(*kept, strict=True))
    part = Chronology(users=users, items=items, ranks=ranks, times=ranks.double())
    expected = sorted(kept, key=lambda event: (event[1], event[0]))
    grouped_users, grouped_items = part.sequences()
    assert grouped_users.tolist() == [user for _, user, _ in expected]
    assert grouped_items.tolist() == [item for _, _, item in expected]
    moments = torch.arange(len(events) + 3)
    for user in range(1, 6):
        row, met = part.before(torch.full_like(moments, user), moments)
        for moment in moments.tolist():
            history = [item for rank, who, item in kept if who == user and rank < moment]
            assert met[row == moment].tolist() == history


def test_ranks_stay_exact_past_float32() -> None:
    """float32 counts to 2^24 only; ranks must not go through it."""
    n = 2**24 + 3
    ranks = torch.arange(n - 3, n)
    chronology = Chronology(torch.zeros(3, dtype=torch.int64), torch.arange(3), ranks, ranks.double())
    assert chronology.by_user[1].unique().numel() == 3


def test_general_and_sequential_models_hold_out_the_same_events(write_dataset) -> None:
    events = [(f"u{n}", f"i{k}", 10 * k + n) for n in range(2, 7) for k in range(n)]
    values = write_dataset(events, spare=2)
    parts = [loaders(model, "small", values) for model in ("BPR", "SASRec", "PackedSASRec")]
    for phase in ("valid", "test"):
        found = [targets(getattr(p, phase)) for p in parts]
        assert found[0] == found[1] == found[2]
    assert set(targets(parts[0].test)) == {f"u{n}" for n in range(2, 7)}  # two events: tested, not validated
    assert set(targets(parts[0].valid)) == {f"u{n}" for n in range(3, 7)}


@pytest.mark.parametrize("group", ["none", "user"])
def test_ratio_split_by_time_has_no_future_in_train(group, write_dataset) -> None:
    rng = np.random.default_rng(0)
    events = [(f"u{rng.integers(6)}", f"i{rng.integers(12)}", int(t)) for t in rng.permutation(200)]
    values = write_dataset(events, spare=2) | {"eval_args": {"split": {"RS": [8, 1, 1]}, "group_by": group}}
    for model in ("BPR", "SASRec", "PackedSASRec"):
        data = loaders(model, "small", values)
        train, test = data.train._dataset.train_events(), data.test._dataset
        ranks = test.inter_feat[test.time_field]
        if group == "none":
            assert int(train.ranks.max()) < int(ranks.min())
        for user in torch.unique(test.inter_feat[test.uid_field]):
            own = train.ranks[train.users == user]
            assert not len(own) or own.max() < ranks[test.inter_feat[test.uid_field] == user].min()


def test_train_events_are_the_same_for_every_kind_of_dataset(write_dataset) -> None:
    events = [(f"u{n}", f"i{k}", 10 * k + n) for n in range(3, 7) for k in range(n)]
    values = write_dataset(events, spare=2)
    found = [
        loaders(m, "small", values).train._dataset.train_events().ranks.tolist()
        for m in ("BPR", "SASRec", "PackedSASRec")
    ]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == len(events) - 8


def test_raw_times_survive_normalization(write_dataset) -> None:
    events = [("a", f"i{k}", 881_250_949 + k) for k in range(5)]
    data = loaders("BPR", "small", write_dataset(events, spare=2) | {"normalize_all": True})
    assert data.dataset.chronology.times.tolist() == [881_250_949.0 + k for k in range(5)]


@pytest.mark.parametrize(("keep", "last"), [("first", "i2"), ("last", "i1")])
def test_duplicates_are_dropped_by_exact_time(keep, last, write_dataset) -> None:
    base = 1_000_000_000
    events = [("a", "i1", base), ("a", "i3", base + 1), ("a", "i2", base + 2), ("a", "i1", base + 3)]
    data = loaders("BPR", "small", write_dataset(events, spare=2) | {"rm_dup_inter": keep})
    assert targets(data.test) == {"a": last}


def test_the_time_column_survives_unused_col(write_dataset) -> None:
    events = [("a", f"i{k}", k) for k in range(5)]
    data = loaders(
        "SASRec", "small", write_dataset(events, spare=2) | {"unused_col": {"inter": ["timestamp"]}}
    )
    assert "timestamp" in data.test._dataset.inter_feat


def test_exact_is_idempotent_and_refuses_other_classes() -> None:
    from recbole.data.dataset import Dataset

    assert exact(exact(Dataset)) is exact(Dataset) and issubclass(exact(Dataset), ExactTime)
    with pytest.raises(TypeError):
        exact(dict)


@pytest.mark.parametrize("model", ["BPR", "SASRec", "PackedSASRec", "Pop"])
def test_users_with_one_event_are_refused_with_a_remedy(model, write_dataset) -> None:
    events = [("a", f"i{k}", k) for k in range(5)] + [("b", "i1", 1), ("c", "i2", 1)]
    values = write_dataset(events, spare=2)
    with pytest.raises(
        UserError, match=r"2 of 3 users in dataset 'small' have one event.*user_inter_num_interval"
    ):
        loaders(model, "small", values)
    assert set(targets(loaders(model, "small", values | {"user_inter_num_interval": "[3,inf)"}).test)) == {
        "a"
    }


@pytest.mark.parametrize(("events", "newest"), [(21, 3), (22, 20)])
def test_short_histories_are_known_by_their_train_events(events, newest, write_dataset) -> None:
    """20 train events per user are long, held-out events do not count, and a number asked for stays."""
    rows = [(u, f"i{(u + s) % 40}", s) for u in range(4) for s in range(events)]
    train = loaders("Pop", "small", write_dataset(rows, spare=2)).train._dataset.train_events()
    assert (train.newest("auto"), train.newest(7)) == (newest, 7)


def test_the_votes_of_a_set_do_not_hang_on_its_name(write_dataset) -> None:
    """knn_last, next_last and memory_last of auto follow from the train events alone."""
    from recbole_sigma.decoding.memory import CollaborativeMemory
    from tests import planted as scenes

    rows = [(u, f"i{(u + s) % 40}", s) for u in range(4) for s in range(6)]
    for name in ("amazon-beauty", "mine"):
        values = write_dataset(rows, name, spare=2)
        for model in ("WindowItemKNN", "NextItemRidge"):
            config, data, built = scenes.build(model, name, values)
            assert built.part.last == 3
        memory = CollaborativeMemory(config)
        none = torch.zeros(0, dtype=torch.int64)
        memory.bonus(data.train._dataset, (none, none), 1)
        assert [part.last for part in memory._memory.parts[:2]] == [3, 3]
