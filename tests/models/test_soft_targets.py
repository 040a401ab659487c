"""Soft targets: shares against brute force over train events, the loss against a dense distribution."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recbole_sigma.models.sampled_softmax import Drawn
from recbole_sigma.models.sigma.objective import ItemTable, Objective, Predictions
from recbole_sigma.models.sigma.soft_targets import NEIGHBOURS, SoftTargets, softened
from recbole_sigma.values import UserError
from tests import planted as scenes
from tests.arithmetic import STATES
from tests.planted import cycle_config, write_cycle

SHARE = 0.25


def votes(users, items, n_items):
    """WindowItemKNN's directed similarity, event by event."""
    pairs = np.zeros((n_items, n_items))
    for late in range(len(items)):
        for early in range(max(0, late - 10), late):
            if users[early] == users[late] and items[early] != items[late]:
                pairs[items[early], items[late]] += 1.8 / (late - early) ** 0.5
                pairs[items[late], items[early]] += 0.2 / (late - early) ** 0.5
    count = np.bincount(items, minlength=n_items)
    return pairs / (np.sqrt(np.outer(count, count)) + 10.0)


@pytest.fixture(scope="module")
def events():
    draw = np.random.default_rng(3)
    return np.repeat(np.arange(1, 31), 12), draw.integers(1, 38, 360), 40  # items 38 and 39 have no event


def test_the_share_goes_to_the_strongest_neighbours_that_are_left(events):
    users, items, n_items = events
    found, strength = SoftTargets(users, items, n_items, SHARE), votes(users, items, n_items)
    newest = torch.arange(n_items)
    hidden = torch.from_numpy(np.random.default_rng(4).integers(0, n_items, (n_items, 9)))
    for left_out in (None, hidden):
        others, parts = found.of(newest, left_out)
        dense = torch.zeros(n_items, n_items, dtype=torch.float64)
        dense.scatter_add_(1, others, parts.double())
        for item in range(n_items):
            best = np.argsort(-strength[item], kind="stable")[:NEIGHBOURS]
            wanted = np.zeros(n_items)
            wanted[best] = strength[item, best]
            if left_out is not None:
                wanted[left_out[item].numpy()] = 0.0
            total = wanted.sum()
            wanted = SHARE * wanted / total if total else wanted
            np.testing.assert_allclose(dense[item].numpy(), wanted, rtol=1e-5, atol=1e-7)
    assert not parts[38:].any() and not parts[0].any()


def test_the_loss_is_the_cross_entropy_of_the_mixed_target(events):
    users, items, n_items = events
    found = SoftTargets(users, items, n_items, SHARE)
    draw = torch.Generator().manual_seed(5)
    queries = torch.randn(50, 6, generator=draw).requires_grad_()
    scored = torch.randn(n_items, 6, generator=draw).requires_grad_()
    newest, targets = (torch.randint(1, n_items, (50,), generator=draw) for _ in range(2))
    hidden = torch.randint(0, n_items, (50, 4), generator=draw)
    hidden = hidden.masked_fill(hidden == targets[:, None], 0)
    weights = torch.rand(50, generator=draw)
    soft = found.of(newest, hidden)
    predictions = Predictions(queries, queries[:0], targets, weights, hidden, soft=soft)
    total, each = Objective.catalogue_loss(queries, predictions, ItemTable(scored, scored, scored))

    mixed = torch.zeros(50, n_items).scatter_add(1, *soft)
    mixed[torch.arange(50), targets] += 1.0 - soft[1].sum(dim=1)
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(50))
    logits = (queries @ scored.T).scatter(1, hidden, -torch.inf)
    logits = torch.cat([torch.full((50, 1), -torch.inf), logits[:, 1:]], dim=1)
    wanted = -(mixed * logits.log_softmax(dim=1).masked_fill(mixed == 0, 0.0)).sum(dim=1)
    torch.testing.assert_close(each, wanted.detach(), **STATES)
    ours = torch.autograd.grad(total, (queries, scored))
    theirs = torch.autograd.grad((weights * wanted).sum(), (queries, scored))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **STATES)


def test_no_share_is_the_hard_target():
    queries, scored = torch.randn(3, 4), torch.randn(9, 4)
    hard = Predictions(queries, queries[:, :0], torch.tensor([1, 2, 3]), torch.ones(3))
    nothing = torch.zeros(3, NEIGHBOURS)
    table = ItemTable(scored, scored, scored)
    wanted = Objective.catalogue_loss(queries, hard, table)
    found = Objective.catalogue_loss(queries, replace(hard, soft=(nothing.long(), nothing)), table)
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
    assert torch.isfinite(found[1]).all()
    assert not softened(queries, scored, hard.targets, nothing.long(), nothing).any()


@pytest.mark.parametrize("rdrop", [0.0, 1.0])
@pytest.mark.parametrize("drawn", [None, Drawn(torch.arange(1, 9), torch.zeros(8))])
def test_a_batch_may_hold_no_prediction(rdrop, drawn):
    scored, none = torch.randn(9, 4), torch.zeros(0, NEIGHBOURS)
    queries, targets = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    soft = (none.long(), none)
    empty = Predictions(queries, queries[:, :0], targets, torch.zeros(0), soft=soft, rdrop=rdrop)
    total, each = Objective.catalogue_loss(queries, empty, ItemTable(scored, scored, scored, drawn=drawn))
    assert total == 0.0 and len(each) == 0


def neighbours(root, scratch):
    _, _, model = scenes.build("SIGMA", "cycle", cycle_config(root, scratch), sigma_soft_targets=SHARE)
    return model.soft


def test_neighbours_count_train_events_alone(tmp_path):
    write_cycle(tmp_path / "a" / "cycle")

    def swap(user, step, item):  # another user's item, for validation and test only
        return f"i{(user + 1) % 4}_{(user + step) % 6}" if step >= 14 else item

    write_cycle(tmp_path / "b" / "cycle", change=swap)
    write_cycle(tmp_path / "c" / "cycle", change=lambda u, s, i: "i1_0" if (u, s) == (0, 3) else i)
    before, after, other = (neighbours(tmp_path / name, tmp_path / f"s{name}") for name in "abc")
    assert torch.equal(before.neighbours, after.neighbours)
    assert torch.equal(before.strength, after.strength)
    assert not torch.equal(before.strength, other.strength)  # the comparison notices a train event


def test_the_papers_losses_have_hard_targets(cycle_settings):
    paper = {"sigma_objective": "paper"}
    _, _, model = scenes.build("SIGMA", "cycle", cycle_settings, **paper)
    assert model.soft is None
    with pytest.raises(UserError, match="sigma_soft_targets"):
        scenes.build("SIGMA", "cycle", cycle_settings, **paper, sigma_soft_targets=0.1)
