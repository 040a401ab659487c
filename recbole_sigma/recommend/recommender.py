"""Recommendations from a checkpoint: for a user or a typed history, under any sentence as the instruction.

recommender = Recommender.load("saved/SIGMA.safetensors")
recommender.recommend(history=["Toy Story", "Aladdin"], instruction="a comedy, but not romantic", k=10)

A sentence is read by `understanding`: what it states is a condition on every item of the list, for any
model; its task is what a model reads that was trained on tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from recbole.utils import ModelType

from recbole_sigma.evaluation.histories import first_judged
from recbole_sigma.instructions.fields import Material, gather
from recbole_sigma.instructions.rules import TaskRows
from recbole_sigma.instructions.samples import build_tasks
from recbole_sigma.instructions.tasks import GENERAL
from recbole_sigma.models.contract import contract
from recbole_sigma.recommend.answers import Answer, Recommendation, Request
from recbole_sigma.recommend.explain import Explanation, explain
from recbole_sigma.recommend.lists import ListMaker, Row
from recbole_sigma.recommend.named_tasks import named_task, not_read
from recbole_sigma.recommend.titles import Titles
from recbole_sigma.settings.keys import ProtocolKeys, TaskKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.reading import nearest
from recbole_sigma.understanding.build import lexicon_of
from recbole_sigma.understanding.lexicon import Lexicon
from recbole_sigma.understanding.reader import Paraphrase, Understanding
from recbole_sigma.understanding.request import Understood
from recbole_sigma.understanding.wording import allowed, instruction, other_wordings
from recbole_sigma.values import UserError

LONGEST_INSTRUCTION = 1000  # characters
HELD_OUT = ("valid", "test")
"""Parts that a user's history may end before."""
ALL_EVENTS = (
    "all events of the user are read, those held out for validation and test too; history_until=test stops "
    "before the judged one"
)


@dataclass(frozen=True)
class _Resolved:
    user: int
    items: list[int]
    text: str
    task: str
    notes: list[str]
    understood: Understood | None = None
    plain: list[int] = field(
        default_factory=list
    )  # the history without the items that the sentence refers to


class Recommender:
    """Answers requests with one loaded model; see `load`."""

    def __init__(
        self,
        config: Any,
        model: Any,
        dataset: Any,
        train: Any,
        loader: Any,
        paraphrase: Paraphrase | None = None,
        held_out: Any = None,
    ) -> None:
        self.paraphrase = paraphrase
        self._moments = None if held_out is None else first_judged(held_out._dataset).numpy()
        self.config, self.dataset, self.train = config, dataset, train
        self.maker = ListMaker(config, model, dataset, train, loader)
        self.labels = contract(model).task_labels
        self.instructed = contract(model).reads_instructions
        self.material: Material = self.labels.tasks.material if self.labels else gather(train, config)
        self.titles = Titles(self.material.tokens, self.material.words.titles)
        self.codes = contract(model).item_codes
        order = np.argsort(self.material.users, kind="stable")
        self._order = order
        self._starts = np.searchsorted(self.material.users[order], np.arange(dataset.user_num + 1))

    @classmethod
    def load(
        cls,
        path: str,
        overrides: dict[str, Any] | None = None,
        paraphrase: Paraphrase | None = None,
        history_until: str | None = None,
    ) -> Recommender:
        """Read a checkpoint of a sequential model and the dataset that it was trained on.

        Args:
            path: checkpoint file.
            overrides: config keys to change, such as ``data_path`` on another machine.
            paraphrase: a second reader of sentences (`understanding.paraphrase`), or None.
            history_until: ``valid`` or ``test``: a user's history ends before the event that this part
                judges, as it did for the table; None reads all events of the user, held-out ones too.

        Raises:
            UserError: no such file, a damaged one, another dataset, or a model that reads no history.
        """
        from recbole_sigma.quick_start import load_data_and_model

        if history_until not in (None, *HELD_OUT):
            raise UserError(f"history_until must be one of {', '.join(HELD_OUT)}, not {history_until!r}")
        config, model, dataset, train, valid, test = load_data_and_model(
            path, {"show_progress": False, "state": "WARNING", **(overrides or {})}
        )
        if config["judged_by"] == "labels":
            raise UserError(
                f"{path} holds {config['model']}, which was trained on labelled rows and makes no lists: "
                "recommend needs a sequential model such as SIGMA, TIGER or SASRec"
            )
        if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
            raise UserError(
                f"{path} holds {config['model']}, which reads no history: recommend needs a sequential model "
                "such as SIGMA, TIGER or SASRec"
            )
        held_out = None if history_until is None else {"valid": valid, "test": test}[history_until]
        return cls(config, model, dataset, train._dataset, test, paraphrase, held_out)

    def recommend(
        self,
        history: Sequence[str] | None = None,
        instruction: str | None = None,
        k: int = 10,
        user: str | None = None,
        task: str | None = None,
        slot: str | None = None,
        category: str | None = None,
        keep_seen: bool | None = None,
    ) -> list[Recommendation]:
        """One list, best first; the arguments are those of `Request`.

        Raises:
            UserError: an unknown user, title, task or category, no history, or a bad ``k``.
        """
        request = Request(user, history, instruction, task, slot, category, keep_seen)
        return self.answer([request], k)[0].items

    def answer(self, requests: Sequence[Request], k: int = 10, explained: bool = False) -> list[Answer]:
        """Lists of a batch of requests.

        Args:
            requests: what is asked.
            k: length of the lists.
            explained: say for every item why it is there; a pass of the model over each history item.

        Raises:
            UserError: see `recommend`; nothing is computed when one request is bad.
        """
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(self.material.tokens) - 1:
            raise UserError(
                f"k: give a number from 1 to {len(self.material.tokens) - 1} (the catalogue), not {k!r}"
            )
        resolved = [self._resolve(request, self._read(request)) for request in requests]
        return self._answers(requests, resolved, (), k, explained)

    def row_of(self, request: Request) -> Row:
        """A request as the model reads it: history, words, and what may not be listed."""
        return self._rows(request, self._resolve(request, self._read(request)), ())[0]

    def answer_understood(
        self,
        request: Request,
        understood: Understood,
        apart: Sequence[int] = (),
        k: int = 10,
        explained: bool = False,
    ) -> Answer:
        """One list for an understood sentence, as a conversation has it, in place of the request's own.

        Args:
            request: who asks.
            understood: what is asked for.
            apart: numbers of items that may not be listed.
            k: length of the list.
            explained: see `answer`.
        """
        return self._answers([request], [self._resolve(request, understood)], apart, k, explained)[0]

    def _answers(
        self,
        requests: Sequence[Request],
        resolved: list[_Resolved],
        apart: Sequence[int],
        k: int,
        explained: bool,
    ) -> list[Answer]:
        rows = [self._rows(request, found, apart) for request, found in zip(requests, resolved, strict=True)]
        lists = self.maker.lists([row for part in rows for row in part], k)
        answers, at = [], 0
        for found, part in zip(resolved, rows, strict=True):
            why = explain(self.maker, part[0], lists[at][0], self.title, self.prefix) if explained else []
            answers.append(self._answer(found, part, lists[at : at + len(part)], k, why))
            at += len(part)
        return answers

    def _rows(self, request: Request, found: _Resolved, apart: Sequence[int]) -> list[Row]:
        """The list that was asked for; after a sentence that asks for something also the plain list, and the
        one under the same conditions where the model reads nothing.
        """
        seen = self._forbidden(request, found.items)
        seen[list(apart)] = True
        understood = found.understood
        if understood is None:
            return [Row(found.user, found.items, found.text, seen, request.category is not None)]
        left = allowed(understood, self.lexicon, found.items)
        closed = seen | ~left
        closed[0] = False
        asked = Row(found.user, found.items, found.text, closed)
        bare = Row(
            found.user, found.plain, "", self._forbidden(request, found.plain), request.category is not None
        )
        if not found.text and found.items == found.plain and (closed == bare.forbidden).all():
            return [bare]
        return [asked, bare, replace(asked, text="")] if found.text else [asked, bare]

    def _answer(
        self,
        found: _Resolved,
        rows: list[Row],
        lists: list[tuple[list[int], list[float]]],
        k: int,
        why: list[Explanation],
    ) -> Answer:
        items, scores = lists[0]
        listed = [
            Recommendation(
                place + 1,
                self.material.tokens[item],
                self.material.words.titles[item],
                float(scores[place]),
                self.prefix(item),
            )
            for place, item in enumerate(items)
        ]
        left = len(self.material.tokens) - 1 - int(rows[0].forbidden.sum())
        notes, moved, by_words = list(found.notes), None, None
        if found.understood is not None:
            plain = lists[min(1, len(lists) - 1)][0]
            moved = len(set(items) - set(plain))
            by_words = len(set(items) - set(lists[2][0])) if len(lists) > 2 else 0
            notes += self._movement(found, rows, len(items), left, moved, by_words)
        if len(listed) < k:
            notes.append(f"{len(listed)} of {k} items: the filter leaves no more")
        return Answer(listed, found.text, found.task, notes, left, moved, by_words, why)

    def _movement(
        self, found: _Resolved, rows: list[Row], size: int, left: int, moved: int, by_words: int
    ) -> list[str]:
        """What a sentence did to the list, in sentences."""
        understood = found.understood
        assert understood is not None
        if len(rows) == 1:
            lines = ["this is the plain list"]
        else:
            lines = [
                f"{left:,} of {len(self.material.tokens) - 1:,} items satisfy this and are not seen; "
                f"{moved} of {size} items differ from the plain list, {by_words} of them by what the model "
                "read"
            ]
        if found.text and not by_words:
            lines.append("the instruction itself moved nothing")
        elif not found.text and found.task != GENERAL and understood.in_scope:
            lines.append(f"this model was not trained on {found.task}: conditions alone made the list")
        if not understood.in_scope or (understood.unread and len(rows) == 1) or not left:
            wordings = ", ".join(f'"{text}"' for text in other_wordings(self.lexicon))
            lines.append(f"say it otherwise, such as: {wordings}")
        return lines

    def number(self, token: str) -> int:
        """The number of an original item id."""
        return self.titles.by_token[token]

    def title(self, item: int) -> str:
        """Title of an item, or its id where it has none."""
        return self.material.words.titles[item] or self.material.tokens[item]

    # --- what sentences are read with ---

    @cached_property
    def lexicon(self) -> Lexicon:
        """The values of the data, read when the first sentence comes."""
        tasks = build_tasks(self.train, self.config, "all")
        return lexicon_of(self.train, self.config, self.material, tasks.rows)

    @cached_property
    def understanding(self) -> Understanding:
        """What reads the sentences."""
        return Understanding(self.lexicon, self.paraphrase)

    @property
    def filters_seen(self) -> bool:
        """Whether items of the history stay out of lists, unless a request says otherwise."""
        return read(ProtocolKeys, self.config).filter_seen

    @property
    def trained(self) -> Mapping[str, TaskRows]:
        """The tasks that the model was trained on, by name."""
        return self.labels.tasks.rows if self.labels else {}

    # --- reading a request ---

    def _resolve(self, request: Request, understood: Understood | None) -> _Resolved:
        user = 0
        if request.user is not None:
            ids = self.dataset.field2token_id[self.dataset.uid_field]
            if request.user not in ids:
                raise UserError(
                    f"user: {self.config['dataset']} has no user '{request.user[:80]}'"
                    f"{nearest(request.user[:80], list(ids))}"
                )
            user = int(ids[request.user])
        if isinstance(request.history, str):
            raise UserError("history: give a list of titles or item ids, not one text")
        if request.history is not None:
            items = [self.titles.find(str(text)) for text in request.history]
        else:
            items = self._events_of(user) if user else []
        can_start = read(TaskKeys, self.config).task_empty_history and self.instructed
        if not items and not can_start:
            raise UserError(
                "history: it is empty, and this model was trained on histories: name at least one item, or a "
                "user of the dataset"
            )
        notes = self.titles.readings([str(text) for text in request.history or ()])
        if request.history is None and self._moments is None:
            notes.append(ALL_EVENTS)
        if understood is None:
            text, task, more = named_task(request, self.labels, self.instructed, self.config["model"])
            return _Resolved(user, items, text, task, [*notes, *more])
        if understood.like and not set(understood.like) <= set(items[-len(understood.like) :]):
            liked = [item for item in understood.like if item not in items[-1:]]
            titles = ", ".join(self.material.words.titles[item] for item in understood.like)
            notes.append(f"as if the newest of the history were: {titles}")
        else:
            liked = []
        text = instruction(understood, self.trained) if self.instructed else ""
        notes += understood.told()
        notes += not_read(text, self.labels) if text else []
        return _Resolved(user, [*items, *liked], text, understood.task, notes, understood, items)

    def _read(self, request: Request) -> Understood | None:
        """What the sentence of a request asks for; None where there is none, or a task is named beside it."""
        given = request.instruction
        if given is not None:
            self.check_sentence(given)
        if given is None or request.task is not None or request.slot is not None:
            return None
        return self.understanding.read(given)

    @staticmethod
    def check_sentence(sentence: str) -> None:
        """Refuse a sentence that is empty or longer than a sentence is.

        Raises:
            UserError: it is.
        """
        if not sentence.strip():
            raise UserError("instruction: it is empty; leave it out for the plain recommendation")
        if len(sentence) > LONGEST_INSTRUCTION:
            raise UserError(
                f"instruction: {len(sentence)} characters; write at most {LONGEST_INSTRUCTION}, one sentence"
            )

    def _events_of(self, user: int) -> list[int]:
        own = self._order[self._starts[user] : self._starts[user + 1]]  # event numbers in order of time
        if self._moments is not None:
            own = own[own < self._moments[user]]
        return self.material.items[own].tolist()

    def _forbidden(self, request: Request, items: Sequence[int]) -> np.ndarray:
        """Items that a request rules out whatever its sentence says: bool [N]."""
        keep = not self.filters_seen if request.keep_seen is None else request.keep_seen
        out = np.zeros(len(self.material.tokens), dtype=bool)
        if not keep:
            out[list(items)] = True
        if request.category is not None:
            out |= ~self._members(request.category)
        out[0] = False
        return out

    def _members(self, category: str) -> np.ndarray:
        names = sorted({name for path in self.material.words.categories for name in path})
        if not names:
            raise UserError(f"filter: {self.config['dataset']} has no categories (category_field)")
        known = {name.lower(): name for name in names}
        if category.lower() not in known:
            raise UserError(f"filter: no category '{category[:80]}'{nearest(category[:80], names)}")
        wanted = known[category.lower()]
        return np.array([wanted in path for path in self.material.words.categories])

    def prefix(self, item: int) -> str:
        """Semantic-ID prefix of an item, '' for models without one."""
        if self.codes is None:
            return ""
        from recbole_sigma.language.vocabulary import code_token

        length = self.codes.prefix_length
        return "".join(code_token(level, int(self.codes.codes[item, level])) for level in range(length))
