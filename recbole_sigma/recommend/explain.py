"""Why an item is in a list: the history items that voted for it, its prefix, and what the instruction added.

A vote is what the item's log-probability loses when one item of the history is taken out and everything else
stays; the instruction's share is what it loses when the model reads nothing. Both are computed with the model
that made the list, its collaborative memory included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from recbole_sigma.policy.aspects import ASPECTS
from recbole_sigma.recommend.lists import ListMaker, Row

NEWEST = 20  # history items that are taken out one by one
VOTERS = 3  # of them, that are told


@dataclass(frozen=True)
class Explanation:
    """Why one item is where it is.

    Attributes:
        title: of the item, or its id.
        voters: (title of a history item, nats that the item gains by it), strongest first, all above 0.
        prefix: semantic-ID prefix, '' for models without one.
        instruction: nats that the item gains by what the model read; None where it read nothing.
        aspects: (name, level, weight) of each aspect as the judge of the policy stage sees the item; empty
            for a model that was trained without such a judge.
    """

    title: str
    voters: list[tuple[str, float]]
    prefix: str
    instruction: float | None
    aspects: list[tuple[str, float, float]] = field(default_factory=list)

    def told(self) -> str:
        """One line for the person."""
        votes = (
            ", ".join(f"{title} {gain:+.2f}" for title, gain in self.voters)
            or "no single item of the history"
        )
        parts = [f"voted for by {votes}"]
        parts += [f"prefix {self.prefix}"] if self.prefix else []
        parts += [] if self.instruction is None else [f"instruction {self.instruction:+.2f}"]
        if self.aspects:
            shown = " + ".join(f"{name} {level:g} x {weight:.2f}" for name, level, weight in self.aspects)
            total = sum(level * weight for _, level, weight in self.aspects)
            parts.append(f"judge {total:+.2f} = {shown}")
        return f"{self.title}: {'; '.join(parts)}"


def explain(
    maker: ListMaker,
    row: Row,
    items: Sequence[int],
    title: Callable[[int], str],
    prefix: Callable[[int], str],
) -> list[Explanation]:
    """Why items are in the list of a row.

    Args:
        maker: what made the list.
        row: the request as the model read it.
        items: numbers of the items.
        title: of an item.
        prefix: of an item, '' for models without one.
    """
    if not items:
        return []
    # a history of one item leaves no history to compare with, which not every model can read
    newest = range(max(0, len(row.items) - NEWEST), len(row.items) if len(row.items) > 1 else 0)
    rows = [row, replace(row, text="")]
    rows += [replace(row, items=[*row.items[:at], *row.items[at + 1 :]]) for at in newest]
    scores = maker.log_probabilities(rows)[:, torch.as_tensor(items)]
    whole, unread, without = scores[0], scores[1], scores[2:]
    aspects = judged(maker, row, items)
    found = []
    for column, item in enumerate(items):
        gains = (whole[column] - without[:, column]).tolist()
        ranked = sorted(zip(gains, newest, strict=True), key=lambda pair: (-pair[0], -pair[1]))
        voters = [(title(row.items[at]), gain) for gain, at in ranked[:VOTERS] if gain > 0]
        by_words = float(whole[column] - unread[column]) if row.text else None
        found.append(Explanation(title(item), voters, prefix(item), by_words, aspects[column]))
    return found


def judged(maker: ListMaker, row: Row, items: Sequence[int]) -> list[list[tuple[str, float, float]]]:
    """(name, level, weight) of each aspect, per item; nothing where the model had no judge of aspects."""
    judge = maker.aspects
    if judge is None:
        return [[] for _ in items]
    met = torch.tensor(row.items, dtype=torch.int64)
    history = torch.zeros_like(met), met
    weights = judge.weights(history, 1)[0].tolist()
    levels = judge.levels(history, torch.tensor([list(items)]))[0].tolist()
    return [list(zip(ASPECTS, own, weights, strict=True)) for own in levels]
