"""GPSD's public protocol (arXiv 2506.03699, the authors' code): each user's last event beside a drawn item.

Every user with four events or more gives two labelled rows behind the same history: the last event, and an
item that is drawn. Users whose last event lies among the latest 30 % of all last events are the test part;
the others train. Ours: a tenth of the latter, drawn by seed, is the validation part, and the drawn item
may follow popularity. A first stage trained on lists (`split: {LS: valid_and_test}`) has not seen the last
event of anybody.
"""

from __future__ import annotations

from logging import getLogger
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType
from sklearn.metrics import roc_auc_score

from recbole_sigma.data.dataset import PackedDataset
from recbole_sigma.settings.label_keys import LabelKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.values import UserError

LEAST = 4  # events of a user
TEST = 0.3  # share of the users
VALIDATION = 0.1  # of those that are left


class GpsdDataset(PackedDataset):
    """Labelled rows of the protocol, for every sequential model that learns from labels (`label_rows: gpsd`).

    A row has the user, the candidate, its label, and the history before the last event, ``[W]`` wide.
    """

    packs_events = False

    def build(self) -> list[Any]:
        """Rows for [train, validation, test].

        Raises:
            UserError: a published split, or a part without a row.
        """
        if self.config["benchmark_filename"] is not None:
            raise UserError("label_rows: gpsd splits users itself: leave benchmark_filename out")
        self._change_feat_format()
        events = self.chronology
        order = events.by_user[0].numpy()
        users, items, ranks = events.users.numpy()[order], events.items.numpy()[order], order
        starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
        ends = np.r_[starts[1:], len(users)] - 1
        kept = ends - starts + 1 >= LEAST
        starts, ends = starts[kept], ends[kept]
        self.event_feat = self.inter_feat[torch.argsort(self.inter_feat[self.time_field])]
        part = split_users(ranks[ends], self.config["seed"])
        last = torch.from_numpy(np.sort(ranks[ends]))
        counts = np.bincount(items, minlength=self.item_num) - np.bincount(
            items[ends], minlength=self.item_num
        )
        how = read(LabelKeys, self.config).gpsd_negatives
        drawn = negatives(items[ends], counts, how, self.config["seed"])
        label = self.config["LABEL_FIELD"]
        self.set_field_property(label, FeatureType.FLOAT, FeatureSource.INTERACTION, 1)
        begin = np.maximum(starts, ends - self.max_item_list_len)
        datasets = []
        for which, name in enumerate(("training", "validation", "test")):
            own = part == which
            if not own.any():
                raise UserError(
                    f"dataset {self.dataset_name!r} has too few users with {LEAST} events for label_rows: "
                    f"gpsd: its {name} part is empty"
                )
            rows = self._rows(np.stack([begin[own], ends[own]], axis=1), users, items, ranks)
            datasets.append(self.copy(self._labelled(rows, drawn[own], label)))
        for each in datasets:
            each.held_out = last
        self._say_popularity(datasets[2], counts, label)
        return datasets

    def _labelled(self, rows: Interaction, drawn: np.ndarray, label: str) -> Interaction:
        """Each row as it is with the label 1, and once more with the drawn item and the label 0."""
        columns = {}
        for name, column in rows.interaction.items():
            if name == self.iid_field + self.config["LIST_SUFFIX"]:  # RecBole's models want the full width
                column = torch.nn.functional.pad(column, (0, self.max_item_list_len - column.shape[1]))
            columns[name] = column.repeat_interleave(2, dim=0)
        columns[self.iid_field][1::2] = torch.from_numpy(drawn)
        columns[label] = torch.tensor([1.0, 0.0]).repeat(len(drawn))
        if self.config["model"] == "DIEN":  # reads an item beside each of the history, which was not met then
            history = columns[self.iid_field + self.config["LIST_SUFFIX"]]
            generator = torch.Generator().manual_seed(self.config["seed"])
            other = torch.randint(1, self.item_num, history.shape, generator=generator)
            name = self.config["NEG_PREFIX"] + self.iid_field + self.config["LIST_SUFFIX"]
            columns[name] = other * (history > 0)
        return Interaction(columns)

    def resample(self, epoch: int) -> None:
        """The rows are the same in every epoch."""

    def _say_popularity(self, test: Any, counts: np.ndarray, label: str) -> None:
        """How far popularity alone comes on the test part: a drawn item is mostly an unpopular one."""
        rows = test.inter_feat
        found = roc_auc_score(rows[label].numpy(), counts[rows[self.iid_field].numpy()])
        getLogger().info(f"GPSD protocol: {len(rows)} test rows; AUC of the train counts alone {found:.4f}")


def split_users(last: np.ndarray, seed: int) -> np.ndarray:
    """Part of every user, 0 train, 1 validation, 2 test.

    Args:
        last: int64 [U], the place in time of each user's last event, all different.
        seed: of the draw of the validation part.

    Returns:
        int8 [U].
    """
    part = np.zeros(len(last), dtype=np.int8)
    order = np.argsort(last)
    left = order[: len(last) - round(TEST * len(last))]
    part[order[len(left) :]] = 2
    part[np.random.default_rng(seed).permutation(left)[: round(VALIDATION * len(left))]] = 1
    return part


def negatives(target: np.ndarray, counts: np.ndarray, how: str, seed: int) -> np.ndarray:
    """An item per target that is another one: drawn uniformly, or by train counts.

    Args:
        target: int64 [U].
        counts: int64 [N], train events of every item; row 0 is padding.
        how: ``uniform`` or ``popularity``.
        seed: of the draw.

    Returns:
        int64 [U].
    """
    weight = np.ones(len(counts)) if how == "uniform" else counts.astype(np.float64)
    weight[0] = 0.0
    rng = np.random.default_rng((seed, 1))
    drawn = rng.choice(len(weight), len(target), p=weight / weight.sum())
    while (same := drawn == target).any():
        drawn[same] = rng.choice(len(weight), int(same.sum()), p=weight / weight.sum())
    return drawn
