"""The straight paths against loops, and how they start."""

import pytest
import torch

from recbole_sigma.models.sigma.paths import InterestPath, RecencyPath


def test_recency_equals_a_loop_and_looks_back_only():
    torch.manual_seed(0)
    path, items = RecencyPath(4, 3), torch.randn(2, 6, 4)
    with torch.no_grad():
        path.project.weight.normal_()
        path.weights.normal_()
    got = path(items)
    for b in range(2):
        for t in range(6):
            total = sum(path.weights[age] * items[b, t - age] for age in range(min(3, t + 1)))
            expected = path.share * path.project.weight @ (total / path.weights.abs().sum())
            torch.testing.assert_close(got[b, t], expected)
    changed = items.clone()
    changed[:, 4:] = 9.0
    torch.testing.assert_close(path(changed)[:, :4], got[:, :4])


def test_recency_starts_as_similarity_to_the_newest_items():
    path = RecencyPath(4, 5)
    items = torch.nn.functional.normalize(torch.randn(1, 3, 4), dim=-1)
    direction = torch.nn.functional.normalize(path(items)[0, 2], dim=0)
    by_hand = torch.nn.functional.normalize(items[0, 2] + 0.8 * items[0, 1] + 0.64 * items[0, 0], dim=0)
    torch.testing.assert_close(direction, by_hand)


def test_interest_equals_a_loop_and_looks_back_only():
    torch.manual_seed(0)
    path, items = InterestPath(4, 0.5).eval(), torch.randn(2, 6, 4)
    with torch.no_grad():
        path.project.weight.normal_()
    got = path(items)
    for b in range(2):
        for t in range(6):
            total = sum(items[b, : t + 1]) / (t + 1) ** 0.5
            torch.testing.assert_close(got[b, t], path.project.weight @ total)
    changed = items.clone()
    changed[:, 4:] = 9.0
    torch.testing.assert_close(path(changed)[:, :4], got[:, :4])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_interest_starts_as_the_sum_and_hides_values_in_training_only(dropout):
    path, items = InterestPath(64, dropout), torch.ones(1, 4, 64)
    torch.testing.assert_close(path.eval()(items)[0, 3], torch.full((64,), 2.0))
    torch.manual_seed(0)
    hidden = float((path.train()(items) == 0).float().mean())
    assert (0.3 < hidden < 0.7) if dropout else hidden == 0.0
