from __future__ import annotations

import pytest
import torch

from recbole_sigma.quick_start import run
from tests import planted as scenes
from tests.arithmetic import STATES


def build(planted, **values):
    _, data, model = scenes.build("PackedSASRec", "planted", planted, **values)
    return model.eval(), data


def test_it_is_recboles_network(planted) -> None:
    from recbole.model.sequential_recommender.sasrec import SASRec

    model, data = build(planted)
    interaction, *_ = next(iter(data.test))
    torch.testing.assert_close(
        model.full_sort_predict(interaction),
        SASRec.full_sort_predict(model, interaction),
        **STATES,
    )
    torch.testing.assert_close(
        model.forward(interaction["item_id_list"], interaction["item_length"]),
        SASRec.forward(model, interaction["item_id_list"], interaction["item_length"]),
        **STATES,
    )


@pytest.mark.parametrize("score", ["dot", "cosine"])
def test_the_packed_loss_is_the_mean_of_the_prefix_losses(score, planted) -> None:
    model, data = build(planted, sasrec_score=score, sasrec_mask_seen=False)
    packed = next(iter(data.train))[torch.arange(4)]
    losses = []
    for row in range(len(packed)):
        length = int(packed["item_length"][row])
        items = [*packed["item_id_list"][row, :length].tolist(), int(packed["item_id"][row])]
        for end in range(1, len(items)):
            history = torch.tensor([items[:end] + [0] * (50 - end)])
            logits = model._logits(model.forward(history, torch.tensor([end])), model.item_embedding.weight)
            losses.append(torch.nn.functional.cross_entropy(logits[:, 1:], torch.tensor([items[end] - 1])))
    torch.testing.assert_close(model.calculate_loss(packed), torch.stack(losses).mean(), **STATES)


def test_the_binary_loss_is_the_papers(planted, monkeypatch) -> None:
    model, data = build(planted, sasrec_loss="BCE")
    packed = next(iter(data.train))[torch.arange(4)]
    drawn: list[torch.Tensor] = []
    embed = type(model.item_embedding).forward

    def remember(self, ids):
        if ids.dim() == 2 and len(ids) == 2:
            drawn.append(ids)
        return embed(self, ids)

    monkeypatch.setattr(type(model.item_embedding), "forward", remember)
    loss = model.calculate_loss(packed)
    (pairs,) = drawn
    expected, position = [], 0
    for row in range(len(packed)):
        length = int(packed["item_length"][row])
        items = [*packed["item_id_list"][row, :length].tolist(), int(packed["item_id"][row])]
        for end in range(1, len(items)):
            target, negative = pairs[:, position].tolist()
            position += 1
            assert target == items[end] and negative not in items and 0 < negative < model.n_items
            state = model.forward(torch.tensor([items[:end] + [0] * (50 - end)]), torch.tensor([end]))
            up, down = (state @ model.item_embedding.weight[[target, negative]].T)[0]
            expected.append(-torch.nn.functional.logsigmoid(up) - torch.nn.functional.logsigmoid(-down))
    assert position == pairs.shape[1]
    torch.testing.assert_close(loss, torch.stack(expected).mean(), **STATES)


def test_predict_agrees_with_full_sort(planted) -> None:
    for score in ("dot", "cosine"):
        model, data = build(planted, sasrec_score=score)
        interaction, *_ = next(iter(data.test))
        scores = model.full_sort_predict(interaction)
        torch.testing.assert_close(
            model.predict(interaction), scores[torch.arange(len(scores)), interaction["item_id"]]
        )


def test_it_learns_a_certain_next_item(planted) -> None:
    values = {
        **planted,
        "epochs": 40,
        "hidden_size": 32,
        "inner_size": 32,
        "n_layers": 1,
        "hidden_dropout_prob": 0.1,
        "learning_rate": 0.01,
        "stopping_step": 40,
    }
    result = run("PackedSASRec", "planted", config_dict=values, saved=False)
    assert result["test_result"]["hit@1"] >= 0.95


def test_items_of_the_history_are_no_negatives(planted) -> None:
    model, data = build(planted, filter_seen=True)
    packed = next(iter(data.train))[torch.arange(2)]
    losses = []
    for row in range(2):
        length = int(packed["item_length"][row])
        items = [*packed["item_id_list"][row, :length].tolist(), int(packed["item_id"][row])]
        for end in range(1, len(items)):
            history = torch.tensor([items[:end] + [0] * (50 - end)])
            logits = model._logits(model.forward(history, torch.tensor([end])), model.item_embedding.weight)[
                0
            ]
            allowed = [i for i in range(1, model.n_items) if i == items[end] or i not in items[:end]]
            place = torch.tensor(allowed.index(items[end]))
            losses.append(torch.nn.functional.cross_entropy(logits[allowed], place))
    torch.testing.assert_close(model.calculate_loss(packed), torch.stack(losses).mean(), **STATES)
