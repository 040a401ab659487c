"""A softmax over a sample of the catalogue: a step costs the same at a million items as at ten thousand.

The denominator of a full softmax is a sum over all items. Here each step draws some, and each drawn item
stands for as many as its chance was small (Horvitz and Thompson 1952; the logQ correction of recommenders).
The sum is estimated without bias, so the loss reads as the full one; with every item drawn it is the full
one. A target counts once and is never its own negative.

A step then touches few rows of the item tables: those of its histories, its targets and its draws. Their
embeddings give row-sparse gradients, and `run.optimizer` updates these rows alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sigma.machine import processes
from recbole_sigma.models.losses import by_pass, catalogue_cross_entropy
from recbole_sigma.settings.keys import SoftmaxKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RecBoleKeys
from recbole_sigma.values import UserError

LARGE = 200_000  # items from which ``auto`` samples
DRAWS = 8192  # and how many it draws
EVENLY = 0.5  # share of the draws that take every item alike; the rest go by train events


@dataclass(frozen=True)
class Drawn:
    """The negatives of a step.

    Attributes:
        items: int64 [K], ascending, each once.
        log_chance: float [K], log of the chance that each had to be among them.
    """

    items: Tensor
    log_chance: Tensor


class NegativeSampler(nn.Module):
    """Draws items, half of the draws evenly and half by their train events.

    Even draws alone meet the frequent items too seldom, which make most of the denominator; draws by events
    alone give the rare ones weights as large as the catalogue.

    Args:
        events: int64 [N], train events of each item; row 0 is padding.
        draws: per step, with replacement; an item that comes twice counts once.
    """

    def __init__(self, events: Tensor, draws: int) -> None:
        super().__init__()
        self.draws = draws
        share = events[1:].double()
        share = (1.0 - EVENLY) * share / share.sum().clamp_min(1.0) + EVENLY / len(share)
        self.register_buffer("share", share / share.sum(), persistent=False)
        self.register_buffer("upto", self.share.cumsum(0), persistent=False)

    def draw(self) -> Drawn:
        """The negatives of one step."""
        place = torch.rand(self.draws, dtype=torch.float64, device=self.upto.device)
        index = torch.unique(torch.searchsorted(self.upto, place, right=True).clamp_max_(len(self.upto) - 1))
        # 1 - (1 - share) ** draws, also where that is tiny
        chance = -torch.expm1(self.draws * torch.log1p(-self.share[index]))
        return Drawn(index + 1, chance.log().float())


def sampler_of(config: Any, dataset: Any) -> NegativeSampler | None:
    """What a model draws its negatives from; None where its softmax takes in the whole catalogue.

    Args:
        config: RecBole config with ``softmax_negatives``.
        dataset: the train part, with its ``packer``.

    Raises:
        UserError: the optimizer cannot update single rows, or several processes would have to join them.
    """
    asked = read(SoftmaxKeys, config).softmax_negatives
    draws = (DRAWS if dataset.item_num >= LARGE else 0) if asked == "auto" else int(asked)
    if not draws:
        return None
    problem = ""
    learner = read(RecBoleKeys, config).learner
    if learner.lower() != "adamw":
        problem = f"learner {learner}: set learner: adamw"
    elif processes.current().several:
        problem = "several processes: use --nproc=1"
    if not problem:
        events = np.bincount(dataset.packer.items, minlength=dataset.item_num)
        return NegativeSampler(torch.from_numpy(events), draws)
    if asked == "auto":
        return None
    raise UserError(f"softmax_negatives: rows are not updated with {problem}, or softmax_negatives: 0")


def item_cross_entropy(
    sampler: NegativeSampler | None,
    queries: Tensor,
    items: nn.Embedding,
    targets: Tensor,
    weights: Tensor,
    hidden: Tensor | None = None,
    compared: Callable[[Tensor], Tensor] = lambda vectors: vectors,
) -> tuple[Tensor, Tensor]:
    """`losses.catalogue_cross_entropy` over a table of items, or over what a sampler draws from it.

    Args:
        sampler: of `sampler_of`; None for the whole table.
        queries: float [M, e].
        items: the table, N items.
        targets: int64 [M].
        weights: float [M].
        hidden: see `losses.catalogue_cross_entropy`.
        compared: what is applied to item vectors float [n, e] before queries meet them.
    """
    if sampler is None:
        return catalogue_cross_entropy(queries, compared(items.weight), targets, weights, hidden)
    drawn = sampler.draw()
    own, others = compared(items(targets)), compared(items(drawn.items))
    return sampled_cross_entropy(queries, own, others, targets, drawn, weights, hidden)


def sampled_cross_entropy(
    queries: Tensor,
    own: Tensor,
    others: Tensor,
    targets: Tensor,
    drawn: Drawn,
    weights: Tensor,
    hidden: Tensor | None = None,
    rdrop: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """`losses.catalogue_cross_entropy`, its denominator estimated from drawn items.

    Args:
        queries: float [M, e], or [2M, e] with ``rdrop``.
        own: float [M, e], the target's row for each query.
        others: float [K, e], rows of the drawn items.
        targets: int64 [M].
        drawn: which items were drawn.
        weights: float [M].
        hidden: int64 [M, H], items left out of each softmax, 0 in empty slots; never the target.
        rdrop: see there; the two distributions are those over the target and the drawn items.

    Returns:
        (sum of weight times loss, the cross-entropy of every prediction float [M] without gradient).
    """
    left_out = targets[:, None] if hidden is None else torch.cat([targets[:, None], hidden], dim=1)
    place = torch.searchsorted(drawn.items, left_out).clamp_max_(len(drawn.items) - 1)
    found = drawn.items[place] == left_out
    # column 0 is the target's and stays open; what is left out and was not drawn marks it first
    closed = torch.zeros(len(targets), 1 + len(others), dtype=torch.bool, device=queries.device)
    closed.scatter_(1, torch.where(found, place + 1, 0), True)
    closed[:, 0] = False
    with torch.autocast(queries.device.type, enabled=False):
        queries, own, others = queries.float(), own.float(), others.float()
        queries = by_pass(queries, rdrop)
        logits = queries @ F.pad(others, (0, 0, 1, 0)).T
        logits.sub_(F.pad(drawn.log_chance, (1, 0))).masked_fill_(closed, -torch.inf)
        logits[:, :, 0] = (queries * own).sum(dim=2)
        log_probs = logits.log_softmax(dim=2)
        each = loss = -log_probs[:, :, 0].mean(dim=0)
        if rdrop:
            gap = (log_probs[0] - log_probs[1]).masked_fill(closed, 0.0)
            first, second = log_probs.exp()
            loss = each + rdrop / 4 * ((first - second) * gap).sum(dim=1)
        return (loss * weights).sum(), each.detach()
