"""`recommend --explain` tells what the judge of the policy stage saw."""

from __future__ import annotations

import pytest

from recbole_sigma.quick_start import run
from recbole_sigma.recommend.recommender import Recommender, Request


def told(started, **keys) -> tuple[list, Recommender]:
    values = started("SIGMA") | {"policy_epochs": 1, **keys}
    found = run("SIGMA", "planted", config_dict=values)
    recommender = Recommender.load(found["checkpoint"])
    answer = recommender.answer(
        [Request(history=["item 1 of group 0", "item 2 of group 0"])], 5, explained=True
    )
    return answer[0].explanations, recommender


def test_each_aspect_and_its_weight_are_told(started) -> None:
    explanations, recommender = told(started, policy="a2po", policy_judge="heuristic")
    judge = recommender.maker.aspects
    assert len(explanations) == 5 and judge is not None
    for each in explanations:
        names, levels, weights = zip(*each.aspects, strict=True)
        assert names == ("profile", "future", "novelty")
        assert sum(weights) == pytest.approx(1.0, abs=1e-5)
        total = sum(level * weight for level, weight in zip(levels, weights, strict=True))
        assert f"judge {total:+.2f} = profile {levels[0]:g} x {weights[0]:.2f}" in each.told()
    assert recommender.answer([Request(history=["item 1 of group 0"])], 5)[0].explanations == []


def test_without_a_judge_of_aspects_nothing_is_told(started) -> None:
    for keys in ({"policy": "grpo"}, {"policy": "a2po", "policy_judge": "cosine"}):
        explanations, _ = told(started, **keys)
        assert all(each.aspects == [] and "judge" not in each.told() for each in explanations)
