from __future__ import annotations

import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_sigma.models import packed_encoder
from recbole_sigma.models.packed import Passes
from recbole_sigma.models.packed_encoder import Spread, _CausalAttention
from tests import planted as scenes
from tests.arithmetic import STATES


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("heads", [1, 2])
def test_packed_rows_have_the_loss_and_the_gradients_of_padded_ones(heads, planted, monkeypatch) -> None:
    _, data, model = scenes.build("PackedSASRec", "planted", planted, n_heads=heads)
    model.eval()
    packed = next(iter(data.train))
    length = torch.minimum(packed["item_length"], 1 + torch.arange(len(packed)) % 12)  # in several passes
    inside = torch.arange(packed["item_id_list"].shape[1]) < length[:, None]
    packed.update(Interaction({"item_length": length, "item_id_list": packed["item_id_list"] * inside}))
    loss = model.calculate_loss(packed)
    found = gradients(model, loss)
    monkeypatch.setattr("recbole_sigma.models.packed_sasrec._runs_packed", lambda *_: False)
    padded = model.calculate_loss(packed)
    torch.testing.assert_close(loss, padded, **STATES)
    wanted = gradients(model, padded)
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], **STATES)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_gradient_of_attention_is_its_derivative(dropout, monkeypatch) -> None:
    torch.manual_seed(0)
    length = torch.tensor([3, 1, 5, 5])
    (group,) = Passes.of(length, 5, torch.device("cpu")).groups
    spread, heads = Spread(group), 2
    mask = packed_encoder.keep_mask(torch.Size([len(length) * heads, 5, 5]), dropout, torch.float64)
    monkeypatch.setattr(packed_encoder, "keep_mask", lambda *_: mask)
    mixed = torch.randn(int(length.sum()), 3 * 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda one: _CausalAttention.apply(one, spread, heads, dropout), mixed)


def test_dropout_keeps_the_mean(planted) -> None:
    _, data, model = scenes.build("PackedSASRec", "planted", planted, hidden_dropout_prob=0.5)
    model.train()
    packed = next(iter(data.train))
    one, other = (float(model.calculate_loss(packed)) for _ in range(2))
    assert one != other, "nothing was dropped"
    values, more = torch.zeros(64, 4096), torch.ones(64, 4096)
    kept = packed_encoder._plus(values, more, torch.nn.Dropout(0.5))
    # 2^18 of them are 0 or 2: their mean has a standard deviation of 2^-9
    assert abs(float(kept.mean()) - 1.0) < 6 * 2**-9
