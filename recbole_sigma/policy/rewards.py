"""Business rewards of rollouts, from training interactions alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_sigma.values import UserError

HIT, RANK = "hit", "rank"


def hit(items: Tensor, target: Tensor) -> Tensor:
    """1 for the item that came next, else 0: int64 [B, G] and [B] -> float [B, G]."""
    return (items == target[:, None]).float()


def rank_aware(items: Tensor, target: Tensor) -> Tensor:
    """MiniOneRec's rank reward: a hit earns 1, and beside it a wrong item at place i (0-based, best first)
    loses (1 / log2(i + 2)) / sum_j 1 / log2(j + 2). A group without a hit earns nothing.

    Args:
        items: int64 [B, G], best first.
        target: int64 [B].

    Returns:
        float [B, G].
    """
    place = torch.arange(items.shape[1], device=items.device)
    discount = 1.0 / torch.log2(place + 2.0)
    found = hit(items, target)
    loss = (discount / discount.sum()) * (1.0 - found)
    return (found - loss) * found.any(dim=1, keepdim=True)


def reward_column(config: Mapping[str, Any]) -> str | None:
    """The column of the interactions that ``policy_reward`` names, or None."""
    name = config.get("policy_reward", HIT)
    asked = config.get("policy") not in (None, "none", "sft")
    return name if asked and isinstance(name, str) and name not in (HIT, RANK) else None


class BusinessValues:
    """What each training interaction was worth, by one column of the interactions (rating, price, dwell).

    An item earns what the user's own training interaction with it was worth, the last one where there are
    several, and 0 where there is none.

    Args:
        dataset: the train part of a packed dataset.
        column: name of a float column that is loaded.

    Raises:
        UserError: no such column, no number in it, or a value that is none.
    """

    def __init__(self, dataset: Any, column: str) -> None:
        events = dataset.train_events()
        values = column_values(dataset, column)[events.ranks]
        self.n_items = dataset.item_num
        keys = events.users * self.n_items + events.items
        # later events come later here, and stay: a stable sort keeps their order, the last of a run is taken
        keys, order = torch.sort(keys, stable=True)
        last = torch.cat([keys[1:] != keys[:-1], torch.ones(1, dtype=torch.bool)])
        self.keys, self.values = keys[last], values[order][last]

    def __call__(self, users: Tensor, items: Tensor) -> Tensor:
        """int64 [B] and [B, G] -> float [B, G]."""
        wanted = (users[:, None] * self.n_items + items).cpu()
        slot = torch.searchsorted(self.keys, wanted).clamp_max_(len(self.keys) - 1)
        return torch.where(self.keys[slot] == wanted, self.values[slot], 0.0).to(items.device)


def column_values(dataset: Any, column: str) -> Tensor:
    """A float column of all events, in order of time: float [E].

    Raises:
        UserError: see `BusinessValues`.
    """
    where = f"policy_reward: {dataset.dataset_name}.inter"
    features = dataset.event_feat
    if column not in features.interaction:
        raise UserError(
            f"{where} has no loaded column '{column}': use hit, rank, or a float column of the interactions "
            "that load_col.inter names"
        )
    values = features[column]
    if values.dim() != 1 or not values.is_floating_point():
        raise UserError(f"{where}: column '{column}' holds no single numbers (its type must be float)")
    missing = dataset.missing_values.get(column, 0)
    if missing or not np.isfinite(values.numpy()).all():
        raise UserError(
            f"{where}: column '{column}' has {missing or 'infinite'} values that are no number: fill them "
            "in, or use policy_reward: hit"
        )
    return values.float()
