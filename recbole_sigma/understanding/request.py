"""What was understood of a sentence."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from recbole_sigma.instructions.tasks import GENERAL
from recbole_sigma.understanding.lexicon import Value


@dataclass(frozen=True)
class Understood:
    """A sentence, understood.

    Attributes:
        sentence: as it was typed.
        task: the task it asks for.
        include: what every item must have; of the values of one group an item needs one.
        exclude: what no item may have.
        like: items that the person refers to ("like X", "after X"), as if they were the newest of the
            history.
        query: words that the title, brand or category should hold, '' for none.
        unread: words that nothing was made of.
        missing: what was asked for and the data do not have, in sentences.
        in_scope: whether the sentence asks for items at all; the plain list answers it otherwise.
    """

    sentence: str
    task: str = GENERAL
    include: tuple[tuple[Value, ...], ...] = ()
    exclude: tuple[Value, ...] = ()
    like: tuple[int, ...] = ()
    query: str = ""
    unread: tuple[str, ...] = ()
    missing: tuple[str, ...] = field(default=())
    in_scope: bool = True

    def slots(self) -> frozenset[str]:
        """The slots as labelled sentences write them, but for ``like``, whose items have titles."""
        values = {value.slot() for group in self.include for value in group}
        values -= {"longtail", "discover"}
        values |= {f"-{value.slot()}" for value in self.exclude}
        return frozenset(values | ({f"query={self.query}"} if self.query else set()))

    def told(self) -> list[str]:
        """Lines for the person: what was understood and what was not."""
        lines = []
        if not self.in_scope:
            lines.append(f"nothing in {shortened(self.sentence)!r} names a task or a value of the data")
        parts = [" or ".join(value.told() for value in group) for group in self.include]
        parts += [f'words "{self.query}"'] if self.query else []
        parts += [f"{'nothing' if v.kind == 'like' else 'no'} {v.told()}" for v in self.exclude]
        if self.in_scope:
            lines.append(f"understood: {self.task}" + (f": {'; '.join(parts)}" if parts else ""))
        if self.unread and self.in_scope:
            lines.append(f"not read: {', '.join(self.unread[:8])}")
        return [*lines, *self.missing]

    def without(self, value: Value) -> Understood:
        """The same with a value taken out of what is asked for."""
        groups = tuple(tuple(v for v in group if v != value) for group in self.include)
        return replace(self, include=tuple(group for group in groups if group))


def shortened(text: str, most: int = 60) -> str:
    """The beginning of a text."""
    return text if len(text) <= most else text[: most - 3] + "..."
