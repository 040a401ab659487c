"""What `recommender` is asked and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from recbole_sigma.recommend.explain import Explanation


@dataclass(frozen=True)
class Recommendation:
    """One place of a list.

    Attributes:
        rank: 1-based place.
        item: original item id.
        title: its title, '' where unknown.
        score: log P(item | prompt) for SIGMA, the model's own score otherwise.
        prefix: semantic-ID prefix such as ``<a_7>``, '' for models without one.
    """

    rank: int
    item: str
    title: str
    score: float
    prefix: str


@dataclass(frozen=True)
class Request:
    """One list to make.

    Attributes:
        user: original user id, or None.
        history: titles or item ids, oldest first; None takes the user's own interactions.
        instruction: a sentence, or None for JustForYou; what it states holds for every item of the list.
        task: name of a trained task, or None; a sentence beside it goes to the model as it is
            and filters nothing.
        slot: the task's slot (a query, a category, a season, a holiday), or None.
        category: only items of this category, or None.
        keep_seen: history items may be recommended again; None follows ``filter_seen`` of the training.
    """

    user: str | None = None
    history: Sequence[str] | None = None
    instruction: str | None = None
    task: str | None = None
    slot: str | None = None
    category: str | None = None
    keep_seen: bool | None = None


@dataclass(frozen=True)
class Answer:
    """A list with what it was made from.

    Attributes:
        items: the recommendations.
        instruction: the sentence that the model read, '' for a model without instructions.
        task: the named or nearest task, '' for a model without instructions.
        notes: sentences for the person.
        allowed: how many items satisfied what was stated.
        moved: items of the list that the plain list does not have; None where there was no sentence.
        moved_by_instruction: items of the list that would not be there under the same conditions if the
            model read nothing; None where there was no sentence.
        explanations: why each item is there, where that was asked.
    """

    items: list[Recommendation]
    instruction: str
    task: str
    notes: list[str]
    allowed: int = 0
    moved: int | None = None
    moved_by_instruction: int | None = None
    explanations: list[Explanation] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)
