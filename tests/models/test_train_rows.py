"""`train_rows`: a row per user with a loss at every position, or a row per event with one loss."""

import pytest
import torch

from recbole_sigma.language.transformer import Transformer, TransformerShape, columns_of
from recbole_sigma.models.sigma.options import SigmaOptions
from recbole_sigma.models.sigma.trunk import branch_positions
from recbole_sigma.values import UserError
from tests.arithmetic import STATES
from tests.planted import build, cycle_config, write_cycle

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}


def network_of(folder, model, rows, **more):
    change = NO_DROPOUT if model in ("PackedSASRec", "HSTU") else {"task_labels_per_row": 0}
    settings = cycle_config(
        folder / "data", folder, train_rows=rows, train_batch_size=1000, filter_seen=True, **change, **more
    )
    torch.manual_seed(0)
    return build(model, "cycle", settings)[1:]


def pairs(data, network):
    """(history, target) of every prediction of an epoch."""
    found = []
    for batch in data.train:
        rows = network.packed_rows(batch)
        for row, column in zip(rows.row.tolist(), rows.column.tolist(), strict=True):
            items = rows.items[row].tolist()
            found.append((tuple(items[: column + 1]), items[column + 1]))
    return sorted(found)


@pytest.mark.parametrize("window", [50, 5])
def test_every_event_that_another_precedes_is_the_target_of_one_row(tmp_path, window):
    write_cycle(tmp_path / "data/cycle", length=12)
    data, network = network_of(tmp_path, "PackedSASRec", "prefixes", MAX_ITEM_LIST_LENGTH=window)
    users, items = data.train._dataset.train_events().sequences()
    wanted = []
    for user in set(users.tolist()):
        own = items[users == user].tolist()
        wanted += [(tuple(own[max(0, end - window) : end]), own[end]) for end in range(1, len(own))]
    assert pairs(data, network) == sorted(wanted)
    batch = next(iter(data.train))
    assert network.prediction_count(batch) == len(network.packed_rows(batch).row) == len(batch)


@pytest.mark.parametrize("model", ["SIGMA", "PackedSASRec", "HSTU"])
def test_both_kinds_of_rows_have_the_same_predictions_loss_and_gradients(tmp_path, monkeypatch, model):
    monkeypatch.setattr(SigmaOptions, "newest_first", False)  # positions are what SIGMA's rows differ in
    write_cycle(tmp_path / "data/cycle", length=12)
    found = []
    for rows in ("windows", "prefixes"):
        data, network = network_of(tmp_path, model, rows)
        if rows == "windows":
            weights, predictions = network.state_dict(), pairs(data, network)
        network.load_state_dict(weights)
        network.eval()  # without dropout the rows differ in nothing
        assert pairs(data, network) == predictions
        (batch,) = data.train
        loss = network.calculate_loss(batch)
        loss = sum(loss) if isinstance(loss, tuple) else loss
        loss.backward()
        found.append(
            (loss.detach(), {n: p.grad for n, p in network.named_parameters() if p.grad is not None})
        )
    torch.testing.assert_close(found[0][0], found[1][0], **STATES)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], **STATES)


def test_a_batch_with_labels_predicts_what_one_without_does(tmp_path):
    write_cycle(tmp_path / "data/cycle", length=12)
    settings = cycle_config(tmp_path / "data", tmp_path, train_rows="prefixes", task_labels_per_row=1)
    _, data, network = build("SIGMA", "cycle", settings)
    network.eval()
    rows, table = network.packed_rows(next(iter(data.train))), network.item_table()
    draw = network.branches.draw(rows.first, rows.length, last=True)
    for group in rows.groups:
        with_labels, *_ = network._read(rows, group, table, draw)
        without, *_ = network._read(rows, group, table, None)
        torch.testing.assert_close(with_labels, without, **STATES)


def test_the_last_block_computes_the_wanted_columns_alone():
    torch.manual_seed(0)
    model = Transformer(TransformerShape(50, 40, 64, 2, 2, 0.1)).eval()
    rows, places = torch.randn(5, 12, 64), torch.arange(12).expand(5, -1)
    allowed = torch.ones(12, 12, dtype=torch.bool).tril().expand(5, -1, -1)
    wanted = torch.randint(0, 12, (5, 2))
    whole, part = model(rows, places, allowed), model(rows, places, allowed, wanted=wanted)
    assert part.shape == (5, 2, 64)
    torch.testing.assert_close(part, columns_of(whole, wanted), **STATES)


@pytest.mark.parametrize("kind", ["windows", "prefixes"])
def test_users_with_one_train_event_keep_their_row_where_empty_histories_are_learned(tmp_path, kind):
    file = tmp_path / "data/cycle/cycle.inter"
    write_cycle(file.parent, length=12)
    lines = file.read_text().splitlines()
    three = ["alone\t" + line.split("\t", 1)[1] for line in lines[1:4]]  # one for training, two held out
    file.write_text("\n".join([*lines, *three]) + "\n")
    _, data, network = build(
        "SIGMA",
        "cycle",
        cycle_config(tmp_path / "data", tmp_path, train_rows=kind, task_empty_history=True),
    )
    dataset = data.train._dataset
    rows = dataset.inter_feat
    alone = dataset.token2id("user_id", "alone")
    assert rows["item_length"][rows["user_id"] == alone].tolist() == [0]
    network.eval()
    for labelled in (True, False):  # a batch without any history: its labels are all that is learned
        network.branches.take_part = lambda labelled=labelled: labelled
        loss = sum(network.calculate_loss(rows[rows["user_id"] == alone]))
        assert torch.isfinite(loss) and (loss > 0) == labelled


def test_another_kind_of_row_is_refused(tmp_path):
    write_cycle(tmp_path / "data/cycle", length=12)
    with pytest.raises(UserError, match="train_rows"):
        network_of(tmp_path, "PackedSASRec", "suffixes")


def test_the_newest_event_has_the_same_position_whatever_the_length(tmp_path):
    write_cycle(tmp_path / "data/cycle", length=12)
    _, network = network_of(tmp_path, "SIGMA", "prefixes")
    layout, length = network.trunk.layout, torch.tensor([1, 3, 7])
    positions = layout.positions(length, layout.history_end(7))
    for row, items in zip(positions.tolist(), length.tolist(), strict=True):
        end = layout.history_end(items)
        assert row[:end] == list(range(end))[::-1]
    assert int(branch_positions(length[:, None] - 1, layout, 0).min()) >= layout.history_end(layout.window)
    assert int(branch_positions(length[:, None] - 1, layout, 0).max()) < layout.longest_position()


def test_lists_and_losses_read_one_function(tmp_path):
    """-log P(target) of a ranked prompt is the loss of the same history as a training row."""
    write_cycle(tmp_path / "data/cycle", length=12)
    data, network = network_of(tmp_path, "SIGMA", "prefixes")
    network.eval()
    for batch in data.train:
        scores = network.score_all(batch, seen_of(batch))
        told = -scores.gather(1, batch["item_id"][:, None]).mean()
        torch.testing.assert_close(sum(network.calculate_loss(batch)), told, **STATES)


def seen_of(batch):
    """Items of the histories, which are no negatives: (row, item)."""
    row, column = (batch["item_id_list"] > 0).nonzero(as_tuple=True)
    item = batch["item_id_list"][row, column]
    other = item != batch["item_id"][row]
    return row[other], item[other]
