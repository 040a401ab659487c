"""A step over the items that it meets: gradients as over the whole catalogue, draws without bias."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from recbole_sigma.models.losses import catalogue_cross_entropy
from recbole_sigma.models.sampled_softmax import (
    DRAWS,
    LARGE,
    Drawn,
    NegativeSampler,
    sampled_cross_entropy,
    sampler_of,
)
from recbole_sigma.quick_start import run
from recbole_sigma.values import UserError
from tests import planted as scenes
from tests.arithmetic import STATES

EVERY_ITEM = 1 << 20  # draws; of 48 items none stays away
MODELS = [
    ("SIGMA", {"sigma_soft_targets": 0.15, "sigma_rdrop": 0.0}),
    ("SIGMA", {"sigma_soft_targets": 0.15, "sigma_rdrop": 1.0}),
    ("SIGMA", {"tokenizer_prefix_length": 0, "sigma_paths": ["recency", "interest"]}),
    ("SIGMA", {"sigma_objective": "paper", "fusion_id_residual": True}),
    ("SIGMA", {"sigma_objective": "paper", "sigma_mask_seen": True, "tokenizer_prefix_length": 2}),
    ("SIGMA", {"sigma_objective": "paper", "tokenizer_prefix_length": 0}),
    ("SIGMA", {"tasks": ["JustForYou"], "task_labels_per_row": 2}),
    ("PackedSASRec", {}),
    ("PackedSASRec", {"sasrec_score": "cosine", "sasrec_mask_seen": False}),
    ("HSTU", {}),
    ("BSARec", {"learner": "adamw"}),
]


def gradients(model: Any, batch: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of a batch without dropout, and the gradient of every weight, dense."""
    model.eval()
    model.zero_grad(set_to_none=True)
    torch.manual_seed(1)
    found = model.calculate_loss(batch)
    loss = sum(found) if isinstance(found, tuple) else found
    loss.backward()
    return float(loss.detach()), {
        name: weight.grad.to_dense() if weight.grad.is_sparse else weight.grad
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }


def assert_same(one: tuple[float, dict[str, Any]], other: tuple[float, dict[str, Any]]) -> None:
    assert one[0] == pytest.approx(other[0], abs=STATES["atol"])
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(
            gradient, other[1][name], **STATES, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize(("name", "changes"), MODELS)
def test_with_every_item_drawn_a_step_is_that_of_the_full_softmax(name, changes, planted) -> None:
    values = {**planted, **scenes.tiny(name), **changes}
    _, data, whole = scenes.build(name, "planted", values)
    _, _, part = scenes.build(name, "planted", values, softmax_negatives=EVERY_ITEM)
    batch = next(iter(data.train))
    assert_same(gradients(part, batch), gradients(whole, batch))
    assert part.step_shapes(part.on_device(batch, "cpu")) is None  # what is met varies: no replay


@pytest.mark.parametrize(("name", "changes"), MODELS[:6])
def test_a_step_over_few_items_has_the_gradients_of_a_table_of_all(name, changes, planted) -> None:
    values = {**planted, **scenes.tiny(name), **changes, "softmax_negatives": 3, "fusion_id_residual": True}
    _, data, model = scenes.build(name, "planted", values)
    batch = next(iter(data.train))[torch.arange(2)]
    part = gradients(model, batch)
    rows = model.item_tokens.residual.weight.grad.coalesce().indices()[0]
    met = torch.cat([batch["item_id_list"].flatten(), batch["item_id"]]).unique()
    assert set(met.tolist()) <= {0, *rows.tolist()} and len(rows) < model.n_items - 5
    model.item_tokens.residual.sparse = False
    draw = model.negatives.draw
    model._table_of = lambda *_: replace(
        model.item_table(), drawn=draw() if model.objective.over_catalogue else None
    )
    assert_same(part, gradients(model, batch))


def softmax(count: int = 40) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    hidden = torch.randint(0, count, (23, 5))  # with empty slots and repetitions
    targets = torch.randint(1, count, (23,))
    return {
        "queries": torch.randn(23, 6, requires_grad=True),
        "items": torch.randn(count, 6, requires_grad=True),
        "targets": targets,
        "weights": torch.rand(23),
        "hidden": hidden.masked_fill(hidden == targets[:, None], 0),
    }


def sampled(
    case: dict[str, torch.Tensor], drawn: Drawn, rdrop: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    items, targets = case["items"], case["targets"]
    own, others = items[targets], items[drawn.items]
    return sampled_cross_entropy(
        case["queries"], own, others, targets, drawn, case["weights"], case["hidden"], rdrop
    )


@pytest.mark.parametrize("rdrop", [0.0, 1.0])
def test_over_all_items_it_is_the_softmax_over_the_catalogue(rdrop: float) -> None:
    case = softmax()
    if rdrop:
        case["queries"] = torch.randn(46, 6, requires_grad=True)
    every = Drawn(torch.arange(1, 40), torch.zeros(39))
    mine, each = sampled(case, every, rdrop)
    true, expected = catalogue_cross_entropy(*case.values(), rdrop)
    torch.testing.assert_close(each, expected, **STATES)
    assert not each.requires_grad
    inputs = [case["queries"], case["items"]]
    for got, want in zip(torch.autograd.grad(mine, inputs), torch.autograd.grad(true, inputs), strict=True):
        torch.testing.assert_close(got, want, **STATES)


def test_the_denominator_is_estimated_without_bias() -> None:
    """exp(loss) is the denominator over the target's own term; its mean over draws is the catalogue's."""
    case, events = softmax(), torch.arange(40) ** 3  # a heavy head
    sampler = NegativeSampler(events, 6)
    ratios = torch.stack([sampled(case, sampler.draw())[1].exp().detach() for _ in range(4000)]).double()
    true = catalogue_cross_entropy(*case.values())[1].exp().double()
    room = 5 * ratios.std(dim=0) / len(ratios) ** 0.5
    assert ((ratios.mean(dim=0) - true).abs() < room).all()


def test_the_correction_undoes_a_skew_of_the_draws() -> None:
    """Targets are even, draws are not: logits learn even shares with the correction, and the skew without."""

    def learned(corrected: bool) -> torch.Tensor:
        torch.manual_seed(0)
        logits = torch.zeros(31, 1, requires_grad=True)
        sampler = NegativeSampler(torch.tensor([0] + [400] * 3 + [1] * 27), 12)
        optimizer = torch.optim.Adam([logits], lr=0.02)
        for _ in range(600):
            targets = torch.randint(1, 31, (128,))
            drawn = sampler.draw()
            if not corrected:
                drawn = replace(drawn, log_chance=torch.zeros_like(drawn.log_chance))
            loss, _ = sampled_cross_entropy(
                torch.ones(128, 1), logits[targets], logits[drawn.items], targets, drawn, torch.ones(128)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return logits.detach()[1:, 0].softmax(0)

    even = torch.full((30,), 1 / 30)
    right, wrong = ((learned(corrected) / even).log().abs()[:3].mean() for corrected in (True, False))
    assert wrong > 1.0 and right < wrong / 4


def test_the_chance_of_an_item_is_how_often_it_is_drawn() -> None:
    sampler = NegativeSampler(torch.tensor([9, 5, 0, 1, 30]), 3)  # the padding row counts nothing
    often = torch.zeros(5)
    for _ in range(4000):
        drawn = sampler.draw()
        often[drawn.items] += 1
        assert drawn.items.tolist() == sorted(set(drawn.items.tolist()))
    chance = 1 - (1 - sampler.share) ** 3
    room = 5 * (chance * (1 - chance) / 4000).sqrt()
    assert ((often[1:] / 4000 - chance).abs() < room).all() and often[0] == 0


def test_draws_know_train_events_alone(write_dataset) -> None:
    """Held-out events may be any: the chances stay."""
    walk = [(user, step) for user in range(12) for step in range(6)]

    def shares(shift: int) -> torch.Tensor:
        events = [
            (f"u{user}", f"i{(user * 3 + step + (shift if step >= 4 else 0)) % 12}", 100 * step + user)
            for user, step in walk
        ]
        values = write_dataset(events, f"shift{shift}", spare=2)
        names = [f"i{number}" for number in range(12)]
        _, data, model = scenes.build("PackedSASRec", f"shift{shift}", values, softmax_negatives=4)
        ids = [data.dataset.token2id("item_id", name) for name in names]
        return model.negatives.share[torch.tensor(ids) - 1]

    assert torch.equal(shares(0), shares(5))


def test_auto_draws_from_a_large_catalogue_on() -> None:
    class Data:
        class packer:
            items = torch.arange(1, 50).numpy()

        def __init__(self, count: int) -> None:
            self.item_num = count

    config = {"softmax_negatives": "auto", "learner": "adamw", "device": "cpu"}
    assert sampler_of(config, Data(LARGE - 1)) is None
    assert sampler_of(config, Data(LARGE)).draws == DRAWS
    assert sampler_of({**config, "softmax_negatives": 0}, Data(LARGE)) is None
    assert sampler_of({**config, "learner": "sgd"}, Data(LARGE)) is None  # nobody asked for it


@pytest.mark.parametrize("loss", ["BCE", "sampled"])
def test_a_loss_without_a_softmax_over_the_catalogue_is_told(loss: str, planted) -> None:
    with pytest.raises(UserError, match="leave softmax_negatives out"):
        scenes.build("PackedSASRec", "planted", planted, sasrec_loss=loss, softmax_negatives=5)


def test_an_optimizer_that_cannot_is_refused(planted) -> None:
    with pytest.raises(UserError, match="learner: adamw, or softmax_negatives: 0"):
        scenes.build("PackedSASRec", "planted", planted, softmax_negatives=4, learner="adam")


@pytest.mark.parametrize("model", ["PackedSASRec", "SIGMA"])
def test_a_certain_next_item_is_learned_from_draws(model, planted, cycle_settings) -> None:
    if model == "SIGMA":
        result = run("SIGMA", "cycle", config_dict={**cycle_settings, "softmax_negatives": 16}, saved=False)
    else:
        network = {"hidden_size": 32, "inner_size": 32, "n_layers": 1, "hidden_dropout_prob": 0.1}
        values = {**planted, **network, "epochs": 40, "learning_rate": 0.01, "stopping_step": 40}
        result = run("PackedSASRec", "planted", config_dict={**values, "softmax_negatives": 8}, saved=False)
    assert result["test_result"]["hit@1"] >= 0.95
