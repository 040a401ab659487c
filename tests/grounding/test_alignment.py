import math

import numpy as np
import pytest
import torch

from recbole_sigma.grounding.alignment import (
    AlignmentOptions,
    align,
    contrastive_loss,
    distillation_loss,
    log_shares,
    not_compared,
    seeded,
)
from recbole_sigma.grounding.tower import FrozenTower
from recbole_sigma.grounding.views import collaborative_view, shared_value_view


def unit(n, d, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1)


def test_losses_equal_the_formulas_written_as_loops():
    tau, vectors, teacher = 0.1, unit(6, 4, 0), unit(6, 4, 1)
    items, partner = torch.arange(1, 7), torch.tensor([3, 4, 5, 0, 1, 2])

    def probability(x, i, j):
        return math.exp(x[i] @ x[j] / tau) / sum(math.exp(x[i] @ x[k] / tau) for k in range(6) if k != i)

    cl = -sum(math.log(probability(vectors, i, int(partner[i]))) for i in range(6)) / 6
    kd = sum(
        probability(teacher, i, j) * math.log(probability(teacher, i, j) / probability(vectors, i, j))
        for i in range(6)
        for j in range(6)
        if i != j
    ) / 6  # fmt: skip
    blocked = not_compared(items, partner)
    text, taught = log_shares(vectors, blocked, tau), log_shares(teacher, blocked, tau)
    assert contrastive_loss(text, partner).item() == pytest.approx(cl, rel=1e-5)
    everyone = torch.ones(6, dtype=torch.bool)
    assert distillation_loss(text, taught, everyone).item() == pytest.approx(kd, rel=1e-5)
    # rows that the teacher does not know neither count nor teach
    some = everyone & (torch.arange(6) != 2)
    rest = distillation_loss(text[some], taught[some], everyone[some])
    assert distillation_loss(text, taught, some).item() == pytest.approx(rest.item(), rel=1e-5)
    assert distillation_loss(text, taught, ~everyone).item() == 0.0


def test_copies_of_an_item_are_no_negatives():
    vectors = unit(4, 3, 0)
    blocked = not_compared(torch.tensor([1, 1, 2, 3]), torch.tensor([2, 3, 0, 1]))
    share = log_shares(vectors, blocked, 0.1).exp()
    assert share[0, 1] == share[1, 0] == 0 and not share.diagonal().any()
    assert share[0, 2] > 0 and share[1, 3] > 0
    torch.testing.assert_close(share.sum(dim=1), torch.ones(4))


def test_distillation_is_zero_for_equal_distributions():
    blocked = not_compared(torch.arange(1, 7), torch.tensor([3, 4, 5, 0, 1, 2]))
    shares = log_shares(unit(6, 4, 0), blocked, 0.1)
    everyone = torch.ones(6, dtype=torch.bool)
    assert distillation_loss(shares, shares.clone(), everyone).item() == pytest.approx(0, abs=1e-7)


def align_text(text, teacher, views, options):
    """`align` with a projection on frozen text vectors: (vectors, log)."""
    with seeded(options.seed):
        tower = FrozenTower(text, options.hidden, options.dim, options.dropout)
        log = align(tower, teacher, views, options)
        return tower.vectors(), log


def planted(seed=0, n=60, groups=6):
    """Text says nothing linear about the group; train pairs do."""
    rng = np.random.default_rng(seed)
    group = np.r_[-1, np.arange(n) % groups]
    text = rng.normal(size=(n + 1, 32)).astype(np.float32)
    text[0] = 0
    text /= np.maximum(np.linalg.norm(text, axis=1, keepdims=True), 1e-9)
    centre = np.eye(groups, dtype=np.float32)
    teacher = np.concatenate([np.zeros((1, groups), dtype=np.float32), centre[group[1:]]])
    view = shared_value_view("collaborative", [""] + [f"g{g}" for g in group[1:]], 4, seed=0)
    return group, text, teacher, view


def test_alignment_teaches_text_what_users_do():
    group, text, teacher, view = planted()
    grounded, log = align_text(
        text, teacher, [view], AlignmentOptions(dim=16, hidden=64, steps=200, batch_pairs=32, dropout=0.0)
    )
    same = group[1:, None] == group[None, 1:]
    np.fill_diagonal(same, False)

    def hits(x):
        similarity = x[1:] @ x[1:].T
        np.fill_diagonal(similarity, -9)
        return same[np.arange(len(same)), similarity.argmax(1)].mean()

    assert hits(grounded) > 0.5 > 3 * hits(text)
    assert log[-1]["loss_cl"] < log[0]["loss_cl"] and log[-1]["loss_kd"] < log[0]["loss_kd"]
    assert not grounded[0].any()


def test_same_seed_same_vectors_and_the_global_generator_is_left_alone():
    _, text, teacher, view = planted()
    options = AlignmentOptions(dim=8, hidden=16, steps=5, batch_pairs=8, seed=3)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, _ = align_text(text, teacher, [view], options)
    assert torch.rand(1) == expected
    second, _ = align_text(text, teacher, [view], options)
    np.testing.assert_array_equal(first, second)
    other, _ = align_text(
        text, teacher, [view], AlignmentOptions(dim=8, hidden=16, steps=5, batch_pairs=8, seed=4)
    )
    assert not np.array_equal(first, other)


def test_no_distillation_changes_the_vectors():
    _, text, teacher, view = planted()
    base = AlignmentOptions(dim=8, hidden=16, steps=20, batch_pairs=8)
    with_kd, _ = align_text(text, teacher, [view], base)
    without, log = align_text(
        text, teacher, [view], AlignmentOptions(dim=8, hidden=16, steps=20, batch_pairs=8, kd_weight=0)
    )
    assert not np.allclose(with_kd, without) and log[-1]["loss_kd"] == 0


def test_views_hold_what_they_promise():
    import scipy.sparse as sp

    counts = sp.csr_matrix(np.array([[0, 0, 0, 0], [0, 0, 4.0, 1.0], [0, 4.0, 0, 0], [0, 1.0, 0, 0]]))
    view = collaborative_view(counts)
    assert {(a, b) for a, b in zip(view.left, view.right)} == {(1, 2), (1, 3)}
    assert (
        view.weight.sum() == pytest.approx(1) and view.weight[view.right == 2] > view.weight[view.right == 3]
    )
    shared = shared_value_view("taxonomy", ["", "a", "a", "b", "", "a"], 3, seed=0)
    assert set(shared.left) == {1, 2, 5} and (shared.left != shared.right).all()
    assert len(shared_value_view("brand", ["", "x", "y"], 3, seed=0)) == 0
