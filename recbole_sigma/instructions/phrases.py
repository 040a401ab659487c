"""Words of queries and items, and pseudo-queries made from item metadata (ours: no search log)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?", re.UNICODE)
STOPWORDS = frozenset(
    "the and for with from without your you our are was its this that all one two new set pack size pcs "
    "piece ounce ounces fluid inch inches count made into per more most plus not off out over under of on in "
    "to by at or an a as is it be oz ml lb lbs vol part de la le el les des und der die das".split()
)


def words_of(text: str) -> list[str]:
    """Lower-case words of a text, punctuation dropped.

    >>> words_of("Gears of War 3: Children's (X-Box)")
    ['gears', 'of', 'war', '3', "children's", 'x', 'box']
    """
    return _WORD.findall(text.lower())


def normalise_query(text: str, longest: int) -> str:
    """A typed query as the prompt holds it: lower-case words, at most ``longest`` of them.

    >>> normalise_query("  Call-of DUTY  ", 8)
    'call of duty'
    """
    return " ".join(words_of(text)[:longest])


def phrase_words(text: str) -> list[str]:
    """Words that may stand in a pseudo-query: alphabetic, three letters or more, no stop words, no numbers.

    >>> phrase_words("OPI Nail Lacquer, E55 0.5-Fluid Ounce")
    ['opi', 'nail', 'lacquer']
    """
    return [word for word in words_of(text) if len(word) > 2 and word.isalpha() and word not in STOPWORDS]


@dataclass(frozen=True)
class ItemWords:
    """What a phrase is matched against.

    Attributes:
        titles: title of each item [N], row 0 empty.
        categories: category names of each item, a path from the root down or flat labels.
        brands: brand of each item, '' where unknown.
    """

    titles: Sequence[str]
    categories: Sequence[Sequence[str]]
    brands: Sequence[str]

    def all_words(self, item: int) -> set[str]:
        """Every word of an item's title, categories and brand."""
        parts = (self.titles[item], *self.categories[item], self.brands[item])
        return {word for part in parts for word in words_of(part)}


class WordIndex:
    """Which items hold all words of a phrase; one integer of N bits per word.

    Args:
        items: the texts.
        counted: bool [N], items that count (others never match).
    """

    def __init__(self, items: ItemWords, counted: np.ndarray) -> None:
        self.n = len(items.titles)
        found: dict[str, list[int]] = {}
        for item in np.flatnonzero(counted).tolist():
            for word in items.all_words(item):
                found.setdefault(word, []).append(item)
        self.bits: dict[str, int] = {}
        row = np.zeros(self.n, dtype=bool)
        for word, places in found.items():
            row[places] = True
            self.bits[word] = int.from_bytes(np.packbits(row, bitorder="little").tobytes(), "little")
            row[places] = False

    def _joined(self, words: Sequence[str]) -> int:
        joined = -1
        for word in words:
            joined &= self.bits.get(word, 0)
            if not joined:
                return 0
        return joined if words else 0

    def count(self, words: Sequence[str]) -> int:
        """Number of items that hold all the words."""
        return self._joined(words).bit_count()

    def mask(self, text: str) -> np.ndarray:
        """Items that hold all words of a text: bool [N]."""
        size = (self.n + 7) // 8
        raw = np.frombuffer(self._joined(words_of(text)).to_bytes(size, "little"), dtype=np.uint8)
        return np.unpackbits(raw, count=self.n, bitorder="little").astype(bool)


def candidates(items: ItemWords, item: int, flat: bool) -> list[str]:
    """Phrases that an item could be searched by, each once, never all words of its title.

    Args:
        items: the texts.
        item: the item.
        flat: its categories are labels side by side, not a path.
    """
    title = phrase_words(items.titles[item])
    names = [[word for word in words_of(name) if word.isalpha()] for name in items.categories[item]]
    names = [words for words in names if words]
    leaves = names if flat else names[-1:]
    brand = phrase_words(items.brands[item])
    found: list[list[str]] = []
    for leaf in leaves:
        found += [[*leaf, word] for word in title if word not in leaf]
        if brand and not set(brand) <= set(leaf):
            found.append([*brand, *leaf])
    found += [list(pair) for pair in zip(title, title[1:], strict=False) if pair[0] != pair[1]]
    if flat:
        found += [[*a, *b] for place, a in enumerate(names) for b in names[place + 1 :]]
    whole = set(words_of(items.titles[item]))
    return list(dict.fromkeys(" ".join(words) for words in found if not whole or set(words) != whole))


def pseudo_queries(
    items: ItemWords,
    index: WordIndex,
    tokens: Sequence[str],
    flat: bool,
    least: float,
    most: float,
    per_item: int,
    seed: int,
) -> list[list[str]]:
    """Pseudo-queries of every item: phrases that match between ``least`` and ``most`` items.

    The kept phrases of an item are drawn by its own token and the seed, so that no other item's fate, and no
    interaction, moves them.

    Args:
        items: the texts.
        index: counts the matches.
        tokens: original item ids [N].
        flat: see `candidates`.
        least: fewest matching items.
        most: most matching items.
        per_item: phrases kept for an item.
        seed: seed of the draw.

    Returns:
        One list per item, row 0 empty.
    """
    counts: dict[str, int] = {}
    kept: list[list[str]] = [[]]
    for item in range(1, len(tokens)):
        good = []
        for phrase in candidates(items, item, flat):
            if phrase not in counts:
                counts[phrase] = index.count(phrase.split())
            if least <= counts[phrase] <= most:
                good.append(phrase)
        if len(good) > per_item:
            draw = np.random.default_rng((seed, zlib.crc32(tokens[item].encode())))
            good = [good[i] for i in sorted(draw.choice(len(good), per_item, replace=False))]
        kept.append(good)
    return kept
