"""A T5's training pass over rows of unequal length, padding left out of everything but attention.

The weights are those of transformers' ``T5ForConditionalGeneration``, used as they are; a test holds logits
and gradients to its own forward. Histories are short and windows long, so most of a padded batch would be
padding; and few large operators are what an accelerator wants.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_sigma.language.segment_attention import fits, segment_attention
from recbole_sigma.language.transformer import additive, attend


@dataclass(frozen=True)
class PackedPrompts:
    """Token sequences of B rows, one after the other.

    Attributes:
        ids: int64 [T] tokens.
        slot: int64 [T], where each stands in padded rows [B * S]; B * S for a token that counts nothing.
        rows: B.
        width: S.
    """

    ids: Tensor
    slot: Tensor
    rows: int
    width: int

    def spread(self, values: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
        """Tokens' values [T, parts * H * d] in padded rows: ``parts`` tensors [B, H, S, d]."""
        size = self.rows * self.width
        whole = values.new_zeros(size + 1, values.shape[1]).index_copy(0, self.slot, values)[:size]
        # [B * S, parts * H * d] -> parts of [B, H, S, d]
        return whole.view(self.rows, self.width, parts, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def gather(self, values: Tensor) -> Tensor:
        """The inverse for one part: [B, H, S, d] -> [T, H * d]."""
        whole = values.transpose(1, 2).flatten(2).flatten(0, 1)
        return whole.index_select(0, self.slot.clamp_max(len(whole) - 1))

    @cached_property
    def table(self) -> Tensor:
        """int32 [B, S], the token at each slot; -1 where there is none."""
        size = self.rows * self.width
        tokens = torch.arange(len(self.ids), dtype=torch.int32, device=self.slot.device)
        found = tokens.new_full((size + 1,), -1).index_copy(0, self.slot, tokens)
        return found[:size].view(self.rows, self.width)

    def real(self) -> Tensor:
        """bool [B, S]: slots that hold a token."""
        size = self.rows * self.width
        found = torch.zeros(size + 1, dtype=torch.bool, device=self.slot.device)
        return found.index_fill(0, self.slot, True)[:size].view(self.rows, self.width)


def code_logits(model: Any, prompts: PackedPrompts, labels: Tensor) -> Tensor:
    """Logits of every label token under teacher forcing.

    Args:
        model: ``T5ForConditionalGeneration``.
        prompts: what the encoder reads.
        labels: int64 [B, L].

    Returns:
        float [B, L, V].
    """
    encoded = _encode(model, prompts)
    start = torch.full_like(labels[:, :1], model.config.decoder_start_token_id)
    states = _decode(model, prompts, encoded, torch.cat([start, labels[:, :-1]], dim=1))
    if model.config.scale_decoder_outputs:
        states = states * model.model_dim**-0.5
    return model.lm_head(states)


def _encode(model: Any, prompts: PackedPrompts) -> Tensor:
    """The encoder's states: float [T, d]."""
    encoder = model.encoder
    states = encoder.dropout(encoder.embed_tokens(prompts.ids))
    first = encoder.block[0].layer[0].SelfAttention
    bias, packed = first.compute_bias(prompts.width, prompts.width)[0], _packed(first, prompts)
    if not packed:
        bias = bias + additive(prompts.real(), bias.dtype)[:, None, None]
    for block in encoder.block:
        layer = block.layer[0]
        own = layer.SelfAttention
        whole = F.linear(_norm(layer.layer_norm, states), _joined(own.q, own.k, own.v))
        if packed:
            query, key, value = whole.unflatten(1, (3, own.n_heads, -1)).unbind(1)
            mixed = segment_attention(
                query, key, value, prompts.table, prompts.table, bias, _dropped(own)
            ).flatten(1)
        else:
            bias = bias.to(whole.dtype)  # once: it is as large as the attention weights
            query, key, value = prompts.spread(whole, 3, own.n_heads)
            mixed = prompts.gather(_attend(own, query, key, value, bias))
        states = states + layer.dropout(own.o(mixed))
        states = _feed_forward(block.layer[1], states)
    return encoder.dropout(_norm(encoder.final_layer_norm, states))


def _decode(model: Any, prompts: PackedPrompts, encoded: Tensor, tokens: Tensor) -> Tensor:
    """The decoder's states behind tokens [B, L]: float [B, L, d]."""
    decoder, (rows, length) = model.decoder, tokens.shape
    states = decoder.dropout(decoder.embed_tokens(tokens))
    first = decoder.block[0].layer[0].SelfAttention
    past = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
    bias = first.compute_bias(length, length)[0]
    bias, packed = bias + additive(past, bias.dtype), _packed(first, prompts)
    # which of the [B * L] tokens stand in each row
    table = torch.arange(rows * length, dtype=torch.int32, device=tokens.device).view(rows, length)
    readable = bias if packed else additive(prompts.real(), bias.dtype)[:, None, None]
    for block in decoder.block:
        layer = block.layer[0]
        own = layer.SelfAttention
        whole = F.linear(_norm(layer.layer_norm, states), _joined(own.q, own.k, own.v))
        whole = whole.unflatten(2, (3, own.n_heads, -1))  # [B, L, 3, H, d]
        if packed:
            query, key, value = whole.flatten(0, 1).unbind(1)
            mixed = segment_attention(query, key, value, table, table, bias, _dropped(own))
            mixed = mixed.view(rows, length, -1)
        else:
            query, key, value = whole.permute(2, 0, 3, 1, 4).unbind(0)
            mixed = _attend(own, query, key, value, bias).transpose(1, 2).flatten(2)
        states = states + layer.dropout(own.o(mixed))
        layer = block.layer[1]
        cross = layer.EncDecAttention
        query = cross.q(_norm(layer.layer_norm, states)).unflatten(2, (cross.n_heads, -1))
        whole = F.linear(encoded, _joined(cross.k, cross.v))
        if packed:
            key, value = whole.unflatten(1, (2, cross.n_heads, -1)).unbind(1)
            mixed = segment_attention(
                query.flatten(0, 1), key, value, table, prompts.table, None, _dropped(cross)
            ).view(rows, length, -1)
        else:
            key, value = prompts.spread(whole, 2, cross.n_heads)
            mixed = _attend(cross, query.transpose(1, 2), key, value, readable).transpose(1, 2).flatten(2)
        states = states + layer.dropout(cross.o(mixed))
        states = _feed_forward(block.layer[2], states)
    return decoder.dropout(_norm(decoder.final_layer_norm, states))


def _packed(layer: Any, prompts: PackedPrompts) -> bool:
    """Whether attention reads the tokens where they lie; otherwise it reads padded rows."""
    dtype = layer.q.weight.dtype
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
    return fits(prompts.ids.device, dtype, prompts.width, layer.key_value_proj_dim)


def _dropped(layer: Any) -> float:
    """Share of the attention weights that are set to zero."""
    return layer.dropout if layer.training else 0.0


def _attend(layer: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """[B, H, Q, d]; T5 does not scale the product of queries and keys."""
    return attend(query, key, value, bias.to(query.dtype), _dropped(layer), 1.0)


def _feed_forward(layer: Any, states: Tensor) -> Tensor:
    return states + layer.dropout(layer.DenseReluDense(_norm(layer.layer_norm, states)))


def _norm(layer: Any, states: Tensor) -> Tensor:
    return F.rms_norm(states, layer.weight.shape, layer.weight, layer.variance_epsilon)


def _joined(*layers: Any) -> Tensor:
    """Weights of linear layers that read the same states, as one."""
    return torch.cat([layer.weight for layer in layers])
