from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_sigma.decoding import top_k as ranking
from recbole_sigma.decoding.top_k import order_keys, pairs_of_rows, top_k

SCORES = st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, -1e-30, 3e38, -3e38, float("inf"), float("-inf"), 1.0000001]
)


@given(
    st.lists(st.lists(SCORES, min_size=6, max_size=6), min_size=1, max_size=4), st.integers(1, 9), st.data()
)
def test_top_k_equals_a_sort(rows, k, data) -> None:
    scores = torch.tensor(rows)
    pairs = data.draw(st.lists(st.tuples(st.integers(0, len(rows) - 1), st.integers(1, 5)), max_size=6))
    seen = (
        torch.tensor([p[0] for p in pairs], dtype=torch.int64),
        torch.tensor([p[1] for p in pairs], dtype=torch.int64),
    )
    ranked = top_k(scores.clone(), k, seen)
    for row, values in enumerate(scores.tolist()):
        allowed = [i for i in range(1, 6) if (row, i) not in pairs and values[i] != float("-inf")]
        want = sorted(allowed, key=lambda i: (-values[i], i))[:k]
        assert ranked.items[row].tolist() == want + [0] * (k - len(want))
        assert ranked.scores[row, : len(want)].tolist() == [values[i] for i in want]
        assert torch.isneginf(ranked.scores[row, len(want) :]).all()
    assert ranked.items.shape == (len(rows), k)


def test_keys_of_a_row_are_unique_and_ordered() -> None:
    values = torch.tensor([[0.0, -0.0, 2.0, 2.0, -5.0, float("-inf"), float("inf")]])
    keys = order_keys(values)[0]
    assert keys.unique().numel() == 7
    assert torch.argsort(keys, descending=True).tolist() == [6, 2, 3, 0, 1, 4, 5]


def test_chunks_change_nothing(monkeypatch) -> None:
    scores = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (37, 29)).astype(np.float32))
    whole = top_k(scores.clone(), 10)
    monkeypatch.setattr(ranking, "_CELLS", 29 * 4)
    assert torch.equal(top_k(scores.clone(), 10).items, whole.items)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_other_types(kind) -> None:
    assert top_k(torch.tensor([[9.0, 1.0, 3.0, 2.0]], dtype=kind), 2).items.tolist() == [[2, 3]]


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        top_k(torch.tensor([[0.0, float("nan")]]), 1)


def test_pairs_of_some_rows_are_renumbered() -> None:
    pairs = (torch.tensor([0, 2, 2, 3]), torch.tensor([7, 8, 9, 5]))
    row, item = pairs_of_rows(pairs, torch.tensor([3, 2]), 5)
    assert row.tolist() == [1, 1, 0] and item.tolist() == [8, 9, 5]
    assert pairs_of_rows(None, torch.tensor([0]), 1) is None
