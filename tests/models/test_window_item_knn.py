from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_sigma.grounding.cooccurrence import window_similarity
from recbole_sigma.quick_start import load_data_and_model, run


def brute(users, items, n_items, window, shrink, forward=0.5):
    pairs = np.zeros((n_items, n_items))
    count = np.bincount(items, minlength=n_items)
    for a in range(len(items)):
        for b in range(a + 1, min(a + window, len(items) - 1) + 1):
            if users[a] == users[b] and items[a] != items[b]:
                pairs[items[a], items[b]] += 2 * forward * (b - a) ** -0.5
                pairs[items[b], items[a]] += 2 * (1 - forward) * (b - a) ** -0.5
    with np.errstate(invalid="ignore"):
        return np.where(pairs > 0, pairs / (np.sqrt(np.outer(count, count)) + shrink), 0)


@pytest.mark.parametrize(("window", "shrink"), [(1, 0.0), (3, 10.0), (50, 1.0)])
def test_similarity_equals_a_double_loop(window, shrink) -> None:
    rng = np.random.default_rng(0)
    users, items = np.sort(rng.integers(0, 5, 60)), rng.integers(1, 12, 60)
    found = window_similarity(users, items, 12, window, shrink).toarray()
    np.testing.assert_allclose(found, brute(users, items, 12, window, shrink), atol=1e-12)
    np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize("forward", [0.0, 0.7, 1.0])
def test_votes_flow_forwards_by_their_share(forward) -> None:
    rng = np.random.default_rng(0)
    users, items = np.sort(rng.integers(0, 5, 60)), rng.integers(1, 12, 60)
    found = window_similarity(users, items, 12, 4, 2.0, forward).toarray()
    np.testing.assert_allclose(found, brute(users, items, 12, 4, 2.0, forward), atol=1e-12)
    assert not np.allclose(found, found.T)


@pytest.mark.parametrize("forward", [0.5, 0.8])
def test_scores_are_recency_weighted_sums(planted, forward) -> None:
    change = {"knn_last": 3, "knn_decay": 0.5, "knn_forward": forward}
    result = run("WindowItemKNN", "planted", config_dict={**planted, **change})
    _, model, dataset, _, _, test = load_data_and_model(result["checkpoint"])
    interaction, *_ = next(iter(test))
    scores = model.full_sort_predict(interaction)
    similarity = torch.from_numpy(model.part.matrix.toarray())
    for row in range(len(interaction)):
        history = interaction["item_id_list"][row, : interaction["item_length"][row]].tolist()[::-1][:3]
        want = sum(0.5**age * similarity[item] for age, item in enumerate(history))
        torch.testing.assert_close(scores[row].double(), want, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        model.predict(interaction), scores[torch.arange(len(scores)), interaction["item_id"]]
    )


def test_held_out_events_do_not_count(planted) -> None:
    result = run("WindowItemKNN", "planted", config_dict=planted)
    _, model, dataset, train, _, _ = load_data_and_model(result["checkpoint"])
    events = train._dataset.train_events()
    assert len(events) == len(dataset.chronology) - 2 * (dataset.user_num - 1)
    order, _ = events.by_user
    want = brute(events.users[order].numpy(), events.items[order].numpy(), dataset.item_num, 10, 10.0)
    np.testing.assert_allclose(model.part.matrix.toarray(), want, atol=1e-12)


def test_the_known_number_on_ml100k() -> None:
    """.2248 / .1180, measured independently in another code base."""
    result = run(
        "WindowItemKNN", "ml-100k", config_dict={"show_progress": False, "state": "ERROR"}, saved=False
    )
    assert result["test_result"]["hit@10"] == pytest.approx(0.2248, abs=1e-4)
    assert result["test_result"]["ndcg@10"] == pytest.approx(0.1180, abs=1e-4)
