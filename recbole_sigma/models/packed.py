"""What every model that trains on packed rows shares with the trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.model.layers import FeedForward
from torch import Tensor, nn

from recbole_sigma.data.windows import FIRST_EVENT
from recbole_sigma.language.transformer import with_cheap_dropout
from recbole_sigma.models.contract import Contract

SMALLEST_GROUP = 8  # rows; fewer go along with the next longer group


def fuse_layers(model: nn.Module) -> None:
    """Give a model that is made of RecBole's layers the same functions in fewer passes over memory.

    That is GELU in one kernel, where RecBole writes its formula out, and dropout by a byte per number.
    """
    with_cheap_dropout(model)
    for module in model.modules():
        if isinstance(module, FeedForward) and module.intermediate_act_fn == module.gelu:
            module.intermediate_act_fn = F.gelu


class PackedBatch(Interaction):
    """A batch on its way to a device, with the lengths of its rows kept on the host.

    How many columns and predictions a batch has follows from them. Read back from an accelerator, they would
    make every step wait for it.

    Args:
        batch: a batch on the host.
        device: where its columns go.
        field: name of the column with the lengths.
    """

    def __init__(self, batch: Interaction, device: Any, field: str) -> None:
        super().__init__({name: column.to(device) for name, column in batch.interaction.items()})
        self.host_length: Tensor = batch[field]


def host_length(batch: Interaction, field: str) -> Tensor:
    """Lengths of a batch's rows, int64 [B] on the host."""
    return batch.host_length if isinstance(batch, PackedBatch) else batch[field].cpu()


class PackedModel(Contract):
    """Mixin for RecBole models whose dataset redraws its rows every epoch (``PackedDataset`` and its kin)."""

    ITEM_SEQ: str
    ITEM_SEQ_LEN: str
    ITEM_ID: str
    USER_ID: str
    max_seq_length: int
    parameters: Any

    def on_epoch_start(self, epoch: int, train_data: Any) -> None:
        """Redraw the training rows."""
        train_data._dataset.resample(epoch)

    def on_device(self, interaction: Any, device: Any) -> PackedBatch:
        """The batch where the model is, its lengths also on the host."""
        return PackedBatch(interaction, device, self.ITEM_SEQ_LEN)

    def packed_rows(self, interaction: Any) -> PackedRows:
        """The rows of a training batch: each history with its target behind it."""
        known = host_length(interaction, self.ITEM_SEQ_LEN)
        history = interaction[self.ITEM_SEQ][:, : int(known.max())]
        length, target = interaction[self.ITEM_SEQ_LEN], interaction[self.ITEM_ID]
        items = F.pad(history, (0, 1)).scatter(1, length[:, None], target[:, None])
        users, first = interaction[self.USER_ID], interaction[FIRST_EVENT]
        groups = length_groups(known + 1, items.device)
        order = torch.cat(groups) if len(groups) > 1 else None
        if order is not None:
            users, first, items, length = users[order], first[order], items[order], length[order]
        parts = row_groups([known[rows] + 1 for rows in groups], items.device)
        return PackedRows(users, items, length + 1, first, parts, int(known.sum()), order)

    def optimizer_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Decay matrices only: norms, biases, temperatures and gates are left free."""
        parameters = list(self.parameters())
        decayed = [p for p in parameters if p.dim() > 1]
        free = [p for p in parameters if p.dim() <= 1]
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]

    def prediction_count(self, interaction: Any) -> float:
        """One prediction per history item of a packed row."""
        return float(interaction[self.ITEM_SEQ_LEN].sum())

    def longest_row(self) -> int:
        """Columns of the longest training row, for the memory estimate."""
        return int(self.max_seq_length) + 1


@dataclass(frozen=True)
class RowGroup:
    """Neighbouring rows of `PackedRows` that share one pass, and the places in them that a target follows.

    Attributes:
        rows: which rows.
        width: columns of the longest of them, targets included.
        place: int64 [M], the row of each prediction, counted inside the group.
        column: int64 [M], the history column that each prediction stands behind.
    """

    rows: slice
    width: int
    place: Tensor
    column: Tensor


@dataclass(frozen=True)
class PackedRows:
    """A batch of packed rows, those of similar length together.

    Attributes:
        users: int64 [B].
        items: int64 [B, T], oldest first, targets included, right-padded with 0.
        length: int64 [B], items of each row.
        first: int64 [B], each row's first event (`data.windows.FIRST_EVENT`).
        groups: the passes, together all rows.
        targets: predictions of all rows.
        order: int64 [B], where each row stood in the batch; None where they stand as they did.
    """

    users: Tensor
    items: Tensor
    length: Tensor
    first: Tensor
    groups: list[RowGroup]
    targets: int
    order: Tensor | None

    def in_order(self, column: Tensor) -> Tensor:
        """Another column of the batch, its rows as they stand here."""
        return column if self.order is None else column[self.order]

    @property
    def row(self) -> Tensor:
        """int64 [targets], the row of each prediction, group after group."""
        return torch.cat([group.place + group.rows.start for group in self.groups])

    @property
    def column(self) -> Tensor:
        """int64 [targets], the history column that each prediction stands behind."""
        return torch.cat([group.column for group in self.groups])


def row_groups(length: list[Tensor], device: torch.device) -> list[RowGroup]:
    """Passes over rows whose lengths are known on the host.

    Args:
        length: per pass, int64 [R] events of its rows, the last target included.
        device: where the rows are.
    """
    groups, begin = [], 0
    for each in length:
        targets = each - 1
        place = torch.repeat_interleave(torch.arange(len(each)), targets)
        column = torch.arange(len(place)) - (targets.cumsum(0) - targets)[place]
        rows = slice(begin, begin + len(each))
        groups.append(RowGroup(rows, int(each.max()), place.to(device), column.to(device)))
        begin = rows.stop
    return groups


def length_groups(length: Tensor, device: torch.device) -> list[Tensor]:
    """Rows of a batch by length class (up to 8, 16, 32, ... items): a class shares one pass of the trunk.

    Most rows of a sparse set are a few items long; padded to the longest row of the batch, nearly all of the
    work would be padding. The sum of the losses is the same. An accelerator waits for launches, not for
    sums: there the whole batch is one group.

    Args:
        length: int64 [B] on the host.
        device: where the rows are.

    Returns:
        row numbers, int64 on the host, of each group, shortest first; together a permutation of the batch.
        A single group holds the rows in their order.
    """
    if device.type != "cpu":
        return [torch.arange(len(length))]
    level = torch.ceil(torch.log2(length.clamp_min(8).double())).long()
    groups: list[Tensor] = []
    waiting = level.new_zeros(0)
    for each in torch.unique(level):
        waiting = torch.cat([waiting, (level == each).nonzero().flatten()])
        if len(waiting) >= SMALLEST_GROUP:
            groups.append(waiting)
            waiting = level.new_zeros(0)
    if len(waiting) and groups and len(groups[-1]) < 4 * SMALLEST_GROUP:
        groups[-1] = torch.cat([groups[-1], waiting])
    elif len(waiting):
        groups.append(waiting)
    return groups if len(groups) > 1 else [torch.arange(len(length))]
