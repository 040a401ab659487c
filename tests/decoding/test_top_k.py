"""The ranking of dense scores: what the other tests rank by, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recbole_sigma.decoding.top_k import top_k
from recbole_sigma.evaluation.judge import Judge
from recbole_sigma.values import UserError
from tests.planted import build, chain_config, tiny, write_chain

NAN = "NaN scores: its training diverged; lower learning_rate"


@pytest.mark.parametrize("seen", [None, (torch.tensor([0]), torch.tensor([2]))])
@pytest.mark.parametrize("place", [(0, 0), (0, 2), (1, 4)])
def test_a_score_that_is_nan_is_the_users_to_mend(place: tuple[int, int], seen: Any) -> None:
    """Wherever it stands: also for the padding item and for a seen one, since the model is broken."""
    scores = torch.arange(10.0).reshape(2, 5)
    scores[place] = torch.nan
    with pytest.raises(UserError, match=NAN):
        top_k(scores, 2, seen)


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
