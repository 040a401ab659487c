"""Collaborative memory against loops, and fused lists against sorting the whole catalogue."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_sigma.decoding.top_k import top_k
from recbole_sigma.decoding.votes import add_bonus, best_of, bonus_of, build_memory, strongest

N = 15


def events(seed=0, users=12, length=9):
    rng = np.random.default_rng(seed)
    return np.repeat(np.arange(1, users + 1), length), rng.integers(1, N, users * length)


def memory(seed=0, last=3):
    return build_memory(*events(seed), N, 4, 2.0, last, 0.7, 0.01)


def votes_by_loop(seed, history, last):
    """sum over the newest events of decay^age C_ij / (sqrt(n_i n_j) + shrink), pair by pair."""
    users, items = events(seed)
    pairs = np.zeros((N, N))
    for a in range(len(items)):
        for b in range(a + 1, len(items)):
            if users[a] == users[b] and b - a <= 4 and items[a] != items[b]:
                pairs[items[a], items[b]] += (b - a) ** -0.5
                pairs[items[b], items[a]] += (b - a) ** -0.5
    count = np.bincount(items, minlength=N)
    votes = np.zeros(N)
    for age, i in enumerate(reversed(history[-last:])):
        votes += 0.7**age * pairs[i] / (np.sqrt(count[i] * count) + 2.0)
    return votes


@pytest.mark.parametrize("last", [1, 3, 50])
def test_bonus_equals_a_loop(last):
    histories = [[3], [1, 2, 3, 4, 5], [], [7, 7, 2]]
    rows = torch.tensor([r for r, h in enumerate(histories) for _ in h])
    items = torch.tensor([i for h in histories for i in h])
    dense = add_bonus(torch.zeros(4, N), memory(last=last).bonus(rows, items, 4), 1.0)
    for row, history in enumerate(histories):
        expected = np.log1p(votes_by_loop(0, history, last) / 0.01)
        np.testing.assert_allclose(dense[row, 1:], expected[1:], rtol=1e-5, atol=1e-6)


def test_bonus_of_chosen_items_equals_the_dense_one():
    bonus = memory().bonus(torch.tensor([0, 0, 1]), torch.tensor([4, 5, 6]), 3)
    dense = add_bonus(torch.zeros(3, N), bonus, 1.0)
    items = torch.randint(0, N, (3, 8), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bonus_of(bonus, items, N), dense.gather(1, items).masked_fill(items == 0, 0.0))
    empty = tuple(part[:0] for part in bonus)
    assert not bonus_of(empty, items, N).any()


@given(st.integers(0, 10_000), st.integers(1, 20), st.floats(0, 3))
def test_candidates_and_neighbours_give_the_list_of_the_whole_catalogue(seed, k, weight):
    """With enough neighbours the fused list over (best by score, neighbours) is the exact one."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, N, generator=generator)
    bonus = memory(seed % 7).bonus(torch.tensor([0, 1, 1]), torch.tensor([4, 5, 6]), 2)
    seen = (torch.tensor([0, 1, 1]), torch.tensor([4, 5, 6]))
    beam = top_k(scores, k, seen)
    near = strongest(bonus, 2, N, beam.items, seen, N)
    items = torch.cat([beam.items, near], dim=1)
    own = scores.gather(1, items).masked_fill(items == 0, -torch.inf)
    got = best_of(items, own + weight * bonus_of(bonus, items, N), k)
    expected = top_k(add_bonus(scores, bonus, weight), k, seen)
    assert torch.equal(got.items, expected.items)
    torch.testing.assert_close(got.scores, expected.scores)


def test_strongest_are_the_largest_in_order_without_repeats():
    bonus = (torch.tensor([0, 0, 0, 1]), torch.tensor([3, 5, 7, 2]), torch.tensor([1.0, 4.0, 4.0, 2.0]))
    near = strongest(bonus, 3, 2, torch.tensor([[9], [9], [9]]), None, N)
    assert near.tolist() == [[5, 7], [2, 0], [0, 0]]
    assert strongest(bonus, 3, 2, torch.tensor([[5], [2], [1]]), None, N).tolist() == [[7, 3], [0, 0], [0, 0]]
