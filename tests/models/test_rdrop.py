"""R-Drop in SIGMA: the second pass is one of other dropout, and nothing else about it differs."""

from dataclasses import replace

import pytest
import torch

from recbole_sigma.values import UserError
from tests import planted as scenes
from tests.arithmetic import STATES

WAYS = [{}, {"train_rows": "prefixes"}, {"tasks": "all"}, {"softmax_negatives": 1 << 20}]


def loss_of(model, batch, rdrop):
    """(losses, gradients) of a batch, labels and dropout drawn alike."""
    model.options = replace(model.options, rdrop=rdrop)
    model.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    losses = model.calculate_loss(batch)
    sum(losses).backward()
    gradients = [None if w.grad is None else w.grad.to_dense() for w in model.parameters()]
    return [float(loss.detach()) for loss in losses], gradients


@pytest.mark.parametrize("changes", WAYS)
def test_without_dropout_the_two_passes_are_one(cycle_settings, changes):
    _, data, model = scenes.build("SIGMA", "cycle", cycle_settings, **changes)
    model.eval()  # no dropout, and no item is read without its trained vector
    batch = next(iter(data.train))
    once, gradients = loss_of(model, batch, 0.0)
    twice, others = loss_of(model, batch, 5.0)
    assert twice == pytest.approx(once, abs=STATES["atol"])
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, **STATES)


@pytest.mark.parametrize("changes", WAYS)
@pytest.mark.parametrize("drops", [{"backbone_dropout": 0.3}, {"fusion_hide_id": 0.3}])
def test_whatever_is_dropped_keeps_the_passes_apart(cycle_settings, drops, changes):
    """The loss rises with the weight by exactly as much as the passes differ."""
    none = {"backbone_dropout": 0.0, "fusion_hide_id": 0.0}
    _, data, model = scenes.build("SIGMA", "cycle", cycle_settings, **{**none, **drops, **changes})
    model.train()
    batch = next(iter(data.train))
    one, two, three = (loss_of(model, batch, weight)[0] for weight in (1.0, 2.0, 3.0))
    assert two[0] - one[0] > 1e-4  # far above the rounding of a loss of about 3
    assert three[0] - two[0] == pytest.approx(two[0] - one[0], abs=STATES["atol"])
    assert one[1] == two[1] == three[1]  # labels are asked once


def test_short_histories_have_it_and_the_papers_losses_do_not(cycle_settings):
    def weight(**changes):
        return scenes.build("SIGMA", "cycle", cycle_settings, **changes)[0]["sigma_rdrop"]

    paper = {"sigma_objective": "paper"}
    assert weight() == weight(sigma_history="short") == 1.0
    assert weight(sigma_history="long") == weight(**paper) == 0.0
    assert weight(sigma_history="long", sigma_rdrop=0.5) == 0.5
    with pytest.raises(UserError, match="sigma_rdrop needs sigma_objective: joint"):
        weight(**paper, sigma_rdrop=1.0)
