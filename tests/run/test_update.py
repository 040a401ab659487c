"""What a GPU records of AdamW is what torch's own step does."""

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from recbole_sigma.run.optimizer import adamw
from recbole_sigma.run.replay import Replay, Update


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def groups_of(model):
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    vectors = [weight for weight in model.parameters() if weight.dim() <= 1]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]


@pytest.mark.parametrize("limit", [None, {"max_norm": 0.3}])
def test_the_update_is_adamw(limit):
    """Groups with decays of their own, rates that change, weights that get no gradient in some steps."""
    models = [network(), network()]
    optimizers = [adamw(model, groups_of(model), 0.01, 0.1) for model in models]
    update = Update(optimizers[1], enabled=True)
    assert update.enabled
    for step in range(8):
        torch.manual_seed(step)
        rows, rate = torch.randn(5, 6), 0.01 / (1 + step)
        for model, optimizer in zip(models, optimizers, strict=True):
            model.zero_grad()
            model(rows).square().sum().backward()
            if step == 5:
                model[0].bias.grad = None
            for group in optimizer.param_groups:
                group["lr"] = rate
        if limit:
            clip_grad_norm_(models[0].parameters(), **limit)
        optimizers[0].step()
        if not step:  # the first step makes the state
            if limit:
                clip_grad_norm_(models[1].parameters(), **limit)
            optimizers[1].step()
            continue
        update.rates = [torch.tensor(rate) for _ in range(2)]
        kept = [[w for w in group["params"] if w.grad is not None] for group in optimizers[1].param_groups]
        update.compute(kept, limit)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
    first, second = (optimizer.state_dict()["state"] for optimizer in optimizers)
    for number in first:
        torch.testing.assert_close(first[number], second[number], rtol=1e-5, atol=1e-9)


def test_other_optimizers_and_other_gradients_are_left_alone():
    model = network()
    assert not Update(torch.optim.Adam(model.parameters()), enabled=True).enabled
    update = Update(adamw(model, list(model.parameters()), 0.01, 0.0), enabled=True)
    model(torch.randn(2, 6)).sum().backward()
    assert not update(Replay(model, enabled=True), None)  # no recording left these
