"""BSARec against its published form with a Fourier transform, and no look ahead in packed rows."""

from __future__ import annotations

import pytest
import torch

from recbole_sigma.models.bsarec import left_padded
from recbole_sigma.models.low_pass import causal_low_pass, slow_waves
from recbole_sigma.models.packed import NARROWEST_PREFIXES, length_groups
from recbole_sigma.quick_start import run
from tests import planted as scenes
from tests.arithmetic import STATES


def fourier(states: torch.Tensor, cutoff: int) -> torch.Tensor:
    """The published low-pass of [B, L, d]: all bins of the real FFT from c // 2 + 1 on are zero."""
    bins = torch.fft.rfft(states, dim=1, norm="ortho")
    bins[:, cutoff // 2 + 1 :] = 0
    return torch.fft.irfft(bins, n=states.shape[1], dim=1, norm="ortho")


@pytest.mark.parametrize(("length", "cutoff"), [(50, 5), (50, 1), (49, 9), (8, 8), (6, 99), (1, 5)])
def test_the_projection_equals_the_fourier_form(length, cutoff) -> None:
    states = torch.randn(3, length, 4, generator=torch.Generator().manual_seed(0))
    waves = slow_waves(length, cutoff)
    torch.testing.assert_close(waves.T @ waves, torch.eye(waves.shape[1]), atol=1e-6, rtol=0)
    torch.testing.assert_close(waves @ (waves.T @ states), fourier(states, cutoff), atol=1e-6, rtol=0)


def test_a_prefix_is_scored_as_the_published_network_scores_it(planted) -> None:
    """Every position of every block, the Fourier form, RecBole's attention; then the last position."""
    _, data, model = scenes.build("BSARec", "planted", planted, n_layers=2)
    model.eval()
    batch = scenes.one_batch(data.test)
    items = left_padded(batch["item_id_list"], batch["item_length"], model.max_seq_length)
    assert items[:, -1].tolist() == [
        row[length - 1]
        for row, length in zip(batch["item_id_list"].tolist(), batch["item_length"], strict=True)
    ]
    hidden = model.norm(model.item_embedding(items) + model.position_embedding.weight)
    mask = model.get_attention_mask(items)
    for block in model.blocks:
        low = fourier(hidden, 5)
        filtered = block.norm(low + block.beta**2 * (hidden - low) + hidden)
        hidden = block.feed_forward(0.7 * filtered + 0.3 * block.attention(hidden, mask))
    want = hidden[:, -1] @ model.item_embedding.weight.T
    torch.testing.assert_close(model.full_sort_predict(batch), want, **STATES)
    torch.testing.assert_close(
        model.predict(batch), want[torch.arange(len(want)), batch["item_id"]], **STATES
    )


def test_without_padding_the_published_filter_reads_the_events_alone(planted) -> None:
    """The whole window, zero where there is no event, one row at a time; and in any company."""
    _, data, model = scenes.build("BSARec", "planted", planted, n_layers=2, bsarec_padding=False)
    model.eval()
    batch = scenes.one_batch(data.test)
    batch["item_length"] = batch["item_length"].clamp(max=torch.arange(len(batch)) % 11 + 1)
    want = []
    for row in range(len(batch)):
        own = batch[torch.tensor([row])]
        items = left_padded(own["item_id_list"], own["item_length"], model.max_seq_length)
        there, mask = (items > 0)[:, :, None], model.get_attention_mask(items)
        hidden = model.norm(model.item_embedding(items) + model.position_embedding.weight) * there
        for block in model.blocks:
            low = fourier(hidden, 5)
            filtered = block.norm(low + block.beta**2 * (hidden - low) + hidden)
            hidden = block.feed_forward(0.7 * filtered + 0.3 * block.attention(hidden, mask)) * there
        want.append(hidden[0, -1] @ model.item_embedding.weight.T)
    assert len(length_groups(batch["item_length"], torch.device("cpu"), NARROWEST_PREFIXES)) > 1
    torch.testing.assert_close(model.full_sort_predict(batch), torch.stack(want), **STATES)


def test_a_training_row_is_one_prefix_and_its_loss_the_cross_entropy(planted) -> None:
    _, data, model = scenes.build("BSARec", "planted", planted, hidden_dropout_prob=0.0)
    train = data.train._dataset
    users, items = train.train_events().sequences()
    rows = train.inter_feat
    assert len(rows) == len(users) - len(set(users.tolist()))
    expected = []
    for row in range(0, len(rows), 37):
        own = items[users == int(rows["user_id"][row])].tolist()
        length = int(rows["item_length"][row])
        assert (
            rows["item_id_list"][row, :length].tolist() == own[:length]
            and rows["item_id"][row] == own[length]
        )
        logits = model.full_sort_predict(rows[torch.tensor([row])])
        expected.append(torch.nn.functional.cross_entropy(logits[:, 1:], rows["item_id"][[row]] - 1))
    loss = model.calculate_loss(rows[torch.arange(0, len(rows), 37)])
    torch.testing.assert_close(loss, torch.stack(expected).mean(), **STATES)


def later_moves(model: torch.nn.Module, items: torch.Tensor, place: int) -> torch.Tensor:
    """How far each position's state moves when the event at ``place`` becomes another: float [T]."""
    other = items.clone()
    other[:, place] = other[:, place] % 40 + 1
    return (model.states(items) - model.states(other)).abs().amax(dim=(0, 2))


def test_a_later_event_moves_nothing_before_it(planted) -> None:
    """A causal filter and causal attention; the published filter fails the same comparison."""
    _, _, model = scenes.build("PackedSASRec", "planted", planted, sasrec_low_pass=0.7, n_layers=2)
    model.eval()
    items = torch.randint(1, 40, (4, 9), generator=torch.Generator().manual_seed(1))
    for place in (3, 8):
        moved = later_moves(model, items, place)
        assert not moved[:place].any() and (moved[place:] > 1e-6).all()
    width = model.max_seq_length
    waves = slow_waves(width, 5)
    model.low_pass = waves @ waves.T
    assert (later_moves(model, items, 8)[:8] > 1e-6).all()


def test_the_causal_filter_weighs_as_the_published_one_at_the_last_position() -> None:
    waves, states = slow_waves(50, 5), torch.randn(50, 4, generator=torch.Generator().manual_seed(2))
    low = causal_low_pass(50, 5) @ states
    torch.testing.assert_close(low[-1], (waves @ (waves.T @ states))[-1], atol=1e-6, rtol=0)
    shorter = causal_low_pass(50, 5)[:20, :20] @ states[:20]
    torch.testing.assert_close(low[:20], shorter)


@pytest.mark.parametrize(
    ("model", "change"), [("BSARec", {"n_heads": 1}), ("PackedSASRec", {"sasrec_low_pass": 0.7})]
)
def test_it_learns_a_certain_next_item(model, change, planted) -> None:
    values = {
        "epochs": 12 if model == "BSARec" else 40, "hidden_size": 32, "inner_size": 32, "n_layers": 1,
        "hidden_dropout_prob": 0.1, "learning_rate": 0.01, "stopping_step": 40, "train_batch_size": 32,
    }  # fmt: skip
    result = run(model, "planted", config_dict={**planted, **values, **change}, saved=False)
    assert result["test_result"]["hit@1"] >= 0.95
