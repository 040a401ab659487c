"""What a rollout carries is the teacher-forced log-probability of its item, token by token."""

from __future__ import annotations

import pytest
import torch

from recbole_sigma.decoding.beam import SeenItems
from recbole_sigma.evaluation.histories import Histories
from tests.planted import build, chain_config, one_batch, tiny, write_chain

SHAPES = {
    "joint, no prefix": ("SIGMA", {"tokenizer_prefix_length": 0}, 1),
    "joint, one code": ("SIGMA", {"tokenizer_prefix_length": 1}, 2),
    "joint, two codes": ("SIGMA", {"tokenizer_prefix_length": 2}, 3),
    "joint, adaptive fusion": ("SIGMA", {"decode_mode": "apf"}, 2),
    "paper, no prefix": ("SIGMA", {"sigma_objective": "paper", "tokenizer_prefix_length": 0}, 1),
    "paper, one code": ("SIGMA", {"sigma_objective": "paper", "tokenizer_prefix_length": 1}, 2),
    "paper, two codes": ("SIGMA", {"sigma_objective": "paper", "tokenizer_prefix_length": 2}, 3),
    "paper, pure": ("SIGMA", {"sigma_objective": "paper", "tokenizer_prefix_length": "all"}, 4),
    "TIGER": ("TIGER", {}, 4),
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_chain(root / "chain")
    return chain_config(root)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("filtered", [True, False])
def test_the_decoder_carries_what_teacher_forcing_gives(shape, filtered, chain, tmp_path) -> None:
    name, keys, tokens = SHAPES[shape]
    values = {**chain, "artifact_dir": str(tmp_path), "topk": [5, 10]}
    _, data, model = build(name, "chain", tiny(name, **{**values, **keys}))
    for weight in model.parameters():  # far from uniform, as a trained model is
        torch.nn.init.normal_(weight, std=0.3) if weight.dim() > 1 else None
    model.eval()
    batch = one_batch(data.valid)
    batch = model.on_device(batch, "cpu")
    seen = Histories(data.valid)(batch, None) if filtered else None
    found = model.beams(batch, 8, seen)
    assert (found.items > 0).all() and found.scores.std() > 0.1
    carried = model.candidate_log_probs(batch, found.items, seen)
    assert carried.shape == (*found.items.shape, tokens)
    same = torch.ones(len(batch), dtype=torch.bool)
    if shape.startswith("paper") and seen is not None and model.objective.catalogue.length:
        # the beam shares the mass of prefixes that hold seen items only; the paper's training does not
        tree = model.objective.catalogue
        gone = SeenItems(tree.trie, *seen, len(batch)).exhausted(tree.length)[0]
        same[gone] = False
    torch.testing.assert_close(carried.sum(dim=2)[same], found.scores[same], atol=1e-5, rtol=1e-5)
    apart = (carried.sum(dim=2) - found.scores).std(dim=1)  # of the others by one constant per row
    assert float(apart.detach().max()) < 1e-4
    carried.sum().backward()  # and it has a gradient
    assert sum(float(w.grad.abs().sum()) for w in model.parameters() if w.grad is not None) > 0


@pytest.mark.parametrize("shape", ["joint, two codes", "paper, two codes", "TIGER"])
def test_every_code_is_a_probability_among_its_siblings(shape, chain, tmp_path) -> None:
    """Tokens are no arbitrary split of the sum: the first codes of all items make one distribution."""
    name, keys, _ = SHAPES[shape]
    _, data, model = build(name, "chain", tiny(name, **{**chain, "artifact_dir": str(tmp_path), **keys}))
    model.eval()
    batch = model.on_device(one_batch(data.valid)[:3], "cpu")
    items = torch.arange(1, model.n_items).expand(3, -1)
    with torch.no_grad():
        tokens = model.candidate_log_probs(batch, items)
    codes = (model.codes if name == "TIGER" else model.item_codes).codes
    for row in tokens:
        first = {int(code): float(value.exp()) for code, value in zip(codes[1:, 0], row[:, 0], strict=True)}
        total = sum(first.values())
        assert total == pytest.approx(1.0, abs=1e-5) or (name == "TIGER" and total < 1.0)
        if name != "TIGER":
            assert float(row.sum(dim=1).exp().sum()) == pytest.approx(1.0, abs=1e-5)
