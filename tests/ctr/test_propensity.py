"""Posteriors by Bayes' rule, the two losses as one, and the recovery of planted causes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_sigma.ctr import propensity as causes

LOGIT = st.floats(-8, 8, allow_nan=False)


@given(LOGIT, LOGIT, st.booleans())
def test_the_posterior_is_bayes_rule_over_four_kinds_of_rows(a: float, b: float, click: bool) -> None:
    r, q = 1 / (1 + np.exp(-a)), 1 / (1 + np.exp(-b))
    kinds = {
        (likes, looks): (r if likes else 1 - r) * (q if looks else 1 - q)
        for likes, looks in itertools.product((0, 1), repeat=2)
    }
    seen = {kind: p for kind, p in kinds.items() if (kind == (1, 1)) == click}
    total = sum(seen.values())
    logits = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    liked, looked = causes.posterior(*logits, torch.tensor([int(click)]))
    assert float(liked) == pytest.approx(sum(p for kind, p in seen.items() if kind[0]) / total, abs=1e-12)
    assert float(looked) == pytest.approx(sum(p for kind, p in seen.items() if kind[1]) / total, abs=1e-12)


@given(st.lists(st.tuples(LOGIT, LOGIT, st.booleans()), min_size=1, max_size=8))
def test_em_and_direct_loss_have_one_gradient(rows) -> None:
    a, b, y = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    a.requires_grad_()
    b.requires_grad_()
    em = torch.autograd.grad(causes.em_loss(a, b, y), (a, b))
    direct = torch.autograd.grad(causes.direct_loss(a, b, y), (a, b))
    for one, other in zip(em, direct, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


def test_certain_causes_stay_finite() -> None:
    a = torch.tensor([80.0, -80.0, 80.0], requires_grad=True)
    b = torch.tensor([80.0, 80.0, -80.0], requires_grad=True)
    y = torch.tensor([0.0, 0.0, 1.0])
    for loss in (causes.em_loss(a, b, y), causes.direct_loss(a, b, y)):
        assert torch.isfinite(loss)
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, (a, b)))


def planted(noise: float = 0.0, rows: int = 60_000) -> dict[str, torch.Tensor]:
    """Preference by five features, activity by ten positions; ``noise`` is a share of random clicks."""
    draw = np.random.default_rng(0)
    x, position = draw.normal(size=(rows, 5)), draw.integers(0, 10, rows)
    r = 1 / (1 + np.exp(-(x @ np.array([1.2, -0.8, 0.5, 0.0, 0.9]) - 0.2)))
    q = (np.arange(10) + 1.0) ** -0.7
    click = (draw.random(rows) < r) & (draw.random(rows) < q[position])
    click |= draw.random(rows) < noise
    return {
        "x": torch.tensor(np.c_[x, np.ones(rows)]), "position": torch.tensor(position),
        "r": torch.tensor(r), "q": torch.tensor(q), "click": torch.tensor(click, dtype=torch.float64),
    }  # fmt: skip


def newton(weights: torch.Tensor, x: torch.Tensor, target: torch.Tensor, steps: int = 2) -> torch.Tensor:
    """Steps towards the logistic regression of soft targets."""
    for _ in range(steps):
        p = torch.sigmoid(x @ weights)
        curve = (x * (p * (1 - p))[:, None]).T @ x
        weights = weights + torch.linalg.solve(curve, x.T @ (target - p))
    return weights


def recover(data: dict[str, torch.Tensor], swapped: bool = False, rounds: int = 120) -> tuple[float, float]:
    """(mean |r - truth|, largest |q / q_1 - truth|) after rounds of EM with exact M-steps."""
    rule = causes.swapped_posterior if swapped else causes.posterior
    weights, q = torch.zeros(6, dtype=torch.float64), torch.full((10,), 0.5, dtype=torch.float64)
    for _ in range(rounds):
        liked, looked = rule(data["x"] @ weights, torch.logit(q)[data["position"]], data["click"])
        weights = newton(weights, data["x"], liked)
        q = torch.zeros(10, dtype=torch.float64).index_add(0, data["position"], looked)
        q = (q / torch.bincount(data["position"], minlength=10)).clamp(1e-6, 1 - 1e-6)
    r = torch.sigmoid(data["x"] @ weights)
    return float((r - data["r"]).abs().mean()), float((q / q[0] - data["q"]).abs().max())


def test_planted_preference_and_activity_are_recovered() -> None:
    """The right answers of the specification: .02 and .03, where the naive click model errs by .28."""
    data = planted()
    preference, activity = recover(data)
    assert preference <= 0.02 and activity <= 0.03
    naive = newton(torch.zeros(6, dtype=torch.float64), data["x"], data["click"], steps=8)
    error = float((torch.sigmoid(data["x"] @ naive) - data["r"]).abs().mean())
    assert 0.2 < error < 0.35


def test_the_printed_posterior_fails() -> None:
    preference, _ = recover(planted(rows=20_000), swapped=True)
    assert preference > 0.1


def test_random_clicks_cost_something() -> None:
    clean, _ = recover(planted(rows=20_000))
    noisy, _ = recover(planted(noise=0.03, rows=20_000))
    assert clean < noisy < 0.1


def test_the_unbiased_loss_has_its_optimum_at_the_preference() -> None:
    """On all outcomes of one item, weighed by their probability, the minimum of the loss is r."""
    r, q, p = 0.7, 0.3, torch.tensor([0.3], dtype=torch.float64)
    a = torch.tensor([np.log(r / (1 - r))], requires_grad=True)
    click, none = torch.ones(1), torch.zeros(1)
    whole = r * q * causes.relevance_loss(a, click, p) + (1 - r * q) * causes.relevance_loss(a, none, p)
    (gradient,) = torch.autograd.grad(whole, a)
    assert abs(float(gradient)) < 1e-9


def test_propensities_are_shares_of_the_most_popular_with_a_floor() -> None:
    found = causes.popularity_propensity(np.array([0, 1, 25, 100]))
    np.testing.assert_allclose(found, [0.05, 0.1, 0.5, 1.0])
