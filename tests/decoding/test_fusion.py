"""Three-step generation against brute force over a small catalogue."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recbole_sigma.decoding.fusion import (
    beam_spread,
    fuse_beam,
    fuse_dense,
    fused_scores,
    prefix_beam,
    prefix_log_weights,
)
from recbole_sigma.decoding.inside_prefix import search_in_prefixes
from recbole_sigma.decoding.top_k import top_k
from recbole_sigma.tokenization.catalogue import group_by_prefix
from tests.arithmetic import SHARES, STATES

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
        group_by_prefix(prefix, C),
        log_probs,
        lambda beam: table[torch.arange(B)[:, None], beam],
        table,
    )


def fused_beam(log_probs, buckets, mode, width):
    return fuse_beam(*prefix_beam(log_probs, buckets, width), mode)


def without_exhausted(log_probs, buckets, seen):
    """log P(prefix) with -inf where a user has seen every item."""
    closed = log_probs.clone()
    for b in range(B):
        banned = {i for r, i in seen if r == b}
        for c in range(C):
            if all(int(i) in banned for i in buckets.order[buckets.start[c] : buckets.start[c + 1]]):
                closed[b, c] = -torch.inf
    return closed


def search(path, log_probs, table, items, buckets, k, tau, mode, width=0, seen=()):
    """The two production paths: dense scores, or a certified search inside the prefixes."""
    pairs = tuple(torch.tensor(column) for column in zip(*seen)) if seen else None
    closed = without_exhausted(log_probs, buckets, seen)
    fused = beam, weights, scale = fused_beam(closed, buckets, mode, width)
    rows = torch.arange(B)[:, None]
    if path == "dense":
        return top_k(
            fused_scores(table[rows, beam] / tau, fused, items[buckets.order], buckets, pairs), k, pairs
        )
    return search_in_prefixes(
        lambda columns, part: table[rows, part] / tau,
        beam,
        weights,
        buckets,
        items[buckets.order],
        k,
        scale,
        pairs,
        chunk=2,
        seen_keep_mass=False,
    )[0]


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
    fused = fused_beam(log_probs, buckets, mode, width)
    got = fused_scores(query_of(fused[0]) / 0.3, fused, items[buckets.order], buckets)
    torch.testing.assert_close(got, brute_force(prefix, items, log_probs, table, mode, width, 0.3), **STATES)


@pytest.mark.parametrize("mode", ["apf", "fixed_temp"])
@pytest.mark.parametrize("width", [0, 2])
def test_probabilities_sum_to_one(mode, width):
    _, items, buckets, log_probs, query_of, _ = case(1)
    fused = fused_beam(log_probs, buckets, mode, width)
    total = fused_scores(query_of(fused[0]) / 0.2, fused, items[buckets.order], buckets).exp().sum(1)
    torch.testing.assert_close(total, torch.ones(B), **SHARES)


@pytest.mark.parametrize("k", [1, 7, 29, 40])
@pytest.mark.parametrize("mode", ["apf", "fixed_temp", "top1_prefix"])
@pytest.mark.parametrize("path", ["dense", "certified"])
def test_list_equals_the_sorted_distribution_over_unseen_items(k, mode, path):
    prefix, items, buckets, log_probs, query_of, table = case(2)
    whole_prefix = [
        i for i in range(1, N) if prefix[i] == prefix[3]
    ]  # user 0 has seen everything under one prefix
    seen = [(0, i) for i in whole_prefix] + [(0, 0), (1, 1), (4, 28), (4, 28)] + [(2, i) for i in range(1, N)]
    ranked = search(path, log_probs, table, items, buckets, k, 0.3, mode, 0, seen)
    expected = brute_force(prefix, items, log_probs, table, mode, 0, 0.3, [(r, i) for r, i in seen if i])
    for b in range(B):
        order = sorted(range(1, N), key=lambda i: (-float(expected[b, i]), i))
        order = [i for i in order if torch.isfinite(expected[b, i])]
        assert [int(i) for i in ranked.items[b] if i] == order[:k]
        assert int(ranked.short[b]) == max(0, k - len(order))
        torch.testing.assert_close(ranked.scores[b, : len(order[:k])], expected[b, order[:k]], **STATES)
    assert int(ranked.short[2]) == k and torch.isinf(ranked.scores[ranked.items == 0]).all()


@pytest.mark.parametrize("mode", ["apf", "fixed_temp", "top1_prefix"])
@pytest.mark.parametrize("width", [0, 1, 3])
def test_one_softmax_read_in_three_steps_equals_the_formulas(mode, width):
    prefix, _, buckets, _, _, _ = case(4)
    logits = 3.0 * torch.randn(B, N, generator=torch.Generator().manual_seed(5))
    closed = [0, 5, 9] + [i for i in range(1, N) if prefix[i] == 2]
    logits[:, 0] = logits[1, closed] = -torch.inf
    got, beam, score = fuse_dense(logits, buckets, mode, width)
    for b in range(B):
        left = [i for i in range(1, N) if torch.isfinite(logits[b, i])]
        share = {c: sum(float(logits[b, i].double().exp()) for i in left if prefix[i] == c) for c in range(C)}
        order = sorted((c for c in share if share[c]), key=lambda c: -share[c])[: width or None]
        phi = np.log([share[c] / sum(share.values()) for c in order])
        shown = 1 if mode == "top1_prefix" else len(order)
        np.testing.assert_allclose(score[b, :shown], phi[:shown], atol=1e-5)
        assert beam[b, :shown].tolist() == order[:shown] and torch.isinf(score[b, shown:]).all()
        sigma = min(max(phi.std(), 0.05), 5.0) if mode == "apf" and len(order) > 1 else 1.0
        order, phi = (order[:1], phi[:1]) if mode == "top1_prefix" else (order, phi)
        expected = torch.full((N,), -torch.inf)
        for c, weight in zip(order, np.exp(phi) / np.exp(phi).sum()):
            mine = [i for i in left if prefix[i] == c]
            expected[mine] = (logits[b, mine] * sigma).log_softmax(0) + float(np.log(weight))
        torch.testing.assert_close(got[b], expected, **STATES)


def test_a_prefix_far_below_the_best_item_keeps_its_probability():
    buckets = group_by_prefix(torch.tensor([0, 0, 1, 1]), 2)
    logits = torch.tensor([[-torch.inf, 300.0, 0.0, 1.0]])
    got, _, score = fuse_dense(logits, buckets, "fixed_temp")
    torch.testing.assert_close(got, logits.log_softmax(1))
    assert score[0, 1].item() == pytest.approx(-298.687, abs=1e-2)


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
    padded = torch.cat([phi, torch.full((2, 1), float("-inf"))], dim=1)
    torch.testing.assert_close(beam_spread(padded), beam_spread(phi))
    beam = torch.arange(3).expand(2, -1)
    assert torch.equal(fuse_beam(beam, phi, "fixed_temp")[2], torch.ones(2))
    torch.testing.assert_close(fuse_beam(beam, phi, "apf")[2], beam_spread(phi))
    assert fuse_beam(beam, phi, "top1_prefix")[0].tolist() == [[0], [0]]
    torch.testing.assert_close(prefix_log_weights(padded).exp().sum(1), torch.ones(2))
