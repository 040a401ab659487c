"""Losses of SIGMA that look at items: inside one prefix (the paper's L_ID) and over the whole catalogue."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_sigma.decoding.hybrid import PrefixBuckets


def same_prefix_loss(
    queries: Tensor, targets: Tensor, items: Tensor, buckets: PrefixBuckets, inverse_temperature: Tensor, negatives: int = 0
) -> Tensor:
    """L_ID: softmax of the target against items that share its prefix (paper: hard negatives N_c).

    Positions are grouped by prefix, so that each prefix costs one matrix product with its own items.

    Args:
        queries: float [M, d], not normalised.
        targets: int64 [M] item ids.
        items: float [N, d] unit rows.
        buckets: the catalogue by prefix.
        inverse_temperature: scalar 1 / tau.
        negatives: same-prefix negatives drawn per step and prefix; 0 = all of them.

    Returns:
        Scalar mean over the M positions.
    """
    prefix = buckets.prefix[targets]
    by_prefix = torch.argsort(prefix, stable=True)
    counts = torch.bincount(prefix, minlength=buckets.n_prefixes).tolist()
    queries = F.normalize(queries, dim=-1)[by_prefix] * inverse_temperature
    places = buckets.place[targets][by_prefix]
    sorted_items = items[buckets.order]
    starts = buckets.start.tolist()
    total = queries.new_zeros(())
    begin = 0
    for index, count in enumerate(counts):
        if count:
            members = sorted_items[starts[index] : starts[index + 1]]
            place = places[begin : begin + count]
            if 0 < negatives < len(members) - 1:
                members, place = _sample(members, place, negatives)
            logits = queries[begin : begin + count] @ members.T
            total = total + F.cross_entropy(logits, place, reduction="sum")
        begin += count
    return total / max(len(targets), 1)


def _sample(members: Tensor, place: Tensor, negatives: int) -> tuple[Tensor, Tensor]:
    """Keep the targets of the step and ``negatives`` random others; returns members and the targets' new places."""
    wanted = torch.unique(place)
    drawn = torch.randperm(len(members), device=members.device)[:negatives]
    kept = torch.unique(torch.cat([wanted, drawn]))
    return members[kept], torch.searchsorted(kept, place)


def catalogue_loss(queries: Tensor, targets: Tensor, items: Tensor, inverse_temperature: Tensor) -> Tensor:
    """Softmax of the target against every item of the catalogue (ours; the loss that makes SASRec strong).

    Args:
        queries: float [M, d], not normalised.
        targets: int64 [M] item ids.
        items: float [N, d] unit rows; row 0 is padding and is left out.
        inverse_temperature: scalar 1 / tau.

    Returns:
        Scalar mean over the M positions.
    """
    logits = F.normalize(queries, dim=-1) @ items[1:].T * inverse_temperature
    return F.cross_entropy(logits, targets - 1)
