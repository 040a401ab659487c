"""Every view, both ways to mine pairs, and the retrieval report look at TRAIN interactions only."""

import json

import numpy as np
import pytest

from recbole_sigma.grounding import ground as stage
from recbole_sigma.preparation.items import prepare
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.loaders import load_data
from tests.planted import CYCLE_GROUPS, CYCLE_ITEMS, cycle_config, write_cycle

VIEWS = ["collaborative", "semantic", "taxonomy", "brand", "visual"]
USERS, LENGTH = 24, 10


@pytest.fixture
def prepared(tmp_path):
    """Function from a change of events and options to (prepared items, train events)."""
    tokens = [f"i{g}_{c}" for g in range(CYCLE_GROUPS) for c in range(CYCLE_ITEMS)]
    np.save(tmp_path / "image.npy", np.random.default_rng(0).normal(size=(len(tokens), 4)))
    (tmp_path / "image.items.txt").write_text("\n".join(tokens) + "\n")

    def get(name, change=None, **more):
        root = tmp_path / name
        write_cycle(root / "cycle", USERS, LENGTH, change=change)
        views = {
            "brand_field": "category",
            "grounding_views": VIEWS,
            "grounding_visual_file": str(tmp_path / "image.npy"),
            "grounding_report": True,
            "grounding_steps": 4,
            "fusion_inputs": ["id", "text", "image"],
        }
        values = cycle_config(root, root / "out", **{**views, **more})
        config = RunConfig("SIGMA", "cycle", None, values)
        train = load_data(config, config.model_class).train._dataset
        return prepare(train, config), train.train_events()

    return get


def other_targets(user, step, item):
    """The two events that are judged become other items; everything before them stays."""
    return f"i{(user + 1) % CYCLE_GROUPS}_{(user + step) % CYCLE_ITEMS}" if step >= LENGTH - 2 else item


def test_held_out_events_change_no_view_and_no_report(prepared):
    before, _ = prepared("a")
    after, _ = prepared("b", other_targets)
    pairs = before.report["views"]
    assert list(pairs) == VIEWS and all(pairs[view] for view in VIEWS if view != "semantic")
    rows = [row["variant"] for row in before.report["retrieval"]]
    assert rows == ["raw text", "aligned", *[f"view {view} alone" for view in VIEWS]]
    for name, tensor in before.tensors().items():
        assert tensor.equal(after.tensors()[name]), name
    # as text: an undefined ratio equals itself
    assert json.dumps(before.header(), sort_keys=True) == json.dumps(after.header(), sort_keys=True)


def test_the_comparison_notices_train_events(prepared):
    before, _ = prepared("a")
    after, _ = prepared("b", lambda u, s, i: other_targets(u, LENGTH, i) if s < LENGTH - 2 else i)
    assert not before.vectors.text.equal(after.vectors.text)
    assert json.dumps(before.report["retrieval"]) != json.dumps(after.report["retrieval"])


def test_partners_of_the_report_are_pairs_of_train_events(prepared, monkeypatch):
    seen = {}

    def spy(users, items, n_items, window, seed):
        held = stage_hold_out(users, items, n_items, window, seed=seed)
        seen.update(users=users, items=items, held=held, window=window)
        return held

    stage_hold_out = stage.hold_out
    monkeypatch.setattr(stage, "hold_out", spy)
    _, events = prepared("a")
    order, _ = events.by_user
    np.testing.assert_array_equal(seen["users"], events.users[order].numpy())
    np.testing.assert_array_equal(seen["items"], events.items[order].numpy())
    assert len(seen["items"]) == USERS * (LENGTH - 2)
    met = set()
    for user in np.unique(seen["users"]):
        own = seen["items"][seen["users"] == user].tolist()
        for gap in range(1, seen["window"] + 1):
            for one, two in zip(own, own[gap:], strict=False):
                met |= {(one, two), (two, one)}
    for partners in (seen["held"].warm_partners, seen["held"].cold_partners):
        assert partners.nnz and set(zip(*(part.tolist() for part in partners.nonzero()), strict=True)) <= met
