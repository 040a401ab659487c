"""GPSD's protocol: who is tested, what a row holds, and that no last event is known to training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_sigma.data.gpsd import negatives, split_users
from recbole_sigma.values import UserError
from tests import planted as scenes
from tests.planted import events_config, tiny

LABELS = {"judged_by": "labels", "label_rows": "gpsd", "valid_metric": "AUC"}


def log(tmp_path, users: int = 40, items: int = 30):
    """User u has 3 + u % 5 events, and a later user later ones."""
    rng = np.random.default_rng(0)
    events = [
        (f"u{user}", f"i{item}", 1_000_000 + 1000 * user + step)
        for user in range(users)
        for step, item in enumerate(rng.integers(0, items, 3 + user % 5))
    ]
    return events, events_config(tmp_path / "log", events)


def rows(part) -> dict[str, torch.Tensor]:
    return part._dataset.inter_feat.interaction


@pytest.mark.parametrize("model", ["SORT", "GateSID", "PackedSASRec", "DIN", "DIEN"])
def test_rows_are_last_events_beside_drawn_items(tmp_path, model) -> None:
    events, values = log(tmp_path)
    small = tiny(model) if model not in ("DIN", "DIEN") else {}
    if model == "GateSID":
        small |= {"tokenizer_vectors": ["collaborative"]}
    config, data, _ = scenes.build(model, "log", {**values, **small, **LABELS, "MAX_ITEM_LIST_LENGTH": 4})
    dataset = data.dataset
    name = {field: dataset.field2id_token[field] for field in ("user_id", "item_id")}
    by_user = {u: [i for v, i, _ in events if v == u] for u, _, _ in events}
    long = {u for u, own in by_user.items() if len(own) >= 4}
    seen: dict[int, set[str]] = {}
    for which, part in enumerate((data.train, data.valid, data.test)):
        own = rows(part)
        assert own["label"].tolist() == [1.0, 0.0] * (len(own["label"]) // 2)
        assert own["item_id_list"].shape[1] == 4
        for row in range(0, len(own["label"]), 2):
            user = name["user_id"][own["user_id"][row]]
            met = by_user[user]
            assert own["user_id"][row + 1] == own["user_id"][row]
            assert name["item_id"][own["item_id"][row]] == met[-1]
            assert own["item_id"][row + 1] != own["item_id"][row] and own["item_id"][row + 1] > 0
            for each in (row, row + 1):
                history = [name["item_id"][i] for i in own["item_id_list"][each][: own["item_length"][each]]]
                assert history == met[:-1][-4:]
            seen.setdefault(which, set()).add(user)
    assert seen[0] | seen[1] | seen[2] == long and not seen[0] & seen[1] and not seen[2] & (seen[0] | seen[1])
    assert seen[2] == set(sorted(long, key=lambda u: int(u[1:]))[-len(seen[2]) :]), "the latest are tested"
    known = data.train._dataset.train_events()
    assert len(known.items) == len(events) - len(long), "no last event counts as known"


def test_no_last_event_moves_what_training_knows(tmp_path) -> None:
    """Another last event of a tested user changes no train row and no statistic of train."""
    events, values = log(tmp_path)
    whole = scenes.build("SORT", "log", {**values, **tiny("SORT"), **LABELS})[1]
    last = max(k for k, event in enumerate(events) if event[0] == "u38")
    changed = [*events[:last], ("u38", events[0][1], events[last][2]), *events[last + 1 :]]
    other = scenes.build(
        "SORT", "other", {**events_config(tmp_path / "other", changed), **tiny("SORT"), **LABELS}
    )[1]
    for field, column in rows(whole.train).items():
        assert torch.equal(column[::2], rows(other.train)[field][::2]), field
    one, two = (data.train._dataset.train_events() for data in (whole, other))
    assert torch.equal(one.items, two.items)


def test_parts_are_those_of_the_protocol() -> None:
    last = np.random.default_rng(1).permutation(200)
    part = split_users(last, seed=3)
    assert np.bincount(part).tolist() == [126, 14, 60] and last[part == 2].min() > last[part != 2].max()
    assert (part == split_users(last, seed=3)).all() and (part != split_users(last, seed=4)).any()


@pytest.mark.parametrize("how", ["uniform", "popularity"])
def test_negatives_follow_what_they_say(how) -> None:
    counts = np.array([0, 1, 0, 3, 6])
    target = np.full(20_000, 4)
    drawn = negatives(target, counts, how, seed=0)
    share = np.bincount(drawn, minlength=5) / len(drawn)
    want = [0, 1 / 3, 1 / 3, 1 / 3, 0] if how == "uniform" else [0, 0.25, 0, 0.75, 0]
    np.testing.assert_allclose(share, want, atol=0.02)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"label_rows": "gpsd"}, "label_rows: gpsd makes labelled rows: write judged_by: labels"),
        (
            {"judged_by": "labels", "valid_metric": "AUC"},
            "judged_by: labels makes rows for SORT by GPSD's protocol",
        ),
    ],
)
def test_half_of_the_protocol_is_refused(tmp_path, changes, sentence) -> None:
    _, values = log(tmp_path)
    with pytest.raises(UserError, match=sentence):
        scenes.build("SORT", "log", {**values, **tiny("SORT"), **changes})


def test_too_few_users(tmp_path) -> None:
    values = events_config(tmp_path / "few", [("u", f"i{k}", k) for k in range(6)], spare=3)
    with pytest.raises(UserError, match="too few users with 4 events"):
        scenes.build("SORT", "few", {**values, **tiny("SORT"), **LABELS})
