"""The rubric of a dialogue, and two systems with known scores on it.

Each line is 0 or 1 per dialogue: lists are legal; stated facts hold; stated dislikes are absent; a true
fact does not worsen the target's place; questions come only while two slots are open; a contradiction is
honoured. An oracle that filters on the facts scores 1 on every line; a popularity list fails the lines
about constraints and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from recbole_sigma.evaluation.tasks.dialogue_user import Person, Said, Script
from recbole_sigma.understanding.lexicon import Lexicon, Value

LINES = ("legal", "facts", "dislikes", "place", "questions", "contradiction")
CONSTRAINT_LINES = ("facts", "dislikes", "contradiction")
TOP = 10  # items that a person looks at
ENOUGH = 0.8  # share of them that a fact must hold for
ASKED_SLOTS = ("category", "brand", "year")


@dataclass(frozen=True)
class Reply:
    """A system's turn: items best first, and its question, '' for none."""

    items: Sequence[int]
    question: str = ""


class System(Protocol):
    """What is judged."""

    def start(self, person: Person) -> None:
        """A new person comes; only an oracle may look at more than the history."""

    def say(self, said: Said) -> Reply:
        """The person says something; only an oracle may look at more than the sentence."""


def converse(
    system: System,
    lexicon: Lexicon,
    persons: Sequence[Person],
    length: int,
    seen_stay_out: bool = True,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Talk to every person and judge.

    Args:
        system: what is judged.
        lexicon: which items have a value.
        persons: who talks.
        length: items of a list.
        seen_stay_out: items of the history may not be listed.
        seed: of the wordings.
        advance: called once per person.

    Returns:
        ``lines``: line -> mean and n (dialogues that it applies to); ``hit@10``: per turn; ``one_shot``:
        hit@10 of the last true turn and of everything told up to it in one sentence, and how many people each
        helped alone; ``dialogues``.
    """
    lines: dict[str, list[bool]] = {line: [] for line in LINES}
    hits: list[list[bool]] = []
    pairs: list[tuple[bool, bool]] = []
    for person in persons:
        talk, script, turns = _Judged(lexicon, person, length, seen_stay_out), None, []
        script = Script(person, lexicon, seed)
        system.start(person)
        listed: Sequence[int] = ()
        while (said := script.say(listed)) is not None:
            reply = system.say(said)
            listed = list(reply.items)
            talk.judge(said, reply)
            turns.append((said, person.target in listed[:TOP]))
        for line, verdicts in talk.verdicts.items():
            if verdicts:
                lines[line].append(all(verdicts))
        true = [turn for turn in turns if turn[0].contradicted is None]
        hits.append([hit for _, hit in true])
        system.start(person)
        last = true[-1][0]
        once = system.say(Said(script.at_once(last), last.wanted, last.avoided))
        pairs.append((true[-1][1], person.target in list(once.items)[:TOP]))
        advance()
    most = max((len(row) for row in hits), default=0)
    return {
        "dialogues": len(persons),
        "lines": {
            line: {"value": float(np.mean(found)) if found else None, "n": len(found)}
            for line, found in lines.items()
        },
        "hit@10": [
            {"turn": turn + 1, "value": float(np.mean(own)), "n": len(own)}
            for turn in range(most)
            for own in [[row[turn] for row in hits if len(row) > turn]]
        ],
        "one_shot": {
            "dialogue": float(np.mean([a for a, _ in pairs])) if pairs else None,
            "one_sentence": float(np.mean([b for _, b in pairs])) if pairs else None,
            "dialogue_only": sum(a and not b for a, b in pairs),
            "one_sentence_only": sum(b and not a for a, b in pairs),
        },
    }


class _Judged:
    """The verdicts on one dialogue."""

    def __init__(self, lexicon: Lexicon, person: Person, length: int, seen_stay_out: bool) -> None:
        self.lexicon, self.person, self.length = lexicon, person, length
        self.open = np.ones(lexicon.n, dtype=bool)
        self.open[0] = False
        if seen_stay_out:
            self.open[list(person.history)] = False
        self.place: int | None = None
        self.verdicts: dict[str, list[bool]] = {line: [] for line in LINES}

    def judge(self, said: Said, reply: Reply) -> None:
        """Add the verdicts on one turn."""
        items = list(reply.items)
        top = np.array(items[:TOP], dtype=np.int64)
        unique = len(set(items)) == len(items) and all(0 < item < self.lexicon.n for item in items)
        exists = bool((self.open & self._holds(said)).any())  # a fact taken back may leave nothing
        self.verdicts["legal"].append(unique and bool(self.open[items].all()) and (bool(items) or not exists))
        for value in said.wanted if exists else ():
            self.verdicts["facts"].append(
                bool(items) and float(self.lexicon.mask(value)[top].mean()) >= ENOUGH
            )
        for value in said.avoided:
            if value != said.contradicted:
                self.verdicts["dislikes"].append(not self.lexicon.mask(value)[top].any())
        if said.contradicted is not None:
            self.verdicts["contradiction"].append(not self.lexicon.mask(said.contradicted)[top].any())
        else:
            place = items.index(self.person.target) if self.person.target in items else self.length
            if self.place is not None:
                self.verdicts["place"].append(place <= self.place)
            self.place = place
        named = {value.kind for value in (*said.wanted, *said.avoided)}
        left = [kind for kind in ASKED_SLOTS if self._has(kind) and kind not in named]
        self.verdicts["questions"].append(not reply.question or len(left) >= 2)

    def _holds(self, said: Said) -> np.ndarray:
        found = np.ones(self.lexicon.n, dtype=bool)
        for value in said.wanted:
            found &= self.lexicon.mask(value)
        for value in said.avoided:
            found &= ~self.lexicon.mask(value)
        return found

    def _has(self, kind: str) -> bool:
        return self.lexicon.years is not None if kind == "year" else bool(self.lexicon.members[kind])


class Oracle:
    """Filters on the facts themselves and lists the target first: 1 on every line."""

    def __init__(self, lexicon: Lexicon, length: int, seen_stay_out: bool = True) -> None:
        self.lexicon, self.length, self.seen_stay_out = lexicon, length, seen_stay_out

    def start(self, person: Person) -> None:
        """See `System`."""
        self.person = person

    def say(self, said: Said) -> Reply:
        """See `System`."""
        left = np.ones(self.lexicon.n, dtype=bool)
        left[0] = False
        values: list[tuple[Value, bool]] = [(value, True) for value in said.wanted]
        values += [(value, False) for value in said.avoided]
        for value, wanted in values:
            left &= self.lexicon.mask(value) == wanted
        if self.seen_stay_out:
            left[list(self.person.history)] = False
        order = np.argsort(-self.lexicon.counts, kind="stable")
        listed = [int(item) for item in order if left[item]]
        listed.sort(key=lambda item: item != self.person.target)
        return Reply(listed[: self.length])


class PopularList:
    """The most popular unseen items, whatever is said: fails the `CONSTRAINT_LINES` and no other."""

    def __init__(self, lexicon: Lexicon, length: int, seen_stay_out: bool = True) -> None:
        self.order = [int(item) for item in np.argsort(-lexicon.counts, kind="stable") if item]
        self.length, self.seen_stay_out = length, seen_stay_out

    def start(self, person: Person) -> None:
        """See `System`."""
        seen = set(person.history) if self.seen_stay_out else set()
        self.listed = [item for item in self.order if item not in seen][: self.length]

    def say(self, said: Said) -> Reply:
        """See `System`."""
        return Reply(self.listed)
