"""The ranking of dense scores: what the other tests rank by, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recbole_sigma.decoding.top_k import top_k
from recbole_sigma.evaluation.judge import Judge
from recbole_sigma.values import UserError
from tests.planted import build, chain_config, one_batch, tiny, write_chain

NAN = "NaN scores: its training diverged; lower learning_rate"


@pytest.mark.parametrize("seen", [None, (torch.tensor([0]), torch.tensor([2]))])
@pytest.mark.parametrize("place", [(0, 0), (0, 2), (1, 4)])
def test_a_score_that_is_nan_is_the_users_to_mend(place: tuple[int, int], seen: Any) -> None:
    """Wherever it stands: also for the padding item and for a seen one, since the model is broken."""
    scores = torch.arange(10.0).reshape(2, 5)
    scores[place] = torch.nan
    with pytest.raises(UserError, match=NAN):
        top_k(scores, 2, seen)


@pytest.mark.parametrize("n_items", [2, 63, 64, 65, 700, 5000])
@pytest.mark.parametrize("k", [1, 10, 70])
@pytest.mark.parametrize("values", [3, 200, 1 << 20])
def test_the_list_is_the_sorted_catalogue(n_items: int, k: int, values: int) -> None:
    """Score descending, then item id ascending, whatever ties and however many blocks the search skips."""
    draw = torch.Generator().manual_seed(n_items + k + values)
    scores = torch.randint(values, (9, n_items), generator=draw) - values / 2
    scores[torch.rand(scores.shape, generator=draw) < 0.3] = -torch.inf
    scores[8] = -torch.inf
    seen = tuple(torch.randint(size, (40,), generator=draw) for size in (8, n_items))
    ranked = top_k(scores, k, seen)
    left = scores.clone()
    left[:, 0] = left[seen] = -torch.inf
    for row, found, value in zip(left.tolist(), ranked.items.tolist(), ranked.scores.tolist(), strict=True):
        order = sorted(
            (item for item in range(n_items) if row[item] > -torch.inf), key=lambda i: (-row[i], i)
        )
        order = order[:k]
        assert found == order + [0] * (k - len(order))
        assert value == [row[item] for item in order] + [-torch.inf] * (k - len(order))


def test_infinite_scores_are_ranked() -> None:
    ranked = top_k(torch.tensor([[0.0, torch.inf, 1.0, -torch.inf]]), 3)
    assert ranked.items.tolist() == [[1, 2, 0]]


def test_a_model_that_diverged_is_not_judged(tmp_path) -> None:
    write_chain(tmp_path / "planted")
    config, data, model = build("SASRec", "planted", {**chain_config(tmp_path), **tiny("SASRec")})
    judge = Judge(config)
    judge.collector.data_collect(data.train)
    with torch.no_grad():
        model.item_embedding.weight[3] = torch.nan
    with pytest.raises(UserError, match=NAN):
        judge.judge(model, data.test)


@pytest.mark.parametrize(
    ("model", "more"),
    [
        *((model, {}) for model in ("ClosedForm", "TGH", "PackedSASRec", "HSTU", "SIGMA", "TIGER")),
        ("SIGMA", {"sigma_objective": "paper"}),
        ("SIGMA", {"sigma_objective": "paper", "tokenizer_prefix_length": 0}),
        ("SIGMA", {"decode_mode": "apf"}),
    ],
)
@pytest.mark.parametrize("memory", ["none", "fixed"])
def test_who_has_met_everything_has_an_empty_list(
    model: str, more: dict[str, Any], memory: str, tmp_path
) -> None:
    """A user of whom nothing is left, or a sentence that excludes all: no item, and no cause that is none."""
    write_chain(tmp_path / "planted")
    values = {**chain_config(tmp_path), **tiny(model), **more, "memory": memory, "memory_weight": 1.0}
    config, data, network = build(model, "planted", values)
    network.eval()
    judge = Judge(config)
    judge.collector.data_collect(data.train)
    batch, n = one_batch(data.test)[:2], data.train._dataset.item_num
    everything = (torch.zeros(n - 1, dtype=torch.int64), torch.arange(1, n))
    with torch.inference_mode():
        if memory == "none":
            items = judge.rank(network, batch, n, everything, data.test).items
        else:
            bonus = judge.memory.bonus(data.train._dataset, everything, len(batch))
            items = judge.rank_fused(network, batch, n, everything, data.test, bonus, (1.0,))[0].items
    assert not items[0].any() and (items[1] > 0).sum() >= 10
