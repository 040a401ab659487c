"""Per-task evaluation: every task on its own test rows, beside its paired controls and slot-aware baselines.

All tasks judge the same held-out interactions; a row belongs to every task it qualifies for. On a task's rows
the task's instruction is compared with no instruction at all, which is JustForYou (the lift) and, where there
is a slot, with a wrong slot. Figures of Query and Category are conditional on a slot that comes from the
target or was typed for it: they are never averaged into the plain next-item figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_sigma.decoding.top_k import top_k
from recbole_sigma.evaluation.histories import Histories
from recbole_sigma.evaluation.tasks.baselines import masked
from recbole_sigma.instructions.rules import TaskRows, category_groups, draw_hash
from recbole_sigma.instructions.samples import TaskSet
from recbole_sigma.models.sigma.labels import INSTRUCTION
from recbole_sigma.settings.keys import ProtocolKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RecBoleKeys

LIST = 10  # items of a list that the slot share, the distance and the categories look at
RESAMPLES = 2000


@dataclass(frozen=True)
class Lists:
    """Lists of one condition on the rows of one task.

    Attributes:
        items: int64 [n, K].
        places: int64 [n], 1-based place of the target, 0 when it is not in the list.
    """

    items: np.ndarray
    places: np.ndarray

    def hits(self, k: int) -> np.ndarray:
        """float64 [n], 1 where the target is among the first k."""
        return ((self.places > 0) & (self.places <= k)).astype(np.float64)

    def gains(self, k: int) -> np.ndarray:
        """float64 [n], NDCG of one target."""
        return self.hits(k) / np.log2(np.maximum(self.places, 1) + 1)


@dataclass(frozen=True)
class Selected:
    """The judged rows of a task.

    Attributes:
        index: int64 [n], rows of the test set.
        own: int64 [n], the same rows inside ``TaskRows``.
        users: int64 [n].
    """

    index: np.ndarray
    own: np.ndarray
    users: np.ndarray


class TaskBench:
    """Judges a model's tasks on the rows of one loader.

    Args:
        model: a model with ``task_labels`` (SIGMA).
        loader: RecBole's full-sort loader over a ``PackedDataset`` part.
        config: RecBole config; reads ``topk``, ``filter_seen``, ``eval_batch_size`` and the device.
        limit: most rows judged per task (drawn by a fixed hash); 0 = all.
        advance: called once per batch, for a progress bar.
    """

    def __init__(
        self, model: Any, loader: Any, config: Any, limit: int = 0, advance: Callable[[], None] | None = None
    ) -> None:
        self.model, self.config = model, config
        self.dataset, self.histories = loader._dataset, Histories(loader)
        self.tasks: TaskSet = model.task_labels.tasks
        self.topk = sorted(config["topk"])
        self.k = max(*self.topk, LIST)
        self.rows: Interaction = self.dataset.inter_feat
        self.ranks = self.rows[self.dataset.time_field].numpy()
        self.targets = self.rows[self.dataset.iid_field].numpy()
        self.limit = limit
        self.advance = advance or (lambda: None)
        self._general: dict[int, tuple[np.ndarray, int]] = {}

    def select(self, name: str) -> Selected:
        """The rows of a task, in the order of the test set."""
        place = np.searchsorted(self.tasks.rows[name].ranks, self.ranks)
        own = self.tasks.rows[name].ranks
        found = (place < len(own)) & (own[np.minimum(place, len(own) - 1)] == self.ranks)
        index = np.flatnonzero(found)
        users = self.rows[self.dataset.uid_field].numpy()
        if self.limit and len(index) > self.limit:
            drawn = draw_hash(users[index], self.targets[index], 0)
            index = np.sort(index[np.argsort(drawn, kind="stable")[: self.limit]])
        return Selected(index, place[index], users[index])

    # --- lists ---

    def instructed(self, rows: Selected, texts: Sequence[str]) -> Lists:
        """Lists under one instruction per row."""
        tokens = self.model.task_labels.encode(texts)

        def rank(batch: Interaction, part: slice, seen: Any) -> Tensor:
            batch.update(Interaction({INSTRUCTION: tokens[part]}))
            return self.model.rank(batch, self.k, seen).items

        return self._lists(rows, rank)

    def general(self, rows: Selected) -> Lists:
        """Lists of the same rows when nothing is asked (JustForYou); each row is ranked once."""
        missing = np.array([i for i in rows.index.tolist() if i not in self._general], dtype=np.int64)
        if len(missing):
            lists = self.instructed(Selected(missing, missing, missing), [""] * len(missing))
            for i, items, place in zip(missing.tolist(), lists.items, lists.places.tolist(), strict=True):
                self._general[i] = (items, place)
        kept = [self._general[i] for i in rows.index.tolist()]
        return Lists(np.stack([row[0] for row in kept]), np.array([row[1] for row in kept]))

    def scored(
        self, rows: Selected, score: Callable[..., np.ndarray], texts: Sequence[str], allowed: Any = None
    ) -> Lists:
        """Lists of a baseline; ``allowed`` maps a slice of the rows to items that come first, bool [b, N]."""

        def rank(batch: Interaction, part: slice, seen: Any) -> Tensor:
            scores = score(batch, texts[part])
            mask = allowed(part) if allowed is not None else np.zeros_like(scores, dtype=bool)
            return top_k(masked(scores, mask), self.k, seen).items

        return self._lists(rows, rank)

    @torch.no_grad()
    def _lists(self, rows: Selected, rank: Callable[[Interaction, slice, Any], Tensor]) -> Lists:
        items, size = [], read(RecBoleKeys, self.config).eval_batch_size
        self.model.eval()
        for begin in range(0, len(rows.index), size):
            part = slice(begin, min(begin + size, len(rows.index)))
            batch = self.rows[torch.from_numpy(rows.index[part])]
            seen = None
            if read(ProtocolKeys, self.config).filter_seen:
                pair = self.histories(batch, None)
                seen = (pair[0].to(self.config["device"]), pair[1].to(self.config["device"]))
            items.append(rank(batch.to(self.config["device"]), part, seen).cpu().numpy())
            self.advance()
        listed = np.concatenate(items) if items else np.zeros((0, self.k), dtype=np.int64)
        match = listed == self.targets[rows.index][:, None]
        return Lists(listed, np.where(match.any(axis=1), match.argmax(axis=1) + 1, 0))

    # --- what a slot allows ---

    def texts(
        self, name: str, rows: Selected, held_out: bool = False, slots: np.ndarray | None = None
    ) -> list[str]:
        """The evaluation instruction of each row, or its held-out wording, or one with other slots [n]."""
        found = self.tasks.rows[name]
        template = found.task.held_out if held_out else found.task.templates[0]
        if not found.slots.shape[1]:
            return [template] * len(rows.index)
        chosen = found.slots[rows.own, 0] if slots is None else slots
        return [found.task.fill(template, found.values[i]) for i in chosen.tolist()]

    def mixed_texts(self, name: str, rows: Selected) -> list[str]:
        """The instruction of each row in one of the trained wordings, dealt by a fixed hash."""
        task = self.tasks.rows[name].task
        turn = draw_hash(rows.users, self.targets[rows.index], 1) % np.uint64(len(task.templates))
        slots = self.slot_texts(name, rows)
        return [task.fill(task.templates[i], slot) for i, slot in zip(turn.tolist(), slots, strict=True)]

    def slot_texts(self, name: str, rows: Selected) -> list[str]:
        """The slot of each row, '' for a task without one."""
        found = self.tasks.rows[name]
        if not found.slots.shape[1]:
            return [""] * len(rows.index)
        return [found.values[i] for i in found.slots[rows.own, 0].tolist()]

    def allowed(self, name: str, rows: Selected) -> Callable[[slice], np.ndarray] | None:
        """Slice of the rows -> items that suit each row's slot, bool [b, N]; None for JustForYou."""
        found = self.tasks.rows[name]
        if found.task.rule == "discover":
            return self._unseen_categories(found, rows)
        if found.match is None:
            return None
        match, known = found.match, {}  # type: ignore[var-annotated]

        def mask(part: slice) -> np.ndarray:
            own = rows.own[part]
            values = found.slots[own, 0].tolist() if found.slots.shape[1] else [0] * len(own)
            for value in values:
                if value not in known:
                    known[value] = match(value)
            return np.stack([known[value] for value in values])

        return mask

    def _unseen_categories(self, found: TaskRows, rows: Selected) -> Callable[[slice], np.ndarray]:
        group = category_groups(self.tasks.material.labels)
        window = found.task.options["window"]
        lists, lengths = self.dataset.item_id_list_field, self.dataset.item_list_length_field

        def mask(part: slice) -> np.ndarray:
            index = torch.from_numpy(rows.index[part])
            history, length = self.rows[lists][index].numpy(), self.rows[lengths][index].numpy()
            out = np.tile(group >= 0, (len(index), 1))
            for row, (items, n) in enumerate(zip(history, length.tolist(), strict=True)):
                out[row] &= ~np.isin(group, group[items[max(0, n - window) : n]])
            return out

        return mask

    # --- figures ---

    def in_slot(self, name: str, rows: Selected, lists: Lists) -> float | None:
        """Share of the first ten items that suit the slot; None for a task that every item suits."""
        allowed, top = self.allowed(name, rows), lists.items[:, :LIST]
        if allowed is None:
            return None
        shares = [
            np.take_along_axis(allowed(part), top[part], axis=1).mean() * (part.stop - part.start)
            for part in slices(len(top), 256)
        ]
        return float(sum(shares) / max(1, len(top)))

    def figures(self, name: str, rows: Selected, lists: Lists) -> dict[str, float]:
        """hit@k, ndcg@k, share of the list that suits the slot, intra-list distance, categories in a list."""
        out = {f"hit@{k}": float(lists.hits(k).mean()) for k in self.topk}
        out |= {f"ndcg@{k}": float(lists.gains(k).mean()) for k in self.topk if k > 1}
        top = lists.items[:, :LIST]
        suited = self.in_slot(name, rows, lists)
        if suited is not None:
            out[f"in_slot@{LIST}"] = suited
        out[f"distance@{LIST}"] = intra_list_distance(self.model.prepared.vectors.text.numpy(), top)
        group = category_groups(self.tasks.material.labels)
        if (group >= 0).any():
            counts = [len(set(row) - {-1}) for row in group[top].tolist()]
            out[f"categories@{LIST}"] = float(np.mean(counts))
        return out


def slices(n: int, size: int) -> Iterator[slice]:
    """0..n in pieces of at most ``size``."""
    return (slice(begin, min(begin + size, n)) for begin in range(0, n, size))


def intra_list_distance(vectors: np.ndarray, lists: np.ndarray) -> float:
    """Mean over lists of 1 - mean pairwise cosine; empty slots (item 0) are left out.

    Args:
        vectors: float [N, d], unit rows.
        lists: int64 [n, K].
    """
    distances = []
    for row in lists:
        own = vectors[row[row > 0]]
        if len(own) > 1:
            total = own.sum(axis=0)
            pairs = len(own) * (len(own) - 1)
            distances.append(1.0 - float((total @ total - (own * own).sum()) / pairs))
    return float(np.mean(distances)) if distances else 0.0


def wrong_slots(slots: np.ndarray, seed: int = 0) -> np.ndarray:
    """The same slots dealt to other rows, a different value wherever no value has more than half the rows.

    Args:
        slots: int [n].
        seed: seed of the order among equal values.

    Returns:
        int [n], a permutation of ``slots``.
    """
    order = np.random.default_rng(seed).permutation(len(slots))
    order = order[np.argsort(slots[order], kind="stable")]
    _, counts = np.unique(slots, return_counts=True)
    out = np.empty_like(slots)
    out[order] = np.roll(slots[order], int(counts.max(initial=0)))
    return out


def paired_lift(users: np.ndarray, first: np.ndarray, second: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Mean of ``first - second`` over rows with a 95 % percentile bootstrap interval over users.

    Args:
        users: int64 [n], whose row it is; a user's rows are drawn together.
        first: float64 [n].
        second: float64 [n].
        seed: seed of the resampling.
    """
    _, number = np.unique(users, return_inverse=True)
    total = np.bincount(number, weights=first - second)
    count = np.bincount(number).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = []
    for part in slices(RESAMPLES, max(1, 4_000_000 // max(1, len(total)))):
        weight = rng.poisson(1.0, (part.stop - part.start, len(total)))
        means.append((weight @ total) / np.maximum(weight @ count, 1.0))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return {"lift": float((first - second).mean()), "low": float(low), "high": float(high)}
