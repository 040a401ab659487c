"""What every model that trains on packed rows shares with the trainer."""

from __future__ import annotations

from collections.abc import Hashable
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
NARROWEST_PREFIXES = (
    4  # items of the first length class of rows that are prefixes, half of which are as short
)


def fuse_layers(model: nn.Module) -> None:
    """Give a model that is made of RecBole's layers the same functions in fewer passes over memory.

    That is GELU in one kernel, where RecBole writes its formula out, and dropout by a byte per number.
    """
    with_cheap_dropout(model)
    for module in model.modules():
        if isinstance(module, FeedForward) and module.intermediate_act_fn == module.gelu:
            module.intermediate_act_fn = F.gelu


def sent(value: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host where the model is; the host does not wait until it has arrived."""
    if device.type == "cuda" and value.device.type == "cpu":
        value = value.pin_memory()
    return value.to(device, non_blocking=True)


class PackedBatch(Interaction):
    """A batch on its way to a device, with what follows from the lengths of its rows worked out on the host.

    How many columns and predictions a batch has follows from them. Read back from an accelerator, they would
    make every step wait for it.

    Args:
        batch: a batch on the host.
        device: where its columns go.
        field: name of the column with the lengths.
        last: a row has one prediction, at its last position.

    Attributes:
        host_length: int64 [B], the lengths on the host.
        labelled: whether the step takes labels; drawn on the host, as it decides the shapes of the step.
    """

    def __init__(self, batch: Interaction, device: Any, field: str, last: bool = False) -> None:
        device = torch.device(device)
        super().__init__({name: sent(column, device) for name, column in batch.interaction.items()})
        self.host_length: Tensor = batch[field]
        self.labelled, self.last = True, last
        self._passes: Passes | None = None

    def passes(self, columns: int) -> Passes:
        """See `Passes.of`."""
        if self._passes is None:
            device = next(iter(self.interaction.values())).device
            self._passes = Passes.of(self.host_length, columns, device, self.last)
        return self._passes


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
    one_target = False
    """Whether a training row has one prediction, at its last position (``train_rows: prefixes``)."""

    def on_epoch_start(self, epoch: int, train_data: Any) -> None:
        """Redraw the training rows."""
        train_data._dataset.resample(epoch)

    def on_device(self, interaction: Any, device: Any) -> PackedBatch:
        """The batch where the model is, its lengths also on the host."""
        return PackedBatch(interaction, device, self.ITEM_SEQ_LEN, self.one_target)

    def packed_rows(self, interaction: Any) -> PackedRows:
        """The rows of a training batch: each history with its target behind it."""
        passes = self.passes(interaction)
        length, target = interaction[self.ITEM_SEQ_LEN], interaction[self.ITEM_ID]
        history = interaction[self.ITEM_SEQ][:, : passes.width - 1]
        items = F.pad(history, (0, 1)).scatter(1, length[:, None], target[:, None])
        users, first, order = interaction[self.USER_ID], interaction[FIRST_EVENT], passes.order
        if order is not None:
            users, first, items, length = users[order], first[order], items[order], length[order]
        return PackedRows(users, items, length + 1, first, passes)

    def passes(self, interaction: Any) -> Passes:
        """How the rows of a batch share passes of the network."""
        items = interaction[self.ITEM_SEQ]
        if isinstance(interaction, PackedBatch):
            return interaction.passes(items.shape[1])
        length = host_length(interaction, self.ITEM_SEQ_LEN)
        return Passes.of(length, items.shape[1], items.device, self.one_target)

    def step_shapes(self, batch: Any) -> Hashable | None:
        """Rows, columns and predictions of the batch."""
        if not isinstance(batch, PackedBatch):
            return None
        passes = self.passes(batch)
        return (len(batch), passes.width, len(passes.counted))

    def step_inputs(self, batch: Any) -> list[Tensor]:
        """The columns, and the places of the predictions."""
        return [*batch.interaction.values(), *self.passes(batch).tensors()]

    def optimizer_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Decay matrices only: norms, biases, temperatures and gates are left free."""
        parameters = list(self.parameters())
        decayed = [p for p in parameters if p.dim() > 1]
        free = [p for p in parameters if p.dim() <= 1]
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]

    def prediction_count(self, interaction: Any) -> float:
        """One prediction per history item of a packed row, or one per row."""
        length = interaction[self.ITEM_SEQ_LEN]
        return float((length > 0).sum() if self.one_target else length.sum())

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

    def pick(self, states: Tensor) -> Tensor:
        """What stands at the predictions' places: float [R, T, ...] -> [M, ...].

        One index per place: the gradient of a pair of indices sorts them first.
        """
        return states.flatten(0, 1).index_select(0, self.place * states.shape[1] + self.column)


@dataclass(frozen=True)
class Passes:
    """How the rows of a batch share passes of a network, worked out on the host from their lengths.

    On an accelerator all rows share one pass, and its shapes are rounded up, so that few different shapes
    occur and a step can be replayed (`run.replay`): empty columns, and predictions that count nothing.

    Attributes:
        groups: the passes, together all rows.
        order: int64 [B], where each row stood in the batch; None where they stand as they did.
        width: columns of the longest row, targets included.
        counted: float [P], 1 for every prediction and 0 where the shape was rounded up.
        targets: number of predictions that count; on an accelerator a tensor there.
    """

    groups: list[RowGroup]
    order: Tensor | None
    width: int
    counted: Tensor
    targets: Any

    @classmethod
    def of(cls, length: Tensor, columns: int, device: torch.device, last: bool = False) -> Passes:
        """The passes of rows.

        Args:
            length: int64 [B] on the host, history events of each row.
            columns: history columns that the rows have.
            device: where the rows are.
            last: predict at the last event of each history alone.
        """
        parts = (
            length_groups(length, device, NARROWEST_PREFIXES) if last else length_groups(length + 1, device)
        )
        order = torch.cat(parts).to(device) if len(parts) > 1 else None
        asked = length.clamp(max=1) if last else length  # predictions of each row
        groups, targets, begin = [], int(asked.sum()), 0
        for rows in parts:
            known, own = length[rows], asked[rows]
            place = torch.repeat_interleave(torch.arange(len(rows)), own)
            column = torch.arange(len(place)) - (own.cumsum(0) - known)[place]
            groups.append(RowGroup(slice(begin, begin + len(rows)), int(known.max()) + 1, place, column))
            begin += len(rows)
        if device.type == "cpu":
            width = max(group.width for group in groups)
            return cls(groups, order, width, torch.ones(targets), targets)
        (group,) = groups
        width = min(max(_NARROWEST, 1 << (group.width - 2).bit_length()), columns) + 1
        empty = rounded_up(targets) - targets
        place, column = (F.pad(part, (0, empty)) for part in (group.place, group.column))
        counted = (torch.arange(len(place)) < targets).float()
        group = RowGroup(group.rows, width, sent(place, device), sent(column, device))
        total = torch.tensor(float(targets))
        return cls([group], None, width, sent(counted, device), sent(total, device))

    def tensors(self) -> list[Tensor]:
        """Everything of an accelerator's single pass that differs between batches of equal shapes."""
        (group,) = self.groups
        return [group.place, group.column, self.counted, self.targets]


_NARROWEST = 8  # history columns; on an accelerator widths are rounded up to powers of two


def rounded_up(count: int) -> int:
    """The next of four sizes per octave, at least 64: at most a quarter more."""
    step = max(16, 1 << max(count.bit_length() - 3, 0))
    return max(64, -(-count // step) * step)


@dataclass(frozen=True)
class PackedRows:
    """A batch of packed rows, those of similar length together.

    Attributes:
        users: int64 [B].
        items: int64 [B, T], oldest first, targets included, right-padded with 0.
        length: int64 [B], items of each row.
        first: int64 [B], each row's first event (`data.windows.FIRST_EVENT`).
        passes: how they share passes.
    """

    users: Tensor
    items: Tensor
    length: Tensor
    first: Tensor
    passes: Passes

    @property
    def groups(self) -> list[RowGroup]:
        """The passes, together all rows."""
        return self.passes.groups

    def in_order(self, column: Tensor) -> Tensor:
        """Another column of the batch, its rows as they stand here."""
        return column if self.passes.order is None else column[self.passes.order]

    def mean_weight(self, more: float = 0.0) -> Any:
        """What each prediction weighs in a mean: 1 / (predictions + more), a number or a tensor []; 1 where
        rows without history leave none.
        """
        total = self.passes.targets + more
        return 1.0 / (total.clamp(min=1.0) if isinstance(total, Tensor) else max(total, 1.0))

    def weights(self, more: float = 0.0) -> Tensor:
        """float [P], `mean_weight` at every prediction that counts and 0 elsewhere."""
        return self.passes.counted * self.mean_weight(more)

    @property
    def row(self) -> Tensor:
        """int64 [P], the row of each prediction, group after group."""
        return torch.cat([group.place + group.rows.start for group in self.groups])

    @property
    def column(self) -> Tensor:
        """int64 [P], the history column that each prediction stands behind."""
        return torch.cat([group.column for group in self.groups])


def length_groups(length: Tensor, device: torch.device, narrowest: int = 8) -> list[Tensor]:
    """Rows of a batch by length class (up to 8, 16, 32, ... items): a class shares one pass of the trunk.

    Most rows of a sparse set are a few items long; padded to the longest row of the batch, nearly all of the
    work would be padding. The sum of the losses is the same. An accelerator waits for launches, not for
    sums: there the whole batch is one group.

    Args:
        length: int64 [B] on the host.
        device: where the rows are.
        narrowest: items of the first class.

    Returns:
        row numbers, int64 on the host, of each group, shortest first; together a permutation of the batch.
        A single group holds the rows in their order.
    """
    if device.type != "cpu":
        return [torch.arange(len(length))]
    level = torch.ceil(torch.log2(length.clamp_min(narrowest).double())).long()
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
