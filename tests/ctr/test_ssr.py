"""SSR: its two filters by hand, what they leave unread, and the ten informative inputs of 250."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_sigma.ctr.metrics import auc
from recbole_sigma.ctr.ssr import SparseViews, StaticView, compete, coverage, static_filter
from recbole_sigma.quick_start import load_data_and_model, run
from recbole_sigma.settings.label_keys import SsrKeys
from recbole_sigma.values import UserError


def test_a_static_view_is_a_product_with_the_selection_matrix() -> None:
    view = StaticView(10, 3, SsrKeys(ssr_filter="static", ssr_width=4), seed=1)
    values = torch.randn(5, 10)
    for number, row in enumerate(view.index):
        selection = torch.zeros(10, 4)
        selection[row, torch.arange(4)] = 1
        torch.testing.assert_close(values[:, view.index][:, number], values @ selection)


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 4), st.integers(0, 5))
def test_a_filter_repeats_no_input_before_all_are_read(
    inputs: int, width: int, views: int, seed: int
) -> None:
    index = static_filter(inputs, width, views, seed)
    assert torch.equal(index, static_filter(inputs, width, views, seed))
    for row in index:
        counts = torch.bincount(row, minlength=inputs)
        assert counts.max() - counts.min() <= 1
    assert coverage(index, inputs) == len(set(index.flatten().tolist())) / inputs


def test_another_seed_is_another_filter() -> None:
    assert not torch.equal(static_filter(100, 20, 2, 0), static_filter(100, 20, 2, 1))


def test_competition_by_hand() -> None:
    values, half = torch.tensor([[[4.0, 1.0, 1.0, 0.0]]]), torch.full((2, 1), 0.5)
    once = compete(values, half[:1])
    torch.testing.assert_close(once, torch.tensor([[[3.25, 0.25, 0.25, 0.0]]]))
    active: list[float] = []
    twice = compete(values, half, active)
    torch.testing.assert_close(twice, torch.tensor([[[2.78125, 0.0, 0.0, 0.0]]]))
    assert active == [0.75, 0.75, 0.25]
    torch.testing.assert_close(compete(-values, half[:0]), (-values).relu())


@given(
    st.lists(st.floats(-5, 5, allow_nan=False), min_size=1, max_size=12),
    st.lists(st.floats(0, 2), max_size=5),
)
def test_the_active_set_never_grows(values, alphas) -> None:
    before = None
    for steps in range(len(alphas) + 1):
        left = compete(torch.tensor([[values]]), torch.tensor(alphas[:steps]).reshape(-1, 1))
        active = left > 0
        assert before is None or not (active & ~before).any()
        before = active


def needle() -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """20,000 rows of 250 normal inputs; ten of them, with weights of 1 to 2 and a product, tell the label."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(20_000, 250))
    told = draw.choice(250, 10, replace=False)
    weights = draw.uniform(1, 2, 10) * draw.choice([-1, 1], 10)
    score = x[:, told] @ weights + 1.5 * x[:, told[0]] * x[:, told[1]]
    label = draw.random(20_000) < 1 / (1 + np.exp(-score))
    return torch.tensor(x, dtype=torch.float32), torch.tensor(label, dtype=torch.float32), told.tolist()


def fitted(keys: SsrKeys, epochs: int = 6) -> tuple[float, float]:
    """(AUC on 4,000 held-out rows, share of the ten among the ten largest mean input gradients)."""
    torch.manual_seed(0)
    x, label, told = needle()
    net = SparseViews(250, keys)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    loss_of = torch.nn.functional.binary_cross_entropy_with_logits
    for _ in range(epochs):
        for rows in torch.randperm(16_000).split(256):
            optimizer.zero_grad()
            loss_of(net(x[rows]), label[rows]).backward()
            optimizer.step()
    net.eval()
    held_out = x[16_000:].clone().requires_grad_()
    logits = net(held_out)
    (gradient,) = torch.autograd.grad(logits.sum(), held_out)
    best = gradient.abs().mean(dim=0).topk(10).indices.tolist()
    value = auc(logits.detach().numpy(), label[16_000:].numpy())
    return value, len(set(best) & set(told)) / 10


PLANTED: dict[str, Any] = {"ssr_views": (4,), "ssr_hidden": 32, "ssr_dropout": 0.0}
PLAIN = {**PLANTED, "ssr_value_path": False, "ssr_dense": False}


@pytest.mark.parametrize("sparsity", ["ics", "relu"])
def test_the_ten_informative_inputs_are_found(sparsity: str) -> None:
    """The layer finds them; without the competition it does as well, so the competition is not why."""
    value, recall = fitted(SsrKeys(**PLAIN, ssr_sparsity=sparsity))
    assert recall == 1.0 and value >= 0.92


def test_the_layer_of_the_published_code_finds_them_and_over_fits_sooner() -> None:
    """The value path and the dense layer double the weights; 16,000 rows of 250 numbers are few for them."""
    value, recall = fitted(SsrKeys(**PLANTED))
    assert recall == 1.0 and value >= 0.88


@pytest.mark.slow
def test_static_filters_that_read_everything_find_them_too() -> None:
    keys = SsrKeys(ssr_filter="static", ssr_views=(8,), ssr_width=128, ssr_dropout=0.0)
    value, recall = fitted(keys)
    assert recall == 1.0 and value >= 0.93


def test_filters_that_leave_inputs_unread_are_refused_unless_forced() -> None:
    narrow: dict[str, Any] = {"ssr_filter": "static", "ssr_views": (4,), "ssr_width": 64, "ssr_dropout": 0.0}
    with pytest.raises(
        UserError, match=r"ssr_width: the 4 static filters of the first layer read [67]\d\.\d% of its 250"
    ):
        SparseViews(250, SsrKeys(**narrow))
    value, recall = fitted(SsrKeys(**narrow, ssr_any_coverage=True))
    assert value < 0.92 and recall < 1.0


@pytest.mark.parametrize("kind", ["static", "ics"])
def test_a_trained_ssr_comes_back_from_its_file_and_scores_a_row_alone(kind: str, clicks) -> None:
    values = {**clicks, "ssr_filter": kind, "ssr_width": 24, "ssr_batch_norm": True, "epochs": 8}
    result = run("SSR", "clicks", config_dict=values)
    assert result["test_result"]["auc"] > 0.75
    _, model, _, _, _, test = load_data_and_model(result["checkpoint"])
    rows = test._dataset.inter_feat
    with torch.no_grad():
        whole = model.predict(rows)
        alone = torch.cat([model.predict(rows[at : at + 1]) for at in range(5)])
    torch.testing.assert_close(alone, whole[:5], atol=1e-6, rtol=1e-5)
    assert any(name.endswith("view.index") for name in model.state_dict()) == (kind == "static")


@pytest.mark.parametrize(
    "more",
    [
        {"ssr_sparsity": "topk"},
        {"ssr_value_path": False},
        {"ssr_dense": False},
        {"ssr_steps": 0},
        {"ssr_learn_alpha": False},
    ],
)
def test_every_ablation_trains(more: dict[str, Any], clicks) -> None:
    assert run("SSR", "clicks", config_dict={**clicks, "epochs": 1, **more})["test_result"]["auc"] > 0
