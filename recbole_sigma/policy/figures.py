"""What a policy run says about itself: sums over its rollouts, and what its lists look like."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_sigma.policy.advantages import a2po_weight

SUMS = (
    "groups", "silent", "short", "hits", "judged", "signed", "agreed", "weight", "violations",
    "seconds_rollout", "seconds_judge", "seconds_step",
)  # fmt: skip
HEAD = 0.2
"""Share of the items with the most train events that are no tail."""


class Sums:
    """Running sums of one epoch, which a stored run keeps."""

    def __init__(self) -> None:
        self.values = dict.fromkeys(SUMS, 0.0)

    def add(self, **more: Any) -> None:
        """Add to some of them."""
        for name, value in more.items():
            self.values[name] += float(value)

    def take(self) -> list[float]:
        """The sums in order; they start anew."""
        found = list(self.values.values())
        self.__init__()  # type: ignore[misc]
        return found

    def restore(self, values: list[float]) -> None:
        """Go on from stored sums."""
        self.values = dict(zip(SUMS, map(float, values), strict=True))

    def note_judge(self, business: Tensor, judged: Tensor) -> None:
        """How often the judge has the sign of the business reward, and how much A2PO would make of it.

        Args:
            business: float [groups, G], b.
            judged: float [groups, G], c.
        """
        both = (business != 0) & (judged != 0)
        weight = a2po_weight(business, judged)
        # a product and a quotient of single precision are off by half a unit each
        slack = 1.0 + 4 * torch.finfo(business.dtype).eps
        self.add(
            signed=both.sum(),
            agreed=(both & (business.sign() == judged.sign())).sum(),
            weight=weight[both].sum(),
            violations=((weight * judged).abs() > business.abs() * slack).sum(),
        )


def shown(sums: list[float]) -> dict[str, float | None]:
    """The figures of one epoch from its sums, over all processes.

    Returns:
        ``skipped_groups``: share of the groups that taught nothing; ``short_groups``; ``hit_rate``: share of
        the groups that hold the next item; ``judged_groups``; ``sign_consistency``: share of the rollouts
        with two advantages that have one sign; ``mean_lambda``: A2PO's weight over the same;
        ``bound_violations``; CPU seconds.
    """
    s = dict(zip(SUMS, sums, strict=True))
    groups, signed = max(s["groups"], 1.0), s["signed"]
    return {
        "groups": s["groups"],
        "skipped_groups": s["silent"] / groups,
        "short_groups": s["short"] / groups,
        "hit_rate": s["hits"] / groups,
        "judged_groups": s["judged"] / groups,
        "sign_consistency": s["agreed"] / signed if signed else None,
        "mean_lambda": s["weight"] / signed if signed else None,
        "bound_violations": s["violations"],
        "seconds_rollout": s["seconds_rollout"],
        "seconds_judge": s["seconds_judge"],
        "seconds_step": s["seconds_step"],
    }


class ListFigures:
    """How narrow lists are: rewards tend to narrow them.

    Args:
        train: the train part of a dataset.
        codes: int64 [N, L], semantic IDs, or None.
    """

    def __init__(self, train: Any, codes: Tensor | None) -> None:
        self.n_items = train.item_num
        count = np.bincount(train.train_events().items.numpy(), minlength=self.n_items)
        order = np.argsort(-count[1:], kind="stable") + 1
        self.tail = np.ones(self.n_items, dtype=bool)
        self.tail[order[: max(1, round(HEAD * len(order)))]] = False
        self.first = None if codes is None else codes[:, 0].cpu().numpy()

    def __call__(self, lists: np.ndarray) -> dict[str, float | None]:
        """Figures of the first ten places.

        Args:
            lists: int64 [rows, K], 0 in empty slots.

        Returns:
            ``coverage``: share of the catalogue in some list; ``tail_share``: share of the places that hold
            an item outside the most frequent fifth; ``code_entropy``: entropy in nats of the first code over
            all places, None without codes.
        """
        items = lists[:, :10]
        items = items[items > 0]
        entropy = None
        if self.first is not None and len(items):
            share = np.bincount(self.first[items]) / len(items)
            entropy = float(-(share[share > 0] * np.log(share[share > 0])).sum())
        return {
            "coverage": len(np.unique(items)) / (self.n_items - 1),
            "tail_share": float(self.tail[items].mean()) if len(items) else 0.0,
            "code_entropy": entropy,
        }


def summary(history: list[dict[str, Any]], best: int | None, metric: str) -> list[str]:
    """What a finished stage did, for the person.

    Args:
        history: of the stage, the start first.
        best: the epoch that validation kept; -1 is the start.
        metric: that validation chose by.
    """
    values = [epoch["valid"][metric] for epoch in history if metric in epoch.get("valid", {})]
    shown = " ".join(f"{value:.4f}" for value in values)
    kept = (
        "no epoch is better on validation than the start, whose weights stay"
        if best == -1
        else f"validation keeps epoch {(best or 0) + 1}"
    )
    told = [f"policy stage, {metric} on validation, start and epochs: {shown}; {kept}"] if values else []
    return [*told, *(sentence(epoch) for epoch in history[-1:] if "policy" in epoch)]


def sentence(epoch: dict[str, Any]) -> str:
    """One line for the log about an epoch of the history."""
    p = epoch["policy"]
    parts = []
    if "groups" in p:
        parts += [
            f"{p['groups']:.0f} groups, {p['skipped_groups']:.0%} of them taught nothing, "
            f"{p['hit_rate']:.0%} held the next item"
        ]
        if p["sign_consistency"] is not None:
            parts += [
                f"judge agrees in sign {p['sign_consistency']:.0%}, mean lambda {p['mean_lambda']:.2f}, "
                f"bound violations {p['bound_violations']:.0f}"
            ]
        known = p["seconds_rollout"] + p["seconds_judge"] + p["seconds_step"]
        parts += [
            f"CPU seconds: rollouts {p['seconds_rollout']:.1f}, judge {p['seconds_judge']:.1f}, losses "
            f"{p['seconds_step']:.1f}, gradients and steps {max(0.0, epoch['train_cpu_seconds'] - known):.1f}"
        ]
    if "coverage" in p:
        entropy = "" if p["code_entropy"] is None else f", entropy of the first code {p['code_entropy']:.2f}"
        parts += [f"lists cover {p['coverage']:.1%} of the items, tail {p['tail_share']:.1%}{entropy}"]
    name = "start" if epoch["epoch"] < 0 else f"policy epoch {epoch['epoch'] + 1}"
    return f"{name}: {'; '.join(parts)}"
