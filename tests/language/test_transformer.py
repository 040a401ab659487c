"""The transformer from scratch: equal to transformers' GPT-2, and its dropout is a dropout."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from recbole_sigma.language.transformer import (
    Dropout,
    KeyValues,
    Transformer,
    TransformerShape,
    additive,
    keep_mask,
    with_cheap_dropout,
)
from tests.arithmetic import SCORES, STATES

SHAPE = TransformerShape(40, 30, 16, 3, 2, 0.2)


@pytest.fixture
def pair():
    """The same weights, ours and theirs."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=40, n_positions=30, n_embd=16, n_layer=3, n_head=2, tie_word_embeddings=False,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    ours, theirs = Transformer(SHAPE).eval(), GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    theirs.load_state_dict(ours.state_dict())  # strict: every name and shape is theirs
    return ours, theirs


def rows():
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(2, 9, 16, generator=generator)
    positions = torch.randint(0, 30, (2, 9), generator=generator)
    allowed = torch.rand(2, 9, 9, generator=generator) < 0.6
    return embeddings, positions, allowed | torch.eye(9, dtype=torch.bool)


def test_states_and_gradients_equal_transformers(pair):
    ours, theirs = pair
    embeddings, positions, allowed = rows()
    one, other = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    expected = theirs.transformer(
        inputs_embeds=other, position_ids=positions, attention_mask=additive(allowed, other.dtype)[:, None]
    ).last_hidden_state
    found = ours(one, positions, allowed)
    torch.testing.assert_close(found, expected, **STATES)
    for states in (found, expected):
        states.square().sum().backward()
    torch.testing.assert_close(one.grad, other.grad, **SCORES)


def test_both_ways_of_attention_are_one_without_dropout(pair):
    """A share of 1/1024 rounds to no byte: the way with dropout then hides nothing."""
    ours, _ = pair
    embeddings, positions, allowed = rows()
    expected = ours(embeddings, positions, allowed)
    ours.train()
    for module in ours.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
    for block in ours.transformer["h"]:
        block.attn.dropout = 1 / 1024
    torch.testing.assert_close(ours(embeddings, positions, allowed), expected, **STATES)


def test_behind_a_cache_equals_in_one_pass(pair):
    ours, _ = pair
    embeddings, positions, _ = rows()
    causal = torch.ones(9, 9, dtype=torch.bool).tril().expand(2, -1, -1)
    expected = ours(embeddings, positions, causal)
    cache = KeyValues(3)
    parts = [
        ours(embeddings[:, a:b], positions[:, a:b], causal[:, a:b, :b], cache) for a, b in ((0, 4), (4, 9))
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, **STATES)
    cache.rewind(4)
    again = ours(embeddings[:, 4:], positions[:, 4:], causal[:, 4:], cache)
    torch.testing.assert_close(again, expected[:, 4:], **STATES)


def test_recomputed_activations_give_the_same_gradients(pair):
    ours, _ = pair
    gradients = []
    for recompute in (False, True):
        ours.train()
        ours.is_gradient_checkpointing = recompute
        ours.zero_grad()
        torch.manual_seed(5)
        ours(*rows()).square().sum().backward()
        gradients.append([p.grad.clone() for p in ours.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_a_mask_hides_its_share_everywhere_and_keeps_the_mean(share):
    """Also at every eighth byte, where the sign of a draw lies. Bounds: five standard deviations."""
    count = 1 << 19
    mask = keep_mask(torch.Size((count // 8, 8)), share, torch.float32)
    whole = round(share * 256) / 256
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / (1 - whole)])
    spread = (whole * (1 - whole) / (count // 8)) ** 0.5
    assert ((mask == 0).double().mean(dim=0) - whole).abs().max() < 5 * spread
    assert abs(float(mask.double().mean()) - 1) < 5 * spread / (1 - whole)


def test_cheap_dropout_replaces_the_usual_one_and_rests_in_evaluation():
    layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Sequential(torch.nn.Dropout(0.5)))
    with_cheap_dropout(layer)
    assert isinstance(layer[1][0], Dropout) and layer[1][0].p == 0.5
    values = torch.ones(64, 4)
    assert torch.equal(layer[1].eval()(values), values)
    torch.manual_seed(0)
    found = layer[1].train()(values)
    assert set(found.unique().tolist()) == {0.0, 2.0}
