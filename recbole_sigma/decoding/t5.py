"""Back end for T5 encoder-decoders (TIGER): the encoder runs once per user, beams are query positions.

Encoder and decoder below use the modules of a ``T5ForConditionalGeneration`` as they are (weights, relative
position bias, LoRA wrappers), but padding costs the encoder nothing outside attention, cross-attention keys
and values are computed once per user, and nothing is repeated per beam.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration

from recbole_sigma.decoding.checks import prompt_mask, refuse_empty_prompts, refuse_unfit_model
from recbole_sigma.decoding.kv import Ancestry, BranchingDecoder, Step
from recbole_sigma.language.transformer import KeyValuePool, additive
from recbole_sigma.values import UserError


class T5Decoder(BranchingDecoder):
    """Incremental decoder over a batch of encoded histories.

    Args:
        model: the encoder-decoder, in eval mode, float32 or bfloat16.
        input_ids: int64 [B, S], padded on either side.
        attention_mask: [B, S], nonzero on real tokens; None = no padding.
        inputs_embeds: [B, S, d] instead of ``input_ids``.
        reserve: positions to reserve for keys and values when a buffer is first allocated or must grow.
        ignore_generation_config: see :func:`recbole_sigma.decoding.checks.refuse_unfit_model`.

    Raises:
        UserError: training mode, float16, a generation config that warps logits, an empty prompt.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: T5ForConditionalGeneration,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        reserve: int = 160,
        ignore_generation_config: bool = False,
    ) -> None:
        refuse_unfit_model(model, ignore_generation_config)
        if model.dtype == torch.float16:
            raise UserError("T5 overflows in float16: decode in float32 or bfloat16.")
        prompt = input_ids if inputs_embeds is None else inputs_embeds
        mask = prompt_mask(prompt.shape[:2], attention_mask, prompt.device)
        refuse_empty_prompts(mask)
        used = mask.any(dim=0).nonzero()
        prompt, mask = prompt[:, : int(used[-1]) + 1], mask[:, : int(used[-1]) + 1]

        self.model = model
        self.blocks = list(model.decoder.block)
        self.heads, self.head_dim = model.config.num_heads, model.config.d_kv
        self.real = None if bool(mask.all()) else mask.flatten().nonzero().flatten()
        self.shape = mask.shape
        encoded = self._encode(prompt, mask)
        self.cross_mask = None if self.real is None else additive(mask, encoded.dtype)[:, None, None]
        self.cross = []
        for block in self.blocks:
            attention = block.layer[1].EncDecAttention
            self.cross.append((self._spread(attention.k(encoded)), self._spread(attention.v(encoded))))
        self.pools = [KeyValuePool(reserve) for _ in self.blocks]
        self.ancestry = Ancestry(len(prompt), 1, prompt.device)
        self.batch = len(prompt)
        self.forwarded: list[int] = []
        """Query positions per user of every decoder forward so far."""

    @torch.inference_mode()
    def first(self) -> Step:
        """The state after the decoder's start token: what the first code is predicted from, [B, 1, d]."""
        if self.forwarded:
            raise ValueError("first() starts a decoder and can be called once")
        start = self.model.config.decoder_start_token_id
        start = self.model.config.pad_token_id if start is None else start
        tokens = torch.full((self.batch, 1), start, device=self.ancestry.positions.device)
        depth = self.ancestry.positions
        return self._extend(tokens, self.ancestry.visible, depth, depth)

    @torch.inference_mode()
    def logits(self, step: Step, tokens: Tensor | None = None) -> Tensor:
        """Output logits of a step over the vocabulary, or over some of its ids, [..., V] or [..., n]."""
        hidden = step.hidden
        if self.model.config.scale_decoder_outputs:
            hidden = hidden * self.model.model_dim**-0.5
        if tokens is None:
            return self.model.lm_head(hidden)
        return F.linear(hidden, self.model.lm_head.weight[tokens])

    def _rewind(self, size: int) -> None:
        for pool in self.pools:
            pool.length = size

    def _encode(self, prompt: Tensor, mask: Tensor) -> Tensor:
        """The encoder over real tokens only, [T, d]: padding is spread out for attention and nowhere else."""
        encoder = self.model.encoder
        hidden = (encoder.embed_tokens(prompt) if prompt.dim() == 2 else prompt).flatten(0, 1)
        hidden = hidden if self.real is None else hidden[self.real]
        bias = encoder.block[0].layer[0].SelfAttention.compute_bias(mask.shape[1], mask.shape[1])
        bias = bias.to(hidden.dtype)
        if self.real is not None:
            bias = bias + additive(mask, hidden.dtype)[:, None, None]
        for block in encoder.block:
            attention = block.layer[0].SelfAttention
            x = block.layer[0].layer_norm(hidden)
            out = F.scaled_dot_product_attention(
                self._spread(attention.q(x)),
                self._spread(attention.k(x)),
                self._spread(attention.v(x)),
                attn_mask=bias,
                scale=1.0,
            )
            out = out.transpose(1, 2).flatten(2).flatten(0, 1)
            hidden = hidden + attention.o(out if self.real is None else out[self.real])
            hidden = block.layer[1](hidden)
        return encoder.final_layer_norm(hidden)

    def _spread(self, x: Tensor) -> Tensor:
        """Real tokens [T, H * d] to padded heads [B, H, S, d]."""
        if self.real is not None:
            x = x.new_zeros(self.shape.numel(), x.shape[1]).index_copy_(0, self.real, x)
        return self._split(x.view(*self.shape, -1))

    def _extend(self, tokens: Tensor, visible: Tensor, query_depth: Tensor, key_depth: Tensor) -> Step:
        """One decoder pass over query positions [B, Q] against the pool and themselves."""
        self.forwarded.append(tokens.shape[1])
        hidden = self.model.decoder.embed_tokens(tokens)
        bias = self._position_bias(query_depth, key_depth).to(hidden.dtype)
        bias = bias[None] + additive(visible, hidden.dtype)[:, None]
        for block, pool, (cross_keys, cross_values) in zip(self.blocks, self.pools, self.cross, strict=True):
            layer = block.layer[0]
            attention = layer.SelfAttention
            x = layer.layer_norm(hidden)
            keys, values = pool.append(self._split(attention.k(x)), self._split(attention.v(x)))
            hidden = hidden + attention.o(self._attend(attention.q(x), keys, values, bias))
            layer = block.layer[1]
            attention = layer.EncDecAttention
            queries = attention.q(layer.layer_norm(hidden))
            hidden = hidden + attention.o(self._attend(queries, cross_keys, cross_values, self.cross_mask))
            hidden = block.layer[2](hidden)
        return Step(self.model.decoder.final_layer_norm(hidden), None)

    def _position_bias(self, query_depth: Tensor, key_depth: Tensor) -> Tensor:
        """T5's relative position bias for arbitrary query and key depths, [H, Q, P]."""
        attention = self.blocks[0].layer[0].SelfAttention
        span = int(max(query_depth.max(), key_depth.max())) + 1
        table = attention.compute_bias(span, span)[0]
        if query_depth.numel() == 0 or bool((query_depth == query_depth[0]).all()):
            return table[:, query_depth[:1]][:, :, key_depth]
        return table[:, query_depth][:, :, key_depth]

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, self.head_dim).transpose(1, 2)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        # T5 does not scale the product of queries and keys.
        out = F.scaled_dot_product_attention(self._split(queries), keys, values, attn_mask=mask, scale=1.0)
        return out.transpose(1, 2).flatten(2)
