"""AdamW over single rows: torch's own where all rows have a gradient, and nothing elsewhere."""

from __future__ import annotations

import torch
from torch import nn

from recbole_sigma.run.optimizer import adamw, clip
from tests.arithmetic import room

RATE, DECAY = 0.01, 0.1
STEPS = room(size=1, terms=8, depth=5)  # five steps of a few operations on numbers below 1


def table(sparse: bool) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(9, 4, sparse=sparse)


def backward(weights: nn.Embedding, rows: torch.Tensor, seed: int) -> None:
    torch.manual_seed(seed)
    weights.zero_grad()
    (weights(rows) * torch.randn(len(rows), 4)).sum().backward()


def test_with_a_gradient_everywhere_it_is_adamw() -> None:
    mine, true = table(True), table(False)
    ours = adamw(mine.parameters(), RATE, DECAY)
    torchs = torch.optim.AdamW(true.parameters(), lr=RATE, weight_decay=DECAY)
    for step in range(5):
        rows = torch.cat([torch.arange(9), torch.tensor([3, 3, 5])])  # repetitions add up
        backward(mine, rows, step)
        backward(true, rows, step)
        ours.step()
        torchs.step()
    torch.testing.assert_close(mine.weight, true.weight, **STEPS)
    for name, value in torchs.state[true.weight].items():
        torch.testing.assert_close(ours.state[mine.weight][name], value, **STEPS)


def test_rows_without_a_gradient_stay_and_the_others_follow_sparse_adam() -> None:
    mine, true = table(True), table(True)
    before = mine.weight.detach().clone()
    ours = adamw(mine.parameters(), RATE, 0.0)
    torchs = torch.optim.SparseAdam(true.parameters(), lr=RATE)
    for step, rows in enumerate([[1, 2], [2, 2, 7], [1]]):
        for weights in (mine, true):
            backward(weights, torch.tensor(rows), step)
        ours.step()
        torchs.step()
    torch.testing.assert_close(mine.weight, true.weight, **STEPS)
    untouched = torch.tensor([0, 3, 4, 5, 6, 8])
    assert torch.equal(mine.weight[untouched], before[untouched])


def test_only_touched_rows_decay() -> None:
    mine = table(True)
    before = mine.weight.detach().clone()
    optimizer = adamw(mine.parameters(), RATE, DECAY)
    mine.weight.grad = torch.sparse_coo_tensor([[4]], torch.zeros(1, 4), (9, 4), check_invariants=True)
    optimizer.step()
    before[4] *= 1 - RATE * DECAY
    torch.testing.assert_close(mine.weight.detach(), before, **STEPS)


def test_stored_and_restored_it_goes_on_bit_for_bit() -> None:
    whole, cut = table(True), table(True)
    straight, first = adamw(whole.parameters(), RATE, DECAY), adamw(cut.parameters(), RATE, DECAY)
    for step in range(4):
        if step == 2:
            state = first.state_dict()
            first = adamw(cut.parameters(), RATE, DECAY)
            first.load_state_dict(state)
        for weights, optimizer in ((whole, straight), (cut, first)):
            backward(weights, torch.tensor([step, 3]), step)
            optimizer.step()
    assert torch.equal(whole.weight, cut.weight)


def test_the_norm_is_that_of_dense_gradients() -> None:
    weights = [table(True), table(False)]
    norms = []
    for each in weights:
        backward(each, torch.tensor([1, 1, 6]), 0)
        other = nn.Parameter(torch.ones(3))
        other.grad = torch.full((3,), 2.0)
        norms.append(clip([each.weight, other], max_norm=0.5))
    torch.testing.assert_close(*norms, **room(size=8, terms=40))
    torch.testing.assert_close(weights[0].weight.grad.to_dense(), weights[1].weight.grad, **room(1, 40))
