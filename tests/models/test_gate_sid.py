"""GateSID: statistics that know no future, a gate that finds who is cold, scores of a catalogue in blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from recbole_sigma.models.as_of_counts import DAY, AsOfCounts
from recbole_sigma.models.gate_sid import GateNetwork
from recbole_sigma.settings.ranker_keys import GateSidKeys
from tests import planted as scenes
from tests.planted import tiny


def events(seed: int, count: int = 300, items: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """(items, seconds) of events in time order, many at the same time."""
    rng = np.random.default_rng(seed)
    return (
        torch.from_numpy(rng.integers(1, items, count)),
        torch.from_numpy(np.sort(rng.integers(0, 100, count)) * DAY).double() + 1e9,
    )


@pytest.mark.parametrize("seed", range(3))
def test_statistics_equal_a_count_by_hand(seed) -> None:
    items, seconds = events(seed)
    train = torch.from_numpy(np.random.default_rng(seed).random(len(items)) < 0.7)
    ranks = torch.arange(len(items))
    counts = AsOfCounts(items[train], ranks[train], seconds, 12, days=30.0)
    for moment in (0, 1, 57, 150, len(items) - 1):
        found = counts(torch.arange(12), torch.tensor(moment)).expm1()
        for item in range(12):
            before = train & (items == item) & (ranks < moment)
            age = float((seconds[moment] - seconds[before][0]) / DAY) if before.any() else 0.0
            # of late: from the first position that lies no more than 30 days back
            recent = int((before & (seconds >= seconds[moment] - 30.0 * DAY)).sum())
            want = torch.tensor([float(before.sum()), age, float(recent)])
            torch.testing.assert_close(found[item], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dated", [True, False])
def test_statistics_of_all_items_at_once_are_the_same(dated) -> None:
    items, seconds = events(2)
    train = torch.from_numpy(np.random.default_rng(0).random(len(items)) < 0.7)
    counts = AsOfCounts(items[train], torch.arange(300)[train], seconds if dated else None, 12, days=30.0)
    for moment in (0, 3, 150, 299, 300, 10_000):
        found = counts.of_all(torch.tensor(moment))
        assert torch.equal(found, counts(torch.arange(12), torch.tensor(moment)))


def test_what_happens_later_changes_no_earlier_statistic() -> None:
    items, seconds = events(5)
    ranks = torch.arange(len(items))
    counts = AsOfCounts(items, ranks, seconds, 12, days=30.0)
    other = items.clone()
    other[200:] = other[200:].roll(7)
    changed = AsOfCounts(other, ranks, seconds, 12, days=30.0)
    every, moments = torch.arange(12)[None], torch.arange(201)[:, None]
    assert torch.equal(counts(every, moments), changed(every, moments))
    assert not torch.equal(counts(every, moments + 60), changed(every, moments + 60))


def test_times_that_are_no_dates_leave_the_count() -> None:
    items, _ = events(1)
    counts = AsOfCounts(items, torch.arange(len(items)), None, 12, days=30.0)
    found = counts(torch.arange(12), torch.tensor(100))
    assert torch.equal(found[:, 0].expm1().round(), torch.bincount(items[:100], minlength=12).float())
    assert not found[:, 1:].any()


def network(mode: str = "learned", **changes) -> tuple[GateNetwork, list[torch.Tensor]]:
    torch.manual_seed(0)
    codes = torch.randint(0, 5, (30, 2))
    keys = GateSidKeys(gate_mode=mode, gate_size=8, gate_hidden=(16,), gate_dropout=0.0, **changes)
    net = GateNetwork(codes, (5, 5), keys).eval()
    history = torch.randint(1, 30, (4, 6))
    history[0, 3:] = 0
    return net, [history, torch.randint(1, 30, (4, 7)), torch.rand(4, 7, 3), torch.randn(4, 6, 8)]


@pytest.mark.parametrize(("mode", "deaf"), [("id", "sid"), ("sid", "id")])
def test_a_shut_gate_leaves_one_attention_alone(mode, deaf) -> None:
    net, inputs = network(mode)
    before, gate = net(*inputs)
    assert set(gate.unique().tolist()) == {0.0 if mode == "id" else 1.0}
    with torch.no_grad():
        net.queries[deaf].weight.normal_()
        net.readers[deaf].weight.normal_()
    assert torch.equal(net(*inputs)[0], before)


def test_weights_sum_to_one_and_padding_has_none() -> None:
    net, (history, items, _, _) = network()
    share = net._attend("id", net.items(items), net.items(history), history)
    torch.testing.assert_close(share.sum(-1), torch.ones(4, 7))
    assert not share[0, :, 3:].any()


def test_the_alignment_sends_no_gradient_into_the_gate() -> None:
    for detach in (True, False):
        net, (_, items, features, _) = network(gate_detach=detach)
        gate = net.gates(net.items(items[0]).detach(), features[0])
        net.alignment(items[0], gate).backward()
        assert (net.gate[0].weight.grad is None) == detach


def test_copies_of_an_item_are_no_negatives() -> None:
    net, _ = network()
    gate = torch.ones(3)
    alone = net.alignment(torch.tensor([3, 4]), gate[:2])
    # the copy adds nothing to the softmax of its double; the other item meets it twice
    own, other = (
        F.normalize(part, dim=-1)
        for part in (net.semantic(torch.tensor([3, 4])), net.items(torch.tensor([3, 4])))
    )
    logits = own @ other.T / net.keys.gate_tau
    twice = torch.logsumexp(torch.stack([logits[1, 0], logits[1, 0], logits[1, 1]]), 0) - logits[1, 1]
    first = torch.logsumexp(logits[0], 0) - logits[0, 0]
    torch.testing.assert_close(net.alignment(torch.tensor([3, 3, 4]), gate), (2 * first + twice) / 3)
    assert alone.isfinite()


def test_negatives_are_every_item_but_the_target(planted, monkeypatch) -> None:
    _, data, model = scenes.build("GateSID", "planted", {**planted, **tiny("GateSID"), "gate_negatives": 400})
    batch = next(iter(data.train))
    seen = {}
    real = model.score
    monkeypatch.setattr(model, "score", lambda rows, items: seen.update(items=items) or real(rows, items))
    model.calculate_loss(batch)
    target, drawn = seen["items"][:, :1], seen["items"][:, 1:]
    assert torch.equal(target[:, 0], batch[model.ITEM_ID])
    assert not (drawn == target).any() and drawn.min() >= 1 and drawn.max() < model.n_items


# --- planted: clicks tell of warm items, semantic IDs of cold ones ------------------------------------------


def marked_rows(rng, count, cluster, code):
    """Rows whose label is the mark of one event: the target's code-mate for cold targets (200 and up), its
    cluster-mate for warm ones. Every history holds both, beside six others.
    """
    warm = np.arange(1, 200)
    items = np.where(rng.random(count) < 0.25, rng.integers(200, 400, count), rng.integers(1, 200, count))
    history, marks = np.zeros((count, 8), dtype=np.int64), rng.integers(0, 2, (count, 8))
    labels = np.zeros(count, dtype=np.float32)
    for row, item in enumerate(items):
        like = cluster[warm] == cluster[item], code[warm] == code[item]
        own = warm != item
        history[row] = rng.choice(warm[~like[0] & ~like[1]], 8, replace=False)
        spots = rng.permutation(8)[:2]
        for spot, chosen in zip(spots, (like[0] & ~like[1] & own, ~like[0] & like[1] & own), strict=True):
            history[row, spot] = rng.choice(warm[chosen])
        labels[row] = marks[row, spots[int(item >= 200)]]
    return [torch.from_numpy(part) for part in (history, items, marks, labels)]


def learned(mode: str, detach: bool = True) -> dict[str, float]:
    """Mean gate and AUC of cold and of warm targets after training."""
    rng = np.random.default_rng(0)
    cluster, code = rng.integers(0, 20, 400), rng.integers(0, 20, 400)
    keys = GateSidKeys(
        gate_mode=mode, gate_size=16, gate_hidden=(64, 32), gate_dropout=0.0, gate_detach=detach
    )
    torch.manual_seed(0)
    net, mark = GateNetwork(torch.from_numpy(code)[:, None], (20,), keys), torch.nn.Embedding(2, 16)
    known = torch.zeros(400, 3)
    known[:, 0] = torch.where(torch.arange(400) < 200, 60.0, 1.0).log1p()
    optimizer = torch.optim.Adam([*net.parameters(), *mark.parameters()], lr=5e-3)
    history, items, marks, labels = marked_rows(rng, 12_000, cluster, code)
    for _ in range(14):
        for part in torch.randperm(len(labels)).split(256):
            own = items[part]
            logits, gate = net(history[part], own[:, None], known[own][:, None], mark(marks[part]))
            loss = F.binary_cross_entropy_with_logits(logits[:, 0], labels[part])
            loss = loss + keys.gate_align * net.alignment(own, gate[:, 0])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    history, items, marks, labels = marked_rows(rng, 3_000, cluster, code)
    with torch.no_grad():
        logits, gate = net(history, items[:, None], known[items][:, None], mark(marks))
    found = {}
    for name, chosen in (("cold", items >= 200), ("warm", items < 200)):
        found[f"gate {name}"] = float(gate[chosen].mean())
        found[f"auc {name}"] = roc_auc_score(labels[chosen], logits[chosen, 0])
    return found


@pytest.mark.slow
def test_the_gate_finds_who_is_cold() -> None:
    own = learned("learned")
    assert own["gate cold"] >= 0.8 and own["gate warm"] <= 0.2
    assert own["auc cold"] >= 0.97 and own["auc warm"] >= 0.95
    assert own["auc cold"] >= learned("id")["auc cold"] + 0.2  # clicks alone know no cold item
    assert own["auc warm"] >= learned("sid")["auc warm"] + 0.2  # semantic IDs alone miss the clusters
    # the documented failure: with its gradient in, the alignment closes the gate for cold items
    through = learned("learned", detach=False)
    assert through["gate cold"] <= own["gate cold"] - 0.4 and through["auc cold"] < own["auc cold"]


def test_no_held_out_event_is_counted(tmp_path) -> None:
    """Other validation and test items leave every statistic as it was, at any moment."""
    rng = np.random.default_rng(0)
    log = [
        (f"u{user}", f"i{item}", 1_000_000_000 + int(DAY) * (7 * user + 40 * step))
        for user in range(30)
        for step, item in enumerate(rng.integers(0, 9, 6))
    ]
    other = [(u, f"i{(int(i[1:]) + 1) % 9}" if k % 6 >= 4 else i, t) for k, (u, i, t) in enumerate(log)]
    small = {**tiny("GateSID"), "tokenizer_vectors": ["collaborative"], "tokenizer_codebook_size": 2}
    one, two = (
        scenes.build("GateSID", name, {**scenes.events_config(tmp_path / name, events), **small})[2].counts
        for name, events in (("one", log), ("two", other))
    )
    for name, table in one.named_buffers():
        assert torch.equal(table, two.get_buffer(name)), name
    assert len(one.keys) == 30 * 4
