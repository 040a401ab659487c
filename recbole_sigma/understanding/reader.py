"""From a sentence to what it asks for: `Understanding.read`, rules first.

An optional second reader (`paraphrase`) is asked where the rules find neither a task nor a value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recbole_sigma.instructions.phrases import normalise_query
from recbole_sigma.instructions.tasks import GENERAL
from recbole_sigma.understanding.cues import ASKS, CUE_WORDS, cues, names_words, quoted, searches
from recbole_sigma.understanding.grammar import Span, is_verb, negated, price_spans, referred, year_spans
from recbole_sigma.understanding.lexicon import LARGEST_VALUE, LONGEST, Lexicon, Value
from recbole_sigma.understanding.request import Understood
from recbole_sigma.understanding.words import (
    FRAME,
    FRAME_RANK,
    OFF_TOPIC,
    STOPS,
    Speller,
    Token,
    content,
    distance,
    stem,
    tokens_of,
)

MOST_WORDS = 8  # different words of a search
LEAST_PAIRS = 3  # titles that make two words a name
CORRECTED = 8  # unknown words of a sentence that are looked up
Paraphrase = Callable[[str, Sequence[str]], str | None]
"""(sentence, names of tasks) -> the task that the sentence means, or None."""

_TASK_OF = {"holiday": "holiday", "season": "season", "category": "category", "brand": "query"}
_WISHES = ("longtail", "discover", "popular")


class Understanding:
    """Reads sentences about one dataset.

    Args:
        lexicon: the names of its values.
        paraphrase: asked about the task of a sentence that the rules cannot read, or None.
    """

    def __init__(self, lexicon: Lexicon, paraphrase: Paraphrase | None = None) -> None:
        self.lexicon, self.paraphrase = lexicon, paraphrase
        self.speller = _speller(lexicon)

    def read(self, sentence: str) -> Understood:
        """What a sentence asks for; every text is an answer, none is an error."""
        found = _Reading(self.lexicon, self.speller, sentence).understood()
        if (
            found.in_scope
            or self.paraphrase is None
            or not content(token.text for token in tokens_of(sentence))
        ):
            return found
        choices = [name for name, rows in self.lexicon.tasks.items() if not rows.task.slots]
        task = self.paraphrase(sentence, choices)
        if task is None:
            return found
        rule = self.lexicon.tasks[task].task.rule
        include = ((Value(rule, rule),),) if rule in _WISHES else ()
        return Understood(sentence, task, include)


def task_of(lexicon: Lexicon, groups: Sequence[Sequence[Value]], query: str) -> tuple[str, list[str]]:
    """The task of what is asked for, and sentences about what no task of the data set stands for.

    An occasion comes before a wish, a wish before a category, a category before a query.
    """
    names = {rows.task.rule: name for name, rows in lexicon.tasks.items()}
    kinds = {value.kind for group in groups for value in group}
    missing: list[str] = []
    for kind in ("holiday", "season", "longtail", "discover", "category", "brand"):
        rule = _TASK_OF.get(kind, kind)
        if kind in kinds and rule in names:
            return names[rule], missing
        if kind in kinds and kind in _WISHES:
            missing.append(f"the data set has no task {kind}: conditions alone make the list")
    if query and "query" in names:
        return names["query"], missing
    return names.get("next_item", GENERAL), missing


def _speller(lexicon: Lexicon) -> Speller:
    """Corrects a word towards names of values first, then the grammar's words, then words of the items."""
    ranks: dict[str, int] = {}
    for words, rank in (
        ((part for key in lexicon.by_key for part in key), 0),
        (sorted(CUE_WORDS | FRAME), FRAME_RANK),
        (lexicon.holders, 2),
    ):
        for word in words:
            ranks.setdefault(word, rank)
    return Speller(ranks)


class _Reading:
    """The parts of one sentence, found one after the other."""

    def __init__(self, lexicon: Lexicon, speller: Speller, sentence: str) -> None:
        self.lexicon, self.speller, self.sentence = lexicon, speller, sentence
        self.tokens = self._respelled(tokens_of(sentence))
        texts = [token.text for token in self.tokens]
        self.taken = [False] * len(texts)
        years = year_spans(self.tokens)
        self.has_years = lexicon.years is not None
        self.years = [self._take(span) for span in years] if self.has_years else []
        free = [span for span in price_spans(self.tokens) if not any(self.taken[span.begin : span.end])]
        self.years += [self._take(span) for span in free] if lexicon.prices is not None else []
        self.years_asked = bool(years)
        self.titles = self._title_spans()
        self.values = self._value_spans()
        self.titles = [span for span in self.titles if not any(self._inside(span, v) for v in self.values)]
        self.likes = referred(self.tokens, [*self.values, *self.years], lexicon)
        for span, _, _ in self.likes:
            self._take(span)
        self.titles = [
            span for span in self.titles if not any(self._inside(span, r) for r, _, _ in self.likes)
        ]
        for span in self.titles:
            self._take(span)
        self.cues = cues(self.tokens, self.taken)
        passive = list(self.taken)
        for _, begin, end in self.cues:
            passive[begin:end] = [True] * (end - begin)
        self.negative, own = negated(self.tokens, [*self.values, *self.titles], passive)
        for _, begin, end in self.cues:
            self._take(Span(begin, end, None))
        self.taken = [a or b for a, b in zip(self.taken, own, strict=True)]
        for i, token in enumerate(self.tokens):  # a word of nearly every item tells nothing
            often = len(self.lexicon.holders.get(token.stem, ()))
            self.taken[i] = self.taken[i] or often > LARGEST_VALUE * self.lexicon.n
        self.quoted = [i for i in quoted(self.tokens) if not self.taken[i]]

    # --- words ----------------------------------------------------------------------------------------------

    def _respelled(self, tokens: list[Token]) -> list[Token]:
        speller, left, out = self.speller, CORRECTED, []
        for token in tokens:
            known = token.text in speller.ranks or token.stem in speller.ranks or token.text in STOPS
            near = None
            if not known and left:
                left -= 1
                near = speller.nearest(token.text) or speller.nearest(token.stem)
            out.append(token if near is None else Token(near, stem(near), token.typed))
        return out

    def _take(self, span: Span) -> Span:
        self.taken[span.begin : span.end] = [True] * (span.end - span.begin)
        return span

    @staticmethod
    def _inside(one: Span, other: Span) -> bool:
        return one.begin < other.end and other.begin < one.end

    def _title_spans(self) -> list[Span]:
        """Titles of two words or more, one of them content: longest first, none overlap."""
        found: list[Span] = []
        at = 0
        while at < len(self.tokens):
            for end in range(min(len(self.tokens), at + LONGEST), at + 1, -1):
                part = self.tokens[at:end]
                if any(self.taken[at:end]) or all(token.text in FRAME for token in part):
                    continue
                if tuple(token.stem for token in part) in self.lexicon.titles:
                    found.append(Span(at, end, None))
                    at = end - 1
                    break
            at += 1
        return found

    def _value_spans(self) -> list[Span]:
        """Names of values, longest first; inside a longer title they are its words."""
        found: list[Span] = []
        by_key = self.lexicon.by_key
        at = 0
        while at < len(self.tokens):
            title = next((span for span in self.titles if span.begin <= at < span.end), None)
            for end in range(min(len(self.tokens), at + LONGEST + 2), at, -1):
                between = [token.text for token in self.tokens[at:end]]
                part = [token for token in self.tokens[at:end] if token.text not in (*STOPS, "and")]
                if any(self.taken[at:end]) or not part or part[0] is not self.tokens[at]:
                    continue
                if part[-1] is not self.tokens[end - 1]:
                    continue
                if title is not None and end - at < title.end - title.begin:
                    break
                key = tuple(token.stem for token in part)
                if not STOPS.isdisjoint(between) and key not in self.lexicon.marked:
                    continue
                value = by_key.get(key)
                if value is None and len(key) == 2:
                    value = by_key.get(("".join(key),))
                if value is None and at and self.tokens[at - 1].text in ("by", "from"):
                    value = self.lexicon.by_maker.get(key)
                if end - at == 1 and is_verb(self.tokens, at):
                    value = None
                if value is not None and not self._part_of_a_product(at, end, value):
                    found.append(self._take(Span(at, end, value)))
                    at = end - 1
                    break
            at += 1
        return found

    def _part_of_a_product(self, begin: int, end: int, value: Value) -> bool:
        """Whether a one-word category is the end of a longer name that most titles use for other things:
        "argan oil" is no body oil.
        """
        before = self.tokens[begin - 1] if begin else None
        if end - begin > 1 or value.kind != "category" or before is None or self.taken[begin - 1]:
            return False
        if before.text in FRAME or before.text in STOPS or before.stem not in self.lexicon.holders:
            return False
        pair = self.lexicon.next_to(before.stem, self.tokens[begin].stem)
        return len(pair) >= LEAST_PAIRS and self.lexicon.mask(value)[pair].mean() < 0.5

    # --- what it comes to -----------------------------------------------------------------------------------

    def understood(self) -> Understood:
        """Put the parts together."""
        wanted = [span for span in self.values if not self.negative[span.begin]]
        exclude = [span.value for span in self.values if self.negative[span.begin] and span.value]
        wishes, missing = self._wishes()
        groups = self._groups(wanted)
        for span in self.years:
            groups.append((span.value,))  # type: ignore[arg-type]
        groups += [(Value(name, name),) for name in wishes if name in _WISHES]
        groups += [(value,) for name in wishes for value in [self._range(name)] if value is not None]
        exclude += [Value("query", words) for words in self._unwanted()]
        exclude += [Value("like", self._title(item)) for _, item, opposite in self.likes if opposite]
        like = [item for _, item, opposite in self.likes if not opposite]
        query, unread = self._query([value for group in groups for value in group])
        texts = [token.text for token in self.tokens if token.text not in STOPS]
        if self.years_asked and not self.has_years:
            missing.append("the data have no years")
        unheard = [word for word in unread if stem(word.lower()) not in self.lexicon.holders]
        asks = bool(ASKS.search(" ".join(texts))) or not unread
        if len(unheard) >= 2 * max(1, len(self.values)) and not asks and not exclude:
            groups = [group for group in groups if group[0].kind not in ("category", "brand")]
        off_topic = (
            bool(texts) and texts[0] in OFF_TOPIC and texts[:2] not in (["how", "about"], ["why", "not"])
        )
        if off_topic:
            query, unread = "", tuple(content(texts))
        read = bool(groups or exclude or query or like or missing or any(name for name, _, _ in self.cues))
        if not read and (not texts or off_topic or not asks):
            return Understood(self.sentence, unread=unread, in_scope=False)
        unique = tuple(dict.fromkeys(exclude))
        groups = [group for group in groups if not set(group) <= set(unique)]
        task, off = task_of(self.lexicon, groups, query)
        missing += off
        return Understood(
            self.sentence, task, tuple(groups), unique, tuple(like), query, unread, tuple(missing)
        )

    def _title(self, item: int) -> str:
        return self.lexicon.material.words.titles[item] or self.lexicon.material.tokens[item]

    def _wishes(self) -> tuple[list[str], list[str]]:
        """(names of wishes, sentences about wishes that the data cannot grant)."""
        found: dict[str, None] = {}
        missing: list[str] = []
        for name, begin, _ in self.cues:
            turned = self.negative[begin]
            if name == "popular":
                found["longtail" if turned else "popular"] = None
            elif name == "longtail":
                found["popular" if turned else "longtail"] = None
            elif name in ("recent", "old") and not turned:
                if self.has_years:
                    found[name] = None
                else:
                    missing.append("the data have no years: old and new items are not told apart")
            elif name in ("cheap", "expensive"):
                if self.lexicon.prices is None:
                    missing.append("the data have no prices")
                else:
                    found["cheap" if (name == "cheap") is not turned else "expensive"] = None
            elif name == "discover" and not turned:
                found[name] = None
        if "longtail" in found:
            found.pop("popular", None)
        if "discover" in found and not any(self.lexicon.material.labels):
            del found["discover"]
            missing.append("the data have no categories: what is new to you cannot be told")
        return list(found), missing

    def _range(self, name: str) -> Value | None:
        """The range of years or prices that a wish means, None for other wishes."""
        lexicon = self.lexicon
        ranges = {"recent": lexicon.recent, "old": lexicon.old, "cheap": lexicon.cheap}
        ranges["expensive"] = lexicon.expensive
        return ranges[name]() if name in ranges else None

    def _groups(self, spans: list[Span]) -> list[tuple[Value, ...]]:
        """Wanted values as a conjunction of alternatives: joined by "or", or where no item has both."""
        groups: list[tuple[Value, ...]] = []
        last: Span | None = None
        for span in spans:
            value = span.value
            assert value is not None
            if any(value in group for group in groups):
                continue
            between = [] if last is None else [token.text for token in self.tokens[last.end : span.begin]]
            same = bool(groups) and groups[-1][0].kind == value.kind
            either = "or" in between or (same and not self._together((*groups, (value,))))
            if same and either:
                groups[-1] = (*groups[-1], value)
            else:
                groups.append((value,))
            last = span
        return groups

    def _together(self, groups: Sequence[tuple[Value, ...]]) -> bool:
        """Whether an item has a value of every group."""
        left = None
        for group in groups:
            mask = self.lexicon.mask(group[0])
            for value in group[1:]:
                mask = mask | self.lexicon.mask(value)
            left = mask if left is None else left & mask
        return left is None or bool(left.any())

    def _runs(self, negative: bool) -> list[list[Token]]:
        """Runs of content words and titles, wanted or not, each between joining words and marks."""
        runs: list[list[Token]] = [[]]
        titles = {i for span in self.titles for i in range(span.begin, span.end)} | set(self.quoted)
        for i, token in enumerate(self.tokens):
            if self.negative[i] is not negative:
                runs.append([])
            elif i in titles or (token.text not in FRAME and token.text not in STOPS and not self.taken[i]):
                runs[-1].append(token)
            elif token.text in STOPS or token.text in ("or", "nor") or self.taken[i]:
                runs.append([])
        return [run for run in runs if run]

    def _unwanted(self) -> list[str]:
        """Words that no item of the list may hold: negated runs that some item's text holds."""
        return [
            " ".join(token.text for token in run)
            for run in self._runs(True)
            if len(self.lexicon.holding(_stems(run)))
        ]

    def _query(self, values: list[Value]) -> tuple[str, tuple[str, ...]]:
        """(words to search for, words that nothing was made of)."""
        runs = self._runs(False)
        tokens = [token for run in runs for token in run]
        if not tokens:
            return "", ()
        typed = tuple(dict.fromkeys(token.typed for token in tokens if token.text not in FRAME))
        phrase = normalise_query(" ".join(token.text for token in tokens), LONGEST)
        if phrase in self.lexicon.typed and not values:
            return phrase, ()
        tokens = list({token.stem: token for token in self._completed(tokens)}.values())
        tokens = tokens[:MOST_WORDS]
        holders = self.lexicon.holders
        verb = self.tokens[0] if is_verb(self.tokens, 0) else None
        known = [token for token in tokens if token.stem in holders and token is not verb]
        unknown = [token for token in tokens if token.stem not in holders or token is verb]
        spelt = any(len(token.text) > 1 and not token.text.isdigit() for token in known)
        if not spelt and not (known and names_words(self.tokens)):
            return "", typed
        if len(known) <= len(unknown) or not self._meant(known, values):
            return "", typed
        whole = [run for run in runs if all(token.stem in holders for token in run)]
        if not self._held(known, values) and not (
            len(whole) == len(runs) > 1 and all(self._held(run, values) for run in runs)
        ):
            return "", typed
        return " ".join(token.text for token in known), tuple(token.typed for token in unknown)

    def _meant(self, known: Sequence[Token], values: list[Value]) -> bool:
        """Whether words are a search: one word alone may be chance, and an occasion explains most others."""
        if self.quoted or self.titles or names_words(self.tokens):
            return True
        if any(value.kind in ("season", "holiday") for value in values):
            return False
        if len(known) > 1 or values:
            return True
        bare = len(content([token.text for token in self.tokens])) == len(
            [token for token in self.tokens if token.text not in (*STOPS, "please", "the", "a", "an")]
        )
        if stem(tokens_of(known[0].typed)[0].text) != known[0].stem and not bare:
            return False  # a word that may only look like one of a title
        return bare or searches(self.tokens) or tuple(_stems(known)) in self.lexicon.titles

    def _held(self, tokens: Sequence[Token], values: list[Value]) -> bool:
        """Whether an item holds all words and, where values are named, has one of them."""
        found = self.lexicon.holding(_stems(tokens))
        for value in values:
            if value.kind in ("category", "brand"):
                found = found[self.lexicon.mask(value)[found]]
        return bool(len(found))

    def _completed(self, tokens: list[Token]) -> list[Token]:
        """Short misspelt words, corrected to words that stand beside the known ones in some item."""
        holders = self.lexicon.holders
        beside = self.lexicon.holding(_stems([token for token in tokens if token.stem in holders]))
        if not len(beside) or len(beside) > 1000:
            return tokens
        words = {each for item in beside.tolist() for each in self.lexicon.item_stems[item]}
        out = []
        for token in tokens:
            near = None
            if token.stem not in holders and len(token.text) > 1:
                forms = (token.text, token.text.removesuffix("s"))
                near = min(
                    (each for each in words for form in forms if distance(form, each, 1) <= 1), default=None
                )
            out.append(token if near is None else Token(near, near, token.typed))
        return out


def _stems(tokens: Sequence[Token]) -> list[str]:
    """Stems of the content words; of all words where there is no other."""
    own = [token.stem for token in tokens if token.text not in FRAME]
    return list(dict.fromkeys(own or [token.stem for token in tokens]))
