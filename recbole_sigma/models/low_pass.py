"""The low-frequency path of BSARec (Shin et al. 2024, arXiv 2312.10325), as a matrix over positions.

The published code zeroes all but the c // 2 + 1 lowest bins of a real FFT over the sequence. That is the
projection Q Q'X on the constant and the slowest cosines and sines, which for c 5 is a matrix of rank 5.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from recbole.model.layers import FeedForward, MultiHeadAttention
from torch import Tensor, nn


def slow_waves(length: int, cutoff: int) -> Tensor:
    """Q: orthonormal columns that span the sequences of the cutoff // 2 + 1 lowest frequencies.

    Args:
        length: positions L.
        cutoff: c of the paper.

    Returns:
        float32 [L, r], r = 1 + 2 (c // 2) where L is long enough.
    """
    time = torch.arange(length, dtype=torch.float64)
    columns = [torch.ones(length, dtype=torch.float64)]
    for wave in range(1, min(cutoff // 2, length // 2) + 1):
        columns.append(torch.cos(2 * math.pi * wave * time / length))
        if 2 * wave != length:  # at the highest frequency the sine is zero everywhere
            columns.append(torch.sin(2 * math.pi * wave * time / length))
    waves = torch.stack(columns, dim=1)
    return (waves / waves.norm(dim=0)).float()


def causal_low_pass(length: int, cutoff: int) -> Tensor:
    """Ours, for packed rows: every position is filtered as the projection filters the last one.

    The last row of Q Q' holds a weight per age. Here each position weighs itself and what came before it
    with these, and never what came after, so that a row may have a loss at every position.

    Args:
        length: longest row L.
        cutoff: c of the paper.

    Returns:
        float32 [L, L], lower triangular.
    """
    waves = slow_waves(length, cutoff)
    by_age = (waves @ waves[-1]).flip(0)
    place = torch.arange(length)
    age = place[:, None] - place[None, :]
    return torch.where(age >= 0, by_age[age.clamp_min(0)], torch.zeros(()))


class FilterBlock(nn.Module):
    """BSARec's block: alpha times the frequency path plus 1 - alpha times self-attention, then feed-forward.

    With low the low-pass of X, the frequency path is norm(dropout(low + beta^2 (X - low)) + X), beta per
    dimension (equations 8 to 11 of the paper).

    Args:
        config: RecBole config; reads the keys of its transformer.
        alpha: share of the frequency path.
    """

    def __init__(self, config: Any, alpha: float) -> None:
        super().__init__()
        size, eps, dropout = config["hidden_size"], config["layer_norm_eps"], config["hidden_dropout_prob"]
        self.alpha = alpha
        self.beta = nn.Parameter(torch.randn(size))
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(size, eps=eps)
        self.attention = MultiHeadAttention(
            config["n_heads"], size, dropout, config["attn_dropout_prob"], eps
        )
        self.feed_forward = FeedForward(size, config["inner_size"], dropout, config["hidden_act"], eps)

    def forward(self, states: Tensor, queries: Tensor, low: Tensor, mask: Tensor) -> Tensor:
        """States after the block at the positions that are asked for.

        Args:
            states: float [B, T, d], every position.
            queries: float [B, Q, d], the states of the positions wanted: all, or the last alone.
            low: float [B, Q, d], the low-pass at these positions.
            mask: float, added to attention scores [B, heads, Q, T].

        Returns:
            float [B, Q, d].
        """
        filtered = self.norm(self.dropout(low + self.beta**2 * (queries - low)) + queries)
        attended = self._attend(states, queries, mask)
        return self.feed_forward(self.alpha * filtered + (1.0 - self.alpha) * attended)

    def _attend(self, states: Tensor, queries: Tensor, mask: Tensor) -> Tensor:
        """RecBole's `MultiHeadAttention` with queries of fewer positions than keys."""
        part = self.attention
        query, key, value = (
            part.transpose_for_scores(layer(x)).transpose(1, 2)
            for layer, x in ((part.query, queries), (part.key, states), (part.value, states))
        )
        scores = query @ key.transpose(2, 3) / part.sqrt_attention_head_size + mask
        mixed = part.attn_dropout(scores.softmax(dim=-1)) @ value
        mixed = mixed.transpose(1, 2).flatten(2)
        return part.LayerNorm(part.out_dropout(part.dense(mixed)) + queries)
