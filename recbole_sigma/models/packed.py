"""What every model that trains on packed rows shares with the trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recbole_sigma.models.contract import Contract

SMALLEST_GROUP = 8  # rows; fewer go along with the next longer group


class PackedModel(Contract):
    """Mixin for RecBole models whose dataset redraws its rows every epoch (``PackedDataset`` and its kin)."""

    def on_epoch_start(self, epoch: int, train_data: Any) -> None:
        """Redraw the training rows."""
        train_data._dataset.resample(epoch)

    def optimizer_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Decay matrices only: norms, biases, temperatures and gates are left free."""
        parameters = list(self.parameters())  # type: ignore[attr-defined]
        decayed = [p for p in parameters if p.dim() > 1]
        free = [p for p in parameters if p.dim() <= 1]
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]

    def prediction_count(self, interaction: Any) -> float:
        """One prediction per history item of a packed row."""
        return float(interaction[self.ITEM_SEQ_LEN].sum())  # type: ignore[attr-defined]

    def longest_row(self) -> int:
        """Columns of the longest training row, for the memory estimate."""
        return int(self.max_seq_length) + 1  # type: ignore[attr-defined]


def length_groups(length: Tensor) -> list[Tensor]:
    """Rows of a batch by length class (up to 8, 16, 32, ... items): a class shares one pass of the trunk.

    Most rows of a sparse set are a few items long; padded to the longest row of the batch, nearly all of the
    work would be padding. The sum of the losses is the same.

    Args:
        length: int64 [B].

    Returns:
        row numbers, int64, of each group, shortest first; together a permutation of the batch.
    """
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
    return groups
