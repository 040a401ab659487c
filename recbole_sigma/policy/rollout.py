"""Rollouts: training contexts, and the lists that the policy makes for them with its own constrained decoder.

A context is a prefix of a training history, its target the training event that follows. Nothing of validation
or test is ever a context, a target or a history item here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_sigma.data.windows import PrefixPacker
from recbole_sigma.models.contract import contract
from recbole_sigma.values import RankedItems, SeenPairs

POOL = 1000
"""Items that `sample` draws from: the policy's most probable ones, as far as its beam reaches."""


def context_dataset(train: Any, per_user: int) -> Any:
    """A view of the train part whose rows are contexts, redrawn every epoch.

    Args:
        train: the train part of a packed dataset.
        per_user: prefixes drawn per user and epoch.
    """
    own = train.packer
    rows = train.copy(train.inter_feat)
    rows.runs = None  # what a context may not recommend is known by rank: its target must keep its own
    rows.packer = PrefixPacker(
        own.users, own.items, own.ranks, own.window, own.seed, every=False, per_user=per_user
    )
    rows.resample(0)
    return rows


def roll_out(
    model: Any, batch: Any, how: str, group: int, target: Tensor, seen: SeenPairs | None, widest: int
) -> RankedItems:
    """G items per context with their log-probabilities, the more probable first.

    Args:
        model: in evaluation mode; dropout is off in the policy that rolls out.
        batch: B contexts on the model's device.
        how: ``beam``: the G most probable items; ``sample``: drawn without replacement from the most probable
            `POOL` (Gumbel top-k); ``forced``: beams, the last of them replaced by the target where none hit.
            A forced item is off-policy: a plain policy would hardly have drawn it.
        group: G.
        target: int64 [B].
        seen: (row, item) pairs that may not be recommended, or None.
        widest: longest list that the model's search makes.

    Returns:
        `RankedItems` [B, G]; item 0 where the catalogue has too few items left, score NaN for a forced item.
    """
    if how == "sample":
        ranked = contract(model).beams(batch, max(group, min(POOL, widest)), seen)
        noise = -torch.empty_like(ranked.scores).exponential_().log()
        drawn = (ranked.scores + noise).topk(group, dim=1).indices.sort(dim=1).values
        return RankedItems(ranked.items.gather(1, drawn), ranked.scores.gather(1, drawn))
    found = contract(model).beams(batch, group, seen)
    if how == "forced":
        items, scores = found.items.clone(), found.scores.clone()
        missed = ~(items == target[:, None]).any(dim=1)
        if seen is not None:  # a target that may not be recommended is not forced
            row, item = seen
            missed[row[item == target[row]]] = False
        items[missed, -1], scores[missed, -1] = target[missed], torch.nan
        return RankedItems(items, scores)
    return found


def pairs(table: Tensor) -> SeenPairs:
    """int64 [B, S], 0 in empty slots -> (row, item) pairs."""
    row, column = (table > 0).nonzero(as_tuple=True)
    return row, table[row, column]
