"""Phrases that ask for a task without a slot, for popular, recent or cheap items, or that search."""

from __future__ import annotations

import re
from collections.abc import Sequence

from recbole_sigma.understanding.grammar import NEGATORS, PHRASES_OF_NEGATION, POSITIVE
from recbole_sigma.understanding.words import FRAME, STOPS, Token

_NOBODY = (
    r"(?:nobody|no ?one|hardly any(?:body|one)?|few(?: people)?|not many(?: people)?|only a (?:few|handful)"
    r"|most people|nobody else)"
)
_KNOW = (
    r"(?:\w+ ){0,3}?(?:knows?|known|heard?|hear|watch(?:es|ed)?|seen?|sees|buys?|bought|owns?|plays?|played"
    r"|talks?|rated?|miss(?:ed|es)?|found|finds?|notices?d?|picks?|tried)(?: (?:of|about))?"
)
LONGTAIL = (
    r"(?:hidden|secret|forgotten|lost|undiscovered|buried|unknown) (?:gems?|treasures?|pearls?|jewels?)",
    r"rare finds?|(?:well )?kept secrets?|rare|rarely|seldom(?: \w+ed)?|unnoticed|long tail|deep cuts?",
    r"forgotten|overlooked|obscure|under ?(?:rated|appreciated|valued)|unappreciated|unknown|niche|unpopular",
    r"uncommon|insiders? tips?|sleepers?",
    r"(?:off|from) the beaten (?:track|path)|(?:f\w+ )?(?:under|below) (?:the|everyones) radar",
    r"(?:less|lesser|least|little|not so|not very|not too|not that|not widely) ?(?:well )?"
    r"(?:known|popular|famous|mainstream|common)",
    _NOBODY + r" (?:that |which |who )?" + _KNOW,
    r"dont sell(?: much| well)?|does not sell",
)
DISCOVER = (
    r"surprise(?: me| us)?|surprising|unexpected|unfamiliar|unusual|untried",
    r"(?:something |totally |completely |a little |somewhat )*"
    r"(?:different|new to (?:me|us|them|him|her)|new and \w+)",
    r"explore|experiment|discover|branch(?:ing)? out|horizons?|comfort zone",
    r"(?:broaden|widen|expand|extend|stretch)s?(?: my)?(?: \w+)?",
    r"(?:out of|outside|beyond|leave) (?:my|the)(?: own)? (?:comfort zone|bubble|rut|box|usual \w+)",
    r"new (?:genres?|categor(?:y|ies)|kinds?|types?|territory|areas?|interests?|things)",
    r"something (?:totally |completely |entirely |really )?(?:new|fresh)",
    r"(?:never|not|havent|havent yet|hardly) (?:yet |ever |really )?"
    r"(?:tried|watched|bought|seen|picked?|had|used|owned|played)(?: yet| before)?",
    r"would never (?:pick|choose|buy|watch)|yet to try|a first|first time|for the first time",
    r"(?:a|for a|need a|some) change|change (?:that|things|it)|shake \w+(?: \w+)? up|shake up",
    r"beyond (?:my|what)(?: \w+){0,2}|not (?:in )?my (?:usual|history)(?: \w+)?|not in the history",
    r"than usual",
    r"(?:bored|tired|sick) (?:of|with|by)(?: my| the) (?:same |usual )?\w+|bored(?! of| with| by)",
    r"same (?:old|things?|stuff)",
    r"unlike (?:anything|everything|my|what)(?: \w+)?|variety|what other (?:types|kinds|sorts)",
)
POPULAR = (
    r"(?:most |very |really )?(?:popular|famous|mainstream|trending|well known)",
    r"(?:big |biggest |greatest )?(?:hits?|blockbusters?|best ?sellers?|best ?selling|charts?)",
    r"(?:what )?(?:everybody|everyone|all)(?: else| others)? (?:is |are )?"
    r"(?:has|have|buys?|knows?|likes?|watch(?:es|ing)?|buying|talks? about)",
)
RECENT = (r"(?:recent|newest|latest)(?: releases?)?|new releases?|brand new|(?:just|newly) (?:out|released)",)
OLD = (r"(?:old|older|vintage) (?:movies?|films?|ones?)|classics?",)
CHEAP = (
    r"not (?:too |so |very )?(?:expensive|pricey)|cheap(?:er|est)?|inexpensive|budget|affordable"
    r"|low priced?|bargains?",
)
EXPENSIVE = (r"expensive|pricey|premium|luxury|luxurious|high end",)
IGNORED = (
    r"(?:next|this) time|for once|(?:one|two|three) of|more of the same",
    r"(?:typed into the )?search box|(?:that )?answers? the (?:query|search)",
)
"""Phrases that say nothing, whose words are no content."""
_SETS = {
    "": IGNORED,
    "longtail": LONGTAIL,
    "discover": DISCOVER,
    "recent": RECENT,
    "old": OLD,
    "cheap": CHEAP,
    "expensive": EXPENSIVE,
    "popular": POPULAR,
}
_CUES = {name: re.compile(r"\b(?:" + "|".join(parts) + r")(?!\S)") for name, parts in _SETS.items()}

CUE_WORDS = frozenset(
    word
    for text in (
        *(part for parts in _SETS.values() for part in parts),
        *PHRASES_OF_NEGATION,
        *POSITIVE,
        *NEGATORS,
        "gem gems genre genres hit hits similar style seen watched loved liked enjoyed finished reminds akin",
        "before after between since until older newer twenties thirties forties fifties sixties seventies",
        "eighties nineties",
    )
    for word in re.findall(r"(?<![\\a-z])[a-z]{3,}", text)
)
"""The words of all these phrases, which are correctly spelt as they are."""


def cues(tokens: Sequence[Token], taken: Sequence[bool]) -> list[tuple[str, int, int]]:
    """Phrases of tasks and wishes: (name, first token, one past the last), by place; none overlap.

    Args:
        tokens: of the sentence.
        taken: tokens that mean something else.
    """
    words = ["\x00" if used else token.text for token, used in zip(tokens, taken, strict=True)]
    starts, at = [], 0
    for word in words:
        starts.append(at)
        at += len(word) + 1
    text = " ".join(words)
    found: list[tuple[str, int, int]] = []
    busy = [False] * len(tokens)
    for name, pattern in _CUES.items():
        for match in pattern.finditer(text):
            inside = [i for i, start in enumerate(starts) if match.start() <= start < match.end()]
            if inside and not any(busy[i] for i in inside):
                for i in inside:
                    busy[i] = True
                found.append((name, inside[0], inside[-1] + 1))
    return sorted(found, key=lambda cue: cue[1])


# --- searches -----------------------------------------------------------------------------------------------

ASKS = re.compile(
    r"\b(?:recommend\w*|suggest\w*|movies?|films?|products?|games?|items?|pick|choose"
    r"|what (?:should|would|do) i)\b"
)
"""A sentence with one of these asks for items, whatever else it holds."""
_TITLED = re.compile(
    r"\b(?:with|have|has|having|the words?) (.+?) in (?:the|their|its) (?:title|name)s?\b"
    r"|\b(?:called|titled|named|search(?: words?)?(?: for)?|query|look up|results? for) (.+)"
)
_MARKERS = re.compile(
    r"\b(?:find|search(?:ing)?|look(?:ing)?(?: for| up)?|results?|got|you (?:have|sell|carry|stock)|have you"
    r"|with|about|by|from|called|titled|named|(?:want|like|love) to (?:see|watch|play|buy|get|have)|get me"
    r"|(?:something|anything|item|up|one|choose) for"
    r"|movies?|films?|games?|products?|things?|stuff|available|in stock)\b"
)


def searches(tokens: Sequence[Token]) -> bool:
    """Whether a sentence has words of a search ("do you have X", "X games"), of one word perhaps."""
    return bool(_MARKERS.search(" ".join(token.text for token in tokens)))


def names_words(tokens: Sequence[Token]) -> bool:
    """Whether a sentence says that words are to be searched for: a number alone is then a search."""
    return bool(_TITLED.search(" ".join(token.text for token in tokens if token.text not in STOPS)))


def quoted(tokens: Sequence[Token]) -> list[int]:
    """Frame words that a sentence names as what to search for ("with love in the title")."""
    text = " ".join(token.text for token in tokens if token.text not in STOPS)
    places = [i for i, token in enumerate(tokens) if token.text not in STOPS]
    match = _TITLED.search(text)
    if not match:
        return []
    group = 1 if match[1] else 2
    begin = text[: match.start(group)].count(" ")
    found = places[begin : begin + len(match[group].split())]
    words = {tokens[i].text for i in found}
    return found if words <= FRAME and len(found) < 4 else []
