"""Words of a sentence: tokens, stems, the words that carry no content, and the nearest spelling."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[.,;:!?&]|\s-\s", re.UNICODE)
_SAME = str.maketrans({"\u2019": "'", "\u2018": "'", "`": "'", "\u00b4": "'", "\u201c": '"', "\u201d": '"'})
_SPELT = {"colour": "color", "colours": "colors", "grey": "gray", "favourite": "favorite", "tv": "television"}
STOPS = frozenset(",;.!?:")
"""Tokens at which a clause ends."""

FRAME = frozenset(
    """
    a an the this that these those it its they them their there here one ones some any all every each both
    either i im ive id ill me my mine myself we us our you your youre youve yours he she his her who whom
    which what whats whatever be is are am was were been being do does did done have has had having can
    could will would shall should may might must let lets go going gone come comes and or of to in on at by
    for from with as into out up about than under over during through around near between before after since
    until then so too very really quite just only also even still already ever yet again once if when where
    while because please pls plz thanks thank thx hi hello hey ok okay oh well yes yeah yep maybe perhaps
    kindly sure surely show give find search searching look looking recommend recommends recommended
    recommendation recommendations suggest suggests suggestion suggestions propose offer pick picks picked
    choose choice choices select tell help get got getting want wants wanted need needs like likes love
    loves enjoy wish prefer feel feeling think try watch watching see seeing play playing buy buying bought
    purchase purchases purchased browse browsing use using wear wearing read listen sell sells carry stock
    available serve put take trust bring make made keep pull call called named titled name names title
    titles word words query results result anybody anyone everything anything something somethings stuff
    thing things sth item items product products movie movies film films flick flicks game games video
    picture list lists option options idea ideas tip next now tonight today evening night weekend lately
    tomorrow morning soon good great nice best better fine cool decent excellent perfect favorite kind kinds
    sort type types genre genres category categories style few couple ten five three two more another other
    others else much many lot lots bit little mood fan own based history taste guess person friend user
    match matches fit fits suit suits right top new old same guys people couch decide know choosing sister
    brother girlfriend boyfriend wife husband mom dad mother father essentials care ready favorites xbox 360
    console hers himself herself back ahead seen watched played owned tried shopping shop store present
    presents gift gifts giving given broke dont cant wont wouldnt doesnt didnt isnt arent havent hasnt not
    no nor neither never none nothing without except but rather instead ideally possible whether however
    usual usually normally content
    """.split()
)
"""Words that frame a request and say nothing about what is wanted."""

OFF_TOPIC = frozenset({"how", "why", "who", "when"})
"""First words of questions that no list answers (but see `grammar.POSITIVE`: how about, why not)."""


@dataclass(frozen=True)
class Token:
    """A word or a mark of a sentence.

    Attributes:
        text: lower case, without apostrophes, in the spelling that was recognised.
        stem: what inflections have in common.
        typed: as it was typed.
    """

    text: str
    stem: str
    typed: str


def plain(text: str) -> str:
    r"""Text in one Unicode form, with the control characters as blanks.

    >>> plain("d\u2019accord\x1b[2J")
    "d'accord [2J"
    """
    text = unicodedata.normalize("NFKC", text).translate(_SAME)
    return "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in text)


def tokens_of(text: str) -> list[Token]:
    """Words and marks of a sentence; a dash between blanks is a comma.

    >>> [token.text for token in tokens_of("Sci-Fi, but don't scare me!")]
    ['sci', 'fi', ',', 'but', 'dont', 'scare', 'me', '!']
    """
    found = []
    for match in _TOKEN.finditer(plain(text)):
        word = match.group().lower().replace("'", "")
        word = "," if word.strip() == "-" else "and" if word == "&" else _SPELT.get(word, word)
        found.append(Token(word, stem(word), match.group()))
    return found


def stem(word: str) -> str:
    """A word without its plural ending; the same for both numbers, not always a word.

    >>> [stem(word) for word in ("comedies", "brushes", "shoes", "gloss", "children's", "movie", "movies")]
    ['comedy', 'brush', 'shoe', 'gloss', 'children', 'movy', 'movy']
    """
    word = word.replace("'", "")
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes", "zes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    return word[:-2] + "y" if len(word) > 4 and word.endswith("ie") else word


def stems_of(text: str) -> tuple[str, ...]:
    """Stems of the words of a name, without marks and without "and".

    >>> stems_of("Tools & Accessories")
    ('tool', 'accessory')
    """
    return tuple(token.stem for token in tokens_of(text) if token.text not in STOPS and token.text != "and")


def distance(first: str, second: str, most: int) -> int:
    """Edits that turn one word into the other (swapped neighbours are one edit); ``most + 1`` for more.

    >>> distance("horor", "horror", 2), distance("wnter", "winter", 2), distance("cat", "horse", 2)
    (1, 1, 3)
    """
    if abs(len(first) - len(second)) > most:
        return most + 1
    before: list[int] = []
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        last, before_last = row, before
        row = [i]
        for j, b in enumerate(second, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b))
            if before_last and j > 1 and a == second[j - 2] and first[i - 2] == b:
                cost = min(cost, before_last[j - 2] + 1)
            row.append(cost)
        before = last
        if min(row) > most:
            return most + 1
    return min(row[-1], most + 1)


FRAME_RANK = 1
"""Rank of the words of the grammar: too many four-letter words are near one."""


class Speller:
    """The nearest spelling of an unknown word.

    One edit is allowed from four letters on, two from eight on, never in the first letter.

    Args:
        ranks: known word -> its rank; of equally near words the lower rank wins, then the alphabet.
    """

    def __init__(self, ranks: Mapping[str, int]) -> None:
        self.ranks = ranks
        self.by_shape: dict[tuple[str, int], list[str]] = {}
        for word in sorted(ranks):
            self.by_shape.setdefault((word[0], len(word)), []).append(word)

    def nearest(self, word: str) -> str | None:
        """The known word that is meant, or None."""
        if len(word) < 4 or any(letter.isdigit() for letter in word):
            return None
        most = 1 if len(word) < 8 else 2
        near = (
            (distance(word, other, most), self.ranks[other], other)
            for size in range(len(word) - most, len(word) + most + 1)
            for other in self.by_shape.get((word[0], size), ())
            if size > 3 and (len(word) > 4 or self.ranks[other] != FRAME_RANK)
        )
        best = min(near, default=(most + 1, 0, ""))
        return best[2] if best[0] <= most else None


def content(words: Iterable[str]) -> list[str]:
    """The words that are no frame."""
    return [word for word in words if word not in FRAME and word not in STOPS]
