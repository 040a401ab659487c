"""SORT: candidates that never see each other, the dense attention it saves, vectors of another model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from recbole_sigma.grounding.vector_file import read_item_vectors
from recbole_sigma.models.sort_network import RequestTransformer, RMSNorm, kept, turns
from recbole_sigma.settings.ranker_keys import SortKeys
from recbole_sigma.values import UserError
from tests import planted as scenes
from tests.arithmetic import SCORES
from tests.planted import tiny


def transformer(longest: int = 9, **changes) -> RequestTransformer:
    torch.manual_seed(0)
    keys = SortKeys(**{"sort_size": 16, "sort_dropout": 0.0, "sort_layers": 3, **changes})
    net = RequestTransformer(keys, longest).eval()
    with torch.no_grad():
        net.marks.weight.normal_()
    return net


def request(rows: int = 3, length: int = 9, profile: int = 2, candidates: int = 6) -> list[torch.Tensor]:
    torch.manual_seed(1)
    real = torch.ones(rows, length, dtype=torch.bool)
    real[0, :4] = False  # left-padded
    parts = (torch.randn(rows, count, 16) for count in (length, profile, candidates))
    history, about, asked = parts
    return [history, real, about, asked]


def scores(net: RequestTransformer, history, real, profile, asked) -> torch.Tensor:
    with torch.no_grad():
        return net.candidates(net.context(history, real, profile), asked)


def test_a_candidate_is_scored_alike_in_any_company() -> None:
    net, (history, real, profile, asked) = transformer(), request()
    whole = scores(net, history, real, profile, asked)
    order = torch.tensor([4, 0, 3])
    torch.testing.assert_close(
        scores(net, history, real, profile, asked[:, order]), whole[:, order], rtol=0, atol=1e-6
    )
    other = asked.clone()
    other[:, 1:] = torch.randn_like(other[:, 1:]) * 100
    torch.testing.assert_close(
        scores(net, history, real, profile, other)[:, 0], whole[:, 0], rtol=0, atol=1e-6
    )


def test_a_batch_of_requests_equals_one_by_one_and_padding_changes_nothing() -> None:
    net, (history, real, profile, asked) = transformer(sort_keep=2, sort_window=3), request()
    whole = scores(net, history, real, profile, asked)
    for row in range(len(history)):
        own = real[row]  # without its padding
        alone = scores(net, history[row, own][None], own[own][None], profile[row][None], asked[row][None])
        torch.testing.assert_close(alone[0], whole[row], **SCORES)


def dense(net: RequestTransformer, history, real, profile, candidate) -> torch.Tensor:
    """The score of one candidate behind one request without padding: one sequence, full causal attention."""
    begin, sep = net.marks.weight[:, None]
    states = torch.cat([begin, history, sep, profile, sep, candidate[None]])[None]
    size = states.shape[1]
    place = (torch.arange(size) - (size - 1))[None]  # the candidate stands at 0
    mask = torch.ones(size, size, dtype=torch.bool).tril()[None, None]
    for layer in net.layers:
        key, value = layer.read(states, turns(place, 8))
        states = layer(states, key, value, turns(place, 8), mask)
    return net.head(F.rms_norm(states[0, -1], (16,)))[0]


@pytest.mark.parametrize("changes", [{}, {"sort_qk_norm": False}, {"sort_gate": False}])
def test_without_window_and_pruning_it_is_full_causal_attention(changes) -> None:
    net, (history, real, profile, asked) = transformer(sort_window=99, sort_keep=99, **changes), request()
    whole = scores(net, history, real, profile, asked)
    with torch.no_grad():
        for row in range(len(history)):
            for column in range(asked.shape[1]):
                want = dense(net, history[row, real[row]], real, profile[row], asked[row, column])
                torch.testing.assert_close(whole[row, column], want, **SCORES)


def test_a_window_hides_what_is_far() -> None:
    allowed = transformer(sort_window=3)._allowed(9, 4, "cpu")[0]
    assert allowed[7].nonzero().flatten().tolist() == [0, 5, 6, 7]  # BOS and the three newest
    assert allowed[10].nonzero().flatten().tolist() == list(range(11))  # behind the history: everything


def test_what_is_pruned_is_read_no_more() -> None:
    """The second layer computes three history tokens: BOS, those, SEP, two of the profile, SEP."""
    net, (history, real, profile, _) = transformer(sort_layers=2, sort_keep=3), request()
    context = net.context(history, real, profile)
    assert [pairs.shape[3] for pairs, _ in context] == [1 + 9 + 4, 1 + 3 + 4]
    # what only the second layer could have told of the oldest event is gone: with a window of one event
    # in the first layer nobody but the candidate reads it, and there its weight is set to nothing
    oldest = history.clone()
    oldest[1:, 0] = torch.randn_like(oldest[1:, 0]) * 10
    changed = net.context(oldest, real, profile)
    near = transformer(sort_layers=2, sort_keep=3, sort_window=1)
    before, after = near.context(history, real, profile), near.context(oldest, real, profile)
    assert torch.equal(before[1][0][:, :, :, 1:4], after[1][0][:, :, :, 1:4])
    assert not torch.equal(context[1][0][:, :, :, 1:4], changed[1][0][:, :, :, 1:4])


def test_each_token_goes_through_the_expert_that_its_router_likes_best() -> None:
    net = transformer(sort_experts=4)
    layer, states = net.layers[0], torch.randn(2, 5, 16)
    found = layer._feed_forward(states)
    for row in range(2):
        for place in range(5):
            share = layer.router(states[row, place]).softmax(dim=0)
            best = int(share.argmax())
            want = layer.experts[best](states[row, place]) * share[best]
            torch.testing.assert_close(found[row, place], want, **SCORES)
    found.sum().backward()
    assert layer.router.weight.grad.abs().sum() > 0


def test_without_marks_nobody_reads_them() -> None:
    net, (history, real, profile, asked) = transformer(sort_marks=False), request()
    whole = scores(net, history, real, profile, asked)
    with torch.no_grad():
        net.marks.weight.normal_()
    torch.testing.assert_close(scores(net, history, real, profile, asked), whole, **SCORES)


def test_the_norm_and_its_gradient_are_those_of_torch() -> None:
    own, theirs = RMSNorm(6).double(), torch.nn.RMSNorm(6, eps=1e-6).double()
    with torch.no_grad():
        own.weight.normal_()
        theirs.weight.copy_(own.weight)
    given = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(own(given), theirs(given))
    assert torch.autograd.gradcheck(own, given)


def test_what_each_layer_keeps() -> None:
    assert kept(50, 16, 3) == [50, 33, 16]
    assert kept(50, 16, 1) == [50] and kept(8, 16, 2) == [8, 8]


# --- vectors of another model -------------------------------------------------------------------------------


def exported(folder, names, vectors):
    folder.mkdir()
    lines = ["item\tgeneration\ttext", *(f"{name}\t1\t" for name in names)]
    (folder / "items.tsv").write_text("\n".join(lines) + "\n")
    np.save(folder / "vectors.npy", vectors.astype(np.float32))
    return folder


def test_frozen_vectors_stay_and_unknown_items_share_one(planted, tmp_path) -> None:
    _, data, _ = scenes.build("SORT", "planted", {**planted, **tiny("SORT")})
    names = [str(name) for name in data.train._dataset.field2id_token["item_id"]][1:]
    vectors = np.random.default_rng(0).normal(size=(len(names) - 2, 5))
    folder = exported(tmp_path / "items", names[2:], vectors)
    _, data, model = scenes.build("SORT", "planted", {**planted, **tiny("SORT"), "sort_items_from": folder})
    before = model.items.weight.clone()
    assert torch.equal(before[3:], torch.from_numpy(vectors.astype(np.float32)))
    tokens = model.item_tokens(torch.tensor([1, 2, 3]))
    assert torch.equal(tokens[0], tokens[1]) and not torch.equal(tokens[1], tokens[2])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.calculate_loss(next(iter(data.train))).backward()
    optimizer.step()
    assert model.items.weight.grad is None and torch.equal(model.items.weight, before)


def test_a_folder_that_is_none(tmp_path) -> None:
    with pytest.raises(UserError, match=r"sort_items_from: .*items.tsv does not exist"):
        read_item_vectors(tmp_path, ["[PAD]", "a"], "sort_items_from")
    folder = exported(tmp_path / "items", ["x"], np.ones((1, 2)))
    with pytest.raises(UserError, match="none of the 1 items"):
        read_item_vectors(folder, ["[PAD]", "a"], "sort_items_from")
    np.save(tmp_path / "items/vectors.npy", np.full((1, 2), np.nan))
    with pytest.raises(UserError, match="no number"):
        read_item_vectors(folder, ["[PAD]", "x"], "sort_items_from")
    np.save(folder / "vectors.npy", np.array([["a", "b"]]))
    with pytest.raises(UserError, match="holds what is no number"):
        read_item_vectors(folder, ["[PAD]", "a"], "sort_items_from")
    (folder / "items.tsv").write_bytes(b"item\n\xff\n")
    with pytest.raises(UserError, match=r"items.tsv is damaged .*: export the items again"):
        read_item_vectors(folder, ["[PAD]", "a"], "sort_items_from")


def clusters(rng, count, groups=100, each=6, length=10):
    """Histories inside one cluster, a candidate of it or of another that none holds, and which it is."""
    group = rng.integers(0, groups, count)
    history = 1 + group[:, None] * each + rng.integers(0, each - 2, (count, length))
    label = rng.integers(0, 2, count)
    other = (group + rng.integers(1, groups, count)) % groups
    candidate = 1 + np.where(label == 1, group, other) * each + rng.integers(each - 2, each, count)
    return (torch.from_numpy(part) for part in (history, candidate, label.astype(np.float32)))


def auc_of(table: torch.Tensor | None, freeze: bool) -> float:
    """AUC of a ranker on 1,500 labelled users, its item vectors learned, loaded, or loaded and frozen."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    net = RequestTransformer(SortKeys(sort_size=16, sort_dropout=0.0, sort_layers=1), 10)
    items = torch.nn.Embedding(601, 16)
    torch.nn.init.normal_(items.weight)
    if table is not None:
        items = torch.nn.Embedding.from_pretrained(table.clone(), freeze=freeze)
    items.weight.requires_grad_(not freeze)
    optimizer = torch.optim.Adam([p for p in [*net.parameters(), items.weight] if p.requires_grad], lr=3e-3)

    def logits(history, candidate):
        real, nobody = torch.ones(history.shape, dtype=torch.bool), torch.zeros(len(history), 0, 16)
        context = net.context(items(history), real, nobody)
        return net.candidates(context, items(candidate)[:, None])[:, 0]

    history, candidate, label = clusters(rng, 1_500)
    for _ in range(12):
        for part in torch.randperm(len(label)).split(128):
            loss = F.binary_cross_entropy_with_logits(logits(history[part], candidate[part]), label[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    history, candidate, label = clusters(rng, 3_000)
    with torch.no_grad():
        return roc_auc_score(label, logits(history, candidate))


@pytest.mark.slow
def test_vectors_that_know_the_clusters_and_stay_beat_learning_from_scratch() -> None:
    """Vectors as next-item training leaves them: those of a cluster lie together."""
    torch.manual_seed(3)
    centres = torch.randn(100, 16).repeat_interleave(6, dim=0)
    table = torch.cat([torch.zeros(1, 16), centres + 0.3 * torch.randn(600, 16)])
    scratch, frozen_random = auc_of(None, False), auc_of(None, True)
    transfer, transfer_freeze = auc_of(table, False), auc_of(table, True)
    assert transfer_freeze >= scratch + 0.10 and transfer >= scratch
    assert frozen_random <= transfer_freeze - 0.10
