"""Attention inside the rows of a packed batch as one kernel: nothing is padded, and no mask is written down.

Rows of a few dozen tokens are too short for the attention kernels that libraries bring. Padded to the longest
row and with a bias per pair of positions, most of a step is copies, masks and their gradients. Here a program
takes one head of one row, reads its queries, keys and values where they lie, and keeps the scores to itself.
The bias may be trained, as that of T5 is. `segments_by_hand` computes the same in plain torch; the tests
compare with it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # builds of torch for a CPU come without it
    triton = None

LONGEST = 128  # positions of a row that one program holds
_SPLITS = 44  # programs per head in the backward pass; each sums the bias' gradient over its rows


def fits(device: torch.device, dtype: torch.dtype, width: int, head: int) -> bool:
    """Whether the kernel takes rows of this width and heads of this size: on a GPU, in 16 bits."""
    small = width <= LONGEST and head in (16, 32, 64, 128)
    half = device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)
    return triton is not None and half and small


def segments_by_hand(
    query: Tensor, key: Tensor, value: Tensor, asks: Tensor, tells: Tensor, bias: Tensor | None
) -> Tensor:
    """What `segment_attention` computes without dropout; see there for the arguments."""
    empty = query.shape[0]
    rows = [torch.cat([part, part.new_zeros(1, *part.shape[1:])]) for part in (query, key, value)]
    ask, tell = asks.long(), tells.long()
    own, keys, values = (
        part[table.where(table >= 0, torch.full_like(table, len(part) - 1))].transpose(1, 2).float()
        for part, table in zip(rows, (ask, tell, tell), strict=True)
    )
    scores = own @ keys.transpose(2, 3)  # [B, H, Q, S]
    if bias is not None:
        scores = scores + bias
    weights = scores.masked_fill((tell < 0)[:, None, None], -torch.inf).softmax(dim=-1).nan_to_num()
    mixed = (weights @ values).transpose(1, 2)  # [B, Q, H, d]
    place = ask.where(ask >= 0, torch.full_like(ask, empty)).flatten()
    found = query.new_zeros(empty + 1, *query.shape[1:])
    return found.index_copy(0, place, mixed.flatten(0, 1).to(found.dtype))[:empty]


def segment_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    asks: Tensor,
    tells: Tensor,
    bias: Tensor | None,
    dropout: float,
) -> Tensor:
    """Attention of every query on the keys of its row; products are not scaled, as T5 wants it.

    Args:
        query: 16-bit float [P, H, d], all rows' queries; the last dimension is contiguous.
        key: 16-bit float [T, H, d], with the strides of ``value``.
        value: 16-bit float [T, H, d].
        asks: int32 [B, Q], which query stands at each place of a row; -1 for none.
        tells: int32 [B, S], which key stands at each place; -1 for none.
        bias: float [H, Q, S], added to the scores, or None.
        dropout: share of the attention weights that are set to zero.

    Returns:
        [P, H, d] in the type of the queries; 0 for queries that no row asks.
    """
    return _Segments.apply(query, key, value, asks, tells, bias, dropout)


class _Segments(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        asks: Tensor,
        tells: Tensor,
        bias: Tensor | None,
        dropout: float,
    ) -> Tensor:
        # drawn where the rest is, so that a recorded step draws anew each time it is replayed
        seed = torch.randint(1 << 31, (1,), device=query.device) if dropout else asks
        found = torch.zeros_like(query, memory_format=torch.contiguous_format)
        _forward[(len(asks), query.shape[1])](
            *_arguments(query, key, value, asks, tells, bias, seed),
            found,
            **_sizes(query, asks, tells, bias, dropout, 64),
        )
        ctx.save_for_backward(query, key, value, asks, tells, bias, seed)
        ctx.dropout = dropout
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, asks, tells, bias, seed = ctx.saved_tensors
        heads, splits = query.shape[1], min(_SPLITS, len(asks))
        sizes = _sizes(query, asks, tells, bias, ctx.dropout, 32)
        own, keys, values = (part.new_zeros(part.shape) for part in (query, key, value))
        parts = sizes["TILE_Q"] * sizes["TILE_S"] if bias is not None else 0
        biased = torch.empty(splits, heads, parts, dtype=torch.float32, device=query.device)
        _backward[(splits, heads)](
            *_arguments(query, key, value, asks, tells, bias, seed),
            gradient.contiguous(),
            own,
            keys,
            values,
            biased,
            len(asks),
            splits,
            **sizes,
        )
        turned = None
        if bias is not None:
            tile = biased.sum(dim=0).view(heads, sizes["TILE_Q"], sizes["TILE_S"])
            turned = tile[:, : bias.shape[1], : bias.shape[2]].to(bias.dtype)
        return own, keys, values, None, None, turned, None


def _arguments(
    query: Tensor, key: Tensor, value: Tensor, asks: Tensor, tells: Tensor, bias: Tensor | None, seed: Tensor
) -> tuple[Any, ...]:
    """Tensors and strides, as both kernels take them."""
    biases = seed if bias is None else bias.contiguous()
    return (
        query, key, value, asks, tells, biases, seed,
        query.stride(0), query.stride(1), key.stride(0), key.stride(1), asks.shape[1], tells.shape[1],
    )  # fmt: skip


def _sizes(
    query: Tensor, asks: Tensor, tells: Tensor, bias: Tensor | None, dropout: float, numbers: int
) -> dict[str, Any]:
    """What the kernels are compiled for; ``numbers`` of a tile of scores stand in a thread's registers."""
    wide = max(16, triton.next_power_of_2(asks.shape[1])), max(16, triton.next_power_of_2(tells.shape[1]))
    return {
        "H": query.shape[1], "D": query.shape[2],
        "TILE_Q": wide[0], "TILE_S": wide[1], "BIASED": bias is not None, "DROPOUT": dropout,
        "num_warps": min(max(wide[0] * wide[1] // (32 * numbers), 4), 16),
    }  # fmt: skip


if triton is not None:

    @triton.jit
    def _weights(query, keys, tell, biases, seed, row, head, i, j, H, Q, S, BIASED, DROPOUT):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        """Attention weights [TILE_Q, TILE_S] of a head in a row, and what dropout leaves of each."""
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee")
        if BIASED:
            there = (i[:, None] < Q) & (j[None, :] < S)
            scores += tl.load(biases + (head * Q + i[:, None]) * S + j[None, :], mask=there, other=0.0)
        scores = tl.where(tell[None, :] >= 0, scores, float("-inf"))
        # a row without keys has no weights; -inf less -inf would be no number
        weights = tl.exp(scores - tl.maximum(tl.max(scores, axis=1), -1e30)[:, None])
        weights = weights / tl.maximum(tl.sum(weights, axis=1), 1e-30)[:, None]
        kept = tl.full(weights.shape, 1.0, tl.float32)
        if DROPOUT > 0.0:
            place = ((row * H + head) * Q + i[:, None]) * S + j[None, :]
            kept = tl.where(tl.rand(tl.load(seed), place) >= DROPOUT, 1.0 / (1.0 - DROPOUT), 0.0)
        return weights, kept

    @triton.jit
    def _forward(  # type: ignore[no-untyped-def]  # noqa: ANN202
        query, key, value, asks, tells, biases, seed, q_token, q_head, k_token, k_head, Q, S, found,  # noqa: ANN001
        H: tl.constexpr, D: tl.constexpr,
        TILE_Q: tl.constexpr, TILE_S: tl.constexpr, BIASED: tl.constexpr, DROPOUT: tl.constexpr,
    ):  # fmt: skip
        row, head = tl.program_id(0), tl.program_id(1)
        i, j, d = tl.arange(0, TILE_Q), tl.arange(0, TILE_S), tl.arange(0, D)
        ask = tl.load(asks + row * Q + i, mask=i < Q, other=-1)
        tell = tl.load(tells + row * S + j, mask=j < S, other=-1)
        asked, told = (ask >= 0)[:, None], (tell >= 0)[:, None]
        own = tl.load(query + ask[:, None] * q_token + head * q_head + d[None, :], mask=asked, other=0.0)
        spot = tell[:, None] * k_token + head * k_head + d[None, :]
        keys, values = tl.load(key + spot, mask=told, other=0.0), tl.load(value + spot, mask=told, other=0.0)
        weights, kept = _weights(own, keys, tell, biases, seed, row, head, i, j, H, Q, S, BIASED, DROPOUT)
        mixed = tl.dot((weights * kept).to(values.dtype), values, input_precision="ieee")
        tl.store(
            found + (ask[:, None] * H + head) * D + d[None, :], mixed.to(found.dtype.element_ty), mask=asked
        )

    @triton.jit
    def _backward(  # type: ignore[no-untyped-def]  # noqa: ANN202
        query, key, value, asks, tells, biases, seed, q_token, q_head, k_token, k_head, Q, S,  # noqa: ANN001
        gradient, own_turned, key_turned, value_turned, bias_turned, rows, splits,  # noqa: ANN001
        H: tl.constexpr, D: tl.constexpr,
        TILE_Q: tl.constexpr, TILE_S: tl.constexpr, BIASED: tl.constexpr, DROPOUT: tl.constexpr,
    ):  # fmt: skip
        first, head = tl.program_id(0), tl.program_id(1)
        i, j, d = tl.arange(0, TILE_Q), tl.arange(0, TILE_S), tl.arange(0, D)
        total = tl.zeros([TILE_Q, TILE_S], tl.float32)
        for row in range(first, rows, splits):
            ask = tl.load(asks + row * Q + i, mask=i < Q, other=-1)
            tell = tl.load(tells + row * S + j, mask=j < S, other=-1)
            asked, told = (ask >= 0)[:, None], (tell >= 0)[:, None]
            own = tl.load(query + ask[:, None] * q_token + head * q_head + d[None, :], mask=asked, other=0.0)
            spot = tell[:, None] * k_token + head * k_head + d[None, :]
            keys = tl.load(key + spot, mask=told, other=0.0)
            values = tl.load(value + spot, mask=told, other=0.0)
            place = (ask[:, None] * H + head) * D + d[None, :]
            above = tl.load(gradient + place, mask=asked, other=0.0)
            weights, kept = _weights(own, keys, tell, biases, seed, row, head, i, j, H, Q, S, BIASED, DROPOUT)
            inner = tl.dot(above, tl.trans(values), input_precision="ieee") * kept
            # the softmax's gradient: w (g - sum of w g); queries that are not there have no g
            scores = weights * (inner - tl.sum(weights * inner, axis=1)[:, None])
            if BIASED:
                total += scores
            scores = scores.to(keys.dtype)
            deep = (tell[:, None] * H + head) * D + d[None, :]
            mixed = tl.dot(tl.trans((weights * kept).to(values.dtype)), above, input_precision="ieee")
            tl.store(value_turned + deep, mixed.to(value_turned.dtype.element_ty), mask=told)
            mixed = tl.dot(tl.trans(scores), own, input_precision="ieee")
            tl.store(key_turned + deep, mixed.to(key_turned.dtype.element_ty), mask=told)
            mixed = tl.dot(scores, keys, input_precision="ieee")
            tl.store(own_turned + place, mixed.to(own_turned.dtype.element_ty), mask=asked)
        if BIASED:
            tile = ((first * H + head) * TILE_Q + i[:, None]) * TILE_S + j[None, :]
            tl.store(bias_turned + tile, total)
