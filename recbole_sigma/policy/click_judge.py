"""A judge that learns from clicks: preference apart from activity (ImplicitRM, arXiv 2603.23184).

An item that a user did not meet may be disliked, or never have been seen. The loss of `ctr.propensity` splits
the two: P(event) = r q, where the preference r reads what the item is about and what the history is about,
and the activity q reads how often the item is met and how long the history is, nothing else. The judge's
score is r. Rows are training events, and for each of them an item that the user had not met, drawn alike from
all.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sigma.ctr.propensity import em_loss
from recbole_sigma.policy.aspects import mean_vectors, train_pairs
from recbole_sigma.policy.judge import Judge
from recbole_sigma.values import SeenPairs

HIDDEN, EPOCHS, BATCH, RATE = 32, 20, 256, 0.005


class Preference(nn.Module):
    """Logit of r from the product of two unit vectors: float [.., d] -> [..].

    Args:
        width: d.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(width + 1, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 1))

    def forward(self, product: Tensor) -> Tensor:
        """See the class; the sum of the products, their cosine, is an input of its own."""
        cosine = product.sum(dim=-1, keepdim=True)
        return self.network(torch.cat([product * product.shape[-1] ** 0.5, cosine], dim=-1)).squeeze(-1)


def learn(product: Tensor, exposure: Tensor, click: Tensor, seed: int) -> tuple[Preference, nn.Module]:
    """(preference, activity), learned by the EM loss; torch's generator is left as it was.

    Args:
        product: float [P, d], what the preference reads.
        exposure: float [P, e], what the activity reads.
        click: 0 or 1, float [P].
        seed: of weights and order.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        preference, activity = Preference(product.shape[1]), nn.Linear(exposure.shape[1], 1)
        weights = [*preference.parameters(), *activity.parameters()]
        optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.01)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(click)).split(BATCH):
                looked = activity(exposure[rows])[:, 0]
                loss = em_loss(preference(product[rows]), looked, click[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return preference.eval().requires_grad_(False), activity.requires_grad_(False)


class ClickJudge(Judge):
    """See the module's docstring.

    Args:
        train: the train part of a packed dataset.
        vectors: float32 [N, d], unit text vectors.
        seed: of rows and weights.
    """

    def __init__(self, train: Any, vectors: Tensor, seed: int) -> None:
        self.vectors = vectors
        pairs = train_pairs(train, vectors, seed, near=False)
        count = torch.bincount(train.train_events().items, minlength=train.item_num).float().log1p()
        mean = mean_vectors(vectors, pairs.histories, len(pairs.users))
        length = torch.bincount(pairs.histories[0], minlength=len(pairs.users)).float().log1p()
        product = mean[:, None] * vectors[pairs.items]  # [P, 2, d]
        exposure = torch.stack([count[pairs.items], length[:, None].expand(-1, 2)], dim=2)
        click = torch.tensor([1.0, 0.0]).expand(len(pairs.users), -1)
        rows = product.flatten(0, 1), exposure.flatten(0, 1), click.flatten()
        self.preference, _ = learn(*rows, seed)
        liked = self.preference(product)
        right = float((liked[:, 0] > liked[:, 1]).float().mean())
        logging.getLogger().info(
            f"judge: of {len(pairs.users)} training events {right:.0%} are preferred to an item not met"
        )

    def score(self, users: Tensor, histories: SeenPairs, items: Tensor, rewards: Tensor) -> Tensor:
        """See `Judge.score`: log r."""
        mean = mean_vectors(self.vectors, histories, len(items))
        return F.logsigmoid(self.preference(mean[:, None] * self.vectors[items]))
