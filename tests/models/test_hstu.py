"""HSTU against a block computed by hand, its times against the file, and no look ahead."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_sigma.models.hstu import HSTUBlock
from recbole_sigma.quick_start import run
from tests import planted as scenes
from tests.arithmetic import STATES


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def test_a_block_by_hand() -> None:
    """Two dimensions and an identity in place of the second norm: pair by pair, in plain numbers."""
    torch.manual_seed(0)
    block = HSTUBlock(size=2, heads=1, longest=5, dropout=0.0)
    block.after = torch.nn.Identity()
    states = torch.randn(1, 3, 2)
    bucket = torch.randint(0, 9, (1, 3, 3))
    out = block(states, bucket).detach()
    normed = torch.nn.functional.layer_norm(states[0], (2,))
    rows = [[silu(float(x)) for x in (block.spread.weight @ normed[i]).tolist()] for i in range(3)]
    for i in range(3):
        mixed = [0.0, 0.0]
        for j in range(i + 1):
            u, q = rows[i][0:2], rows[i][4:6]
            v, k = rows[j][2:4], rows[j][6:8]
            bias = float(block.by_distance[i - j] + block.by_time[bucket[0, i, j]])
            weight = silu(q[0] * k[0] + q[1] * k[1] + bias) / 5
            mixed = [m + weight * x for m, x in zip(mixed, v, strict=True)]
        gated = torch.tensor([m * x for m, x in zip(mixed, u, strict=True)])
        want = states[0, i] + block.join.weight @ gated + block.join.bias
        torch.testing.assert_close(out[0, i], want, **STATES)


def test_the_times_are_those_of_the_rows_events(write_dataset) -> None:
    """Train, validation and test rows; the target's own time is in none of them."""
    rows = [(u, f"i{(3 * u + s) % 20:02d}", 1000 * u + s * s) for u in range(3) for s in range(9)]
    _, data, model = scenes.build("HSTU", "small", write_dataset(rows, spare=2), n_layers=1)
    dataset = data.train._dataset
    names = dataset.field2id_token["user_id"]
    for batch, events in (
        (dataset.inter_feat, 6), (scenes.one_batch(data.valid), 7), (scenes.one_batch(data.test), 8)
    ):  # fmt: skip
        (times,) = model.inputs(batch)
        for row, user in enumerate(batch["user_id"].tolist()):
            length = int(batch["item_length"][row])
            assert length == events
            assert times[row, :length].tolist() == [1000 * int(names[user]) + s * s for s in range(length)]


def test_a_later_event_and_its_time_move_nothing_before_them(planted) -> None:
    _, _, model = scenes.build("HSTU", "planted", planted, n_layers=2)
    model.eval()
    items = torch.randint(1, 40, (4, 9), generator=torch.Generator().manual_seed(1))
    times = torch.arange(9, dtype=torch.float64).repeat(4, 1) * 1e5
    later, other = times.clone(), items.clone()
    later[:, 6], other[:, 6] = 9e9, other[:, 6] % 40 + 1
    moved = (model.states(items, times) - model.states(other, later)).abs().amax(dim=(0, 2))
    assert not moved[:6].any() and (moved[6:] > 1e-6).all()
    only_time = (model.states(items, times) - model.states(items, later)).abs().amax(dim=(0, 2))
    assert (only_time[7:] > 1e-7).all()


def test_it_learns_a_certain_next_item(planted) -> None:
    values = {
        "epochs": 40, "hidden_size": 32, "n_layers": 2, "hidden_dropout_prob": 0.1, "learning_rate": 0.01,
        "stopping_step": 40,
    }  # fmt: skip
    result = run("HSTU", "planted", config_dict={**planted, **values}, saved=False)
    assert result["test_result"]["hit@1"] == pytest.approx(1.0, abs=0.05)
