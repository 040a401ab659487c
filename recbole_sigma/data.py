"""RecBole dataset for packed training: split first, then one row per window of a user's sequence.

RecBole explodes a sequence of n events into n - 1 rows, each with a copy of its history. Here a training row
is a whole window; the model takes a loss at every position, so the same targets cost one row per window
instead of one per event. Validation and test rows are RecBole's own: a history and one target.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_sigma.chronology import ExactTime
from recbole_sigma.values import UserError

FIRST_EVENT = "packed_first"
"""Row field: the row's first event, as a position in the packer's arrays (training rows)."""


class PackedDataset(ExactTime, SequentialDataset):
    """Packed rows for training, RecBole's rows for evaluation.

    Every row has the fields of a RecBole sequential row: ``user_id``, ``item_id_list`` [W], ``item_length``,
    ``item_id`` and the time rank of ``item_id``. In a training row all of ``item_id_list[1:item_length]`` and
    ``item_id`` are targets.
    """

    prepared_extra: dict[str, Any] | None = None
    cold_rows = False
    """Whether the model can predict from an empty history (`task_empty_history`)."""

    def data_augmentation(self) -> None:
        """Declare the list fields; rows are made in ``build`` once the split is known."""
        self._aug_presets()

    def join(self, df: Interaction) -> Interaction:
        """Rows carry ids only: user and item columns are looked up by id where they are needed."""
        return df

    def build(self) -> list[Any]:
        """Split the events by ``eval_args``, then build rows for [train, validation, test].

        Raises:
            UserError: an order other than time, a split that this dataset does not know, or no training
                target.
        """
        if self.config["benchmark_filename"] is not None:
            raise UserError(
                f"dataset '{self.dataset_name}' uses benchmark_filename (a published split), which packed"
                " training does not read yet: use a dataset with one .inter file and eval_args split LS"
                " or RS"
            )
        if self.config["eval_args"]["order"] != "TO":
            raise UserError("eval_args: order must be TO (by time) for sequential and generative models")
        self._change_feat_format()
        events = self.chronology
        part = split_events(events.users.numpy(), self.config["eval_args"])
        self.event_part = part
        self.event_feat = self.inter_feat[torch.argsort(self.inter_feat[self.time_field])]
        cold = self.cold_rows and bool(self.config["task_empty_history"])
        order, _ = events.by_user
        order_np = order.numpy()
        users, items, ranks = events.users.numpy()[order_np], events.items.numpy()[order_np], order_np
        part = part[order_np]
        starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
        first = np.repeat(starts, np.diff(np.r_[starts, len(users)]))

        window = self.max_item_list_len
        train = self.copy(self._rows(np.zeros((0, 2), dtype=np.int64), users, items, ranks))
        train.packer = WindowPacker(
            users[part == 0], items[part == 0], ranks[part == 0], window, self.config["seed"], cold
        )
        if not len(train.packer):
            raise UserError(
                f"dataset '{self.dataset_name}' leaves no training target after the split: every user needs"
                " at least two training events; loosen the filters or check eval_args"
            )
        datasets = [train]
        for which in (1, 2):
            target = np.flatnonzero((part == which) & ((np.arange(len(users)) > first) | cold))
            begin = np.maximum(first[target], target - window)
            datasets.append(self.copy(self._rows(np.stack([begin, target], axis=1), users, items, ranks)))
        train.resample(0)
        self.mark_held_out(datasets)
        return datasets

    def use_prepared(self, extra: dict[str, Any]) -> None:
        """Take item preparation from a checkpoint instead of the cache; called before the model is built.

        Args:
            extra: what the model's ``checkpoint_extra`` returned when it was saved.
        """
        self.prepared_extra = extra

    def resample(self, epoch: int) -> None:
        """Redraw the window boundaries of the training rows (same number of rows, same targets)."""
        packer = self.packer
        self.inter_feat = self._rows(packer.draw(epoch), packer.users, packer.items, packer.ranks)

    def _rows(
        self, spans: np.ndarray, users: np.ndarray, items: np.ndarray, ranks: np.ndarray
    ) -> Interaction:
        """Rows from spans [begin, target] (positions in the grouped event arrays, target inclusive)."""
        begin, target = spans[:, 0], spans[:, 1]
        length = target - begin
        column = np.arange(self.max_item_list_len)
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


class SIGMADataset(PackedDataset):
    """The dataset RecBole picks for the model named SIGMA."""

    cold_rows = True


def split_events(users: np.ndarray, eval_args: dict[str, Any]) -> np.ndarray:
    """Assign every event to train (0), validation (1) or test (2).

    Args:
        users: int [E], user of each event, in time order.
        eval_args: RecBole's ``eval_args``; split ``LS`` (leave one out per user) or ``RS`` (ratio by time,
            over all events when ``group_by`` is none, within each user when it is ``user``).

    Returns:
        int8 [E].

    Raises:
        UserError: another split.
    """
    ((kind, how),) = eval_args["split"].items()
    n = len(users)
    part = np.zeros(n, dtype=np.int8)
    by_user = np.argsort(users, kind="stable")
    _, count = np.unique(users, return_counts=True)
    place = np.empty(n, dtype=np.int64)
    place[by_user] = np.arange(n) - np.repeat(np.cumsum(count) - count, count)
    total = np.empty(n, dtype=np.int64)
    total[by_user] = np.repeat(count, count)
    from_end = total - 1 - place
    if kind == "LS":
        tail = {"valid_and_test": (2, 1), "test_only": (2,), "valid_only": (1,)}.get(how)
        if tail is None:
            raise UserError(f"eval_args: split LS takes valid_and_test, valid_only or test_only, not '{how}'")
        for back, which in enumerate(tail):
            part[(from_end == back) & (place > 0)] = which
        return part
    if kind == "RS":
        ratio = np.asarray(how, dtype=float)
        if ratio.shape != (3,) or (ratio < 0).any() or ratio.sum() <= 0:
            raise UserError(f"eval_args: split RS needs three ratios [train, valid, test], got {how}")
        ratio = ratio / ratio.sum()
        group = str(eval_args.get("group_by") or "none").lower()
        position, size = (place, total) if group == "user" else (np.arange(n), np.full(n, n))
        test = (size * ratio[2]).astype(np.int64)
        valid = (size * ratio[1]).astype(np.int64)
        part[position >= size - test - valid] = 1
        part[position >= size - test] = 2
        return part
    raise UserError(f"eval_args: split '{kind}' is not supported by packed training; use LS or RS")


class WindowPacker:
    """Cuts each user's training sequence into windows of at most ``window`` targets.

    The number of windows per user is fixed, ceil(targets / window); their boundaries are redrawn every epoch,
    so that every target is visited once per epoch with histories of varying length.

    Args:
        users, items, ranks: int64 [E] training events grouped by user, in time order inside a user.
        window: largest number of targets (and of history items) in a row.
        seed: seed of the draws; epoch e always gives the same cut.
        cold: keep users with a single event as rows without history, whose target is that event.
    """

    def __init__(
        self,
        users: np.ndarray,
        items: np.ndarray,
        ranks: np.ndarray,
        window: int,
        seed: int,
        cold: bool = False,
    ) -> None:
        self.users, self.items, self.ranks, self.window, self.seed = users, items, ranks, window, seed
        starts = (
            np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
            if len(users)
            else np.zeros(0, dtype=np.int64)
        )
        targets = np.diff(np.r_[starts, len(users)]) - 1
        keep = targets >= (0 if cold else 1)
        self.starts, self.targets, self.cold = starts[keep], targets[keep], cold
        self.windows = np.maximum(-(-self.targets // window), 1)

    def __len__(self) -> int:
        """Rows per epoch."""
        return int(self.windows.sum())

    @property
    def predictions(self) -> int:
        """Targets per epoch."""
        return int(self.targets.sum())

    def draw(self, epoch: int) -> np.ndarray:
        """Spans [rows, 2] of one epoch: first event and last target of each window, in event positions."""
        rng = np.random.default_rng((self.seed, epoch))
        owner = np.repeat(np.arange(len(self.windows)), self.windows)
        first_row = np.cumsum(self.windows) - self.windows
        place = np.arange(len(owner)) - first_row[owner]
        slack = (self.windows * self.window - self.targets)[owner]
        shift = np.where(place == 0, 0, rng.integers(0, slack + 1))
        # Sorting (owner, shift) keeps each user's shifts together and ascending, and the first row's shift at
        # 0.
        shift = shift[np.lexsort((shift, owner))]
        cut = place * self.window - shift
        last = np.r_[place[1:] == 0, True] if len(place) else np.zeros(0, dtype=bool)
        end = np.where(last, self.targets[owner], np.r_[cut[1:], 0])
        begin = self.starts[owner]
        return np.stack([begin + cut, begin + end], axis=1)


def packed_sequences(
    interaction: Interaction, list_field: str, length_field: str, item_field: str
) -> tuple[Tensor, Tensor]:
    """Append each row's target to its history.

    Returns:
        (items int64 [B, T + 1] right-padded with 0 and cut to the longest row, length int64 [B] >= 2).
    """
    history, length = interaction[list_field], interaction[length_field]
    longest = int(length.max())
    items = torch.zeros(len(length), longest + 1, dtype=torch.int64, device=history.device)
    items[:, :longest] = history[:, :longest]
    items[torch.arange(len(length), device=history.device), length] = interaction[item_field]
    return items, length + 1
