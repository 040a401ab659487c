"""Experts that read every event, every second, every fourth ... counted back from the newest one.

One of the two components that are called after IBA here (arXiv 2604.00517, wearable sensors); the form is
ours, as that paper's formulas are not readable. At a position t of a packed row the expert of rate m reads
the events t, t - m, t - 2m, ... Those of one remainder of t by m are a row of their own, so an expert is the
trunk on m shorter rows, and a packed row serves every prefix at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

_BOUNDS = (1, 6, 11, 21, 51)  # events of a history, where its mean gates are told


class HistoryRates(nn.Module):
    """h = sum_m g_m h_m, g = softmax(W [mean of the history; log of its length]).

    Args:
        rates: m of each expert.
        width: d.
    """

    def __init__(self, rates: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.rates = rates
        self.marks = nn.Embedding(len(rates), width)
        nn.init.normal_(self.marks.weight, std=0.02)
        self.gate = nn.Linear(width + 1, len(rates))
        self.register_buffer("used", torch.zeros(len(_BOUNDS), len(rates) + 1), persistent=False)

    def forward(self, items: Tensor, vectors: Tensor, trunk: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """States at every position.

        Args:
            items: int64 [B, T], right-padded with 0.
            vectors: float [B, T, d], of the items.
            trunk: (rows of items [R, S], what is added to each of their vectors [d]) -> states [R, S, d].

        Returns:
            float [B, T, d].
        """
        states = torch.stack(
            [
                joined(trunk(split(items, rate), self.marks.weight[place]), rate, items.shape[1])
                for place, rate in enumerate(self.rates)
            ],
            dim=2,
        )
        gates = self.gates(items, vectors)
        return (gates[..., None] * states).sum(dim=2)

    def gates(self, items: Tensor, vectors: Tensor) -> Tensor:
        """g at every position, float [B, T, rates]; see `forward`."""
        length = (items > 0).cumsum(dim=1)
        mean = vectors.cumsum(dim=1) / length.clamp_min(1)[..., None]
        gates = self.gate(torch.cat([mean, length[..., None].float().log1p()], dim=-1)).softmax(dim=-1)
        if self.training:
            self._note(gates.detach(), length, items > 0)
        return gates

    def _note(self, gates: Tensor, length: Tensor, real: Tensor) -> None:
        """Add the gates of real positions to what `told` says."""
        bounds = torch.tensor(_BOUNDS, device=length.device)
        place = torch.searchsorted(bounds, length[real], right=True) - 1
        ones = torch.ones(len(place), 1, device=gates.device)
        self.used.index_add_(0, place, torch.cat([gates[real].float(), ones], dim=1))

    def told(self) -> str:
        """Mean gates of the positions since the last call, by length of the history, for the log."""
        parts = []
        for low, after, row in zip(_BOUNDS, (*_BOUNDS[1:], 0), self.used.tolist(), strict=True):
            if row[-1]:
                span = f"{low}-{after - 1}" if after else f"{low}+"
                shares = ", ".join(
                    f"{rate}: {share / row[-1]:.2f}" for rate, share in zip(self.rates, row, strict=False)
                )
                parts.append(f"{span} events {shares}")
        self.used.zero_()
        return "history_rates, mean gate by rate: " + "; ".join(parts)


def split(items: Tensor, rate: int) -> Tensor:
    """Rows of every ``rate``-th item: [B, T] -> [B * rate, ceil(T / rate)], right-padded with 0."""
    batch, length = items.shape
    padded = nn.functional.pad(items, (0, -length % rate))
    return padded.view(batch, -1, rate).transpose(1, 2).reshape(batch * rate, -1)


def joined(states: Tensor, rate: int, length: int) -> Tensor:
    """States of `split` rows back in their places: [B * rate, S, d] -> [B, length, d]."""
    rows, steps, width = states.shape
    return (
        states.view(rows // rate, rate, steps, width)
        .transpose(1, 2)
        .reshape(rows // rate, -1, width)[:, :length]
    )
