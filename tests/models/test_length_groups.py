import pytest
import torch

from recbole_sigma.models import packed as packed_model
from recbole_sigma.models.packed import SMALLEST_GROUP, length_groups
from tests.arithmetic import STATES
from tests.planted import build, cycle_config, write_cycle

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "sizes", [[3], [2] * 20, [2] * 20 + [50], [2] * 40 + [50], [9] * 3 + [40] * 30, [70, 5, 9]]
)
def test_groups_are_a_partition_of_similar_rows(sizes):
    length = torch.tensor(sizes)
    groups = length_groups(length, CPU)
    assert torch.equal(torch.cat(groups).sort().values, torch.arange(len(sizes)))
    assert all(len(group) >= min(SMALLEST_GROUP, len(sizes)) for group in groups[:-1])
    tops = [int(length[group].max()) for group in groups]
    assert tops == sorted(tops)


@pytest.mark.parametrize("rows", ["windows", "prefixes"])
@pytest.mark.parametrize("model", ["SIGMA", "PackedSASRec"])
def test_grouped_loss_and_gradients_equal_one_padded_pass(tmp_path, monkeypatch, model, rows):
    file = tmp_path / "data/cycle/cycle.inter"
    write_cycle(file.parent, length=16)
    lines = file.read_text().splitlines()
    kept = [
        line
        for n, line in enumerate(lines)
        if n == 0 or int(line.split("u")[1].split("\t")[0]) % 3 or n % 16 > 8
    ]
    file.write_text("\n".join(kept) + "\n")
    change = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0} if model == "PackedSASRec" else {}
    settings = cycle_config(
        tmp_path / "data", tmp_path, train_batch_size=64, filter_seen=True, train_rows=rows, **change
    )
    _, data, network = build(model, "cycle", settings)
    batch = next(iter(data.train))
    monkeypatch.setattr(packed_model, "SMALLEST_GROUP", 4)
    assert len(length_groups(batch["item_length"] + 1, CPU)) > 1
    found = []
    for groups in (length_groups, lambda length, *_: [torch.arange(len(length))]):
        monkeypatch.setattr(packed_model, "length_groups", groups)
        torch.manual_seed(0)
        network.zero_grad()
        loss = network.calculate_loss(batch)
        loss = sum(loss) if isinstance(loss, tuple) else loss
        loss.backward()
        found.append((loss.detach(), [p.grad.clone() for p in network.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0][0], found[1][0], **STATES)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, **STATES)


def test_an_accelerator_takes_the_batch_in_one_pass():
    assert len(length_groups(torch.tensor([2] * 40 + [50] * 40), torch.device("meta"))) == 1


def test_rows_end_in_their_target_and_know_their_predictions(tmp_path):
    write_cycle(tmp_path / "data/cycle", length=16)
    settings = cycle_config(tmp_path / "data", tmp_path, MAX_ITEM_LIST_LENGTH=12)
    _, data, network = build("PackedSASRec", "cycle", settings)
    batch = next(iter(data.train))
    rows = network.packed_rows(batch)
    wanted = [
        [*history[: int(size)].tolist(), int(target)]
        for history, size, target in zip(
            batch["item_id_list"], batch["item_length"], batch["item_id"], strict=True
        )
    ]
    found = [items[: int(size)].tolist() for items, size in zip(rows.items, rows.length, strict=True)]
    assert sorted(found) == sorted(wanted)
    pairs = {(int(r), int(c)) for r, c in zip(rows.row, rows.column, strict=True)}
    assert pairs == {(r, c) for r, row in enumerate(found) for c in range(len(row) - 1)}
    assert len(rows.row) == rows.passes.targets == len(pairs)
