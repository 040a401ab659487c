"""Simulated people with private facts, who talk from templates: offline, seeded, no language model.

The pattern is that of SYNTHAGENT (arXiv 2601.22511): an under-specified request, a user who keeps the rest
and answers, a rubric (`dialogue_rubric`). The content is ours: a person wants one held-out item and knows
what it is like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recbole_sigma.understanding.lexicon import Lexicon, Value
from recbole_sigma.understanding.words import FRAME, content, stems_of

WANT = {
    "category": ("I'd like {}", "{} please", "something from {}", "show me {}"),
    "brand": ("something by {}", "from {}, if you have it", "made by {}"),
    "year": ("from the {}", "something from the {}"),
    "query": ("with {} in the title", "search for {}"),
}
AVOID = ("no {}", "but not {}", "nothing from {} please", "without {}")
OPENING = "recommend something"
TURNS = 4
FEWEST = 10  # items that a fact must leave


@dataclass(frozen=True)
class Person:
    """One simulated user.

    Attributes:
        history: item numbers, oldest first.
        target: the item that the person wants.
        wanted: true facts about it, in the order in which they are told.
        disliked: values that it has not.
    """

    history: tuple[int, ...]
    target: int
    wanted: tuple[Value, ...]
    disliked: tuple[Value, ...]


@dataclass(frozen=True)
class Said:
    """Everything that was stated up to a turn.

    Attributes:
        sentence: of this turn.
        wanted: facts told so far.
        avoided: dislikes told so far, and what was taken back.
        contradicted: the fact that this turn takes back, or None.
    """

    sentence: str
    wanted: tuple[Value, ...]
    avoided: tuple[Value, ...]
    contradicted: Value | None = None


class Script:
    """What a person says, turn by turn.

    Args:
        person: who talks.
        lexicon: which items have a value.
        seed: of the wordings.
        told: facts in the first turn.
    """

    def __init__(self, person: Person, lexicon: Lexicon, seed: int, told: int = 1) -> None:
        self.person, self.lexicon = person, lexicon
        self.rng = np.random.default_rng((seed, person.target, len(person.history)))
        self.said: list[Said] = []
        self.told = told

    def say(self, listed: Sequence[int]) -> Said | None:
        """The next sentence after a list, or None when there is nothing left to say.

        A disliked value of the first item is rejected; else one more fact and one more dislike are told; the
        last turn takes the first fact back.
        """
        turn = len(self.said)
        if turn == TURNS:
            return None
        before = self.said[-1] if self.said else Said("", (), ())
        left = [value for value in self.person.wanted if value not in before.wanted]
        bad = [
            value
            for value in self.person.disliked
            if value not in before.avoided and listed and self.lexicon.mask(value)[listed[0]]
        ]
        if turn == 0:
            facts = left[: self.told]
            sentence = ", ".join(self._want(value) for value in facts) or OPENING
            said = Said(sentence, tuple(facts), ())
        elif turn == TURNS - 1:
            if not before.wanted:
                return None
            value = before.wanted[0]
            said = Said(
                f"actually, no {_name(value)}",
                tuple(v for v in before.wanted if v != value),
                (*before.avoided, value),
                value,
            )
        else:
            unsaid = [value for value in self.person.disliked if value not in before.avoided]
            avoid = (bad or unsaid)[:1]
            facts = [] if bad else left[:1]
            if not avoid and not facts:
                return None
            parts = [self._want(value) for value in facts] + [self._avoid(value) for value in avoid]
            said = Said(", ".join(parts), (*before.wanted, *facts), (*before.avoided, *avoid))
        self.said.append(said)
        return said

    def at_once(self, said: Said) -> str:
        """Everything stated up to a turn, in one sentence."""
        parts = [self._want(value) for value in said.wanted]
        parts += [f"no {_name(value)}" for value in said.avoided]
        return ", ".join(parts) or OPENING

    def _want(self, value: Value) -> str:
        patterns = WANT[value.kind]
        return patterns[int(self.rng.integers(len(patterns)))].format(_name(value))

    def _avoid(self, value: Value) -> str:
        return AVOID[int(self.rng.integers(len(AVOID)))].format(_name(value))


def _name(value: Value) -> str:
    return f"{value.name[:4]}s" if value.kind == "year" else value.name


def people(
    lexicon: Lexicon, histories: Sequence[Sequence[int]], targets: Sequence[int], most: int, seed: int
) -> list[Person]:
    """Draw people whose target has at least one fact to tell.

    Args:
        lexicon: of the data set.
        histories: item numbers of each test row, oldest first.
        targets: item number of each test row.
        most: people at most.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    found: list[Person] = []
    for row in rng.permutation(len(targets)).tolist():
        target, history = int(targets[row]), [int(item) for item in histories[row]]
        if target in history or not history:
            continue
        wanted = _facts(lexicon, target, rng)
        if wanted:
            found.append(Person(tuple(history), target, wanted, _dislikes(lexicon, target, wanted, rng)))
        if len(found) == most:
            break
    return found


def _facts(lexicon: Lexicon, target: int, rng: np.random.Generator) -> tuple[Value, ...]:
    """Facts about an item, each of which leaves `FEWEST` items: a category, a brand or another category, a
    decade; words of the title where the data have none of these.
    """
    words = lexicon.material.words
    found: list[Value] = []
    names = [*dict.fromkeys(words.categories[target])]
    categories = [value for value in (_named(lexicon, name, "category") for name in names) if value]
    categories = [value for value in dict.fromkeys(categories) if _usable(lexicon, value, target)]
    rng.shuffle(categories)  # type: ignore[arg-type]
    found += categories[:1]
    brand = _named(lexicon, words.brands[target], "brand")
    found += [brand] if brand and _usable(lexicon, brand, target) else categories[1:2]
    if lexicon.years is not None and lexicon.years[target] > 1900:
        decade = int(lexicon.years[target]) // 10 * 10
        year = Value("year", f"{decade}-{decade + 9}")
        found += [year] if _usable(lexicon, year, target) else []
    if not found:
        texts = content(dict.fromkeys(lexicon.item_stems[target]))
        queries = [Value("query", text) for text in texts if len(text) > 3 and text not in FRAME]
        found += sorted(
            (value for value in queries if _usable(lexicon, value, target, least=3)),
            key=lambda value: int(lexicon.mask(value).sum()),
        )[-2:]
    left = np.ones(lexicon.n, dtype=bool)
    kept = []
    for value in found:  # together they must leave a list, too
        if (left & lexicon.mask(value)).sum() >= 1:
            left &= lexicon.mask(value)
            kept.append(value)
    return tuple(kept)


def _named(lexicon: Lexicon, name: str, kind: str) -> Value | None:
    """The value that a person means by a name, where it is of the kind."""
    value = lexicon.by_key.get(stems_of(name)) if name else None
    return value if value is not None and value.kind == kind else None


def _usable(lexicon: Lexicon, value: Value, target: int, least: int = FEWEST) -> bool:
    mask = lexicon.mask(value)
    return bool(mask[target]) and least <= int(mask.sum()) < lexicon.n - 1


def _dislikes(
    lexicon: Lexicon, target: int, wanted: Sequence[Value], rng: np.random.Generator
) -> tuple[Value, ...]:
    """Up to two values that the target has not, but other items do that the first fact leaves."""
    kinds = {value.kind for value in wanted} & {"category", "brand", "query"}
    if kinds == {"query"}:
        stems = sorted(stem for stem, items in lexicon.holders.items() if len(items) >= FEWEST)
        pool = [Value("query", text) for text in content(stems) if len(text) > 3]
    else:
        pool = sorted(
            {value for value in lexicon.by_key.values() if value.kind in kinds},
            key=lambda value: (value.kind, value.name),
        )
    rng.shuffle(pool)  # type: ignore[arg-type]
    left = lexicon.mask(wanted[0])
    found: list[Value] = []
    for value in pool:
        mask = lexicon.mask(value)
        if not mask[target] and FEWEST <= mask.sum() and (left & mask).any():
            found.append(value)
        if len(found) == 2:
            break
    return tuple(found)
