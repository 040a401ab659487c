"""Objectives and advantages: closed forms, bounds, and a bandit whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from recbole_sigma.policy import advantages as adv
from recbole_sigma.policy import objectives as obj
from recbole_sigma.policy.rewards import hit, rank_aware

GROUPS = arrays.arrays(np.float64, (3, 8), elements=st.floats(-50, 50, width=32))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- REAL ---


@pytest.mark.parametrize("tau", [0.5, 1.0, 0.1])
def test_the_gradient_of_real_is_its_closed_form_and_bounded(tau: float) -> None:
    s = (3 * random(40, 16)).requires_grad_()
    labels = random(40, 16, seed=1) > 0.8
    labels[:, 0], labels[:, 1] = True, False
    obj.real(s, labels, tau).sum().backward()
    value = s.detach()
    up = (-value / tau).exp() * labels
    down = (value / tau).exp() * ~labels
    wanted = -up / (1 + up.sum(1, keepdim=True)) / tau + down / (1 + down.sum(1, keepdim=True)) / tau
    torch.testing.assert_close(s.grad, wanted, atol=1e-6, rtol=0)
    for side in (s.grad.clamp_min(0), -s.grad.clamp_max(0)):
        assert float(side.sum(dim=1).max()) <= 1 / tau * (1 + 1e-12)  # rounding of 17 terms


def test_real_at_zero_weighs_one_hit_half_and_fifteen_misses_fifteen_sixteenths() -> None:
    s = torch.zeros(1, 16, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(16)[None] == 3
    obj.real(s, labels, 0.5).sum().backward()
    assert float(s.grad[0, 3]) == pytest.approx(-0.5 / 0.5)
    assert float(s.grad.sum() - s.grad[0, 3]) == pytest.approx(0.9375 / 0.5)


@pytest.mark.parametrize("loss", [obj.real, obj.real_bce])
@pytest.mark.parametrize("label", [True, False])
def test_a_group_of_one_label_teaches_nothing_and_still_counts(loss, label: bool) -> None:
    s = random(4, 8).requires_grad_()
    labels = torch.full((4, 8), label)
    labels[0, 0] = not label
    each = loss(s, labels, 0.5)
    obj.batch_loss(each, 4).backward()
    assert (each[1:] == 0).all() and each[0] > 0 and (s.grad[1:] == 0).all()
    alone = s.detach()[:1].clone().requires_grad_()
    obj.batch_loss(loss(alone, labels[:1], 0.5), 1).backward()
    torch.testing.assert_close(s.grad[:1] * 4, alone.grad)


def test_extreme_ratios_leave_real_finite() -> None:
    s = torch.tensor([[-400.0, 400.0, 0.0, 90.0]], requires_grad=True)
    obj.real(s, torch.tensor([[True, False, True, False]]), 0.5).sum().backward()
    assert torch.isfinite(s.grad).all() and s.grad.abs().max() <= 2.0


# --- GRPO ---


@pytest.mark.parametrize("level", obj.LEVELS)
def test_the_old_policy_has_ratio_one_and_no_divergence(level: str) -> None:
    new = -random(5, 8, 3).abs()
    gain = adv.standardise(random(5, 8, seed=2))
    loss = obj.clipped(new, new.clone(), gain, 0.2, level)
    torch.testing.assert_close(loss, -gain.mean(dim=1))
    assert (obj.k3(new, new.clone()) == 0).all() and (obj.log_ratio(new, new) == 0).all()


def test_the_gradient_at_the_old_policy_is_that_of_reinforce() -> None:
    new = (-random(5, 8, 3).abs()).requires_grad_()
    gain = adv.standardise(random(5, 8, seed=2))
    obj.clipped(new, new.detach(), gain, 0.2).sum().backward()
    torch.testing.assert_close(new.grad, (-gain / 8 / 3)[:, :, None].expand_as(new))


@pytest.mark.parametrize("level", obj.LEVELS)
def test_a_clipped_ratio_has_no_gradient(level: str) -> None:
    old = torch.zeros(1, 4, 2, dtype=torch.float64)
    shift = torch.tensor([0.5, -0.5, 0.5, -0.5], dtype=torch.float64)
    new = (old + shift[None, :, None]).requires_grad_()
    gain = torch.tensor([[1.0, -1.0, -1.0, 1.0]], dtype=torch.float64)
    obj.clipped(new, old, gain, 0.2, level).sum().backward()
    assert (new.grad[0, :2] == 0).all()  # gone further than the clip allows, in the right direction
    assert (new.grad[0, 2:] != 0).all()  # in the wrong one: it is brought back


def test_k3_is_the_divergence_on_average_and_never_negative() -> None:
    p, q = torch.softmax(random(6), 0), torch.softmax(random(6, seed=3), 0)
    draws = torch.multinomial(p, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    estimate = obj.k3(p.log()[draws][None, :, None], q.log()[draws][None, :, None])
    exact = float((p * (p / q).log()).sum())
    # the spread of one term is below 2 here, so of the mean below .005; five of them
    assert abs(float(estimate) - exact) < 0.025
    assert (obj.k3(p.log()[:, None, None], q.log()[:, None, None]) >= 0).all()


# --- advantages ---


@given(GROUPS, GROUPS)
def test_a2po_keeps_the_sign_and_at_most_doubles(business, judged) -> None:
    b, c = adv.standardise(torch.from_numpy(business)), adv.standardise(torch.from_numpy(judged))
    weight = adv.a2po_weight(b, c)
    out = adv.a2po(b, c)
    slack = 1 + 4 * torch.finfo(torch.float64).eps  # two roundings on either side
    assert (weight >= 0).all() and (weight <= 1).all()
    assert ((weight * c).abs() <= b.abs() * slack).all()
    assert (out.sign() == b.sign()).all()
    assert (out.abs() >= b.abs()).all() and (out.abs() <= 2 * b.abs() * slack).all()
    assert (weight[b.sign() != c.sign()] == 0).all()


@given(GROUPS)
def test_a_judge_that_always_disagrees_changes_no_bit(business) -> None:
    b = adv.standardise(torch.from_numpy(business))
    assert torch.equal(adv.a2po(b, -3 * b), b)


@given(GROUPS, st.floats(-9, 9))
def test_a_judge_that_says_the_same_of_all_changes_no_bit(business, score) -> None:
    rewards = torch.from_numpy(business)
    same = torch.full_like(rewards, score)
    for kind in ("a2po", "adv_sum"):
        out, b, c = adv.advantages(kind, rewards, same)
        assert torch.equal(out, b) and (c == 0).all()


def test_the_adversary_turns_the_sums_round_and_not_a2po() -> None:
    rewards = (torch.arange(8)[None] == 2).double()
    b = adv.standardise(rewards)
    assert float(b[0, 2]) == pytest.approx(2.47, abs=0.01)
    assert float(adv.adv_sum(b, -3 * b)[0, 2]) == pytest.approx(-4.95, abs=0.01)
    assert float(adv.reward_sum(rewards, -3 * rewards)[0, 2]) == pytest.approx(-2.47, abs=0.01)
    assert float(adv.a2po(b, -3 * b)[0, 2]) == pytest.approx(2.47, abs=0.01)


def test_equal_rewards_give_exactly_no_advantage() -> None:
    assert (adv.standardise(torch.full((2, 7), 0.1)) == 0).all()


def test_unknown_kinds_are_named() -> None:
    with pytest.raises(ValueError, match="advantage 'x' is none of"):
        adv.advantages("x", torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="ratio 'x' is none of"):
        obj.clipped(torch.zeros(1, 2, 1), torch.zeros(1, 2, 1), torch.zeros(1, 2), 0.2, "x")


# --- rewards ---


def test_the_rank_reward_is_the_published_one() -> None:
    items, target = torch.tensor([[5, 7, 9], [5, 7, 8]]), torch.tensor([7, 1])
    discount = [1 / math.log2(2), 1 / math.log2(3), 1 / math.log2(4)]
    total = sum(discount)
    wanted = torch.tensor([[-discount[0] / total, 1.0, -discount[2] / total], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(rank_aware(items, target), wanted)
    assert hit(items, target).tolist() == [[0, 1, 0], [0, 0, 0]]


# --- the bandit ---

ARMS, HITS = 64, (7, 40)


def play(policy: str, adversary: bool = False, steps: int = 60, seed: int = 0) -> tuple[float, torch.Tensor]:
    """P(hit) and the logits after at most ``steps`` steps: 8 groups of 16 arms, drawn without replacement."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.zeros(ARMS, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(steps):
        log_probs = logits.log_softmax(0)
        noise = -torch.empty(8, ARMS).exponential_(generator=draw).log()
        items = (log_probs.detach() + noise).topk(16, dim=1).indices
        labels = (items[..., None] == torch.tensor(HITS)).any(-1)
        new = log_probs[items][:, :, None]
        b = adv.standardise(labels.float())
        c = -3 * b if adversary else adv.standardise(torch.rand(8, 16, generator=draw))
        if policy in ("real", "real_bce"):
            each = vars(obj)[policy](obj.log_ratio(new, new.detach()), labels, 0.5)
        else:
            gain = {"grpo": b, "a2po": adv.a2po(b, c), "adv_sum": adv.adv_sum(b, c)}[policy]
            each = obj.clipped(new, new.detach(), gain, 0.2)
        optimizer.zero_grad()
        obj.batch_loss(each, 8).backward()
        optimizer.step()
    return float(logits.softmax(0)[list(HITS)].sum()), logits.detach()


@pytest.mark.parametrize("policy", ["grpo", "real", "real_bce", "a2po"])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_objective_solves_the_bandit(policy: str, seed: int) -> None:
    assert play(policy, seed=seed)[0] > 0.9


def test_an_adversary_ruins_adv_sum_and_leaves_a2po_at_the_business_reward() -> None:
    assert play("adv_sum", adversary=True)[0] < 0.005
    # with an adversary `play` draws nothing for the judge, so both meet the same rollouts
    after = [play(policy, adversary=True, steps=20)[1] for policy in ("a2po", "grpo")]
    assert torch.equal(*after)
