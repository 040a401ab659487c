"""Experts over every m-th event: the same as the trunk on that sub-sequence; a gate that finds the rate."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recbole_sigma.models.history_rates import HistoryRates, joined, split
from recbole_sigma.values import UserError
from tests import planted as scenes
from tests.arithmetic import STATES
from tests.planted import tiny


def test_rows_of_a_rate_and_back() -> None:
    items = torch.arange(1, 8)[None].repeat(2, 1)
    assert split(items, 3).tolist()[:3] == [[1, 4, 7], [2, 5, 0], [3, 6, 0]]
    for rate in (1, 2, 3, 9):
        assert torch.equal(joined(split(items, rate)[..., None], rate, 7)[..., 0], items)


def model_of(planted, **changes):
    values = {**planted, **tiny("PackedSASRec"), "history_rates": [1, 2, 4], "history_rate_window": 3}
    return scenes.build("PackedSASRec", "planted", {**values, **changes})[2].eval()


@pytest.mark.parametrize("window", [0, 3])
def test_a_position_reads_every_mth_event_before_it_and_nothing_else(planted, window) -> None:
    model = model_of(planted, history_rate_window=window)
    items = torch.randint(1, model.n_items, (2, 9))
    with torch.no_grad():
        whole = model.states(items)
        for position in range(9):
            vectors = model.item_embedding(items[:, : position + 1])
            gates = model.rates.gates(items[:, : position + 1], vectors)[:, -1]
            want = 0.0
            for place, rate in enumerate(model.rates.rates):
                own = items[:, position % rate : position + 1 : rate]
                state = model._expert(own, model.rates.marks.weight[place])[:, -1]
                want = want + gates[:, place, None] * state
            torch.testing.assert_close(whole[:, position], want, **STATES)
        later = items.clone()
        later[:, 6:] = 1
        torch.testing.assert_close(model.states(later)[:, :6], whole[:, :6], **STATES)


@pytest.mark.parametrize("rates", [[], [0, 1]])
def test_rates_that_are_none(planted, rates) -> None:
    with pytest.raises(UserError, match="history_rates must name rates of 1 or more"):
        model_of(planted, history_rates=rates)


def accuracy(rates: tuple[int, ...]) -> tuple[float, torch.Tensor]:
    """Targets are the event eight steps back; an expert reads four events of its own."""
    torch.manual_seed(0)
    size, count = 32, 20
    table, place = torch.nn.Embedding(count + 1, size, padding_idx=0), torch.nn.Embedding(4, size)
    query, key = torch.nn.Linear(size, size), torch.nn.Linear(size, size)
    net, out = HistoryRates(rates, size), torch.nn.Linear(size, count + 1)

    def trunk(items, mark):
        """Attention of each place over the four newest of its row, told apart by their age."""
        rows, steps = items.shape
        near = torch.stack([F.pad(items, (back, 0))[:, :steps] for back in range(4)], dim=2)
        past = table(near) + mark
        told = key(past + place.weight)
        scores = (query(mark + past[:, :, :1]) * told).sum(-1) * size**-0.5
        return (scores.masked_fill(near == 0, -1e9).softmax(-1)[..., None] * past).sum(2)

    parts = [table, place, query, key, net, out]
    optimizer = torch.optim.Adam([p for part in parts for p in part.parameters()], lr=5e-3)
    for _ in range(600):
        items = torch.randint(1, count + 1, (64, 16))
        loss = F.cross_entropy(
            out(net(items, table(items), trunk)[:, 8:]).flatten(0, 1), items[:, :8].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    items = torch.randint(1, count + 1, (256, 16))
    with torch.no_grad():
        found = out(net(items, table(items), trunk)[:, 8:]).argmax(-1)
        gates = net.gates(items, table(items))[:, 8:].mean((0, 1))
    return float((found == items[:, :8]).float().mean()), gates


@pytest.mark.slow
def test_the_gate_finds_the_planted_rate() -> None:
    right, gates = accuracy((1, 2, 4))
    assert right >= 0.95 and gates[2] >= 0.8
    blind, _ = accuracy((1, 2))
    assert blind <= 0.2, "no expert reaches eight steps back"
