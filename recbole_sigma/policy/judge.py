"""Judges: how well a candidate suits a user, from text and training histories alone.

Only a language model (`lm_judge`) reads the texts. What is made of closeness of text vectors is a proxy of
such a judge, a semantic prior.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_sigma.grounding.ground import encode_texts
from recbole_sigma.policy.aggregator import Aggregator, UserFeatures, fit, pair_accuracy
from recbole_sigma.policy.aspects import (
    ASPECTS,
    Levels,
    closeness,
    mean_vectors,
    raw_aspects,
    train_pairs,
)
from recbole_sigma.preparation.fields import item_texts
from recbole_sigma.settings.keys import VectorKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RecBoleKeys, RoleKeys
from recbole_sigma.values import SeenPairs, UserError

ADVERSARY = -3.0


class Judge(ABC):
    """What the stage asks of a judge."""

    @abstractmethod
    def score(self, users: Tensor, histories: SeenPairs, items: Tensor, rewards: Tensor) -> Tensor:
        """How well candidates suit their users.

        Args:
            users: int64 [B].
            histories: (row, item) pairs of what each user had met, rows ascending, items in order of time.
            items: int64 [B, G], candidates; 0 in slots that count for nothing.
            rewards: float [B, G], what they earned; ablations alone look at it.

        Returns:
            float [B, G].
        """

    def finish(self) -> None:
        """Called after every epoch: a judge that keeps scores on disk writes them."""
        return


class RandomJudge(Judge):
    """Ablation: noise of torch's generator, which a stored run keeps."""

    def score(self, users: Tensor, histories: SeenPairs, items: Tensor, rewards: Tensor) -> Tensor:
        """See `Judge.score`."""
        return torch.rand(items.shape)


class AdversarialJudge(Judge):
    """Ablation: always against the business reward."""

    def score(self, users: Tensor, histories: SeenPairs, items: Tensor, rewards: Tensor) -> Tensor:
        """See `Judge.score`."""
        return ADVERSARY * rewards


class CosineJudge(Judge):
    """Cosine of an item's text vector and the mean text vector of the history; 0 where there is no text.

    Args:
        vectors: float32 [N, d], unit rows, zero where an item has no text.
    """

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors

    def score(self, users: Tensor, histories: SeenPairs, items: Tensor, rewards: Tensor) -> Tensor:
        """See `Judge.score`."""
        return closeness(mean_vectors(self.vectors, histories, len(items)), self.vectors[items])


class AspectJudge(Judge):
    """s_hol = w(x) . s(x, a): levels of aspects, weighed for each user.

    Args:
        features: of a user.
        aggregator: w; None weighs all aspects alike.
    """

    def __init__(self, features: UserFeatures, aggregator: Aggregator | None) -> None:
        self.features, self.aggregator = features, aggregator

    @abstractmethod
    def levels(self, histories: SeenPairs, items: Tensor) -> Tensor:
        """Levels of the aspects: float [B, G, len(ASPECTS)]; see `Judge.score`."""

    def weights(self, histories: SeenPairs, batch: int) -> Tensor:
        """w(x): float [B, len(ASPECTS)]."""
        if self.aggregator is None:
            return torch.full((batch, len(ASPECTS)), 1.0 / len(ASPECTS))
        return self.aggregator(self.features(histories, batch))

    def score(self, users: Tensor, histories: SeenPairs, items: Tensor, rewards: Tensor) -> Tensor:
        """See `Judge.score`."""
        weights = self.weights(histories, len(items))
        return (self.levels(histories, items) * weights[:, None]).sum(dim=2)

    def learn(self, train: Any, seed: int, most: int) -> None:
        """Learn w from pairs of the training part, and say how many of them it has right.

        Args:
            train: the train part of a packed dataset.
            seed: of the draws.
            most: pairs at most.
        """
        pairs = train_pairs(train, self.features.vectors, seed, most)
        if not len(pairs.users):
            return  # a catalogue of one kind has no pairs; equal weights stay
        levels = self.levels(pairs.histories, pairs.items)
        features = self.features(pairs.histories, len(pairs.users))
        self.aggregator = fit(features, levels[:, 0], levels[:, 1], seed)
        right = pair_accuracy(self.aggregator, features, levels[:, 0], levels[:, 1])
        shares = ", ".join(
            f"{name} {share:.2f}"
            for name, share in zip(ASPECTS, self.aggregator(features).mean(dim=0).tolist(), strict=True)
        )
        logging.getLogger().info(
            f"judge: mean weights {shares}; {right:.0%} of {len(pairs.users)} training pairs in right order"
        )


class HeuristicJudge(AspectJudge):
    """Levels by closeness of text vectors, cut at quantiles of training pairs.

    Args:
        train: the train part of a packed dataset.
        config: RecBole config.
        vectors: float32 [N, d], unit rows.
        learned: learn the weights; else all aspects weigh alike.
        seed: of the pairs.
    """

    def __init__(self, train: Any, config: Any, vectors: Tensor, learned: bool, seed: int) -> None:
        super().__init__(UserFeatures(train, config, vectors), None)
        pairs = train_pairs(train, vectors, seed)
        self.cuts = Levels.of(raw_aspects(vectors, pairs.histories, pairs.items))
        if learned:
            self.learn(train, seed, len(pairs.users))

    def levels(self, histories: SeenPairs, items: Tensor) -> Tensor:
        """See `AspectJudge.levels`."""
        return self.cuts(raw_aspects(self.features.vectors, histories, items))


def text_vectors(train: Any, config: Any) -> Tensor:
    """Text vectors of the items by the encoder of ``grounding_text_encoder``: float32 [N, d], unit rows.

    Raises:
        UserError: the items have no text.
    """
    keys, seed = read(VectorKeys, config), read(RecBoleKeys, config).seed
    texts: Sequence[str] = judged_texts(train, config)
    found = encode_texts(texts, keys.grounding_text_encoder, keys.grounding_text_dim, seed)
    return torch.nn.functional.normalize(torch.from_numpy(np.asarray(found, dtype=np.float32)), dim=1)


def judged_texts(train: Any, config: Any) -> list[str]:
    """One text per item, row 0 empty.

    Raises:
        UserError: the property file names no text fields.
    """
    fields = read(RoleKeys, config).text_fields
    if not fields:
        raise UserError(
            f"policy_judge: this judge reads item text, and '{train.dataset_name}' names no text_fields: "
            "name them, or use --policy=grpo, which asks no judge"
        )
    return item_texts(train, fields)
