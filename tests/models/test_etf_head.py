"""The fixed frame over first-level codes: its identities, what it refuses, and that nothing trains it."""

from __future__ import annotations

import pytest
import torch

from recbole_sigma.models.etf_head import etf_frame
from recbole_sigma.values import UserError
from tests import planted as scenes
from tests.planted import tiny


@pytest.mark.parametrize(("count", "width"), [(2, 2), (7, 16), (64, 64)])
def test_all_pairs_stand_alike(count, width) -> None:
    frame = etf_frame(count, width, seed=3)
    want = torch.full((count, count), -1.0 / (count - 1)).fill_diagonal_(1.0)
    torch.testing.assert_close(frame @ frame.T, want, rtol=0, atol=1e-5)
    torch.testing.assert_close(frame.sum(0), torch.zeros(width), rtol=0, atol=1e-5)
    assert torch.equal(frame, etf_frame(count, width, seed=3))
    assert count == 2 or not torch.equal(frame, etf_frame(count, width, seed=4))


def test_more_codes_than_dimensions() -> None:
    with pytest.raises(UserError, match="set tokenizer_codebook_size to at most 8, or take a wider backbone"):
        etf_frame(9, 8, 0)


def test_the_frame_is_in_the_checkpoint_and_nothing_trains_it(planted) -> None:
    values = {**planted, **tiny("SIGMA"), "prefix_head": "etf", "prefix_head_scale": 2.0}
    _, data, model = scenes.build("SIGMA", "planted", values)
    plain = scenes.build("SIGMA", "planted", {**values, "prefix_head": "learned"})[2]
    head = model.objective.code_vectors[0]
    spared = plain.objective.code_vectors[0].weight.numel()
    assert not list(head.parameters())
    assert sum(p.numel() for p in plain.parameters()) - sum(p.numel() for p in model.parameters()) == spared
    torch.testing.assert_close(head.weight.norm(dim=1), torch.full((len(head.weight),), 2.0))
    assert torch.equal(model.state_dict()["objective.code_vectors.0.weight"], head.weight)
    before = head.weight.clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    sum(model.calculate_loss(next(iter(data.train)))).backward()
    optimizer.step()
    assert torch.equal(head.weight, before)
    with pytest.raises(UserError, match="prefix_head: etf stands in place of what sigma_objective: joint"):
        scenes.build("SIGMA", "planted", {**values, "sigma_objective": "paper"})
