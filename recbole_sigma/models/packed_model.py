"""What every model that trains on packed rows shares with the trainer."""

from __future__ import annotations

from typing import Any


class PackedModel:
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
        """Predictions of a batch as its mean loss weighs them: one per history item, plus the labels."""
        labels = getattr(self, "labels_per_row", 0) * getattr(self, "label_weight", 0.0) * len(interaction)
        return float(interaction[self.ITEM_SEQ_LEN].sum()) + labels  # type: ignore[attr-defined]

    def longest_row(self) -> int:
        """Columns of the longest training row, for the memory estimate."""
        window = int(self.max_seq_length) + 1  # type: ignore[attr-defined]
        trunk = getattr(self, "trunk", None)
        if trunk is None:
            return window
        branch = trunk.layout.instruction + trunk.layout.prefix
        return trunk.layout.history_end(window) + getattr(self, "labels_per_row", 0) * branch
