"""Rows of the packed dataset: every target once per epoch, bounded windows, RecBole's own targets for
evaluation.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_sigma.data.windows import WindowPacker, split_events
from recbole_sigma.values import UserError


def grouped(lengths):
    users = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return users, np.arange(1, len(users) + 1), np.arange(len(users))


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    window=st.integers(1, 12),
    epoch=st.integers(0, 50),
)
def test_every_target_is_visited_once_and_windows_are_bounded(lengths, window, epoch):
    users, items, ranks = grouped(lengths)
    packer = WindowPacker(users, items, ranks, window, seed=1)
    spans = packer.draw(epoch)
    assert len(spans) == len(packer)
    targets = [t for begin, target in spans for t in range(begin + 1, target + 1)]
    expected = [i for i in range(len(users)) if i > 0 and users[i] == users[i - 1]]
    assert sorted(targets) == expected and len(expected) == packer.predictions
    assert all(1 <= target - begin <= window and users[begin] == users[target] for begin, target in spans)


def test_boundaries_move_between_epochs_and_repeat_with_the_epoch():
    packer = WindowPacker(*grouped([95, 70]), window=20, seed=3)
    assert not np.array_equal(packer.draw(0), packer.draw(1))
    np.testing.assert_array_equal(packer.draw(5), packer.draw(5))
    assert not np.array_equal(packer.draw(0), WindowPacker(*grouped([95, 70]), window=20, seed=4).draw(0))


def test_leave_one_out_takes_the_last_two_events_of_each_user():
    users = np.array([1, 2, 1, 2, 1, 3, 1, 3])
    part = split_events(users, {"split": {"LS": "valid_and_test"}})
    # user 1: events 0 2 4 6; user 2: 1 3; user 3: 5 7. A first event has no history and stays in train.
    np.testing.assert_array_equal(part, [0, 0, 0, 2, 1, 0, 2, 2])


def test_global_time_ratio_cuts_the_time_line():
    part = split_events(np.arange(10) % 3, {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": None})
    np.testing.assert_array_equal(part, [0] * 8 + [1, 2])


def test_ratio_within_users():
    users = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2])
    part = split_events(users, {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "user"})
    np.testing.assert_array_equal(part, [0] * 8 + [1, 2] + [0, 0])


@pytest.mark.parametrize("split", [{"LS": "last_three"}, {"RS": [0.8, 0.2]}, {"XX": 1}])
def test_unknown_splits_are_refused(split):
    with pytest.raises(UserError, match="eval_args"):
        split_events(np.array([1, 1, 1]), {"split": split})
