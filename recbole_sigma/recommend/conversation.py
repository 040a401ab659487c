"""A short dialogue: what was said stays, until it is contradicted; each turn is one exact list.

talk = Conversation(recommender, history=["Toy Story"])
talk.say("a comedy")
talk.say("but not romantic")
talk.say("more like the second")
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from recbole_sigma.recommend.answers import Answer, Request
from recbole_sigma.recommend.recommender import Recommender
from recbole_sigma.understanding.lexicon import Lexicon, Value
from recbole_sigma.understanding.reader import task_of
from recbole_sigma.understanding.request import Understood
from recbole_sigma.understanding.wording import allowed
from recbole_sigma.understanding.words import content, plain, tokens_of

EXAMPLES = 3  # values that a question names
_PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_NOUN = r"(?:one|item|movie|film|game|product)"
_PLACE = (
    rf"(?:the )?(?P<place>{'|'.join(_PLACES)}|last|\d{{1,3}}(?:st|nd|rd|th)|(?:number|no\.?|#) ?\d{{1,3}}"
    rf"|(?:this|that)(?= {_NOUN}))(?: {_NOUN})?(?=$|[,.;!?]| and\b| but\b| please\b| there\b| here\b)"
)
_WHY = re.compile(
    rf"\bwhy\b(?! not)(?: (?:is|was|are|do|did|would|you|show|recommend|suggest|me))*(?: {_PLACE})?"
    r"(?: t?here)?"
)
_LIKE = re.compile(rf"\b(?:(?:show|give)(?: me)? )?(?:\w+ )?(?:like|similar to) {_PLACE}")
_LIKE_THIS = re.compile(
    r"\b(?:more|something|another|others?|anything) (?:like|similar to) (?:this|that|it|these)$"
)
_REJECT = re.compile(
    r"\b(?:not|without|remove|drop|hide|skip|no"
    r"|(?:i )?(?:have |ve |ive )?(?:already )?(?:seen|own|have|know|watched|bought|played))"
    rf" (?:already )?{_PLACE}"
)
_ELSE = re.compile(
    r"\b(?:(?:something|anything|what|show me|give me) )?"
    r"(?:else|(?:some |any )?(?:others|more|other ones|different ones|new ones))$|^next(?: page| ten)?$"
    r"|\b(?:something|anything) else\b"
)
_RESET = re.compile(
    r"\b(?:start over|start again|reset|new search|forget (?:it|that|everything|all(?: of (?:it|that))?))\b"
)
_UNDO = re.compile(r"^(?:ok(?:ay)? )?(?:forget(?: about)?|never ?mind|undo|drop) (?:the )?(.+)$")
_INSTEAD = re.compile(r"\b(?:instead|rather|actually|changed my mind)\b")


@dataclass(frozen=True)
class Turn:
    """What one sentence led to.

    Attributes:
        answer: the list.
        question: what the person may want to say next, '' for nothing.
        why: the reason of one item, where that was asked, else ''.
    """

    answer: Answer
    question: str = ""
    why: str = ""


class Conversation:
    """Keeps what one person said.

    Args:
        recommender: the loaded model.
        history: titles or item ids, oldest first, or None.
        user: original user id, or None.
        k: length of the lists.
    """

    def __init__(
        self,
        recommender: Recommender,
        history: Sequence[str] | None = None,
        user: str | None = None,
        k: int = 10,
    ) -> None:
        self.recommender, self.k = recommender, k
        self.request = Request(user=user, history=history)
        self.lexicon: Lexicon = recommender.lexicon
        self.start()

    def start(self) -> None:
        """Forget everything that was said."""
        self.state = Understood("")
        self.apart: dict[int, None] = {}
        self.liked: list[int] = []
        self.listed: list[int] = []
        self.asked: set[str] = set()

    def say(self, sentence: str) -> Turn:
        """The list after one more sentence.

        Raises:
            UserError: an empty or too long sentence; what was said before stays.
        """
        self.recommender.check_sentence(sentence)
        sentence = sentence.strip()
        text = " ".join(plain(sentence).lower().replace("'", "").split()).strip(" .!?")
        notes: list[str] = []
        if _RESET.search(text):
            self.start()
            return self._turn(["everything that was said is forgotten"], "")
        rest, why = self._about_the_list(text, notes)
        undone = _UNDO.match(rest)
        if undone:
            self._undo(self.recommender.understanding.read(undone[1]), notes)
        elif content(token.text for token in tokens_of(rest)) or (rest == text and not why):
            heard = self.recommender.understanding.read(sentence if rest == text else rest)
            if heard.in_scope:
                self._merge(heard, bool(_INSTEAD.search(rest)), notes)
            else:
                notes += heard.told()
        return self._turn(notes, why)

    # --- sentences about the list ---------------------------------------------------------------------------

    def _about_the_list(self, text: str, notes: list[str]) -> tuple[str, str]:
        """Do what a sentence says about the last list; what is left of it, and the reason it asked for."""
        why = ""
        for pattern in (_WHY, _LIKE, _LIKE_THIS, _REJECT, _ELSE):
            match = pattern.search(text) if self.listed else None
            if match is None:
                continue
            if pattern is _ELSE:
                self.apart.update(dict.fromkeys(self.listed))
                notes.append("none of the items shown so far")
            else:
                place = None if pattern is _LIKE_THIS else match["place"]
                item = self.listed[0] if place is None else self._item_at(place, notes)
                if item is None:
                    pass
                elif pattern is _WHY:
                    why = self._why(item)
                elif pattern in (_LIKE, _LIKE_THIS):
                    self.liked.append(item)
                    notes.append(f"more like {self.recommender.title(item)}")
                else:
                    self.apart[item] = None
                    notes.append(f"without {self.recommender.title(item)}")
            text = " ".join((text[: match.start()] + " " + text[match.end() :]).split())
            break
        return text, why

    def _item_at(self, place: str, notes: list[str]) -> int | None:
        """The item of the last list that "the second", "number 3" or "this one" means."""
        digits = re.sub(r"\D", "", place)
        if digits:
            number = int(digits)
        elif place == "last":
            number = len(self.listed)
        else:
            number = _PLACES.index(place) + 1 if place in _PLACES else 1
        if not 1 <= number <= len(self.listed):
            notes.append(f"the list has {len(self.listed)} items, and no number {number}")
            return None
        return self.listed[number - 1]

    def _why(self, item: int) -> str:
        answer = self._list(explained=True)
        title = self.recommender.title(item)
        return next((why.told() for why in answer.explanations if why.title == title), "")

    # --- facts ----------------------------------------------------------------------------------------------

    def _merge(self, heard: Understood, instead: bool, notes: list[str]) -> None:
        """Add what was heard; what contradicts it goes."""
        state = self.state
        for value in heard.exclude:
            state = state.without(value)
            if value.kind == "query":
                words = value.name.split()
                left = [word for word in state.query.split() if word not in words]
                state = replace(state, query=" ".join(left))
        exclude = dict.fromkeys((*state.exclude, *heard.exclude))
        for value in state.exclude:  # asked for after all
            if value.kind == "query" and set(value.name.split()) <= set(heard.query.split()):
                exclude.pop(value, None)
        include = list(state.include)
        for group in heard.include:
            for value in group:
                exclude.pop(value, None)
            if group in include:
                continue
            same = [old for old in include if old[0].kind == group[0].kind or _opposed(old, group)]
            if same and (
                instead or any(_opposed(old, group) for old in same) or not self._any([*include, group])
            ):
                include = [old for old in include if old not in same]
                notes.append(f"in place of {', '.join(value.told() for old in same for value in old)}")
            include.append(group)
        self.state = replace(
            heard,
            include=tuple(include),
            exclude=tuple(exclude),
            like=(*state.like, *(item for item in heard.like if item not in state.like)),
            query=self._joined(state.query, heard.query),
        )

    def _joined(self, said: str, heard: str) -> str:
        """Words to search for: both, where an item holds both, else the newer."""
        both = " ".join(dict.fromkeys([*said.split(), *heard.split()]))
        return both if self.lexicon.mask(Value("query", both)).any() else heard or said

    def _undo(self, heard: Understood, notes: list[str]) -> None:
        """Take back what was said before."""
        state = self.state
        for value in {*heard.exclude, *(value for group in heard.include for value in group)}:
            state = replace(
                state.without(value), exclude=tuple(other for other in state.exclude if other != value)
            )
        query = "" if heard.query and heard.query in state.query else state.query
        state = replace(state, query=query, like=tuple(item for item in state.like if item not in heard.like))
        notes.append("taken back" if state != self.state else "nothing like that was said before")
        self.state = state

    def _any(self, groups: Sequence[Sequence[Value]]) -> bool:
        """Whether an item meets all groups."""
        whole = Understood("", include=tuple(tuple(group) for group in groups))
        return bool(allowed(whole, self.lexicon, []).any())

    # --- the list -------------------------------------------------------------------------------------------

    def _turn(self, notes: list[str], why: str) -> Turn:
        answer = self._list(explained=False)
        self.listed = [self.recommender.number(row.item) for row in answer.items]
        return Turn(replace(answer, notes=[*notes, *answer.notes]), "" if why else self._question(), why)

    def _list(self, explained: bool) -> Answer:
        task, _ = task_of(self.lexicon, self.state.include, self.state.query)
        state = replace(self.state, task=task, like=(*self.state.like, *self.liked))
        return self.recommender.answer_understood(
            self.request, state, list(self.apart), self.k, explained=explained
        )

    def _question(self) -> str:
        """One question about a slot that is open, where two or more are; each slot is asked about once."""
        open_slots = [kind for kind in ("category", "brand", "year") if self._is_open(kind)]
        ask = [kind for kind in open_slots if kind not in self.asked]
        if len(open_slots) < 2 or not ask:
            return ""
        self.asked.add(ask[0])
        if ask[0] == "year":
            return "any years in mind, such as the 90s?"
        return f"any {ask[0]} in mind, such as {', '.join(self._examples(ask[0]))}?"

    def _is_open(self, kind: str) -> bool:
        """Whether the data have a slot and the person said nothing about it."""
        has = self.lexicon.years is not None if kind == "year" else bool(self.lexicon.members[kind])
        said = (*(value for group in self.state.include for value in group), *self.state.exclude)
        return has and all(value.kind != kind for value in said)

    def _examples(self, kind: str) -> list[str]:
        """The values that most of the allowed items have, but none that nearly all have."""
        left = allowed(self.state, self.lexicon, [])
        members = self.lexicon.members[kind]
        counts = {name: int(left[items].sum()) for name, items in members.items()}
        most = 0.9 * float(np.sum(left))
        names = sorted((n for n, count in counts.items() if 0 < count < most), key=lambda n: (-counts[n], n))
        return names[:EXAMPLES]


def _opposed(one: Sequence[Value], other: Sequence[Value]) -> bool:
    """Popular and seldom chosen exclude each other."""
    return {one[0].kind, other[0].kind} == {"popular", "longtail"}
