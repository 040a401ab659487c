"""TGH by hand: rings, places and what a ring lends to the next. TextLinear: cold items and their map."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_sigma.grounding.cooccurrence import transitions, unit_rows
from recbole_sigma.models.text_linear import with_cold
from recbole_sigma.models.tgh import TGH, assembled
from recbole_sigma.quick_start import run


def test_transitions_are_directed_and_inside_users() -> None:
    users, items = np.array([1, 1, 1, 2, 2, 2]), np.array([1, 2, 1, 2, 1, 2])
    counts = transitions(users, items, 4).toarray()
    assert counts[1, 2] == 2 and counts[2, 1] == 2 and counts.sum() == 4


@pytest.mark.parametrize(
    ("rings", "budget", "chosen", "spare"),
    [
        ([[1, 2, 3], [4, 5], [6]], (2, 1, 1), [1, 2, 4, 6], [3, 5]),
        ([[1], [4, 5, 7], [6]], (2, 1, 1), [1, 4, 6, 5], [7]),  # ring 1 lacks one: at the end, from ring 2
        ([[1, 2, 3], [], [6]], (2, 1, 1), [1, 2, 3, 6], []),  # ring 2 lacks one: ring 1 lends it
        ([[], [], []], (2, 1, 1), [], []),
    ],
)
def test_places_of_a_list(rings, budget, chosen, spare) -> None:
    assert assembled(rings, budget) == (chosen, spare)


def graph(budgets: tuple[tuple[int, ...], ...]) -> TGH:
    """1 -> 2 (three times), 1 -> 3 (once), 2 -> 4, 2 -> 1, 3 -> 5, 4 -> 6, 6 -> 7; 8 stands alone.

    Text: unit vectors in the plane. From 1, item 3 is nearer (cosine .8) than 2 (.3): the counts give 2 .5
    and 3 .25 more, so 3 stays first with 1.05 to .8.
    """
    edges = [(1, 2)] * 3 + [(1, 3), (2, 4), (2, 1), (3, 5), (4, 6), (6, 7)]
    pairs = np.array(edges)
    users = np.repeat(np.arange(len(edges)), 2)
    cosine = {1: 1.0, 2: 0.3, 3: 0.8, 4: 0.1, 5: 0.9, 6: 0.2, 7: 0.0, 8: 0.6}
    text = np.zeros((9, 2))
    for item, x in cosine.items():
        text[item] = x, np.sqrt(1 - x * x)
    model = TGH.__new__(TGH)
    torch.nn.Module.__init__(model)
    model.n_items, model.budgets, model.text = 9, budgets, text
    model.counts = transitions(users, pairs.flatten(), 9)
    model.edges = (model.counts > 0).astype(np.float32)
    model.largest = model.counts.max(axis=1).toarray()[:, 0]
    return model


def listed(scores: np.ndarray) -> list[int]:
    return [int(i) for i in np.argsort(-scores, kind="stable")]


def test_the_list_of_one_source_by_hand() -> None:
    """Ring 1 of item 1: 3 (.8 + .5 log 2 / log 4 = 1.05), 2 (.3 + .5 = .8). Ring 2: 5 (.9), 4 (.1), and not
    1, to which 2 leads back. Ring 3: 6. Then what was spare, then by text: 1, 8, 7.
    """
    model = graph(((1, 1, 1), ()))
    (scores,) = model.scores(np.array([0, 0]), np.array([4, 1]), 1)
    assert listed(scores[1:])[:5] == [3 - 1, 5 - 1, 6 - 1, 2 - 1, 4 - 1]
    assert [i + 1 for i in listed(scores[1:])[5:]] == [1, 8, 7]


def test_counts_can_outweigh_text() -> None:
    model = graph(((2,), ()))
    model.text[3] = model.text[1] * 0.3 + np.array([0.0, -0.95])  # now as far as 2: three transitions to one
    model.text[3] /= np.linalg.norm(model.text[3])
    (scores,) = model.scores(np.array([0]), np.array([1]), 1)
    assert listed(scores)[:2] == [2, 3]


def test_the_second_source_takes_what_the_first_left() -> None:
    """Last item 2 has 1 and 4 in ring 1. The item before is 1, with 3 and 2 in ring 1, in this order; of its
    ring 2, 4 is taken, so that ring 1 lends 2 for the place beside 5.
    """
    model = graph(((2, 0), (1, 2)))
    (scores,) = model.scores(np.array([0, 0]), np.array([1, 2]), 1)
    first = sorted((1, 4), key=lambda i: -(model.text[i] @ model.text[2]))
    assert listed(scores)[:5] == [*first, 3, 2, 5]
    (alone,) = model.scores(np.array([0]), np.array([2]), 1)  # no item before the last
    assert listed(alone)[:2] == first


def test_a_row_without_history_has_no_list() -> None:
    scores = graph(((7, 2, 1), ())).scores(np.array([1]), np.array([8]), 3)
    assert not scores[0].any() and not scores[2].any() and scores[1, 8] == pytest.approx(1.0)


def test_cold_items_get_their_vector_from_text() -> None:
    """The map is exact where text tells the vectors: a cold item lands where its text says."""
    rng = np.random.default_rng(0)
    text, linear = rng.normal(size=(20, 3)), rng.normal(size=(3, 4))
    known = np.arange(20) < 16
    warm = np.where(known[:, None], text @ linear, 0.0)
    found = with_cold(text, warm, known, 1e-9)
    np.testing.assert_allclose(found, unit_rows(text @ linear), atol=1e-5)
    # with a ridge it is the solution of the regularised least squares
    left = text[known]
    want = np.linalg.inv(left.T @ left + 2.0 * np.eye(3)) @ left.T @ warm[known]
    np.testing.assert_allclose(with_cold(text, warm, known, 2.0)[16:], unit_rows(text[16:] @ want), atol=1e-6)


@pytest.mark.parametrize("name", ["TGH", "TextLinear"])
def test_text_is_asked_for(name, write_dataset) -> None:
    from recbole_sigma.values import UserError

    rows = [(u, f"i{(u + s) % 9}", s) for u in range(4) for s in range(5)]
    with pytest.raises(UserError, match="text_fields"):
        run(name, "small", config_dict=write_dataset(rows, spare=2), saved=False)
