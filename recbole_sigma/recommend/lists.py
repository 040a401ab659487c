"""From prompts to lists with a loaded model, exact under whatever may not be listed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_sigma.decoding.memory import Bonus, add_bonus
from recbole_sigma.evaluation.judge import Judge
from recbole_sigma.models.contract import contract
from recbole_sigma.models.sigma.labels import INSTRUCTION
from recbole_sigma.policy.judge import AspectJudge
from recbole_sigma.policy.judges import aspects_of
from recbole_sigma.settings.keys import BeamKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RecBoleKeys
from recbole_sigma.values import RankedItems


@dataclass(frozen=True)
class Row:
    """One list to make.

    Attributes:
        user: number of the user, 0 for none.
        items: the history, oldest first.
        text: what the model reads, '' for nothing.
        forbidden: what may not be listed, bool [N].
        exact: conditions hold, so that no beam may lose what little is left.
    """

    user: int
    items: list[int]
    text: str
    forbidden: np.ndarray
    exact: bool = True


class ListMaker:
    """Makes lists as the evaluator makes them.

    Args:
        config: of the checkpoint.
        model: the trained model.
        dataset: what it was trained on; names the columns of a prompt.
        train: the train part, for the collaborative memory.
        loader: an evaluation loader.
    """

    def __init__(self, config: Any, model: Any, dataset: Any, train: Any, loader: Any) -> None:
        self.config, self.model, self.dataset = config, model.eval(), dataset
        self.train, self.loader, self.judge = train, loader, Judge(config)
        self.labels = contract(model).task_labels
        self.window = read(RecBoleKeys, config).MAX_ITEM_LIST_LENGTH
        self.n_items = int(dataset.item_num)
        # without a beam both ways to rank are one, and rows with and without conditions share a pass
        self.beam = read(BeamKeys, config).decode_beam if contract(model).generative else 0

    @contextmanager
    def decoding(self, mode: str | None) -> Iterator[None]:
        """Make lists in another decoding mode of SIGMA for a while; None changes nothing."""
        if mode is None:
            yield
            return
        own = self.model.decoding
        self.model.decoding = replace(own, mode=mode)
        try:
            yield
        finally:
            self.model.decoding = own

    @cached_property
    def aspects(self) -> AspectJudge | None:
        """The judge of the policy stage, where it weighs aspects."""
        return aspects_of(self.config, self.train)

    def lists(self, rows: Sequence[Row], k: int) -> list[tuple[list[int], list[float]]]:
        """Item numbers and scores of each row's list, best first: exact under its conditions."""
        found: list[tuple[list[int], list[float]]] = [([], [])] * len(rows)
        for exact in (False, True):
            places = [place for place, row in enumerate(rows) if (row.exact or not self.beam) is exact]
            if places:
                for place, made in zip(places, self._lists([rows[i] for i in places], k, exact), strict=True):
                    found[place] = made
        return found

    def _lists(self, rows: list[Row], k: int, exact: bool) -> list[tuple[list[int], list[float]]]:
        device = self.config["device"]
        closed = [np.flatnonzero(row.forbidden) for row in rows]
        row = torch.from_numpy(np.repeat(np.arange(len(rows)), [len(items) for items in closed]))
        items = torch.from_numpy(np.concatenate(closed).astype(np.int64))
        seen = (row.to(device), items.to(device)) if len(row) else None
        ranked = self._rank(self.batch(rows).to(device), k, seen, [each.items for each in rows], exact)
        size = (ranked.items > 0).sum(dim=1).tolist()
        return [(ranked.items[i, :n].tolist(), ranked.scores[i, :n].tolist()) for i, n in enumerate(size)]

    @torch.inference_mode()
    def _rank(
        self, batch: Interaction, k: int, seen: Any, histories: list[list[int]], exact: bool
    ) -> RankedItems:
        """Lists as the evaluator makes them: with the memory where the checkpoint has a weight."""
        judge, memory = self.judge, self.judge.memory
        judge.k = k
        n_items = self.n_items
        if not memory.active:
            if exact and contract(self.model).generative:
                return self.model.rank_exactly(batch, k, seen)
            return judge.rank(self.model, batch, n_items, seen, self.loader)
        bonus = self._bonus(histories)
        weights = (float(memory.weight or 0.0),)
        ranked = judge.rank_fused(self.model, batch, n_items, seen, self.loader, bonus, weights)[0]
        if exact and contract(self.model).generative and bool(ranked.short.any()):
            ranked = _filled(ranked, self.model.rank_exactly(batch, k, seen))
        return ranked

    @torch.inference_mode()
    def log_probabilities(self, rows: Sequence[Row]) -> torch.Tensor:
        """log P(item | row) of all items by the model's scores and its memory: float [B, N].

        Items that a beam did not reach have the lowest score that was reached.
        """
        n_items = self.n_items
        batch = self.batch(rows).to(self.config["device"])
        scores = self.judge.dense(self.model, batch, n_items, self.loader).float().clone()
        scores[:, 0] = -torch.inf
        if self.judge.memory.active:
            weight = float(self.judge.memory.weight or 0.0)
            scores = add_bonus(scores, self._bonus([row.items for row in rows]), weight)
        reached = torch.where(torch.isfinite(scores), scores, torch.inf).min(dim=1, keepdim=True).values
        return torch.where(torch.isfinite(scores), scores, reached).log_softmax(dim=1).cpu()

    def _bonus(self, histories: list[list[int]]) -> Bonus:
        """What the collaborative memory adds for some histories."""
        row = np.repeat(np.arange(len(histories)), [len(items) for items in histories])
        met = np.asarray([item for items in histories for item in items], dtype=np.int64)
        return self.judge.memory.bonus(
            self.train, (torch.from_numpy(row), torch.from_numpy(met)), len(histories)
        )

    def batch(self, rows: Iterable[Row]) -> Interaction:
        """The prompts of some rows, as the models read them."""
        rows = list(rows)
        data = self.dataset
        length = torch.tensor([min(len(row.items), self.window) for row in rows])
        # some networks of RecBole's are made for one width; whole histories have none
        width = max(1, int(length.max())) if contract(self.model).whole_history else self.window
        history = torch.zeros(len(rows), width, dtype=torch.int64)
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


def _filled(ranked: RankedItems, rest: RankedItems) -> RankedItems:
    """Lists that a beam left short, with the items of other lists behind their own."""
    items, scores = ranked.items.clone(), ranked.scores.clone()
    for row, size in enumerate((items > 0).sum(dim=1).tolist()):
        new = ~torch.isin(rest.items[row], items[row, :size]) & (rest.items[row] > 0)
        more = rest.items[row][new][: items.shape[1] - size]
        items[row, size : size + len(more)] = more
        scores[row, size : size + len(more)] = rest.scores[row][new][: len(more)]
    return RankedItems(items, scores)
