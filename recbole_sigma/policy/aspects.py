"""Aspects of a candidate for a user, from text vectors: how S-GRec's judge sees it (arXiv 2602.10606, part
A).

The paper's judge is a language model that was taught with human labels. These levels are a proxy of it:
closeness of text vectors, cut at quantiles of training pairs. The paper's fourth aspect, the context of time
and place, is left out, as the paper does on Amazon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_sigma.data.windows import PrefixPacker
from recbole_sigma.values import SeenPairs

ASPECTS = ("profile", "future", "novelty")
"""Close to the mean of the history; close to its last two items; far from everything in it."""
LEVELS = ((-1.0, -0.5, 0.0, 0.5, 1.0), (0.0, 0.5, 1.0), (0.0, 0.5, 1.0))
NEWEST = 50  # history items that novelty looks at
LAST = 2
NEAREST = 32  # a hard negative is one of the nearest items to the true one
MOST_PAIRS = 4096


def newest(histories: SeenPairs, batch: int, count: int) -> Tensor:
    """The newest items of each history: int64 [B, count], the newest first, 0 in empty slots.

    Args:
        histories: (row, item) pairs, rows ascending, items of a row in order of time.
        batch: B.
        count: how many.
    """
    row, item = histories
    size = torch.bincount(row, minlength=batch)
    age = size.cumsum(0)[row] - 1 - torch.arange(len(row))
    kept = age < count
    table = torch.zeros(batch, count, dtype=torch.int64)
    table[row[kept], age[kept]] = item[kept]
    return table


def mean_vectors(vectors: Tensor, histories: SeenPairs, batch: int) -> Tensor:
    """Mean vector of each history, of unit length: float [B, d]; zero for an empty one."""
    row, item = histories
    total = vectors.new_zeros(batch, vectors.shape[1]).index_add_(0, row, vectors[item])
    return F.normalize(total, dim=1)


def closeness(unit: Tensor, others: Tensor) -> Tensor:
    """Cosine of unit vectors: float [B, d] with [B, G, d] -> [B, G]."""
    return (others @ unit[:, :, None]).squeeze(2)


def raw_aspects(vectors: Tensor, histories: SeenPairs, items: Tensor) -> Tensor:
    """What the levels are cut from: float [B, G, 3], in the order of `ASPECTS`.

    Args:
        vectors: float [N, d], unit rows, zero where an item has no text.
        histories: (row, item) pairs, rows ascending, items of a row in order of time.
        items: int64 [B, G].
    """
    batch, others = len(items), vectors[items]
    met = newest(histories, batch, NEWEST)
    last = F.normalize(vectors[met[:, :LAST]].sum(dim=1), dim=1)
    each = (others @ vectors[met].transpose(1, 2)).masked_fill((met == 0)[:, None], -1.0)  # [B, G, NEWEST]
    return torch.stack(
        [
            closeness(mean_vectors(vectors, histories, batch), others),
            closeness(last, others),
            1.0 - each.amax(dim=2),
        ],
        dim=2,
    )


@dataclass(frozen=True)
class TrainPairs:
    """Preferences that need no human: the true next item against a hard negative.

    Attributes:
        users: int64 [P].
        histories: (row, item) pairs of the P contexts.
        items: int64 [P, 2], the true next training item, then one of the `NEAREST` items to it that the user
            had not met.
    """

    users: Tensor
    histories: SeenPairs
    items: Tensor


def train_pairs(
    train: Any, vectors: Tensor, seed: int, most: int = MOST_PAIRS, near: bool = True
) -> TrainPairs:
    """Pairs of training contexts, one per user and then more until there are ``most``.

    Args:
        train: the train part of a packed dataset.
        vectors: float [N, d], unit rows.
        seed: of the draws.
        most: P at most.
        near: the other item is near the true one; else drawn alike from all.
    """
    own, draw = train.packer, torch.Generator().manual_seed(seed)
    per_user = max(1, -(-most // max(len(own.starts), 1)))
    packer = PrefixPacker(
        own.users, own.items, own.ranks, own.window, seed, every=False, per_user=min(per_user, 16)
    )
    spans = torch.from_numpy(packer.draw(0))
    spans = spans[torch.randperm(len(spans), generator=draw)[:most]]
    users, items, ranks = (
        torch.from_numpy(part)[spans[:, 1]] for part in (packer.users, packer.items, packer.ranks)
    )
    row, met = train.chronology.before(users, ranks)
    n_items = train.item_num
    if near:
        candidates = nearest_items(vectors, torch.unique(items), NEAREST)[items]  # [P, NEAREST]
    else:
        candidates = torch.randint(1, n_items, (len(items), NEAREST), generator=draw)
        candidates[candidates == items[:, None]] = 0
    used = torch.isin(
        torch.arange(len(items))[:, None] * n_items + candidates, torch.cat([row * n_items + met])
    )
    noise = torch.rand(candidates.shape, generator=draw).masked_fill(used | (candidates == 0), -1.0)
    negative = candidates.gather(1, noise.argmax(dim=1, keepdim=True))[:, 0]
    kept = noise.amax(dim=1) >= 0  # a user may have met all of the nearest
    place = torch.cumsum(kept.long(), 0) - 1
    inside = kept[row]
    return TrainPairs(
        users[kept], (place[row[inside]], met[inside]), torch.stack([items, negative], dim=1)[kept]
    )


def nearest_items(vectors: Tensor, of: Tensor, count: int) -> Tensor:
    """The nearest other items by text: int64 [N, count], 0 where not asked or where there are fewer.

    Args:
        vectors: float [N, d], unit rows.
        of: int64, the items whose neighbours are asked for.
        count: how many.
    """
    table = torch.zeros(len(vectors), count, dtype=torch.int64)
    width = min(count, len(vectors) - 2)
    for part in of.split(512):
        near = vectors[part] @ vectors.T
        near[:, 0] = -torch.inf
        near[torch.arange(len(part)), part] = -torch.inf
        table[part, :width] = near.topk(width, dim=1).indices
    return table


@dataclass(frozen=True)
class Levels:
    """Cut points of the aspects.

    Attributes:
        cuts: per aspect, float [number of its levels - 1], ascending.
    """

    cuts: tuple[Tensor, ...]

    @classmethod
    def of(cls, raw: Tensor) -> Levels:
        """Cuts that give every level an equal share of raw aspects float [.., 3] of training pairs."""
        flat = raw.reshape(-1, len(ASPECTS))
        shares = (torch.arange(1, len(levels)) / len(levels) for levels in LEVELS)
        return cls(tuple(torch.quantile(flat[:, a], share) for a, share in enumerate(shares)))

    def __call__(self, raw: Tensor) -> Tensor:
        """float [.., 3] -> [.., 3], each the level of its aspect."""
        found = [
            torch.tensor(LEVELS[a])[torch.bucketize(raw[..., a].contiguous(), cuts)]
            for a, cuts in enumerate(self.cuts)
        ]
        return torch.stack(found, dim=-1)
