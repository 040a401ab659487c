"""The values of the data that a sentence may name, and which items each of them means.

Categories, brands, seasons and holidays come from the items and the tasks; years from a text column of years
or from "(1995)" at the end of titles. What is counted (how popular an item is) is counted over TRAIN events.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recbole_sigma.instructions.calendar import HOLIDAYS, SEASONS
from recbole_sigma.instructions.fields import Material
from recbole_sigma.instructions.rules import TaskRows, tail_items
from recbole_sigma.instructions.tasks import Task
from recbole_sigma.understanding.words import FRAME, STOPS, content, stem, stems_of, tokens_of

KINDS = ("holiday", "season", "category", "brand")
"""Kinds of named values; where one name means several, the first kind has it."""
HEAD_SHARE = 0.8
"""Popular items make up this share of the train events: the head that the task Longtail leaves out."""
LONGEST = 8  # words of a name

SEASON_NAMES = {
    "fall": "autumn",
    "springtime": "spring",
    "summertime": "summer",
    "wintertime": "winter",
    "autumnal": "autumn",
}
HOLIDAY_NAMES = {
    "valentine": "Valentine's Day",
    "valentines": "Valentine's Day",
    "mothers day": "Mother's Day",
    "xmas": "Christmas",
    "santa": "Christmas",
    "school starts": "back to school",
    "cyber monday": "Black Friday",
}
ALSO = {
    "comedy": "funny, hilarious, laugh, laughs, humor, humour, humorous, comic, comical, something to laugh",
    "horror": "scary, frightening, creepy, spooky, scare, scares, terrifying",
    "romance": "romantic, love story, love stories",
    "animation": "animated, cartoon, cartoons",
    "children": "kid, kids, child, children, family",
    "sci fi": "science fiction, scifi, sf",
    "film noir": "noir",
    "thriller": "thrilling, suspense, suspenseful",
    "mystery": "detective, whodunit, mysterious",
    "adventure": "adventurous, adventures",
    "documentary": "docu, docus",
    "western": "cowboy, cowboys",
    "fragrance": "perfume, perfumes, scent, scents",
    "makeup": "make up, cosmetics",
    "hair color": "hair dye, hair dyes, hair coloring",
}
"""Other words for what many data sets call by the left name; without effect on other data sets."""
_BRAND_TAILS = {"cosmetic", "beauty", "paris", "inc", "professional"}
SMALLEST_PART = 5  # items of a category that a part of its name may stand for
LARGEST_VALUE = 0.95  # share of the items above which a name tells nothing


@dataclass(frozen=True)
class Value:
    """Something that items have or have not.

    Attributes:
        kind: of `KINDS`; or query (words of the item's text), year, popular, like (an item).
        name: as the data write it; a range of years or prices is ``1980-1989``, ``1996-`` or ``-1959``.
    """

    kind: str
    name: str

    def slot(self) -> str:
        """``kind=name``, as labelled sentences write it."""
        return self.kind if self.kind == self.name else f"{self.kind}={self.name}"

    def told(self) -> str:
        """The value in a sentence for the person."""
        if self.kind in ("popular", "longtail", "discover"):
            return {"popular": "popular", "longtail": "seldom chosen", "discover": "of a kind new to you"}[
                self.kind
            ]
        quote = '"' if self.kind in ("query", "like") else ""
        kind = {"query": "words", "like": "like"}.get(self.kind, self.kind)
        return f"{kind} {quote}{self.name}{quote}"


class Lexicon:
    """Names of a dataset's values and the items behind them.

    Args:
        material: items and train events.
        tasks: the tasks that the dataset carries, by name.
        years: int64 [N], 0 where unknown, or None.
        prices: float64 [N], 0 where unknown, or None.
    """

    def __init__(
        self,
        material: Material,
        tasks: Mapping[str, TaskRows],
        years: np.ndarray | None = None,
        prices: np.ndarray | None = None,
    ) -> None:
        self.material, self.tasks, self.years, self.prices = material, tasks, years, prices
        self.n = len(material.tokens)
        self.counts = material.train_counts()
        self.members: dict[str, dict[str, list[int]]] = {"category": {}, "brand": {}}
        for item in range(1, self.n):
            for name in dict.fromkeys(material.words.categories[item]):
                self.members["category"].setdefault(name, []).append(item)
            if brand := material.words.brands[item]:
                self.members["brand"].setdefault(brand, []).append(item)
        self.by_key: dict[tuple[str, ...], Value] = {}
        self.marked: set[tuple[str, ...]] = set()  # names with marks in them ("Creams, Gels & Lotions")
        self.by_maker: dict[tuple[str, ...], Value] = {}
        self.nodes: dict[str, list[str]] = {}
        self._stems: dict[str, str] = {}
        self._masks: dict[Value, np.ndarray] = {}
        self._name_values()

    # --- names ----------------------------------------------------------------------------------------------

    def _name_values(self) -> None:
        for kind, names, others in (
            ("holiday", HOLIDAYS, HOLIDAY_NAMES),
            ("season", SEASONS, SEASON_NAMES),
        ):
            if self._timed(kind) is None:
                continue
            for name in names:
                self._name(stems_of(name), Value(kind, name))
            for other, name in others.items():
                self._name(stems_of(other), Value(kind, name))
        self._name_categories()
        brands = self.members["brand"]
        for name in sorted(brands, key=lambda name: -len(brands[name])):
            self._name_brand(stems_of(name), name)
        for name in brands:
            key = stems_of(name.split(" by ")[0])
            while len(key) > 1 and key[-1] in _BRAND_TAILS:
                key = key[:-1]
            if not set(key) <= FRAME:
                self._name_brand(key, name)
            if len(key) > 1:
                self._name(("".join(key),), Value("brand", name))
        for name, also in ALSO.items():
            value = self.by_key.get(stems_of(name))
            for other in also.split(", ") if value else ():
                self._name(stems_of(other), value)
        for key, value in list(self.by_key.items()):
            if len(key) == 2:
                self._name(("".join(key),), value)

    def _name(self, key: tuple[str, ...], value: Value | None) -> None:
        if value is not None and key and any(len(part) > 1 or not part.isalpha() for part in key):
            self.by_key.setdefault(key, value)
            if any(token.text in STOPS for token in tokens_of(value.name)):
                self.marked.add(key)

    def _name_brand(self, key: tuple[str, ...], name: str) -> None:
        """A brand whose one word stands in more titles of others ("Clear") is named behind "by" or "from"."""
        value = Value("brand", name)
        holders = len(self.holders.get(key[0], ())) if len(key) == 1 else 0
        if holders > 2 * len(self.members["brand"][name]):
            self.by_maker.setdefault(key, value)
        else:
            self._name(key, value)

    def _name_categories(self) -> None:
        """A category answers to its name and to each part of "Shampoo & Conditioner Sets"; one name may mean
        several categories, and the value then carries the name that fits best.
        """
        most = LARGEST_VALUE * (self.n - 1)
        categories = {name: items for name, items in self.members["category"].items() if len(items) <= most}
        parts: dict[tuple[str, ...], list[str]] = {}
        for name in categories:
            keys = {stems_of(name)}
            if len(categories[name]) >= SMALLEST_PART:
                keys |= {stems_of(part) for part in re.split(r"&|,|/|\band\b", name)}
            for key in keys - {()}:
                parts.setdefault(key, []).append(name)
        for key, names in parts.items():
            names.sort(key=lambda name: (stems_of(name) != key, -len(categories[name]), name))
            self.nodes.setdefault(names[0], []).extend(names)
            if not set(key) <= FRAME or stems_of(names[0]) == key:
                self._name(key, Value("category", names[0]))

    def _timed(self, kind: str) -> TaskRows | None:
        """The rows of the task Season or Holiday, where it is on."""
        return next((rows for rows in self.tasks.values() if rows.kind == kind), None)

    # --- titles and text ------------------------------------------------------------------------------------

    def _stem(self, word: str) -> str:
        found = self._stems.get(word)
        if found is None:
            found = self._stems[word] = stem(word)
        return found

    @cached_property
    def item_stems(self) -> list[tuple[str, ...]]:
        """Stems of each item's title [N]."""
        split = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
        titles = self.material.words.titles
        return [
            tuple(self._stem(word) for word in split.findall(title.lower().replace("\u2019", "'")))
            for title in titles
        ]

    @cached_property
    def holders(self) -> dict[str, np.ndarray]:
        """Stem -> items whose title, categories or brand hold it, ascending."""
        found: dict[str, list[int]] = {}
        words = self.material.words
        of_name = {name: stems_of(name) for kind in self.members.values() for name in kind}
        for item in range(1, self.n):
            names = [*words.categories[item], words.brands[item]]
            own = {*self.item_stems[item], *(part for name in names if name for part in of_name[name])}
            for each in own:
                found.setdefault(each, []).append(item)
        return {each: np.array(items) for each, items in found.items()}

    @cached_property
    def titles(self) -> dict[tuple[str, ...], list[int]]:
        """Title, and what stands before its first colon or bracket, as stems -> items, most chosen first."""
        found: dict[tuple[str, ...], dict[int, None]] = {}
        for item in np.argsort(-self.counts, kind="stable").tolist():
            for key in title_keys(self.material.words.titles[item]) if item else ():
                found.setdefault(key, {})[item] = None
        return {key: list(items) for key, items in found.items()}

    @cached_property
    def typed(self) -> frozenset[str]:
        """Queries that people typed in TRAIN events, as the task Query normalises them."""
        rows = next((rows for rows in self.tasks.values() if rows.kind == "typed"), None)
        return frozenset(rows.values[: rows.known]) if rows else frozenset()

    def holding(self, stems: Iterable[str]) -> np.ndarray:
        """Items that hold all stems: int64, ascending; none for no stem."""
        lists = sorted((self.holders.get(each, np.zeros(0, dtype=np.int64)) for each in stems), key=len)
        if not lists:
            return np.zeros(0, dtype=np.int64)
        found = lists[0]
        for other in lists[1:]:
            found = np.intersect1d(found, other, assume_unique=True)
        return found

    def next_to(self, first: str, second: str) -> np.ndarray:
        """Items in whose titles one stem follows the other: int64."""
        found = self.holding((first, second))
        pair = (first, second)
        return np.array(
            [
                i
                for i in found.tolist()
                if pair in zip(self.item_stems[i], self.item_stems[i][1:], strict=False)
            ],
            dtype=np.int64,
        )

    def item_called(self, stems: Sequence[str]) -> int | None:
        """The item that a person means by these words: a whole title, else the most chosen item that holds
        them all; None where no item does.
        """
        titled = self.titles.get(tuple(stems)) or self.titles.get(tuple(drop_article(stems)))
        if titled:
            return titled[0]
        found = self.holding(stems)
        return int(found[np.argmax(self.counts[found])]) if len(found) else None

    # --- items ----------------------------------------------------------------------------------------------

    def mask(self, value: Value, history: Sequence[int] = ()) -> np.ndarray:
        """The items that have a value: bool [N].

        Args:
            value: what is meant.
            history: the person's items, oldest first; Discover depends on them.
        """
        if value.kind == "discover":
            return self._unlike(history)
        if value not in self._masks:
            self._masks[value] = self._mask(value)
        return self._masks[value]

    def _mask(self, value: Value) -> np.ndarray:
        out = np.zeros(self.n, dtype=bool)
        if value.kind == "category":
            for name in self.nodes.get(value.name, [value.name]):
                out[self.members["category"].get(name, [])] = True
        elif value.kind == "brand":
            out[self.members["brand"].get(value.name, [])] = True
        elif value.kind in ("season", "holiday"):
            rows = self._timed(value.kind)
            if rows is not None and rows.match is not None:
                out = rows.match(rows.values.index(value.name)).copy()
        elif value.kind == "query":
            stems = [stem(word) for word in value.name.split()]
            out[self.holding(content(stems) or stems)] = True
        elif value.kind == "year" and self.years is not None:
            low, _, high = value.name.partition("-")
            out = (self.years >= int(low or 1)) & (self.years <= int(high or 9999)) & (self.years > 0)
        elif value.kind == "price" and self.prices is not None:
            low, _, high = value.name.partition("-")
            out = (
                (self.prices >= float(low or 0)) & (self.prices <= float(high or np.inf)) & (self.prices > 0)
            )
        elif value.kind == "longtail":
            out = self.tail.copy()
        elif value.kind == "popular":
            out = (self.counts > 0) & ~self.tail
        elif value.kind == "like":
            out[self.alike(value.name)] = True
        out[0] = False
        return out

    @cached_property
    def tail(self) -> np.ndarray:
        """Seldom chosen items, as the task Longtail has them: bool [N]."""
        task = self._task("longtail")
        share = HEAD_SHARE if task is None else task.options["head_share"]
        return tail_items(self.counts, share)

    def _task(self, rule: str) -> Task | None:
        return next((rows.task for rows in self.tasks.values() if rows.task.rule == rule), None)

    def _unlike(self, history: Sequence[int]) -> np.ndarray:
        """Items that share no category node with the newest items of a history: bool [N]."""
        task, labels = self._task("discover"), self.material.labels
        window = int(task.options["window"]) if task else len(history)
        known = {labels[item] for item in list(history)[-window:]}
        out = np.array([bool(label) and label not in known for label in labels])
        out[0] = False
        return out

    def alike(self, title: str) -> list[int]:
        """The items of a title and those with exactly its categories, where it has any."""
        items = self.titles.get(title_keys(title)[0] if title_keys(title) else (), [])
        labels = {self.material.words.categories[item] for item in items} - {()}
        same = [i for i in range(1, self.n) if self.material.words.categories[i] in labels]
        return [*items, *same]

    def recent(self) -> Value | None:
        """The newest quarter of the items by year, as a year value."""
        if self.years is None or not (self.years > 0).any():
            return None
        return Value("year", f"{int(np.quantile(self.years[self.years > 0], 0.75))}-")

    def cheap(self) -> Value | None:
        """The cheaper third of the items with a price, as a price value."""
        return None if self.prices is None else Value("price", f"-{np.quantile(self._known_prices, 1 / 3):g}")

    def expensive(self) -> Value | None:
        """The dearer third of the items with a price, as a price value."""
        return None if self.prices is None else Value("price", f"{np.quantile(self._known_prices, 2 / 3):g}-")

    @property
    def _known_prices(self) -> np.ndarray:
        assert self.prices is not None
        return self.prices[self.prices > 0]

    def old(self) -> Value | None:
        """The oldest quarter of the items by year, as a year value."""
        if self.years is None or not (self.years > 0).any():
            return None
        return Value("year", f"-{int(np.quantile(self.years[self.years > 0], 0.25))}")


def drop_article(stems: Sequence[str]) -> list[str]:
    """Stems without a leading article."""
    return list(stems[1:] if len(stems) > 1 and stems[0] in ("the", "a", "an") else stems)


def title_keys(title: str) -> list[tuple[str, ...]]:
    """What a title may be called: whole, without its year or bracket, and what stands before its colon.

    >>> title_keys("Usual Suspects, The (1995)")
    [('usual', 'suspect')]
    >>> title_keys("Call of Duty: Black Ops")
    [('call', 'of', 'duty', 'black', 'op'), ('call', 'of', 'duty')]
    """
    bare = re.sub(r"\s*[(\[].*?[)\]]", "", title) or title
    bare = re.sub(r"(?i)^(.*), (the|an?|il|la|le|les|der|das|die|l')$", r"\1", bare.strip())
    keys = [_title_stems(bare), _title_stems(bare.split(":")[0])]
    return [key for key in dict.fromkeys(keys) if key and len(key) <= LONGEST]


def _title_stems(text: str) -> tuple[str, ...]:
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("\u2019", "'"))
    return tuple(drop_article([stem(word) for word in words]))
