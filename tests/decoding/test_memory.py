"""Collaborative memory against loops, and fused lists against sorting the whole catalogue."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_sigma.decoding import memory as module
from recbole_sigma.decoding.memory import add_bonus, best_of, bonus_of, build_memory, strongest
from recbole_sigma.decoding.top_k import top_k
from recbole_sigma.grounding.solver import Solver
from recbole_sigma.settings.keys import MemoryKeys

N = 15
EVERY = ("neighbours", "next", "history")


def events(seed=0, users=12, length=9):
    rng = np.random.default_rng(seed)
    return np.repeat(np.arange(1, users + 1), length), rng.integers(1, N, users * length)


def memory(seed=0, last=3, parts=EVERY):
    keys = replace(MemoryKeys(), memory_window=4, memory_shrink=2.0, memory_forward=0.5, memory_decay=0.7)
    return build_memory(Solver(*events(seed), N), replace(keys, memory_parts=parts, memory_ridge=5.0), last)


def neighbours(seed, history, last):
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


def after(seed, history, last):
    """Least squares of every event on the newest events before it."""
    users, items = events(seed)
    told, target = [], []
    for event in range(1, len(items)):
        before = [i for u, i in zip(users[:event], items[:event], strict=True) if u == users[event]]
        if before:
            told.append(weighted(before, last))
            target.append(np.eye(N)[items[event]])
    h, y = np.array(told), np.array(target)
    return weighted(history, last) @ np.linalg.solve(h.T @ h + 5.0 * np.eye(N), h.T @ y)


def weighted(history, last):
    row = np.zeros(N)
    for age, item in enumerate(reversed(history[-last:])):
        row[item] += 0.7**age
    return row


def whole(seed, history, last):
    """Column by column: each item on all others."""
    users, items = events(seed)
    met = np.zeros((users.max() + 1, N))
    met[users, items] = 1.0
    found = np.zeros(N)
    for j in range(N):
        others = [i for i in range(N) if i != j]
        left = met[:, others]
        weights = np.linalg.solve(left.T @ left + 5.0 * np.eye(N - 1), left.T @ met[:, j])
        found[j] = sum(weights[others.index(i)] for i in set(history) - {j})
    return found


@pytest.mark.parametrize("last", [1, 3, 50])
@pytest.mark.parametrize("most", [4, 500])
@pytest.mark.parametrize("parts", [("neighbours",), ("next", "history"), EVERY])
def test_the_gain_is_the_sum_of_z_scores_above_the_last_of_the_strongest(last, most, parts, monkeypatch):
    monkeypatch.setattr(module, "STRONGEST", most)
    histories = [[3], [1, 2, 3, 4, 5], [], [7, 7, 2]]
    rows = torch.tensor([r for r, h in enumerate(histories) for _ in h])
    items = torch.tensor([i for h in histories for i in h])
    dense = add_bonus(torch.zeros(4, N), memory(0, last, parts).bonus(rows, items, 4), 1.0)
    says = {"neighbours": neighbours, "next": after, "history": whole}
    for row, history in enumerate(histories):
        total = np.zeros(N)
        if history:
            for part in parts:
                scores = says[part](0, history, last)
                total += (scores - scores.mean()) / scores.std()
        total[0] = 0.0
        least = max(np.sort(total)[::-1][min(most, N - 1)], 0.0)
        np.testing.assert_allclose(dense[row], np.maximum(total - least, 0.0), atol=2e-4)


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
