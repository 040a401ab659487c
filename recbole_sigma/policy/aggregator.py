"""How much each aspect weighs for a user: S-GRec's user-conditional aggregation (arXiv 2602.10606, part B).

    s_hol(x, a) = w(x) . s(x, a),    w(x) = softmax(MLP(user features))

The paper learns w from 40,000 human preferences by pair-wise reinforcement. Here the preferences are training
pairs (`aspects.train_pairs`) and the loss is -log sigmoid((s_hol(true) - s_hol(other)) / 0.1).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sigma.policy.aspects import mean_vectors
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RoleKeys
from recbole_sigma.values import SeenPairs

TEMPERATURE = 0.1
HIDDEN, EPOCHS, BATCH, RATE = 32, 30, 256, 0.01


class UserFeatures:
    """What w is computed from: the mean text vector of the history, its length, the entropy of its
    categories.

    Args:
        train: the train part of a packed dataset.
        config: RecBole config; reads ``category_field``.
        vectors: float [N, d], unit rows.
    """

    def __init__(self, train: Any, config: Any, vectors: Tensor) -> None:
        self.vectors, self.labels = vectors, None
        field = read(RoleKeys, config).category_field
        if field is not None and train.item_feat is not None and field in train.item_feat.interaction:
            labels = train.item_feat[field]
            self.labels = labels[:, None] if labels.dim() == 1 else labels  # [N, labels], 0 for none

    def __call__(self, histories: SeenPairs, batch: int) -> Tensor:
        """float [B, d + 2]."""
        row, item = histories
        length = torch.bincount(row, minlength=batch).float()
        entropy = torch.zeros(batch)
        if self.labels is not None and not self.labels.is_floating_point():
            labels = self.labels[item]
            count = torch.zeros(batch, int(self.labels.max()) + 1)
            count.index_put_((row[:, None].expand_as(labels), labels), torch.ones(()), accumulate=True)
            count[:, 0] = 0.0
            share = count / count.sum(dim=1, keepdim=True).clamp_min(1.0)
            entropy = -torch.special.xlogy(share, share).sum(dim=1)
        mean = mean_vectors(self.vectors, histories, batch)
        return torch.cat([mean, length.log1p()[:, None] / 5.0, entropy[:, None]], dim=1)


class Aggregator(nn.Module):
    """w(x): float [B, F] user features -> [B, aspects], not negative, sum 1.

    Args:
        features: F.
        aspects: number of aspects.
    """

    def __init__(self, features: int, aspects: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(features, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, aspects))

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        return self.network(features).softmax(dim=1)


def fit(features: Tensor, better: Tensor, worse: Tensor, seed: int) -> Aggregator:
    """Learn w from preferences; torch's generator is left as it was.

    Args:
        features: float [P, F].
        better: float [P, aspects], levels of the preferred candidates.
        worse: float [P, aspects], of the others.
        seed: of weights and order.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        model = Aggregator(features.shape[1], better.shape[1])
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
        difference = better - worse
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(features)).split(BATCH):
                margin = (model(features[rows]) * difference[rows]).sum(dim=1)
                loss = -F.logsigmoid(margin / TEMPERATURE).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval().requires_grad_(False)


def pair_accuracy(model: Aggregator, features: Tensor, better: Tensor, worse: Tensor) -> float:
    """Share of the preferences that s_hol has right, of those whose levels differ; see `fit`."""
    margin = (model(features) * (better - worse)).sum(dim=1)
    differ = (better != worse).any(dim=1)
    return float((margin[differ] > 0).float().mean()) if bool(differ.any()) else 0.5
