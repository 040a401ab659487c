"""The decoder-only transformer that models train from scratch: GPT-2's network in plain torch.

Radford et al. 2019: pre-norm blocks, learned positions, GELU by its tanh form. Parameters carry the names and
shapes that transformers gives them, so weights go from one to the other; a test holds both to equal states.
transformers' own forward costs three times the operators and two CPU-seconds of imports, and half of a small
step on a CPU is dropout, which `Dropout` here draws eight times cheaper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_STD = 0.02  # of fresh weights


@dataclass(frozen=True)
class TransformerShape:
    """What the network is built from.

    Attributes:
        vocab_size: number of token ids.
        positions: number of position ids.
        hidden_size: d.
        num_hidden_layers: blocks.
        heads: attention heads; they divide d.
        dropout: of embeddings, attention weights and residual branches.
    """

    vocab_size: int
    positions: int
    hidden_size: int
    num_hidden_layers: int
    heads: int
    dropout: float


class Dropout(nn.Dropout):
    """`nn.Dropout` whose mask costs a byte per element on a CPU, where torch draws a float for each.

    The share is rounded to whole 256ths; what is kept is scaled by the rounded share, so means stay exact.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Values with a random share set to zero, in training."""
        if not self.training or not self.p or values.device.type != "cpu":
            return F.dropout(values, self.p, self.training)
        return values * keep_mask(values.shape, self.p, values.dtype)


def keep_mask(shape: torch.Size, share: float, dtype: torch.dtype) -> Tensor:
    """A dropout mask on the CPU: 0 at about ``share`` of the places, 1 / (1 - share) elsewhere."""
    lost = min(round(share * 256), 255)
    count = math.prod(shape)
    # eight random bytes in one draw; from the lowest number, so that the sign bit is random too
    words = torch.empty(-(-count // 8), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    # written as numbers at once: the way over booleans costs five times as much
    kept = torch.ge(words.view(torch.uint8)[:count].view(shape), lost, out=torch.empty(shape, dtype=dtype))
    return kept.mul_(256 / (256 - lost))


def with_cheap_dropout(module: nn.Module) -> None:
    """Replace every `nn.Dropout` inside a module by `Dropout`."""
    for name, child in module.named_children():
        if type(child) is nn.Dropout:
            setattr(module, name, Dropout(child.p))
        else:
            with_cheap_dropout(child)


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where attention is allowed, the most negative finite number of ``dtype`` elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
        ~allowed, torch.finfo(dtype).min
    )


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, dropout: float, scale: float) -> Tensor:
    """Attention with dropout on its weights.

    Args:
        query: float [B, H, Q, d].
        key: float [B, H, S, d].
        value: float [B, H, S, d].
        bias: float, added to the scores [B, H, Q, S].
        dropout: share of the weights that are set to zero.
        scale: factor on the products.

    Returns:
        float [B, H, Q, d].
    """
    if dropout and query.device.type == "cpu":  # torch's kernel does not fuse dropout here: see `Dropout`
        weights = ((query * scale) @ key.transpose(2, 3) + bias).softmax(dim=-1)
        return (weights * keep_mask(weights.shape, dropout, weights.dtype)) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=scale)


class KeyValuePool:
    """Keys and values [B, H, P, d] of one layer in a buffer that grows in place.

    Args:
        reserve: positions to make room for beyond those that are needed.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, reserve: int) -> None:
        self.reserve, self.length, self.capacity = reserve, 0, 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write new positions behind the current length; returns views of everything including them."""
        start, stop = self.length, self.length + keys.shape[2]
        if self.capacity < stop:
            self._grow(keys, values, max(stop, start + self.reserve))
        self.keys[:, :, start:stop] = keys
        self.values[:, :, start:stop] = values
        self.length = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]

    def _grow(self, keys: Tensor, values: Tensor, capacity: int) -> None:
        old = (self.keys, self.values) if self.length else ()
        self.keys = keys.new_empty(*keys.shape[:2], capacity, keys.shape[3])
        self.values = values.new_empty(*values.shape[:2], capacity, values.shape[3])
        self.capacity = capacity
        for buffer, before in zip((self.keys, self.values), old, strict=False):
            buffer[:, :, : self.length] = before[:, :, : self.length]


class KeyValues:
    """What a `Transformer` has read, a pool per layer, which can step back.

    Args:
        layers: number of blocks.
        reserve: positions to make room for beyond those that are needed.
    """

    def __init__(self, layers: int, reserve: int = 0) -> None:
        self.layers = [KeyValuePool(reserve) for _ in range(layers)]

    @property
    def length(self) -> int:
        """Positions that were read."""
        return self.layers[0].length

    def continuing(self, reserve: int) -> KeyValues:
        """A copy to go on with; this one stays as it is."""
        copy = KeyValues(len(self.layers), self.length + reserve)
        for own, layer in zip(copy.layers, self.layers, strict=True):
            own.append(layer.keys[:, :, : self.length], layer.values[:, :, : self.length])
            own.reserve = reserve
        return copy

    def rewind(self, length: int) -> None:
        """Forget all but the first positions."""
        for layer in self.layers:
            layer.length = length


class Transformer(nn.Module):
    """GPT-2 with separate input and output embeddings.

    Args:
        shape: sizes and dropout.
        checkpointing: recompute each block's activations in the backward pass: less memory, more time.

    Attributes:
        config: the shape.
        lm_head: output embedding, without bias; only objectives that predict tokens use it.
    """

    base_model_prefix = "transformer"

    def __init__(self, shape: TransformerShape, checkpointing: bool = False) -> None:
        super().__init__()
        self.config, self.is_gradient_checkpointing = shape, checkpointing
        width = shape.hidden_size
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(shape.vocab_size, width),
                "wpe": nn.Embedding(shape.positions, width),
                "drop": Dropout(shape.dropout),
                "h": nn.ModuleList(Block(shape) for _ in range(shape.num_hidden_layers)),
                "ln_f": nn.LayerNorm(width),
            }
        )
        self.lm_head = nn.Linear(width, shape.vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                # a residual branch of 2 n starts smaller, so that their sum does not grow with the depth
                ends_branch = name.endswith("c_proj.weight")
                nn.init.normal_(
                    parameter, std=_STD / math.sqrt(2 * shape.num_hidden_layers) if ends_branch else _STD
                )

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of input embeddings, by transformers' name for it."""
        return self.transformer["wte"]

    def get_output_embeddings(self) -> nn.Linear:
        """The table of output embeddings, by transformers' name for it."""
        return self.lm_head

    def forward(
        self,
        embeddings: Tensor,
        positions: Tensor,
        allowed: Tensor,
        cache: KeyValues | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states.

        Args:
            embeddings: float [B, Q, d] input embeddings.
            positions: int64 [B, Q] position ids.
            allowed: bool [B, Q, S] who may attend to whom; S = cached positions + Q.
            cache: what was read before; it is read and extended. None for nothing.
            wanted: int64 [B, W], the columns whose states are asked for; the last block computes these alone.
                None for all.

        Returns:
            float [B, Q, d], or [B, W, d].
        """
        parts = self.transformer
        states = parts["drop"](embeddings + parts["wpe"](positions))
        bias = additive(allowed, states.dtype)[:, None]  # once for all blocks, the same for every head
        pools: list[Any] = [None] * len(parts["h"]) if cache is None else cache.layers
        for number, (block, pool) in enumerate(zip(parts["h"], pools, strict=True), start=1):
            asked = wanted if number == len(parts["h"]) else None
            if self.is_gradient_checkpointing and self.training and pool is None:
                states = checkpoint(block, states, bias, None, asked, use_reentrant=False)
            else:
                states = block(states, bias, pool, asked)
        return parts["ln_f"](states)


def columns_of(values: Tensor, wanted: Tensor) -> Tensor:
    """float [B, Q, n], int64 [B, W] -> [B, W, n]."""
    return values.gather(1, wanted[:, :, None].expand(-1, -1, values.shape[2]))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(shape.hidden_size)
        self.attn = Attention(shape)
        self.ln_2 = nn.LayerNorm(shape.hidden_size)
        self.mlp = FeedForward(shape)

    def forward(
        self, states: Tensor, bias: Tensor, pool: KeyValuePool | None = None, wanted: Tensor | None = None
    ) -> Tensor:
        """float [B, Q, d] -> [B, Q, d], or [B, W, d] at the ``wanted`` columns int64 [B, W]."""
        own = states if wanted is None else columns_of(states, wanted)
        states = own + self.attn(self.ln_1(states), bias, pool, wanted)
        return states + self.mlp(self.ln_2(states))


class Attention(nn.Module):
    """Multi-head attention over what each position may see."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.heads, self.dropout = shape.heads, shape.dropout
        self.c_attn = Projection(shape.hidden_size, 3 * shape.hidden_size)
        self.c_proj = Projection(shape.hidden_size, shape.hidden_size)
        self.resid_dropout = Dropout(shape.dropout)

    def forward(
        self, states: Tensor, bias: Tensor, pool: KeyValuePool | None, wanted: Tensor | None
    ) -> Tensor:
        """float [B, Q, d] -> [B, Q, d], or [B, W, d] at the ``wanted`` columns int64 [B, W].

        ``bias`` float [B, 1, Q, S] is added to the attention scores.
        """
        if wanted is None:
            # [B, Q, 3 d] -> three of [B, H, Q, d / H]
            query, key, value = self.c_attn(states).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        else:
            width = states.shape[2]
            key, value = self.c_attn(states, width).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
            query = self.c_attn(columns_of(states, wanted), 0, width)  # [B, W, d] -> [B, H, W, d / H]
            query = query.unflatten(2, (self.heads, -1)).transpose(1, 2)
            bias = columns_of(bias[:, 0], wanted)[:, None]
        if pool is not None:
            key, value = pool.append(key, value)
        share = self.dropout if self.training else 0.0
        mixed = attend(query, key, value, bias, share, key.shape[-1] ** -0.5)
        return self.resid_dropout(self.c_proj(mixed.transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """d -> 4 d -> d with GELU between."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.c_fc = Projection(shape.hidden_size, 4 * shape.hidden_size)
        self.c_proj = Projection(4 * shape.hidden_size, shape.hidden_size)
        self.dropout = Dropout(shape.dropout)

    def forward(self, states: Tensor) -> Tensor:
        """float [..., d] -> [..., d]."""
        return self.dropout(self.c_proj(F.gelu(self.c_fc(states), approximate="tanh")))


class Projection(nn.Module):
    """A linear layer whose weight lies as [inputs, outputs], the way GPT-2's do."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, states: Tensor, first: int = 0, end: int | None = None) -> Tensor:
        """float [..., inputs] -> [..., outputs], or the outputs from ``first`` up to ``end`` alone."""
        bias, weight = self.bias[first:end], self.weight[:, first:end]
        return torch.addmm(bias, states.flatten(0, -2), weight).unflatten(0, states.shape[:-1])
