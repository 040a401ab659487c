"""Exact event order for every RecBole dataset, and the split that follows from it.

RecBole casts timestamps to float32: epoch seconds are rounded to 64-second steps, adjacent events of a user
swap, and on ml-100k four of 943 leave-one-out targets change. `ExactTime` keeps the order of the file's
float64 times, ties in file order, by replacing the time column with the event's rank before any sort, split
or augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from recbole.data.dataset import Dataset, SequentialDataset
from torch import Tensor

from recbole_sigma.data.loading import AtomicFiles
from recbole_sigma.data.published import check_order
from recbole_sigma.values import UserError

if TYPE_CHECKING:
    import pandas as pd
    from recbole.data.interaction import Interaction

LONG = 20
"""Mean number of train events per user from which histories are long."""

NEWEST = {True: 20, False: 3}
"""How many of the newest events of a long history, and of a short one, vote for the next item."""


@dataclass(frozen=True)
class Chronology:
    """All events of a dataset, in the order in which they happened.

    Attributes:
        users: int64 [E], RecBole user ids.
        items: int64 [E], RecBole item ids.
        ranks: int64 [E], 0..E-1: position in time; ties keep the order of the file.
        times: float64 [E], the file's time values (non-decreasing).
    """

    users: Tensor
    items: Tensor
    ranks: Tensor
    times: Tensor

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def stride(self) -> int:
        """More than any rank: ranks of a part are those of the whole dataset, and may exceed its length."""
        return int(self.ranks.max()) + 2 if len(self) else 2

    @cached_property
    def by_user(self) -> tuple[Tensor, Tensor]:
        """Events grouped by user, each group in order.

        Returns:
            (order int64 [E], keys int64 [E]): ``order`` indexes the events; ``keys = user * stride + rank``
            is ascending.
        """
        keys = self.users * self.stride + self.ranks
        keys, order = torch.sort(keys, stable=True)
        return order, keys

    @cached_property
    def long(self) -> bool:
        """Whether the users have `LONG` events or more on average."""
        return len(self) >= LONG * len(torch.unique(self.users))

    def newest(self, asked: int | str) -> int:
        """How many newest events of a history vote: what a key asks, or where it says auto, `NEWEST`."""
        return NEWEST[self.long] if isinstance(asked, str) else asked

    @cached_property
    def seconds(self) -> Tensor | None:
        """The times as unix seconds, float64 [E]; None where they are no dates (positions, years, ...).

        Milliseconds, micro- and nanoseconds are known by their size: as seconds they would lie thousands of
        years ahead.
        """
        scale = unit_of(self.times)
        return None if scale is None else self.times / scale

    def sequences(self) -> tuple[np.ndarray, np.ndarray]:
        """Users and items of the events grouped by user, in time order inside a user: int64 [E] each."""
        order, _ = self.by_user
        return self.users[order].numpy(), self.items[order].numpy()

    def before(self, users: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
        """Items that each user met strictly before a moment.

        Args:
            users: int64 [B].
            ranks: int64 [B], the moment as an event rank.

        Returns:
            (row int64 [nnz], item int64 [nnz]), row ascending, items of a row in order of time, repeats kept.
        """
        order, keys = self.by_user
        base = users * self.stride
        start = torch.searchsorted(keys, base)
        count = torch.searchsorted(keys, base + ranks.clamp(max=self.stride - 1)) - start
        row = torch.repeat_interleave(torch.arange(len(users)), count)
        first = torch.cumsum(count, 0) - count
        position = start[row] + torch.arange(len(row)) - first[row]
        return row, self.items[order[position]]


def unit_of(times: Tensor) -> float | None:
    """How many units of a time column make a second: 1, 1e3, 1e6 or 1e9; None where it holds no dates.

    All times must lie between 1980 and 2100 in one and the same unit.

    >>> unit_of(torch.tensor([1.3e12, 1.5e12])), unit_of(torch.tensor([1.0, 2.0]))
    (1000.0, None)
    """
    if not len(times):
        return None
    least, greatest = float(times.min()), float(times.max())
    for scale in (1.0, 1e3, 1e6, 1e9):
        if 315_532_800 * scale <= least and greatest < 4_102_444_800 * scale:
            return scale
    return None


def build_chronology(
    users: np.ndarray, items: np.ndarray, times: np.ndarray
) -> tuple[Chronology, np.ndarray]:
    """Sort events by time, exactly and stably.

    Args:
        users: [E] in file order.
        items: [E] in file order.
        times: [E] in file order, any real type; compared in float64.

    Returns:
        The chronology, and the rank of every event in file order (int64 [E]).
    """
    times = np.asarray(times, dtype=np.float64)
    order = np.argsort(times, kind="stable")
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    chronology = Chronology(
        users=torch.from_numpy(np.ascontiguousarray(users[order], dtype=np.int64)),
        items=torch.from_numpy(np.ascontiguousarray(items[order], dtype=np.int64)),
        ranks=torch.arange(len(order)),
        times=torch.from_numpy(np.ascontiguousarray(times[order])),
    )
    return chronology, ranks


class ExactTime(AtomicFiles):
    """Mixin before any RecBole Dataset class; see the module's docstring.

    Attributes:
        chronology: `Chronology` of all events that survived filtering; set before augmentation and split.
        held_out: ranks of the events outside train, int64 [H], ascending; set by `build`.
        event_part: int8 [E] by rank, 0 train, 1 validation, 2 test, where ``benchmark_filename`` gives the
            split and the files hold events; else None until a packed dataset has split.
        event_feat: the columns of all events, in order of time; None for a dataset that is not packed.
        built_tasks: the instruction tasks of the dataset, once they are built.
        settled: keys that the user left to the data, and that building the dataset filled in.
    """

    chronology: Chronology
    held_out: Tensor | None = None
    event_part: np.ndarray | None = None
    event_feat: Any = None
    built_tasks: Any = None
    settled: tuple[str, ...] = ()

    def _remove_duplication(self) -> None:
        """Drop repeated user-item pairs by exact time, and leave the file's order otherwise alone.

        RecBole sorts with an unstable sort here, which reorders ties.
        """
        cause = f"rm_dup_inter {self.config['rm_dup_inter']}, which keeps one event of a user and an item"
        if self.config["rm_dup_inter"] is not None and self.time_field in self.inter_feat:
            self._counted(cause, self._drop_repeats)
        else:
            self._counted(cause, super()._remove_duplication)  # type: ignore[misc]

    def _drop_repeats(self) -> None:
        keep = self.config["rm_dup_inter"]
        frame = self.inter_feat.sort_values(by=[self.time_field], kind="stable")
        frame = frame.drop_duplicates(subset=[self.uid_field, self.iid_field], keep=keep)
        self.inter_feat = frame.sort_index()

    def _remap(self, remap_list: list[Any]) -> None:
        """Number tokens in sorted order.

        RecBole numbers them by first appearance in the file, so a held-out event would move the numbers of
        other items, and with them every tie broken by item id and every row of a seeded initialisation.
        """
        import pandas as pd
        from recbole.utils import FeatureType

        if not remap_list:
            return
        tokens, split_point = self._concat_remaped_tokens(remap_list)  # type: ignore[attr-defined]
        numbers, known = pd.factorize(tokens, sort=True)
        id_token = np.array(["[PAD]", *known])
        token_id = {token: i for i, token in enumerate(id_token)}
        for (feat, field, ftype), ids in zip(remap_list, np.split(numbers + 1, split_point), strict=True):
            if field not in self.field2id_token:  # type: ignore[attr-defined]
                self.field2id_token[field], self.field2token_id[field] = id_token, token_id  # type: ignore[attr-defined]
            if ftype == FeatureType.TOKEN:
                feat[field] = ids
            elif ftype == FeatureType.TOKEN_SEQ:
                feat[field] = np.split(ids, np.cumsum(feat[field].agg(len))[:-1])

    def _normalize(self) -> None:
        """Keep the raw times: RecBole may normalize the column (ml-100k's own property file does)."""
        if self.time_field in self.inter_feat:
            self._raw_times = self.inter_feat[self.time_field].to_numpy(dtype=np.float64)
        else:
            self._raw_times = np.arange(len(self.inter_feat), dtype=np.float64)
        super()._normalize()  # type: ignore[misc]

    def _dataframe_to_interaction(self, data: pd.DataFrame) -> Interaction:
        interaction = super()._dataframe_to_interaction(data)  # type: ignore[misc]
        if data is self.inter_feat:
            users, items = interaction[self.uid_field].numpy(), interaction[self.iid_field].numpy()
            self.chronology, ranks = build_chronology(users, items, self._raw_times)
            del self._raw_times
            if self._file_part is not None:
                self.event_part = np.empty(len(ranks), dtype=np.int8)
                self.event_part[ranks] = self._file_part
                check_order(
                    self.chronology.users.numpy(), self.event_part, self.field2id_token[self.uid_field]
                )
            if self.time_field is not None:
                interaction[self.time_field] = torch.from_numpy(ranks)
                if self.time_field not in self.field2type:
                    self._declare_time_field()
            refuse_single_events(self)
        return interaction

    def _declare_time_field(self) -> None:
        from recbole.utils import FeatureSource, FeatureType

        self.set_field_property(self.time_field, FeatureType.FLOAT, FeatureSource.INTERACTION, 1)

    def _drop_unused_col(self) -> None:
        """Honour ``unused_col`` for every column but time, which the evaluator needs."""
        unused = self.config["unused_col"]
        if unused and self.time_field in (unused.get("inter") or []):
            kept = [field for field in unused["inter"] if field != self.time_field]
            self.config["unused_col"] = {**unused, "inter": kept}
        super()._drop_unused_col()  # type: ignore[misc]

    def _split_index_by_leave_one_out(self, grouped_index: Any, leave_one_num: int) -> list[list[int]]:
        """Give every model the same held-out events.

        RecBole always leaves one *row* in train. A sequential row is a target with its history, so it keeps
        a short user's second event in train where a general model would be tested on it. Here a sequential
        user's last rows are held out even when no row remains: the user's first event is not a row.
        """
        if not isinstance(self, SequentialDataset):
            return super()._split_index_by_leave_one_out(grouped_index, leave_one_num)  # type: ignore[misc]
        parts: list[list[int]] = [[] for _ in range(leave_one_num + 1)]
        for group in grouped_index:
            rows = list(group)
            held = min(leave_one_num, len(rows))
            parts[0].extend(rows[: len(rows) - held])
            for place, row in enumerate(rows[len(rows) - held :]):
                parts[leave_one_num + 1 - held + place].append(row)
        return parts

    def build(self) -> list[Any]:
        """Split as RecBole does, and remember which events are held out."""
        if self._file_part is not None and isinstance(self, SequentialDataset):
            datasets = self._published_parts()
        else:
            datasets = super().build()  # type: ignore[misc]
        self.mark_held_out(datasets)
        return datasets

    def _published_parts(self) -> list[Any]:
        """Rows of a sequential dataset, each in the part of its target."""
        self._change_feat_format()
        assert self.event_part is not None
        part = self.event_part[self.inter_feat[self.time_field].numpy()]
        self._drop_unused_col()
        return [
            self.copy(self.inter_feat[torch.from_numpy(np.flatnonzero(part == which))]) for which in range(3)
        ]  # type: ignore[attr-defined]

    def mark_held_out(self, datasets: list[Any]) -> None:
        """Store the ranks of the events in ``datasets[1:]`` on every part of the split.

        Args:
            datasets: the parts [train, valid, test]; a dataset that overrides `build` calls this on its
                result.
        """
        ranks = [part.inter_feat[self.time_field] for part in datasets[1:] if len(part.inter_feat)]
        held = torch.cat(ranks) if ranks else torch.empty(0, dtype=torch.int64)
        arguments = self.config["eval_args"]
        kind, group = next(iter(arguments["split"])), str(arguments.get("group_by") or "none").lower()
        # a user's first event is no row of a sequential dataset: under a global cut in time it must not
        # count as train when it lies past the cut
        cut = torch.empty(0, dtype=torch.int64)
        if self.config["benchmark_filename"] is not None:
            pass  # the files say it
        elif kind == "RS" and group == "none" and arguments["order"] == "TO":
            cut = held
        elif kind == "TS" and ranks:
            cut = ranks[-1]
        if len(cut):
            held = torch.cat([held, torch.arange(int(cut.min()), len(self.chronology))])
        held = torch.unique(held)
        for part in datasets:
            part.held_out = held

    def train_events(self) -> Chronology:
        """The train events in order; ``ranks`` stay those of the whole dataset."""
        if self.held_out is None:
            raise RuntimeError("train_events() is known after build() has split the dataset")
        keep = torch.ones(len(self.chronology), dtype=torch.bool)
        keep[self.held_out] = False
        c = self.chronology
        return Chronology(users=c.users[keep], items=c.items[keep], ranks=c.ranks[keep], times=c.times[keep])


def refuse_single_events(dataset: Any) -> None:
    """Refuse leave-one-out on users with one event: RecBole drops them from some models only.

    Raises:
        UserError: when the split is leave-one-out and a user has a single event after filtering.
    """
    split = (dataset.config["eval_args"] or {}).get("split") or {}
    if "LS" not in split or dataset.config["benchmark_filename"] is not None:
        return
    counts = torch.bincount(dataset.chronology.users)
    single = int((counts == 1).sum())
    if single:
        users = int((counts > 0).sum())
        raise UserError(
            f"{single} of {users} users in dataset {dataset.dataset_name!r} have one event, so "
            "leave-one-out has nothing to "
            'learn from for them: set user_inter_num_interval: "[3,inf)" to drop users with fewer than '
            "three events"
        )


@cache
def exact(dataset_class: type) -> type:
    """The exact-time version of a RecBole dataset class (the class itself when it is one already)."""
    if issubclass(dataset_class, ExactTime):
        return dataset_class
    if not issubclass(dataset_class, Dataset):
        raise TypeError(f"{dataset_class.__name__} is not a RecBole Dataset")
    return type(
        dataset_class.__name__,
        (ExactTime, dataset_class),
        {"__module__": __name__, "__doc__": dataset_class.__doc__},
    )
