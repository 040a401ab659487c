"""RecBole dataset for packed training: split first, then one row per window of a user's sequence.

RecBole explodes a sequence of n events into n - 1 rows, each with a copy of its history. Here a training row
is a whole window; the model takes a loss at every position, so the same targets cost one row per window
instead of one per event. Validation and test rows are RecBole's own: a history and one target.
"""

from __future__ import annotations

from logging import getLogger
from typing import Any

import numpy as np
import torch
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction

from recbole_sigma.data.events import ExactTime
from recbole_sigma.data.windows import (
    BY_CHANCE,
    FIRST_EVENT,
    PrefixPacker,
    WindowPacker,
    rising_share,
    shuffled_runs,
    split_events,
    tied_runs,
)
from recbole_sigma.settings.baseline_keys import OrderKeys
from recbole_sigma.settings.keys import RowKeys, TaskKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.values import UserError


class PackedDataset(ExactTime, SequentialDataset):
    """Packed rows for training, RecBole's rows for evaluation.

    Every row has the fields of a RecBole sequential row: ``user_id``, ``item_id_list`` [W], ``item_length``,
    ``item_id`` and the time rank of ``item_id``. In a training row all of ``item_id_list[1:item_length]`` and
    ``item_id`` are targets.
    """

    packer: WindowPacker
    runs: np.ndarray | None = None
    """Train events that share a user and a time, numbered alike; None where the file's order stays."""
    order: np.ndarray | None = None
    """Which train event stands where in this epoch's rows; None for the order of ``packer``."""
    prepared_extra: dict[str, Any] | None = None
    packs_events = True
    moves_ties = True
    """Whether `train_tied` may move an event to the place of another one of the same time."""
    cold_rows = False
    """Whether the model can predict from an empty history (`task_empty_history`)."""

    def data_augmentation(self) -> None:
        """Declare the list fields; rows are made in ``build`` once the split is known."""
        self._aug_presets()

    def join(self, df: Interaction) -> Interaction:
        """Rows carry ids only: user and item columns are looked up by id where they are needed."""
        return df

    def __getitem__(self, index: Any, join: bool = True) -> Interaction:
        """Rows by number. RecBole hands its index to every column as a list, which takes twenty times as
        long.
        """
        if not isinstance(index, (np.ndarray, list)):
            return super().__getitem__(index, join)
        rows = torch.as_tensor(index)
        if rows.dtype != torch.int64:
            return super().__getitem__(index, join)
        columns = self.inter_feat.interaction.items()
        found = Interaction({name: column.index_select(0, rows) for name, column in columns})
        return self.join(found) if join else found

    def build(self) -> list[Any]:
        """Split the events by ``eval_args``, then build rows for [train, validation, test].

        Raises:
            UserError: an order other than time, a split that this dataset does not know, or no training
                target.
        """
        if self.config["eval_args"]["order"] != "TO":
            raise UserError("eval_args: order must be TO (by time) for sequential and generative models")
        self._change_feat_format()
        events = self.chronology
        part = self.event_part
        if self.config["benchmark_filename"] is None or part is None:
            part = self.event_part = split_events(events.users.numpy(), self.config["eval_args"])
        self.event_feat = self.inter_feat[torch.argsort(self.inter_feat[self.time_field])]
        cold = self.cold_rows and read(TaskKeys, self.config).task_empty_history
        order, _ = events.by_user
        order_np = order.numpy()
        users, items, ranks = events.users.numpy()[order_np], events.items.numpy()[order_np], order_np
        part = part[order_np]
        starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
        first = np.repeat(starts, np.diff(np.r_[starts, len(users)]))

        window = self.max_item_list_len
        train = self.copy(self._rows(np.zeros((0, 2), dtype=np.int64), users, items, ranks))
        train.packer = self.row_packer(users[part == 0], items[part == 0], ranks[part == 0], cold)
        if not len(train.packer):
            raise UserError(
                f"dataset '{self.dataset_name}' leaves no training target after the split: every user needs"
                " at least two training events; loosen the filters or check eval_args"
            )
        train.runs = self._runs_to_shuffle(train.packer)
        datasets = [train]
        for which in (1, 2):
            target = np.flatnonzero((part == which) & ((np.arange(len(users)) > first) | cold))
            begin = np.maximum(first[target], target - window)
            datasets.append(self.copy(self._rows(np.stack([begin, target], axis=1), users, items, ranks)))
        train.resample(0)
        self.mark_held_out(datasets)
        return datasets

    def row_packer(self, users: np.ndarray, items: np.ndarray, ranks: np.ndarray, cold: bool) -> WindowPacker:
        """What makes the training rows of train events; see `WindowPacker`."""
        window, seed = self.max_item_list_len, self.config["seed"]
        if read(RowKeys, self.config).train_rows == "prefixes":
            return PrefixPacker(users, items, ranks, window, seed, every=True, cold=cold)
        return WindowPacker(users, items, ranks, window, seed, cold)

    def use_prepared(self, extra: dict[str, Any]) -> None:
        """Take item preparation from a checkpoint instead of the cache; called before the model is built.

        Args:
            extra: what the model's ``checkpoint_extra`` returned when it was saved.
        """
        self.prepared_extra = extra

    def _runs_to_shuffle(self, packer: WindowPacker) -> np.ndarray | None:
        """Runs of tied train events whose order is drawn in every epoch; None where it is the file's."""
        if not self.moves_ties:
            return None
        asked = read(OrderKeys, self.config).train_tied
        runs = tied_runs(packer.users, self.chronology.times.numpy()[packer.ranks])
        tied = int((runs[1:] == runs[:-1]).sum())
        if not tied:  # then the names of a large catalogue need not be sorted
            return runs if asked == "shuffled" else None
        rising = rising_share(runs, name_places(item_names(self))[packer.items])
        by_chance = BY_CHANCE[0] <= rising <= BY_CHANCE[1]
        shuffle = by_chance if asked == "auto" else asked == "shuffled"
        if np.isfinite(rising):
            getLogger().info(
                f"train_tied: {'shuffled' if shuffle else 'file'}{' by auto' if asked == 'auto' else ''}; "
                f"{tied / packer.predictions:.0%} of the train events have the time of the one before, and "
                f"of these pairs {rising:.0%} rise by item name in the file (50 % are chance); set it to "
                "file where that order is the true one"
            )
        return runs if shuffle else None

    def resample(self, epoch: int) -> None:
        """Redraw the window boundaries of the training rows (same number of rows, same targets), and the
        order of tied events.
        """
        packer = self.packer
        items = packer.items
        if self.runs is not None:
            # a place keeps its rank: it says where a row stands in time, and its event's time is the same
            self.order = shuffled_runs(self.runs, np.random.default_rng((self.config["seed"], epoch, 1)))
            items = items[self.order]
        self.inter_feat = self._rows(packer.draw(epoch), packer.users, items, packer.ranks)

    def _rows(
        self, spans: np.ndarray, users: np.ndarray, items: np.ndarray, ranks: np.ndarray
    ) -> Interaction:
        """Rows from spans [begin, target] (positions in the grouped event arrays, target inclusive)."""
        begin, target = spans[:, 0], spans[:, 1]
        length = target - begin
        # as wide as the longest row: a limit of thousands is one way to say "whole histories"
        column = np.arange(min(self.max_item_list_len, max(int(length.max(initial=0)), 1)))
        inside = column[None, :] < length[:, None]
        index = np.where(inside, begin[:, None] + column[None, :], 0)
        history = np.where(inside, items[index] if len(items) else index, 0)
        return Interaction(
            {
                self.uid_field: torch.from_numpy(users[target].astype(np.int64)),
                self.iid_field: torch.from_numpy(items[target].astype(np.int64)),
                self.time_field: torch.from_numpy(ranks[target].astype(np.int64)),
                self.iid_field + self.config["LIST_SUFFIX"]: torch.from_numpy(history.astype(np.int64)),
                self.item_list_length_field: torch.from_numpy(length.astype(np.int64)),
                FIRST_EVENT: torch.from_numpy(begin.astype(np.int64)),
            }
        )


class PrefixDataset(PackedDataset):
    """Training rows of one target: every prefix of a history, as RecBole's, or one per user and epoch."""

    def every_prefix(self) -> bool:
        """Whether every event that another precedes is a row; else one of them per user, redrawn."""
        return True

    def row_packer(self, users: np.ndarray, items: np.ndarray, ranks: np.ndarray, cold: bool) -> WindowPacker:
        """See `PackedDataset.row_packer`."""
        window, seed, every = self.max_item_list_len, self.config["seed"], self.every_prefix()
        return PrefixPacker(users, items, ranks, window, seed, every=every, cold=cold)


def item_names(dataset: Any) -> list[str]:
    """The items as the files name them, in the order of RecBole's ids; row 0 is its padding."""
    return [str(token) for token in dataset.field2id_token[dataset.iid_field]]


def name_places(names: list[str]) -> np.ndarray:
    """Where each name stands among all, numbers by value: int64 [N]; row 0 (the padding) stands first."""
    found = np.array(names[1:])
    numbers = np.char.isdecimal(found).all() if len(found) else False
    place = np.zeros(len(names), dtype=np.int64)
    place[1 + np.argsort(found.astype(np.float64) if numbers else found, kind="stable")] = np.arange(
        1, len(names)
    )
    return place


class LabelledDataset(ExactTime, Dataset):
    """Labelled rows with the columns of their users and items, for models that are judged by labels."""
