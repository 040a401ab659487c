"""Which judge a run asks, by ``policy_judge``."""

from __future__ import annotations

from typing import Any

from recbole_sigma.policy.click_judge import ClickJudge
from recbole_sigma.policy.judge import (
    AdversarialJudge,
    AspectJudge,
    CosineJudge,
    HeuristicJudge,
    Judge,
    RandomJudge,
    text_vectors,
)
from recbole_sigma.policy.lm_judge import LanguageJudge
from recbole_sigma.policy.score_file import FileJudge
from recbole_sigma.settings.policy_keys import JUDGED, PolicyKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RecBoleKeys


def build_judge(name: str, train: Any, config: Any) -> Judge:
    """The judge that ``policy_judge`` names.

    Args:
        name: value of the key.
        train: the train part of a packed dataset.
        config: RecBole config.

    Raises:
        UserError: items without text, or a file or folder that cannot be used.
    """
    kind, _, place = name.partition(":")
    if kind == "random":
        return RandomJudge()
    if kind == "adversarial":
        return AdversarialJudge()
    if kind == "file":
        return FileJudge(place, train)
    vectors, seed = text_vectors(train, config), read(RecBoleKeys, config).seed
    if kind == "lm":
        return LanguageJudge(place, train, config, vectors, seed)
    if kind == "clicks":
        return ClickJudge(train, vectors, seed)
    if kind == "cosine":
        return CosineJudge(vectors)
    return HeuristicJudge(train, config, vectors, kind == "heuristic", seed)


def aspects_of(config: Any, train: Any) -> AspectJudge | None:
    """The judge that a model was trained with, where it weighs aspects; None for other judges and for none.

    Args:
        config: of the model.
        train: the train part of its dataset.
    """
    keys = read(PolicyKeys, config)
    if "policy" not in config or keys.policy not in JUDGED:
        return None
    judge = build_judge(keys.policy_judge, train, config)
    return judge if isinstance(judge, AspectJudge) else None
