"""Attention inside packed rows: the kernel equals plain torch, and that equals a loop over rows and heads."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from recbole_sigma.language import t5
from recbole_sigma.language.segment_attention import fits, segment_attention, segments_by_hand

HEADS, HEAD = 2, 16


def scattered(rows, width, spare=3):
    """(table int32 [rows, width] of tokens in no order, their number); ``spare`` more are in no row."""
    lengths = torch.randint(1, width + 1, (rows,))
    lengths[0] = width
    tokens = torch.randperm(int(lengths.sum())).int()
    table = torch.full((rows, width), -1, dtype=torch.int32)
    for row, part in enumerate(tokens.split(lengths.tolist())):
        table[row, : len(part)] = part
    return table, len(tokens) + spare


def example(own, biased, rows=5, width=9, device="cpu", dtype=torch.float32):
    """Leaves (one tensor of queries, keys and values, a bias) and the arguments made of them.

    Args:
        own: queries are those of the keys' tokens; otherwise four per row of their own.
    """
    torch.manual_seed(0)
    table, count = scattered(rows, width)
    whole = torch.randn(count, 3, HEADS, HEAD, device=device, dtype=dtype, requires_grad=True)
    query, key, value = whole.unbind(1)
    leaves, asks = [whole], table
    if not own:
        asks = torch.arange(rows * 4, dtype=torch.int32).view(rows, 4)
        query = torch.randn(rows * 4, HEADS, HEAD, device=device, dtype=dtype, requires_grad=True)
        leaves.append(query)
    bias = None
    if biased:
        bias = torch.randn(HEADS, asks.shape[1], width, device=device, requires_grad=True)
        leaves.append(bias)
    return leaves, (query, key, value, asks.to(device), table.to(device), bias)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_plain_torch_is_a_loop_over_rows_and_heads(own, biased):
    _, (query, key, value, asks, tells, bias) = example(own, biased)
    found = segments_by_hand(query, key, value, asks, tells, bias)
    expected = torch.zeros_like(found)
    for ask, tell in zip(asks.tolist(), tells.tolist(), strict=True):
        keys = [token for token in tell if token >= 0]
        for place, token in enumerate(ask):
            for head in range(HEADS if token >= 0 else 0):
                scores = key[keys, head] @ query[token, head]
                if bias is not None:
                    scores = scores + bias[head, place, : len(keys)]
                expected[token, head] = scores.softmax(0) @ value[keys, head]
    torch.testing.assert_close(found, expected)


def kernel_is_plain_torch(device, dtype):
    """Values and gradients; in 16 bits to two of their last places."""
    close = {} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 6e-2}
    for own in (True, False):
        for biased in (True, False):
            leaves, arguments = example(own, biased, device=device, dtype=dtype)
            found, expected = segment_attention(*arguments, 0.0), segments_by_hand(*arguments)
            torch.testing.assert_close(found, expected, **close)
            above = torch.randn_like(expected)
            pairs = (torch.autograd.grad(one, leaves, above) for one in (found, expected))
            for one, other in zip(*pairs, strict=True):
                torch.testing.assert_close(one, other, **close)


def dropout_keeps_means_and_gradients_meet_the_same_weights(device, dtype):
    """With equal scores and values of 1 a query gets the share of what was kept, 1 in the mean."""
    table = torch.arange(64 * 40, dtype=torch.int32, device=device).view(64, 40)
    zero = torch.zeros(64 * 40, HEADS, HEAD, device=device, dtype=dtype)
    ones = torch.ones_like(zero).requires_grad_()
    found = segment_attention(zero, zero, ones, table, table, None, 0.25)
    # 2560 rows of 40 weights per head: the mean has a standard error of .0013
    assert abs(float(found.float().mean()) - 1) < 0.01
    assert float(found.float().std()) > 0.05
    found.float().sum().backward()
    torch.testing.assert_close(ones.grad.float().sum(), found.float().sum().detach(), rtol=1e-3, atol=0.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_kernel_on_a_gpu():
    kernel_is_plain_torch("cuda", torch.bfloat16)
    dropout_keeps_means_and_gradients_meet_the_same_weights("cuda", torch.bfloat16)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="this torch came without Triton")
def test_the_kernel_in_tritons_interpreter():
    """Which computes on a CPU what the kernel says, without compiling it."""
    body = (
        "import torch, tests.language.test_segment_attention as own\n"
        "own.kernel_is_plain_torch('cpu', torch.float32)\n"
        "own.dropout_keeps_means_and_gradients_meet_the_same_weights('cpu', torch.float32)\n"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    done = subprocess.run([sys.executable, "-c", body], env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr


def test_it_is_for_short_rows_on_a_gpu_in_16_bits():
    assert not fits(torch.device("cpu"), torch.bfloat16, 81, 64)
    assert not fits(torch.device("cuda"), torch.float32, 81, 64)
    assert not fits(torch.device("cuda"), torch.bfloat16, 129, 64)
    assert not fits(torch.device("cuda"), torch.bfloat16, 81, 48)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_t5_reads_its_tokens_where_they_lie(monkeypatch, device):
    """Logits and gradients are those of padded rows, tokens that only fill up the shape included."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    torch.manual_seed(0)
    shape = {"d_model": 32, "d_kv": HEAD, "num_heads": HEADS, "d_ff": 64, "num_layers": 2}
    model = T5ForConditionalGeneration(T5Config(vocab_size=50, decoder_start_token_id=0, **shape))
    model.eval().to(device)
    slots = [row * 9 + place for row, length in enumerate((5, 9, 1, 3)) for place in range(length)]
    slot = torch.tensor([*slots, 36, 36], device=device)
    ids, labels = torch.randint(1, 50, (len(slot),)).to(device), torch.randint(1, 50, (4, 4)).to(device)

    def taken():
        model.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            logits = t5.code_logits(model, t5.PackedPrompts(ids, slot, 4, 9), labels).float()
        logits.square().sum().backward()
        return logits.detach(), torch.cat([weight.grad.flatten() for weight in model.parameters()])

    if device == "cuda":
        packed = taken()
        monkeypatch.setattr(t5, "fits", lambda *_: False)
        logits, gradient = taken()
        torch.testing.assert_close(packed[0], logits, rtol=2e-2, atol=5e-2)
        assert (packed[1] - gradient).norm() < 0.03 * gradient.norm()
    else:
        padded = taken()
        monkeypatch.setattr(t5, "fits", lambda *_: True)
        monkeypatch.setattr(t5, "segment_attention", lambda *given: segments_by_hand(*given[:-1]))
        for one, other in zip(taken(), padded, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
