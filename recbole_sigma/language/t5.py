"""A T5's training pass over rows of unequal length, padding left out of everything but attention.

The weights are those of transformers' ``T5ForConditionalGeneration``, used as they are; a test holds logits
and gradients to its own forward. Histories are short and windows long, so most of a padded batch would be
padding; and few large operators are what an accelerator wants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

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
    bias = encoder.block[0].layer[0].SelfAttention.compute_bias(prompts.width, prompts.width)
    bias = bias + additive(prompts.real(), bias.dtype)[:, None, None]
    for block in encoder.block:
        layer = block.layer[0]
        own = layer.SelfAttention
        query, key, value = prompts.spread(
            F.linear(_norm(layer.layer_norm, states), _joined(own.q, own.k, own.v)), 3, own.n_heads
        )
        bias = bias.to(query.dtype)  # once: it is as large as the attention weights
        mixed = prompts.gather(_attend(own, query, key, value, bias))
        states = states + layer.dropout(own.o(mixed))
        states = _feed_forward(block.layer[1], states)
    return encoder.dropout(_norm(encoder.final_layer_norm, states))


def _decode(model: Any, prompts: PackedPrompts, encoded: Tensor, tokens: Tensor) -> Tensor:
    """The decoder's states behind tokens [B, L]: float [B, L, d]."""
    decoder, length = model.decoder, tokens.shape[1]
    states = decoder.dropout(decoder.embed_tokens(tokens))
    bias = decoder.block[0].layer[0].SelfAttention.compute_bias(length, length)
    past = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
    bias = bias + additive(past, bias.dtype)
    readable = additive(prompts.real(), bias.dtype)[:, None, None]
    for block in decoder.block:
        layer = block.layer[0]
        own = layer.SelfAttention
        whole = F.linear(_norm(layer.layer_norm, states), _joined(own.q, own.k, own.v))
        # [B, L, 3 * H * d] -> three of [B, H, L, d]
        query, key, value = whole.unflatten(2, (3, own.n_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = _attend(own, query, key, value, bias).transpose(1, 2).flatten(2)
        states = states + layer.dropout(own.o(mixed))
        layer = block.layer[1]
        cross = layer.EncDecAttention
        query = cross.q(_norm(layer.layer_norm, states)).unflatten(2, (cross.n_heads, -1)).transpose(1, 2)
        key, value = prompts.spread(F.linear(encoded, _joined(cross.k, cross.v)), 2, cross.n_heads)
        mixed = _attend(cross, query, key, value, readable).transpose(1, 2).flatten(2)
        states = states + layer.dropout(cross.o(mixed))
        states = _feed_forward(block.layer[2], states)
    return decoder.dropout(_norm(decoder.final_layer_norm, states))


def _attend(layer: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """[B, H, Q, d]; T5 does not scale the product of queries and keys."""
    share = layer.dropout if layer.training else 0.0
    return attend(query, key, value, bias.to(query.dtype), share, 1.0)


def _feed_forward(layer: Any, states: Tensor) -> Tensor:
    return states + layer.dropout(layer.DenseReluDense(_norm(layer.layer_norm, states)))


def _norm(layer: Any, states: Tensor) -> Tensor:
    return F.rms_norm(states, layer.weight.shape, layer.weight, layer.variance_epsilon)


def _joined(*layers: Any) -> Tensor:
    """Weights of linear layers that read the same states, as one."""
    return torch.cat([layer.weight for layer in layers])
