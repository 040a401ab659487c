"""What the page shows: lists of several models, or of one model's decoding modes, for one request."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from recbole_sigma.decoding.fusion import MODES
from recbole_sigma.models.contract import contract
from recbole_sigma.recommend.answers import Request
from recbole_sigma.recommend.lists import Row
from recbole_sigma.recommend.recommender import Recommender
from recbole_sigma.values import UserError

USERS, TITLES, PREFIXES, EXAMPLES = 2000, 12, 8, 2
"""How many users are offered, titles proposed, prefixes shown, and items named for each."""
LONGEST_LIST = 50
MODE_TEXTS = {
    "fixed_temp": "prefix and item scores as they are",
    "apf": "adaptive fusion: the spread of the prefix scores scales the item scores",
    "top1_prefix": "items of the best prefix alone",
}


@dataclass(frozen=True)
class Column:
    """One list on the page.

    Attributes:
        name: its heading.
        told: a sentence below it.
        recommender: what makes it.
        mode: a decoding mode, or None for the model's own.
    """

    name: str
    told: str
    recommender: Recommender
    mode: str | None = None


class Desk:
    """Answers the page; one request at a time.

    Args:
        models: (heading, a sentence below it, model) of every checkpoint, trained on one data set.

    Raises:
        UserError: models of different data sets.
    """

    def __init__(self, models: Sequence[tuple[str, str, Recommender]]) -> None:
        names = {recommender.config["dataset"] for _, _, recommender in models}
        if len(names) > 1:
            raise UserError(f"play: the models must be of one data set, not of {' and '.join(sorted(names))}")
        self.first = models[0][2]
        self.sets: dict[str, list[Column]] = {
            "models": [Column(name, told, recommender) for name, told, recommender in models]
        }
        for name, _, recommender in models:
            if "decode_mode" in contract(recommender.maker.model).decoding_keys:
                modes = [Column(mode, MODE_TEXTS[mode], recommender, mode) for mode in MODES]
                self.sets[f"decoding modes of {name}"] = modes
        self._lock = threading.Lock()

    def about(self) -> dict[str, Any]:
        """What the page needs before the first request."""
        ids = [str(token) for token in self.first.dataset.field2id_token[self.first.dataset.uid_field][1:]]
        return {
            "dataset": self.first.config["dataset"],
            "items": len(self.first.material.tokens) - 1,
            "users": ids[:USERS],
            "sets": {name: [column.name for column in columns] for name, columns in self.sets.items()},
            "instructed": any(column.recommender.instructed for column in self.sets["models"]),
        }

    def titles(self, text: str) -> list[str]:
        """Titles that hold what was typed, those that begin with it first."""
        wanted = text.strip().lower()
        if not wanted:
            return []
        found = [title for title in self._titles if wanted in title.lower()]
        return sorted(found, key=lambda title: (not title.lower().startswith(wanted), title))[:TITLES]

    @cached_property
    def _titles(self) -> list[str]:
        return sorted({self.first.title(item) for item in range(1, len(self.first.material.tokens))})

    def lists(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The columns for a request of the page.

        Args:
            asked: ``user`` or ``history`` (titles), ``instruction``, ``k``, ``set`` (a key of `sets`).

        Raises:
            UserError: anything that a person can type wrong.
        """
        request, k, chosen = _request(asked)
        if chosen not in self.sets:
            raise UserError(f"there is no set of columns {chosen[:40]!r}")
        with self._lock:
            return {"columns": [self._column(column, request, k) for column in self.sets[chosen]]}

    def _column(self, column: Column, request: Request, k: int) -> dict[str, Any]:
        maker = column.recommender.maker
        with maker.decoding(column.mode):
            (answer,) = column.recommender.answer([request], k, explained=True)
            row = column.recommender.row_of(request)
            prefixes = self._prefixes(column.recommender, row)
        why = {place: found for place, found in enumerate(answer.explanations)}
        return {
            "name": column.name,
            "told": column.told,
            "read": answer.instruction,
            "notes": answer.notes,
            "items": [
                {
                    "item": item.item,
                    "title": item.title or item.item,
                    "score": round(item.score, 3),
                    "prefix": item.prefix,
                    "votes": [[title, round(gain, 2)] for title, gain in why[place].voters] if why else [],
                    "by_words": why[place].instruction if why else None,
                }
                for place, item in enumerate(answer.items)
            ],
            "prefixes": prefixes,
            "history": [column.recommender.title(item) for item in row.items[-10:]],
        }

    @staticmethod
    def _prefixes(recommender: Recommender, row: Row) -> list[dict[str, Any]]:
        """P(prefix | request), the most probable first; empty for a model without prefixes."""
        codes = recommender.codes
        if codes is None or not codes.prefix_length:
            return []
        logs = recommender.maker.log_probabilities([row])[0].double()
        share = logs.exp()
        lowest = logs[1:] == logs[1:].min()
        if int(lowest.sum()) > 1:  # items that the beam did not reach share the lowest score
            share[1:][lowest] = 0.0
        share[0], share[torch.from_numpy(row.forbidden)] = 0.0, 0.0
        share /= share.sum().clamp_min(1e-30)
        _, member = torch.unique(codes.codes[1:, : codes.prefix_length], dim=0, return_inverse=True)
        mass = torch.zeros(int(member.max()) + 1, dtype=torch.float64).index_add_(0, member, share[1:])
        shown = []
        for prefix in mass.argsort(descending=True)[:PREFIXES].tolist():
            items = (torch.where(member == prefix, share[1:], -1.0)).argsort(descending=True)[:EXAMPLES] + 1
            shown.append(
                {
                    "prefix": recommender.prefix(int(items[0])),
                    "share": float(mass[prefix]),
                    "items": int((member == prefix).sum()),
                    "examples": [recommender.title(int(item)) for item in items],
                }
            )
        return shown


def _request(asked: dict[str, Any]) -> tuple[Request, int, str]:
    """What the page sent, checked: (request, length of the lists, set of columns)."""
    user, history, sentence = asked.get("user"), asked.get("history"), asked.get("instruction")
    for name, value in (("user", user), ("instruction", sentence), ("set", asked.get("set"))):
        if value is not None and not isinstance(value, str):
            raise UserError(f"{name}: give text")
    if history is not None and not (
        isinstance(history, list) and all(isinstance(title, str) for title in history)
    ):
        raise UserError("history: give a list of titles")
    k = asked.get("k", 10)
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= LONGEST_LIST:
        raise UserError(f"length: give a number from 1 to {LONGEST_LIST}")
    if not user and not history:
        raise UserError("pick a user, or type at least one title")
    request = Request(user=None if history else user, history=history or None)
    sentence = (sentence or "").strip()
    request = replace(request, instruction=sentence) if sentence else request
    return request, k, asked.get("set") or "models"
