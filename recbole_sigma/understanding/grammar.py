"""What the small words of a sentence do: what is negated, and what is referred to.

Everything here is rules over tokens, no model. `negated` decides for every word whether it is wanted;
`year_spans` and `referred` find years and "like X". `cues` has the phrases of tasks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from recbole_sigma.understanding.lexicon import LONGEST, Lexicon, Value
from recbole_sigma.understanding.words import FRAME, STOPS, Token


@dataclass(frozen=True)
class Span:
    """Tokens ``begin`` to ``end`` (exclusive) that mean one thing.

    Attributes:
        begin: first token.
        end: one past the last.
        value: what they mean; None for the words of a title.
    """

    begin: int
    end: int
    value: Value | None


# --- negation -----------------------------------------------------------------------------------------------

NEGATORS = frozenset(
    """
    not no without never except excluding exclude excludes excluded minus avoid avoiding skip skipping
    neither nor none nothing hate hates dislike dislikes detest ban drop omit sans non dont doesnt didnt
    wont wouldnt cant cannot arent isnt havent hasnt shouldnt unlike
    """.split()
)
PHRASES_OF_NEGATION = (
    "leave out", "filter out", "other than", "apart from", "aside from", "rather than", "instead of",
    "tired of", "bored of", "bored with", "bored by", "sick of", "enough of", "had enough", "free of",
    "anything but", "everything but", "all but", "away from", "rid of", "cant stand", "enough",
)  # fmt: skip
POSITIVE = (
    "not only", "not just", "not necessarily", "why not", "cant get enough of", "cant get enough",
    "dont mind", "wouldnt mind", "not without", "no problem", "no matter", "nothing but",
    "nothing except", "nothing other than", "none but", "how about", "dont know", "cant decide",
    "not sure", "dont care", "no idea", "cant wait", "not to mention",
)  # fmt: skip
"""Phrases with a negator after which what follows is wanted."""
_EXCEPT = frozenset({"except", "excluding", "but"})
_NEW_CLAUSE = frozenset("want give show prefer like love find rather just only instead".split())
_JOINS = frozenset({"or", "nor", "and"})


def _starts(texts: Sequence[str], at: int, phrases: Sequence[str]) -> int:
    """Tokens of the longest phrase that begins here, 0 for none."""
    best = 0
    for phrase in phrases:
        words = phrase.split()
        if list(texts[at : at + len(words)]) == words:
            best = max(best, len(words))
    return best


def negated(
    tokens: Sequence[Token], spans: Sequence[Span], passive: Sequence[bool]
) -> tuple[list[bool], list[bool]]:
    """(whether each token stands in the scope of a negation, whether it belongs to a negator): bool [n] each.

    A scope begins behind its negator and ends at a mark, at "but", or where a new request begins behind what
    was negated. A comma inside a list ("no horror, war or drama") does not end it. "Nothing but X" and "I
    want nothing except X" ask for X.

    Args:
        tokens: of the sentence.
        spans: what names a value or a title; none of their words negates.
        passive: tokens whose own negation is part of a phrase ("not so well known").
    """
    texts = [token.text for token in tokens]
    held = [False] * len(tokens)
    for span in spans:
        held[span.begin : span.end] = [True] * (span.end - span.begin)
    objects = [
        inside or (text not in FRAME and text not in STOPS and text not in NEGATORS)
        for inside, text in zip(held, texts, strict=True)
    ]
    out, own = [False] * len(tokens), [False] * len(tokens)
    scope = met = False  # inside a scope; whether it has an object yet
    at = 0
    while at < len(tokens):
        text, step = texts[at], 1
        if held[at] or passive[at]:
            out[at] = scope
            met = met or scope
        elif size := _starts(texts, at, POSITIVE):
            scope, step = False, size
        elif size := _starts(texts, at, PHRASES_OF_NEGATION):
            scope, met, step = True, False, size
        elif text in _EXCEPT and scope and not met:
            scope = False  # "nothing ... except X", "I don't want anything but X"
        elif text in NEGATORS:
            scope, met = True, False
        elif text == "but" or (text in _NEW_CLAUSE and met):
            scope = False
        elif text in STOPS:
            scope = scope and text == "," and met and _list_goes_on(texts, objects, at)
        else:
            out[at] = scope
            met = met or (scope and objects[at])
        own[at : at + step] = [step > 1 or (text in NEGATORS and not held[at])] * step
        at += step
    for span in spans:  # "westerns are not for me", "fragrance-free"
        after = texts[span.end : span.end + 3]
        if after[:2] in (["is", "not"], ["are", "not"]) or after[:1] in (["arent"], ["isnt"], ["free"]):
            if after[:2] != ["free", "of"]:
                out[span.begin : span.end] = [True] * (span.end - span.begin)
    return out, own


_DETERMINERS = frozenset("the a an my your his her our their".split())
_BEFORE_VERBS = frozenset("to please you must should will can dont and then".split())


def is_verb(tokens: Sequence[Token], at: int) -> bool:
    """Whether a word that may be a name stands where a verb does: "wash the dishes", "set a timer"."""
    first = at == 0 or tokens[at - 1].text in _BEFORE_VERBS
    return first and at + 1 < len(tokens) and tokens[at + 1].text in _DETERMINERS


def _list_goes_on(texts: Sequence[str], objects: Sequence[bool], comma: int) -> bool:
    """Whether a comma separates members of a list that ends in "or", "nor" or "and"."""
    at, joined = comma + 1, False
    while at < len(texts):
        if texts[at] in _JOINS:
            joined = True
        elif texts[at] == ",":
            pass
        elif texts[at] in STOPS or texts[at] in NEGATORS or texts[at] == "but":
            return False
        elif objects[at]:
            if joined:
                return True
        elif texts[at] not in ("a", "an", "the", "any"):
            return False
        at += 1
    return False


# --- years --------------------------------------------------------------------------------------------------

YEARS = range(1850, 2100)
_DECADES = {
    "twenties": 1920, "thirties": 1930, "forties": 1940, "fifties": 1950, "sixties": 1960, "seventies": 1970,
    "eighties": 1980, "nineties": 1990, "noughties": 2000,
}  # fmt: skip
_BEFORE = ("before", "older than", "prior to", "until", "till", "up to", "earlier than")
_AFTER = ("after", "newer than", "later than", "past")


_YEAR_FRAME = frozenset(
    "before after older newer than prior to until since in from of the between made early late later earlier "
    "till up past".split()
)


def _year(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d{4}", text) and int(text) in YEARS else None


def _decade(text: str) -> int | None:
    if text in _DECADES:
        return _DECADES[text]
    match = re.fullmatch(r"(\d{2})?(\d0)s", text)
    if not match:
        return None
    return int((match[1] or ("20" if match[2] < "30" else "19")) + match[2])


def year_spans(tokens: Sequence[Token]) -> list[Span]:
    """Years and ranges of years: "in 1995", "the 80s", "before 1960", "since 1990", "between 1970 and 1979".

    A year without any such word counts only behind in, from or of.
    """
    texts = [token.text for token in tokens]
    found: list[Span] = []
    for at, text in enumerate(texts):
        if found and at < found[-1].end:
            continue
        decade, year = _decade(text), _year(text)
        if decade is None and year is None:
            continue
        first = decade if decade is not None else int(text)
        last = first + 9 if decade is not None else first
        before = [" ".join(texts[max(0, at - n) : at]) for n in (1, 2)]
        before += [" ".join(texts[max(0, at - 1 - n) : at - 1]) for n in (1, 2) if texts[at - 1] == "the"]
        begin, end, name = at, at + 1, ""
        other = _year(texts[at + 2]) if at + 2 < len(texts) and texts[at + 1] in ("and", "to") else None
        if other is not None and year is not None:
            name, end = f"{year}-{other}", at + 3
        elif any(word in before for word in _BEFORE):
            name = f"-{last}" if "until" in before or "up to" in before else f"-{first - 1}"
        elif any(word in before for word in _AFTER):
            name = f"{last + 1}-"
        elif "since" in before:
            name = f"{first}-"
        elif decade is not None or before[0] in ("in", "from", "of", "made", "year"):
            name = f"{first}-{last}"
        if name:
            while begin and texts[begin - 1] in _YEAR_FRAME:
                begin -= 1
            found.append(Span(begin, end, Value("year", name)))
    return found


_AT_MOST = (
    "under",
    "below",
    "less than",
    "cheaper than",
    "up to",
    "at most",
    "max",
    "maximum",
    "no more than",
)
_AT_LEAST = ("over", "above", "more than", "at least", "from", "min", "minimum")
_MONEY = frozenset("dollar dollars usd eur euro euros pound pounds bucks".split())


def price_spans(tokens: Sequence[Token]) -> list[Span]:
    """Limits of a price: "under 20 dollars", "at least 50", "up to 9"."""
    texts = [token.text for token in tokens]
    found: list[Span] = []
    for at, text in enumerate(texts):
        if not re.fullmatch(r"\d{1,6}", text):
            continue
        for phrases, pattern in ((_AT_MOST, "-{}"), (_AT_LEAST, "{}-")):
            sizes = [len(p.split()) for p in phrases if texts[max(0, at - len(p.split())) : at] == p.split()]
            if sizes:
                end = at + 2 if at + 1 < len(texts) and texts[at + 1] in _MONEY else at + 1
                found.append(Span(at - max(sizes), end, Value("price", pattern.format(text))))
                break
    return found


# --- references ---------------------------------------------------------------------------------------------

REFERS = (
    "like", "similar to", "same as", "after", "watched", "seen", "loved", "liked", "enjoyed",
    "finished", "reminds me of", "style of", "lines of", "fan of", "good as", "akin to", "such as",
    "played", "bought", "unlike", "after watching", "after seeing", "after playing", "after buying",
)  # fmt: skip
_BETWEEN = frozenset("the a an movie film game product my last watching seeing playing called i it".split())


def referred(
    tokens: Sequence[Token], spans: Sequence[Span], lexicon: Lexicon
) -> list[tuple[Span, int, bool]]:
    """Items that a sentence refers to: (span with its marker, item, whether nothing like it is wanted).

    Args:
        tokens: of the sentence.
        spans: named values; "I like comedies" refers to no item.
        lexicon: titles.
    """
    texts = [token.text for token in tokens]
    named = {i for span in spans if span.value is not None for i in range(span.begin, span.end)}
    found: list[tuple[Span, int, bool]] = []
    for at in range(len(tokens)):
        size = _starts(texts, at, REFERS)
        if not size or (found and at < found[-1][0].end):
            continue
        negator = texts[at - 1] if at else ""
        if (
            negator in ("dont", "doesnt", "didnt", "havent", "not")
            and texts[at] != "unlike"
            and negator != "not"
        ):
            continue  # "I don't like X" is an exclusion of X
        begin = at + size
        while begin < len(tokens) and texts[begin] in _BETWEEN and begin not in named:
            begin += 1
        match = _longest_title(tokens, begin, named, lexicon)
        if match is not None:
            opposite = texts[at] == "unlike" or negator in ("nothing", "not")
            first = at - 1 if negator in ("nothing", "not") else at
            found.append((Span(first, match[0], None), match[1], opposite))
    return found


def _longest_title(
    tokens: Sequence[Token], begin: int, named: set[int], lexicon: Lexicon
) -> tuple[int, int] | None:
    """(one past the last token, item) of the title that begins at a token: a whole one, else two words or
    more that one item holds.
    """
    most = begin
    while most < len(tokens) and most - begin < LONGEST and tokens[most].text not in STOPS:
        most += 1
    for end in range(most, begin, -1):
        stems = [token.stem for token in tokens[begin:end]]
        words = [token.text for token in tokens[begin:end]]
        if tuple(stems) in lexicon.titles and not set(words) <= FRAME and not set(range(begin, end)) <= named:
            return end, lexicon.titles[tuple(stems)][0]
    end = begin
    while end < most and tokens[end].text not in FRAME and end not in named:
        end += 1
    stems = [token.stem for token in tokens[begin:end]]
    item = lexicon.item_called(stems) if len(stems) > 1 else None
    return None if item is None else (end, item)
