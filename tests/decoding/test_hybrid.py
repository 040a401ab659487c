"""Three-step generation against brute force over a small catalogue."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recbole_sigma.decoding.fusion import beam_spread, item_scale, prefix_log_weights
from recbole_sigma.decoding.hybrid import build_buckets, fused_scores, hybrid_search, prefix_beam, step_one

N, C, D, B = 30, 6, 4, 5


def case(seed=0):
    g = torch.Generator().manual_seed(seed)
    prefix = torch.cat(
        [torch.zeros(1, dtype=torch.int64), torch.randint(C - 1, (N - 1,), generator=g)]
    )  # code C-1 is empty
    items = F.normalize(torch.randn(N, D, generator=g), dim=1)
    log_probs = torch.randn(B, C, generator=g).log_softmax(1)
    table = F.normalize(torch.randn(B, C, D, generator=g), dim=2)
    return (
        prefix,
        items,
        build_buckets(prefix, C),
        log_probs,
        lambda beam: table[torch.arange(B)[:, None], beam],
        table,
    )


def brute_force(prefix, items, log_probs, table, mode, width, tau, seen=()):
    """P(item) by the paper's formulas, one user and one item at a time."""
    out = torch.full((B, N), float("-inf"))
    for b in range(B):
        banned = {i for r, i in seen if r == b}
        occupied = [c for c in range(C) if any(prefix[i] == c and i not in banned for i in range(1, N))]
        beam = sorted(occupied, key=lambda c: -float(log_probs[b, c]))[: width or None]
        phi = np.array([float(log_probs[b, c]) for c in beam])
        sigma = min(max(phi.std(), 0.05), 5.0) if len(beam) > 1 else 1.0
        if mode != "apf":
            sigma = 1.0
        if mode == "top1_prefix":
            beam, phi = beam[:1], phi[:1]
        weight = np.exp(phi) / np.exp(phi).sum()
        for w, c in zip(weight, beam):
            members = [i for i in range(1, N) if prefix[i] == c and i not in banned]
            logits = np.array([float(table[b, c] @ items[i]) * sigma / tau for i in members])
            p = np.exp(logits) / np.exp(logits).sum()
            for i, value in zip(members, p):
                out[b, i] = np.log(w * value)
    return out


@pytest.mark.parametrize("mode", ["apf", "fixed_temp", "top1_prefix"])
@pytest.mark.parametrize("width", [0, 1, 3])
def test_scores_equal_the_formulas(mode, width):
    prefix, items, buckets, log_probs, query_of, table = case()
    beam, score, scale = step_one(log_probs, buckets, mode, width, "logprob", 1.0)
    got = fused_scores(query_of(beam), beam, score, items, buckets, 0.3, scale)
    torch.testing.assert_close(
        got, brute_force(prefix, items, log_probs, table, mode, width, 0.3), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("mode", ["apf", "fixed_temp"])
@pytest.mark.parametrize("width", [0, 2])
def test_probabilities_sum_to_one(mode, width):
    _, items, buckets, log_probs, query_of, _ = case(1)
    beam, score, scale = step_one(log_probs, buckets, mode, width, "logprob", 1.0)
    total = fused_scores(query_of(beam), beam, score, items, buckets, 0.2, scale).exp().sum(1)
    torch.testing.assert_close(total, torch.ones(B), atol=1e-5, rtol=0)


@pytest.mark.parametrize("k", [1, 7, 29, 40])
@pytest.mark.parametrize("mode", ["apf", "fixed_temp", "top1_prefix"])
def test_list_equals_the_sorted_distribution_over_unseen_items(k, mode):
    prefix, items, buckets, log_probs, query_of, table = case(2)
    whole_prefix = [
        i for i in range(1, N) if prefix[i] == prefix[3]
    ]  # user 0 has seen everything under one prefix
    seen = [(0, i) for i in whole_prefix] + [(0, 0), (1, 1), (4, 28), (4, 28)] + [(2, i) for i in range(1, N)]
    pairs = tuple(torch.tensor(column) for column in zip(*seen))
    ranked = hybrid_search(log_probs, query_of, items, buckets, k, 0.3, mode, 0, seen=pairs)
    expected = brute_force(prefix, items, log_probs, table, mode, 0, 0.3, [(r, i) for r, i in seen if i])
    for b in range(B):
        order = sorted(range(1, N), key=lambda i: (-float(expected[b, i]), i))
        order = [i for i in order if torch.isfinite(expected[b, i])]
        assert [int(i) for i in ranked.items[b] if i] == order[:k]
        assert int(ranked.short[b]) == max(0, k - len(order))
        torch.testing.assert_close(
            ranked.scores[b, : len(order[:k])], expected[b, order[:k]], atol=1e-5, rtol=1e-5
        )
    assert int(ranked.short[2]) == k and torch.isinf(ranked.scores[ranked.items == 0]).all()


def test_chunked_rows_equal_one_pass(monkeypatch):
    _, items, buckets, log_probs, query_of, _ = case(3)
    seen = (torch.tensor([0, 2, 4]), torch.tensor([5, 6, 7]))
    whole = hybrid_search(log_probs, query_of, items, buckets, 10, 0.3, seen=seen)
    monkeypatch.setattr("recbole_sigma.decoding.hybrid.DENSE_CELLS", N * 2)
    pieces = hybrid_search(log_probs, query_of, items, buckets, 10, 0.3, seen=seen)
    assert torch.equal(whole.items, pieces.items)
    torch.testing.assert_close(whole.scores, pieces.scores)


def test_empty_prefixes_never_enter_the_beam():
    _, _, buckets, log_probs, _, _ = case()
    log_probs[:, C - 1] = 0.0
    beam, score = prefix_beam(log_probs, buckets, 0)
    assert (beam != C - 1).all() and torch.isfinite(score).all() and beam.shape[1] == C - 1


def test_spread():
    phi = torch.log(torch.tensor([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]]))
    expected = np.log([0.7, 0.2, 0.1]).std()
    assert beam_spread(phi)[0].item() == pytest.approx(expected, rel=1e-5)
    assert beam_spread(phi)[1].item() == pytest.approx(0.05)  # equal scores: the floor, not zero
    assert beam_spread(phi[:, :1])[0].item() == 1.0  # one beam
    assert beam_spread(phi, "prob")[0].item() == pytest.approx(np.std([0.7, 0.2, 0.1]), rel=1e-5)
    assert beam_spread(phi, reference=2.0)[0].item() == pytest.approx(expected / 2, rel=1e-5)
    padded = torch.cat([phi, torch.full((2, 1), float("-inf"))], dim=1)
    torch.testing.assert_close(beam_spread(padded), beam_spread(phi))
    assert torch.equal(item_scale(phi, "fixed_temp"), torch.ones(2))
    torch.testing.assert_close(prefix_log_weights(padded).exp().sum(1), torch.ones(2))
