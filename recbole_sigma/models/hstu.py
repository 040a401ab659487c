"""HSTU (Zhai et al. 2024, arXiv 2402.17152, section 3) on packed rows, with the full softmax of PackedSASRec.

A block gates a pointwise attention: U, V, Q, K = SiLU(W norm(X)); A = SiLU(QK' + bias) / n, causal and
without a softmax; X + W(norm(AV) * U). The bias is a weight per distance in positions plus a weight per
distance in time (equations 1 to 3). Items and states are compared by cosine.

The published implementations bucket the time from an event to the *next* one, which at test is when the
target happens. Here a position knows its own time and those before it. A typed history has no times: its
events count as simultaneous.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_sigma.models.packed import PackedBatch, sent
from recbole_sigma.models.packed_sasrec import PackedSASRec, PackedSASRecDataset

BUCKETS = 128
_STEP = 0.301  # width of a time bucket in natural logarithms, as published


class HSTUDataset(PackedSASRecDataset):
    """The dataset RecBole picks for the model named HSTU."""


class HSTUBlock(nn.Module):
    """One block; see the module's docstring.

    Args:
        size: width d of the states.
        heads: attention heads, each d / heads wide.
        longest: n, positions of the longest row.
        dropout: on the gated output.
    """

    def __init__(self, size: int, heads: int, longest: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.longest = heads, longest
        self.before, self.after = nn.LayerNorm(size), nn.LayerNorm(size)
        self.spread = nn.Linear(size, 4 * size, bias=False)
        self.join = nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout)
        self.by_distance = nn.Parameter(torch.randn(longest) * 0.02)
        self.by_time = nn.Parameter(torch.randn(BUCKETS) * 0.02)

    def forward(self, states: Tensor, bucket: Tensor) -> Tensor:
        """float [B, T, d] -> [B, T, d].

        Args:
            states: one per position.
            bucket: int64 [B, T, T], the time bucket of each pair of positions.
        """
        batch, width, size = states.shape
        parts = F.silu(self.spread(self.before(states))).chunk(4, dim=-1)
        gate = parts[0]
        value, query, key = (part.view(batch, width, self.heads, -1).transpose(1, 2) for part in parts[1:])
        place = torch.arange(width, device=states.device)
        age = place[:, None] - place[None, :]
        bias = self.by_distance[age.clamp_min(0)] + self.by_time[bucket]
        weights = F.silu(query @ key.transpose(2, 3) + bias[:, None]) / self.longest
        mixed = (weights * (age >= 0)) @ value
        mixed = mixed.transpose(1, 2).reshape(batch, width, size)
        return states + self.join(self.dropout(self.after(mixed) * gate))


TIMES = "event_times"
"""Column of a batch on its device: the time of every event, float64 [B, T]."""


class HSTU(PackedSASRec):
    """See the module's docstring; the keys are those of PackedSASRec and of the transformer."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.chronology = dataset.chronology
        self.user_field, self.time_field = dataset.uid_field, dataset.time_field

    def _build_trunk(self, config: Any) -> None:
        del self.trm_encoder
        self.blocks = nn.ModuleList(
            HSTUBlock(self.hidden_size, self.n_heads, self.max_seq_length, self.hidden_dropout_prob)
            for _ in range(self.n_layers)
        )
        self.blocks.apply(self._init_weights)

    def on_device(self, interaction: Any, device: Any) -> PackedBatch:
        """See `Contract.on_device`; the events' times are looked up on the host."""
        batch = super().on_device(interaction, device)
        batch.update(Interaction({TIMES: sent(self._times(interaction), batch[self.ITEM_SEQ].device)}))
        return batch

    def inputs(self, interaction: Any) -> tuple[Tensor, ...]:
        """The time of every event of the rows, float64 [B, T]."""
        if TIMES in interaction:
            return (interaction[TIMES],)
        return (self._times(interaction).to(interaction[self.ITEM_SEQ].device),)

    def _times(self, interaction: Any) -> Tensor:
        """float64 [B, T] on the host, zeros where a row does not say when it ends."""
        items, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        if self.time_field not in interaction:
            return torch.zeros(items.shape, dtype=torch.float64)
        order, keys = self.chronology.by_user
        users, moment = interaction[self.user_field].cpu(), interaction[self.time_field].cpu()
        # a row is the run of its user's events that ends before its target
        target = torch.searchsorted(keys, users * self.chronology.stride + moment)
        place = (target - length.cpu())[:, None] + torch.arange(items.shape[1])
        return self.chronology.times[order[place.clamp(max=len(order) - 1)]]

    def states(self, item_seq: Tensor, *more: Tensor) -> Tensor:
        """States at every position: items int64 [B, T] and times float64 [B, T] -> float [B, T, d]."""
        width = item_seq.shape[1]
        times = more[0][:, :width]
        apart = (times[:, :, None] - times[:, None, :]).abs().clamp_min(1.0)
        bucket = (apart.log() / _STEP).long().clamp_(max=BUCKETS - 1)
        hidden = (
            self.item_embedding(item_seq) * self.hidden_size**0.5 + self.position_embedding.weight[:width]
        )
        hidden = self.dropout(hidden)
        for block in self.blocks:
            hidden = block(hidden, bucket)
        return hidden
