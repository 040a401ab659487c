"""AdamW by rows: torch's AdamW over the whole table, whatever rows a step meets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from recbole_sigma.run.optimizer import adamw, clip, settle
from tests.arithmetic import room

RATE, DECAY = 0.01, 0.1
# weights below 3 after some hundred moves of a hundredth; float32 moments of up to ten operations a step
CLOSE = room(size=3, terms=10, depth=300)


def table(sparse: bool) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(9, 4, sparse=sparse)


def backward(weights: nn.Embedding, rows: torch.Tensor, seed: int) -> None:
    torch.manual_seed(seed)
    weights.zero_grad()
    (weights(rows) * torch.randn(len(rows), 4)).sum().backward()


def met(step: int) -> torch.Tensor:
    """Rows of a step: 0 and 1 often, 2 to 7 seldom, 7 not for the first 400 steps, 8 never."""
    torch.manual_seed(1000 + step)
    seldom = torch.randint(2, 7 + (step > 400), (1,)) if step % 37 == 0 else torch.zeros(0, dtype=torch.int64)
    return torch.cat([torch.randint(0, 2, (3,)), seldom])


def test_weights_and_moments_are_those_of_adamw_over_the_whole_table() -> None:
    mine, true = table(True), table(False)
    ours = adamw(mine, mine.parameters(), RATE, DECAY)
    torchs = torch.optim.AdamW(true.parameters(), lr=RATE, weight_decay=DECAY)
    for step in range(600):
        rows = met(step)
        backward(mine, rows, step)
        backward(true, rows, step)
        torch.testing.assert_close(mine.weight[rows], true.weight[rows], **CLOSE)  # whenever one is read
        ours.step()
        torchs.step()
    assert not torch.allclose(mine.weight, true.weight, **CLOSE)  # some rows are behind
    settle(ours)
    torch.testing.assert_close(mine.weight, true.weight, **CLOSE)
    for name in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(ours.state[mine.weight][name], torchs.state[true.weight][name], **CLOSE)
    assert ours.state[mine.weight]["step"].tolist() == [600.0] * 9


def test_rows_that_no_step_meets_are_not_touched_until_they_are_read() -> None:
    mine = table(True)
    before = mine.weight.detach().clone()
    optimizer = adamw(mine, mine.parameters(), RATE, DECAY)
    for step in range(3):
        backward(mine, torch.tensor([1, 4]), step)
        optimizer.step()
    still = torch.tensor([0, 2, 3, 5, 6, 7, 8])
    assert torch.equal(mine.weight[still], before[still])
    mine(torch.tensor([2]))
    torch.testing.assert_close(mine.weight[2], before[2] * (1 - RATE * DECAY) ** 3, **CLOSE)
    assert torch.equal(mine.weight[still[2:]], before[still[2:]])


def test_stored_and_restored_it_goes_on_bit_for_bit() -> None:
    whole, cut = table(True), table(True)
    straight, first = (adamw(each, each.parameters(), RATE, DECAY) for each in (whole, cut))
    for step in range(80):
        if step == 40:  # with rows that are behind
            state, again = first.state_dict(), table(True)
            again.load_state_dict(cut.state_dict())
            cut, first = again, adamw(again, again.parameters(), RATE, DECAY)
            first.load_state_dict(state)
        for weights, optimizer in ((whole, straight), (cut, first)):
            backward(weights, met(step), step)
            optimizer.step()
    assert torch.equal(whole.weight, cut.weight)


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_the_norm_is_that_of_dense_gradients(limit) -> None:
    weights = [table(True), table(False)]
    norms: list[Any] = []
    for each in weights:
        backward(each, torch.tensor([1, 1, 6]), 0)
        other = nn.Parameter(torch.ones(3))
        other.grad = torch.full((3,), 2.0)
        norms.append(clip([each.weight, other], max_norm=limit))
    torch.testing.assert_close(*norms, **room(size=8, terms=40))
    torch.testing.assert_close(weights[0].weight.grad.to_dense(), weights[1].weight.grad, **room(8, 40))


def test_settling_leaves_other_optimizers_alone() -> None:
    """SparseAdam counts its steps in a plain number, and its rows are never behind."""
    table = nn.Embedding(6, 2, sparse=True)
    optimizer = torch.optim.SparseAdam(table.parameters())
    table(torch.tensor([1, 4])).sum().backward()
    optimizer.step()
    before = table.weight.detach().clone()
    settle(optimizer)
    assert torch.equal(table.weight, before)
