"""Recommendations from a checkpoint: for a user or a typed history, under any sentence as the instruction.

recommender = Recommender.load("saved/SIGMA.safetensors")
recommender.recommend(history=["Toy Story", "Aladdin"], instruction="something for a rainy evening", k=10)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.utils import ModelType

from recbole_sigma.evaluation.judge import Judge
from recbole_sigma.instructions.fields import Material, gather
from recbole_sigma.instructions.phrases import normalise_query
from recbole_sigma.instructions.rules import TaskRows
from recbole_sigma.instructions.tasks import GENERAL
from recbole_sigma.language.loading import encode_as_text
from recbole_sigma.models.contract import contract
from recbole_sigma.recommend.nearest_task import nearest_task
from recbole_sigma.recommend.titles import Titles
from recbole_sigma.settings.keys import ProtocolKeys, TaskKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.reading import nearest
from recbole_sigma.settings.recbole_keys import RecBoleKeys
from recbole_sigma.values import RankedItems, UserError

LONGEST_INSTRUCTION = 1000  # characters


@dataclass(frozen=True)
class Recommendation:
    """One place of a list.

    Attributes:
        rank: 1-based place.
        item: original item id.
        title: its title, '' where unknown.
        score: log P(item | prompt) for SIGMA, the model's own score otherwise.
        prefix: semantic-ID prefix such as ``<a_7>``, '' for models without one.
    """

    rank: int
    item: str
    title: str
    score: float
    prefix: str


@dataclass(frozen=True)
class Request:
    """One list to make.

    Attributes:
        user: original user id, or None.
        history: titles or item ids, oldest first; None takes the user's own interactions.
        instruction: a sentence, or None for JustForYou.
        task: name of a task, or None.
        slot: the task's slot (a query, a category, a season, a holiday), or None.
        category: only items of this category, or None.
        keep_seen: history items may be recommended again; None follows ``filter_seen`` of the training.
    """

    user: str | None = None
    history: Sequence[str] | None = None
    instruction: str | None = None
    task: str | None = None
    slot: str | None = None
    category: str | None = None
    keep_seen: bool | None = None


@dataclass(frozen=True)
class Answer:
    """A list with what it was made from.

    Attributes:
        items: the recommendations.
        instruction: the sentence that the model read, '' for a model without instructions.
        task: the named or nearest task, '' for a model without instructions.
        notes: sentences for the person.
    """

    items: list[Recommendation]
    instruction: str
    task: str
    notes: list[str]

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _Resolved:
    user: int
    items: list[int]
    text: str
    task: str
    notes: list[str]


class Recommender:
    """Answers requests with one loaded model; see `load`."""

    def __init__(self, config: Any, model: Any, dataset: Any, train: Any, loader: Any) -> None:
        self.config, self.model, self.dataset = config, model.eval(), dataset
        self.train, self.loader, self.judge = train, loader, Judge(config)
        self.labels = contract(model).task_labels
        self.instructed = contract(model).reads_instructions
        self.material: Material = self.labels.tasks.material if self.labels else gather(train, config)
        self.titles = Titles(self.material.tokens, self.material.words.titles)
        self.codes = contract(model).item_codes
        self.window = read(RecBoleKeys, config).MAX_ITEM_LIST_LENGTH
        order = np.argsort(self.material.users, kind="stable")
        self._order = order
        self._starts = np.searchsorted(self.material.users[order], np.arange(dataset.user_num + 1))

    @classmethod
    def load(cls, path: str, overrides: dict[str, Any] | None = None) -> Recommender:
        """Read a checkpoint of a sequential model and the dataset that it was trained on.

        Args:
            path: checkpoint file.
            overrides: config keys to change, such as ``data_path`` on another machine.

        Raises:
            UserError: no such file, a damaged one, another dataset, or a model that reads no history.
        """
        from recbole_sigma.quick_start import load_data_and_model

        config, model, dataset, train, _, test = load_data_and_model(
            path, {"show_progress": False, "state": "WARNING", **(overrides or {})}
        )
        if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
            raise UserError(
                f"{path} holds {config['model']}, which reads no history: recommend needs a sequential model "
                "such as SIGMA, TIGER or SASRec"
            )
        return cls(config, model, dataset, train._dataset, test)

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

    def answer(self, requests: Sequence[Request], k: int = 10) -> list[Answer]:
        """Lists of a batch of requests.

        Raises:
            UserError: see `recommend`; nothing is computed when one request is bad.
        """
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(self.material.tokens) - 1:
            raise UserError(
                f"k: give a number from 1 to {len(self.material.tokens) - 1} (the catalogue), not {k!r}"
            )
        resolved = [self._resolve(request) for request in requests]
        if not resolved:
            return []
        forbidden = [self._forbidden(request, row) for request, row in zip(requests, resolved, strict=True)]
        row = np.repeat(np.arange(len(forbidden)), [len(items) for items in forbidden])
        seen = (torch.from_numpy(row), torch.from_numpy(np.concatenate(forbidden).astype(np.int64)))
        device = self.config["device"]
        batch = self._batch(resolved).to(device)
        pairs = (seen[0].to(device), seen[1].to(device)) if len(row) else None
        ranked = self._rank(batch, k, pairs, [found.items for found in resolved])
        answers = []
        for i, found in enumerate(resolved):
            items = [int(item) for item in ranked.items[i].tolist() if item]
            scores = ranked.scores[i].tolist()
            listed = [
                Recommendation(
                    place + 1,
                    self.material.tokens[item],
                    self.material.words.titles[item],
                    float(scores[place]),
                    self._prefix(item),
                )
                for place, item in enumerate(items)
            ]
            notes = list(found.notes)
            if len(listed) < k:
                notes.append(f"{len(listed)} of {k} items: the filter leaves no more")
            answers.append(Answer(listed, found.text, found.task, notes))
        return answers

    @torch.inference_mode()
    def _rank(self, batch: Interaction, k: int, seen: Any, histories: list[list[int]]) -> RankedItems:
        """Lists as the evaluator makes them: with the memory where the checkpoint has a weight."""
        judge, memory = self.judge, self.judge.memory
        judge.k = k
        n_items = len(self.material.tokens)
        if not memory.active:
            return judge.rank(self.model, batch, n_items, seen, self.loader)
        row = np.repeat(np.arange(len(histories)), [len(items) for items in histories])
        met = np.asarray([item for items in histories for item in items], dtype=np.int64)
        pairs = (torch.from_numpy(row), torch.from_numpy(met))
        bonus = memory.bonus(self.train, pairs, len(histories))
        weights = (float(memory.weight or 0.0),)
        return judge.rank_fused(self.model, batch, n_items, seen, self.loader, bonus, weights)[0]

    # --- reading a request ---

    def _resolve(self, request: Request) -> _Resolved:
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
        text, task, notes = self._instruction(request)
        notes = [*self.titles.readings([str(text) for text in request.history or ()]), *notes]
        return _Resolved(user, items, text, task, notes)

    def _events_of(self, user: int) -> list[int]:
        own = self._order[self._starts[user] : self._starts[user + 1]]
        return self.material.items[own].tolist()

    def _instruction(self, request: Request) -> tuple[str, str, list[str]]:
        """(sentence for the model, task, notes)."""
        given = request.instruction
        if not self.instructed or self.labels is None:
            return self._without_tasks(request)
        if given is not None and not given.strip():
            raise UserError("instruction: it is empty; leave it out for the plain recommendation")
        if given is not None and len(given) > LONGEST_INSTRUCTION:
            raise UserError(
                f"instruction: {len(given)} characters; write at most {LONGEST_INSTRUCTION}, one sentence"
            )
        tasks: dict[str, TaskRows] = self.labels.tasks.rows
        if request.task is not None:
            return self._named_task(request, tasks)
        if request.slot is not None:
            raise UserError("slot: name the task that it belongs to")
        if given is None:
            return "", GENERAL, []
        task, _ = nearest_task(given, tasks.values())
        return given.strip(), task, [*self._not_read(given), f"nearest task: {task}"]

    def _without_tasks(self, request: Request) -> tuple[str, str, list[str]]:
        given = {"instruction": request.instruction, "task": request.task, "slot": request.slot}
        for name, value in given.items():
            if value is not None:
                what = "reads no instructions" if not self.instructed else "was trained on JustForYou alone"
                raise UserError(
                    f"{name}: this {self.config['model']} {what}; train SIGMA with --tasks=all to use "
                    "instructions"
                )
        return "", GENERAL if self.instructed else "", []

    def _named_task(self, request: Request, tasks: dict[str, TaskRows]) -> tuple[str, str, list[str]]:
        name = str(request.task)
        if name not in tasks:
            raise UserError(
                f"task: '{name[:80]}' is not among the trained ones{nearest(name[:80], tasks)}; there are "
                f"{', '.join(tasks)}"
            )
        found = tasks[name]
        slot = request.slot
        if slot is None and request.instruction is not None:
            return request.instruction.strip(), name, self._not_read(request.instruction)
        if found.task.slots and slot is None:
            raise UserError(f"slot: the task {name} needs one: its {found.task.slots[0]}")
        if not found.task.slots and slot is not None:
            raise UserError(f"slot: the task {name} has none")
        if name == GENERAL:
            return "", name, []
        notes: list[str] = []
        if slot is not None and found.task.rule == "query":
            slot = normalise_query(slot, found.task.options["longest"])
            if not slot:
                raise UserError("slot: the query holds no word")
        elif slot is not None:
            known = {value.lower(): value for value in found.values}
            if slot.lower() not in known:
                listed = nearest(slot[:80], found.values) or f"; there are {', '.join(found.values[:20])}"
                raise UserError(f"slot: the task {name} knows no '{slot[:80]}'{listed}")
            slot = known[slot.lower()]
        text = found.task.fill(found.task.templates[0], slot)
        return text, name, [*notes, *self._not_read(text)]

    def _not_read(self, text: str) -> list[str]:
        """What the model leaves out of an instruction, in sentences."""
        labels: Any = self.labels
        notes = []
        length = len(encode_as_text(labels.tokenizer, [text])[0].ids) + 1
        if length > labels.width:
            notes.append(f"the model reads the last {labels.width} of {length} tokens of the instruction")
        unknown = labels.unknown_words(text)
        if unknown:
            more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
            notes.append(f"training never saw, so not read: {', '.join(unknown[:8])}{more}")
        return notes

    def _forbidden(self, request: Request, row: _Resolved) -> np.ndarray:
        """Items that a request rules out: int64 [n]."""
        keep = (
            not read(ProtocolKeys, self.config).filter_seen
            if request.keep_seen is None
            else request.keep_seen
        )
        out = np.zeros(len(self.material.tokens), dtype=bool)
        if not keep:
            out[row.items] = True
        if request.category is not None:
            out |= ~self._members(request.category)
        out[0] = False
        return np.flatnonzero(out)

    def _members(self, category: str) -> np.ndarray:
        names = sorted({name for path in self.material.words.categories for name in path})
        if not names:
            raise UserError(f"filter: {self.config['dataset']} has no categories (category_field)")
        known = {name.lower(): name for name in names}
        if category.lower() not in known:
            raise UserError(f"filter: no category '{category[:80]}'{nearest(category[:80], names)}")
        wanted = known[category.lower()]
        return np.array([wanted in path for path in self.material.words.categories])

    def _batch(self, rows: Iterable[_Resolved]) -> Interaction:
        from recbole_sigma.models.sigma.labels import INSTRUCTION

        rows = list(rows)
        data = self.dataset
        length = torch.tensor([min(len(row.items), self.window) for row in rows])
        history = torch.zeros(len(rows), self.window, dtype=torch.int64)
        for i, row in enumerate(rows):
            kept = row.items[-self.window :]
            history[i, : len(kept)] = torch.tensor(kept, dtype=torch.int64)
        batch = {
            data.uid_field: torch.tensor([row.user for row in rows]),
            data.item_id_list_field: history,
            data.item_list_length_field: length,
            data.iid_field: torch.zeros(len(rows), dtype=torch.int64),
        }
        if self.labels is not None:
            batch[INSTRUCTION] = self.labels.encode([row.text for row in rows]).cpu()
        return Interaction(batch)

    def _prefix(self, item: int) -> str:
        if self.codes is None:
            return ""
        from recbole_sigma.language.vocabulary import code_token

        length = self.codes.prefix_length
        return "".join(code_token(level, int(self.codes.codes[item, level])) for level in range(length))
