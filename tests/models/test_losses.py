import pytest
import torch
import torch.nn.functional as F

from recbole_sigma.models import losses
from recbole_sigma.models.losses import (
    catalogue_cross_entropy,
    hide,
    history_of,
)
from recbole_sigma.models.sigma.item_tokens import ItemFusion
from recbole_sigma.models.sigma.objective import ItemTable
from recbole_sigma.models.sigma.paper import same_prefix_loss
from recbole_sigma.tokenization.catalogue import group_by_prefix
from tests.arithmetic import STATES


def catalogue_loss(queries, targets, items, scale, seen=None):
    logits = F.normalize(queries, dim=-1) @ items.T * scale
    return F.cross_entropy(hide(logits, seen), targets, reduction="none")


def setup(n=12, d=5, prefixes=4):
    torch.manual_seed(0)
    prefix = torch.cat(
        [torch.zeros(1, dtype=torch.int64), torch.randint(prefixes - 1, (n - 1,))]
    )  # the last code is unused
    items = F.normalize(torch.randn(n, d), dim=1)
    return prefix, items, group_by_prefix(prefix, prefixes), torch.randn(7, d), torch.randint(1, n, (7,))


def test_same_prefix_loss_equals_a_loop_over_positions():
    prefix, items, buckets, queries, targets = setup()
    each = []
    for q, y in zip(queries, targets):
        members = [i for i in range(1, 12) if prefix[i] == prefix[y]]
        logits = torch.stack([F.normalize(q, dim=0) @ items[i] * 3.0 for i in members])
        each.append(F.cross_entropy(logits, torch.tensor(members.index(int(y)))))
    got = same_prefix_loss(
        3.0 * F.normalize(queries, dim=1), targets, ItemTable(items, items, items), buckets
    )
    torch.testing.assert_close(got, torch.stack(each))


def test_catalogue_loss_leaves_the_padding_item_out():
    _, items, _, queries, targets = setup()
    expected = F.cross_entropy(F.normalize(queries, dim=1) @ items[1:].T * 2.0, targets - 1, reduction="none")
    torch.testing.assert_close(catalogue_loss(queries, targets, items, torch.tensor(2.0)), expected)
    changed = items.clone()
    changed[0] = 100.0
    torch.testing.assert_close(catalogue_loss(queries, targets, changed, torch.tensor(2.0)), expected)


@pytest.mark.parametrize("hidden", [0, 8])
def test_fusion_of_some_items_equals_rows_of_the_whole(hidden):
    torch.manual_seed(0)
    frozen = {"id": torch.randn(6, 3), "text": torch.randn(6, 4)}
    frozen["text"][2] = 0
    fusion = ItemFusion(frozen, 5, hidden)
    some = torch.tensor([[1, 2], [5, 2]])
    torch.testing.assert_close(fusion(some), fusion()[some])
    before = fusion(torch.tensor([2])).detach()
    with torch.no_grad():
        fusion.absent["text"].add_(1.0)
    assert not torch.allclose(before, fusion(torch.tensor([2])))
    assert torch.allclose(fusion()[3], fusion(torch.tensor(3)))


def test_without_the_norm_a_token_is_as_long_as_its_frozen_vectors():
    torch.manual_seed(0)
    frozen = torch.randn(50, 8) * 7.0
    frozen[3] *= 10.0
    frozen[4] = 0.0
    plain = ItemFusion({"id": frozen}, 64, 0, id_residual=False, norm=False)
    length = plain().norm(dim=1).detach()
    assert length[3] / length[5] == pytest.approx(float(frozen[3].norm() / frozen[5].norm()), rel=0.3)
    assert length[5] < 1.0  # as small as words, however long the frozen vectors are
    read = plain.read(plain())[5]
    assert float(read.square().mean()) == pytest.approx(1.0, rel=0.2)
    assert ItemFusion({"id": frozen}, 64, 0).read(frozen) is frozen


def test_frozen_vectors_take_no_gradient_and_do_not_travel_in_the_state():
    fusion = ItemFusion({"id": torch.randn(4, 3)}, 5, 0)
    assert not any("frozen" in name for name in fusion.state_dict())
    assert not fusion.frozen_id.requires_grad


def test_a_history_holds_what_came_before_but_not_the_target():
    items = torch.tensor([[5, 6, 5], [8, 9, 0]])
    found = history_of(items, torch.tensor([0, 0, 1, 0]), torch.tensor([0, 1, 0, -1]))
    assert found.tolist() == [[5, 0], [0, 6], [8, 0], [0, 0]]


def test_seen_items_are_no_negatives():
    """Both losses with hidden items equal the losses on a catalogue without those items, prediction by
    prediction.
    """
    prefix, items, buckets, queries, targets = setup(n=20)
    seen = [(m, i) for m in range(7) for i in (2, 5, 11) if i != int(targets[m])]
    pairs = tuple(torch.tensor(column) for column in zip(*seen))
    listed = torch.tensor([[i if (m, i) in seen else 0 for i in (2, 0, 5, 11)] for m in range(7)])
    whole = local = 0.0
    for m, y in enumerate(targets.tolist()):
        hidden = {i for q, i in seen if q == m} - {y}
        for members in ([i for i in range(1, 20)], [i for i in range(1, 20) if prefix[i] == prefix[y]]):
            open_items = [i for i in members if i not in hidden]
            logits = torch.stack([F.normalize(queries[m], dim=0) @ items[i] * 3.0 for i in open_items])
            loss = F.cross_entropy(logits, torch.tensor(open_items.index(y))) / 7
            if len(members) == 19:
                whole += loss
            else:
                local += loss
    scale = torch.tensor(3.0)
    torch.testing.assert_close(catalogue_loss(queries, targets, items, scale, pairs).mean(), whole)
    scaled = 3.0 * F.normalize(queries, dim=1)
    found = same_prefix_loss(scaled, targets, ItemTable(items, items, items), buckets, listed)
    torch.testing.assert_close(found.mean(), local)


def test_catalogue_cross_entropy_equals_the_dense_loss_and_its_gradients(monkeypatch):
    torch.manual_seed(3)
    queries, items = torch.randn(23, 6, requires_grad=True), torch.randn(40, 6, requires_grad=True)
    targets, weights = torch.randint(1, 40, (23,)), torch.rand(23)
    hidden = torch.randint(0, 40, (23, 5))  # with empty slots and repetitions
    hidden[hidden == targets[:, None]] = 0
    seen = (torch.arange(23).repeat_interleave(5), hidden.flatten())
    monkeypatch.setattr(losses, "_CELLS", 40 * 16)  # several blocks
    total, each = catalogue_cross_entropy(queries, items, targets, weights, hidden)
    got = torch.autograd.grad(3.0 * total, [queries, items])
    logits = hide(queries @ items.T, seen)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(each, expected)
    assert not each.requires_grad
    torch.testing.assert_close(total, (expected * weights).sum())
    for mine, true in zip(got, torch.autograd.grad(3.0 * (expected * weights).sum(), [queries, items])):
        torch.testing.assert_close(mine, true, **STATES)


def rdrop_of_dense_logits(first, second, targets, weights, alpha):
    """Equation 4 of arXiv 2106.14448, halved; logits with -inf where an item is left out."""
    wanted = sum(F.cross_entropy(logits, targets, reduction="none") for logits in (first, second)) / 2
    a, b = (logits.double().log_softmax(dim=1) for logits in (first, second))
    both = (a.exp() * (a - b), b.exp() * (b - a))
    far = sum(part.nan_to_num(nan=0.0).sum(dim=1) for part in both)
    return (weights * (wanted + alpha / 4 * far)).sum(), wanted


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_rdrop_over_the_catalogue_equals_its_formula_and_its_gradients(monkeypatch, alpha):
    torch.manual_seed(4)
    queries, items = torch.randn(46, 6, requires_grad=True), torch.randn(40, 6, requires_grad=True)
    targets, weights = torch.randint(1, 40, (23,)), torch.rand(23)
    hidden = torch.randint(0, 40, (23, 5))
    hidden[hidden == targets[:, None]] = 0
    hidden[0] = torch.arange(1, 40)[torch.arange(1, 40) != targets[0]][:5]
    seen = (torch.arange(23).repeat_interleave(5), hidden.flatten())
    monkeypatch.setattr(losses, "_CELLS", 2 * 40 * 8)
    monkeypatch.setattr(losses, "_ROWS", 8)  # blocks of 8, the last one of 7
    total, each = catalogue_cross_entropy(queries, items, targets, weights, hidden, alpha)
    got = torch.autograd.grad(3.0 * total, [queries, items])
    first, second = (hide(half @ items.T, seen) for half in queries.chunk(2))
    wanted, plain = rdrop_of_dense_logits(first, second, targets, weights, alpha)
    torch.testing.assert_close(each, plain)
    torch.testing.assert_close(total, wanted.float(), **STATES)
    # written out, the divergence has no gradient where an item is left out, which autograd makes 0 * inf
    open_first, open_second = (logits.masked_fill(torch.isneginf(logits), -1e4) for logits in (first, second))
    wanted, _ = rdrop_of_dense_logits(open_first, open_second, targets, weights, alpha)
    for mine, true in zip(got, torch.autograd.grad(3.0 * wanted, [queries, items])):
        torch.testing.assert_close(mine, true.float(), **STATES)


def test_rdrop_of_two_equal_passes_is_the_cross_entropy_of_one():
    torch.manual_seed(4)
    queries, items = torch.randn(9, 6), torch.randn(40, 6)
    targets, weights = torch.randint(1, 40, (9,)), torch.rand(9)
    once, each = catalogue_cross_entropy(queries, items, targets, weights)
    twice, both = catalogue_cross_entropy(queries.repeat(2, 1), items, targets, weights, rdrop=2.0)
    torch.testing.assert_close((once, each), (twice, both))
    none = catalogue_cross_entropy(queries[:0], items, targets[:0], weights[:0], rdrop=2.0)
    assert none[0] == 0.0 and len(none[1]) == 0


def test_sampled_softmax_is_over_the_target_and_the_drawn_items_that_are_others():
    _, items, _, queries, targets = setup()
    torch.manual_seed(5)
    got = losses.uniform_cross_entropy(queries, items, targets, torch.ones(7), 6)
    torch.manual_seed(5)
    drawn = torch.randint(1, 12, (6,))
    want = 0.0
    for query, target in zip(queries, targets):
        others = [int(i) for i in drawn if i != target]
        logits = torch.stack([query @ items[i] for i in (int(target), *others)])
        want += F.cross_entropy(logits, torch.tensor(0))
    torch.testing.assert_close(got, want)
    assert 0 not in drawn


def test_a_gate_begins_as_the_plain_sum_and_weighs_text_against_the_rest():
    torch.manual_seed(0)
    frozen, known = {"id": torch.randn(6, 3), "text": torch.randn(6, 4)}, torch.rand(6, 3)
    plain, gated = ItemFusion(frozen, 5, 0, norm=False), ItemFusion(frozen, 5, 0, norm=False, known=known)
    gated.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(gated(), plain())
    with torch.no_grad():
        gated.gate[2].bias.fill_(-40.0)
        rest = gated.residual.weight + gated.projections["id"](gated.frozen_id)
        torch.testing.assert_close(gated(), 2 * rest)
        gated.gate[2].bias.fill_(40.0)
        torch.testing.assert_close(gated(), 2 * gated.projections["text"](gated.frozen_text))
        gated.gate[2].weight.normal_()
        gated.gate[2].bias.zero_()
        some = torch.tensor([[1, 2], [5, 2]])
        torch.testing.assert_close(gated(some), gated()[some])


@pytest.mark.parametrize("gated", [False, True])
def test_a_hidden_item_is_one_without_a_trained_vector(gated: bool) -> None:
    """Whole items, about as many as asked for, in training alone; padding has no vector to lose."""
    made = torch.Generator().manual_seed(0)
    known = torch.randn(9, 2, generator=made) if gated else None
    fusion = ItemFusion(
        {"text": torch.randn(9, 4, generator=made)}, 6, 0, norm=False, known=known, hide_id=0.3
    )
    if fusion.gate is not None:
        torch.nn.init.normal_(fusion.gate[2].weight, generator=made)
    items = torch.randint(1, 9, (40, 50), generator=made)
    tokens, weights = fusion(items), 1.0
    if gated:
        weights = 2.0 * fusion.gates(items)[..., None]
    bare = weights * fusion.projections["text"](fusion.get_buffer("frozen_text")[items])
    left = fusion.hide(tokens, items)
    hidden = (left != tokens).any(dim=-1)
    torch.testing.assert_close(left, torch.where(hidden[..., None], bare, tokens))
    assert abs(hidden.float().mean() - 0.3) < 4 * (0.3 * 0.7 / hidden.numel()) ** 0.5
    assert not torch.equal(left, fusion.hide(tokens, items))  # drawn anew
    assert fusion.eval().hide(tokens, items) is tokens
