"""What untrained models count and solve comes from train events alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_sigma.decoding.memory import CollaborativeMemory
from recbole_sigma.models.registry import MODELS
from recbole_sigma.models.untrained import Untrained
from tests import planted as scenes
from tests.planted import CYCLE_GROUPS, CYCLE_ITEMS

USERS, LENGTH = 24, 10
NAMES = ["WindowItemKNN", "HistoryEASE", "NextItemRidge", "ClosedForm", "TGH", "TextLinear"]


def other_targets(user, step, item):
    """The two events that are judged become other items; everything before them stays."""
    return f"i{(user + 1) % CYCLE_GROUPS}_{(user + step) % CYCLE_ITEMS}" if step >= LENGTH - 2 else item


def other_train(user, step, item):
    """The same change of an event that is not judged."""
    return other_targets(user, LENGTH, item) if step == LENGTH - 4 else item


def test_the_list_is_whole() -> None:
    import importlib

    classes = [vars(importlib.import_module(entry.module))[name] for name, entry in MODELS.items()]
    assert {c.__name__ for c in classes if issubclass(c, Untrained)} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_held_out_events_change_no_score(name, tmp_path) -> None:
    found = []
    for number, change in enumerate((None, other_targets, other_train)):
        root = tmp_path / str(number)
        scenes.write_cycle(root / "cycle", USERS, LENGTH, change=change)
        config, data, model = scenes.build(name, "cycle", scenes.cycle_config(root, root / "out"))
        rows, items = np.array([0, 0, 1]), np.array([1, 2, 5])
        memory = CollaborativeMemory(config).bonus(
            data.train._dataset, (torch.from_numpy(rows), torch.from_numpy(items)), 2
        )
        found.append((model.scores(rows, items, 2), memory))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert not np.allclose(found[0][0], found[2][0])
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))
