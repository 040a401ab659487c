"""Back end for unmodified transformers causal LMs (with or without LoRA): the prompt runs once per user.

Beams are query positions behind the prompt: ``input_ids`` [B, W], the same ``position_ids`` for all beams of
a step, and a 4-D additive mask that lets every beam see the prompt, its ancestors and itself. The model's own
forward does the rest, so whatever it is (grouped queries, rotary positions, LoRA, soft-capped logits) stays
exact. Models or settings that would not honour such a mask are refused, by rule where known and by a one-time
probe of the model itself otherwise.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from recbole_sigma.decoding.checks import prompt_mask, refuse_empty_prompts, refuse_unfit_model
from recbole_sigma.decoding.kv import Ancestry, BranchingDecoder, Pool, Step, additive
from recbole_sigma.values import UserError

_RELIABLE_ATTENTION = ("sdpa", "eager")
_FULL_LAYERS = {"full_attention", "sliding_attention"}
_probed: WeakKeyDictionary[nn.Module, tuple] = WeakKeyDictionary()


class CausalDecoder(BranchingDecoder):
    """Incremental decoder over a batch of prompts.

    Args:
        model: a causal LM, or with ``head`` its bare trunk; in eval mode.
        input_ids: int64 [B, S] prompts of differing length, padded on either side.
        attention_mask: [B, S], nonzero on real tokens; None = no padding.
        inputs_embeds: [B, S, d] instead of ``input_ids``.
        head: maps hidden states [..., d] to logits [..., V]; then ``model`` is a trunk that returns hidden
            states only.
        embed: maps generated token ids to input embeddings; None = the model's own embedding.
        reserve: positions to reserve for keys and values when a buffer is first allocated or must grow.
        ignore_generation_config: see :func:`recbole_sigma.decoding.checks.refuse_unfit_model`.

    Raises:
        UserError: a model that cannot honour the mask, a prompt that is empty or too long, a model in
            training mode, a generation config that warps logits.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: nn.Module,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        head: Callable[[Tensor], Tensor] | None = None,
        embed: Callable[[Tensor], Tensor] | None = None,
        reserve: int = 160,
        ignore_generation_config: bool = False,
    ) -> None:
        refuse_unfit_model(model, ignore_generation_config)
        prompt = input_ids if inputs_embeds is None else inputs_embeds
        mask = prompt_mask(prompt.shape[:2], attention_mask, prompt.device)
        refuse_empty_prompts(mask)
        refuse_unfit_attention(model, int(mask.sum(dim=1).max()))
        if head is None and model.get_output_embeddings() is None:
            raise UserError(
                f"{type(model).__name__} has no output head: pass a causal LM, or a trunk with head=."
            )
        probe(model, trunk=head is not None)
        self._start(model, prompt, mask, head, embed, reserve)

    def _start(
        self,
        model: nn.Module,
        prompt: Tensor,
        mask: Tensor,
        head: Callable[[Tensor], Tensor] | None,
        embed: Callable[[Tensor], Tensor] | None,
        reserve: int,
    ) -> None:
        self.model, self.head, self.embed = model, head, embed
        self.batch, self.device = len(prompt), prompt.device
        prompt, self.mask = _left_padded(prompt, mask)
        self.lengths = self.mask.sum(dim=1)
        self.prompt: Tensor | None = prompt
        self.cache = PooledCache(prompt.shape[1] + reserve)
        self.prompt_bias: Tensor | None = None
        self.ancestry = Ancestry(self.batch, 0, prompt.device)
        self.forwarded: list[int] = []
        """Query positions per row of every forward pass so far, the prompt's included."""

    @torch.inference_mode()
    def first(self) -> Step:
        """Run the prompts: what the first code is predicted from, hidden [B, 1, d]."""
        if self.prompt is None:
            raise ValueError("first() starts a decoder and can be called once")
        prompt, embedded = self.prompt, self.prompt.dim() == 3
        self.prompt = None
        dtype = next(self.model.parameters()).dtype
        self.prompt_bias = additive(self.mask, dtype)[:, None, None]
        places = pack(self.lengths - 1)
        if prompt.shape[1] > 1 and int(places[0].max()) + 1 < self.batch:
            self._run_packed(prompt[:, :-1], embedded, *places)
            return self._call(prompt[:, -1:], embedded, self.prompt_bias, self.lengths[:, None] - 1)
        positions = (self.mask.long().cumsum(dim=1) - 1).clamp_min_(0)
        padding = None if bool(self.mask.all()) else self.mask.long()
        return self._call(prompt, embedded, padding, positions, last_only=True)

    def _run_packed(self, prompt: Tensor, embedded: bool, row: Tensor, begin: Tensor) -> None:
        """Fill the cache with prompts [B, S - 1] laid end to end in fewer rows, each blind to its
        neighbours.
        """
        lengths = self.lengths - 1
        user = torch.repeat_interleave(torch.arange(self.batch, device=self.device), lengths)
        within = torch.arange(len(user), device=self.device) - (lengths.cumsum(0) - lengths)[user]
        column = prompt.shape[1] - lengths[user] + within
        shape = (int(row.max()) + 1, int(lengths.max()))
        line, slot = row[user], begin[user] + within
        packed = prompt.new_zeros(*shape, *prompt.shape[2:])
        packed[line, slot] = prompt[user, column]
        positions = torch.zeros(shape, dtype=torch.int64, device=self.device)
        positions[line, slot] = within
        owner = torch.full(shape, -1, dtype=torch.int64, device=self.device)
        owner[line, slot] = user
        visible = (owner[:, :, None] == owner[:, None, :]).tril_()
        mask = additive(visible, self.prompt_bias.dtype)[:, None]
        self._call(packed, embedded, mask, positions, last_only=True)
        for layer in self.cache.layers:
            spread = []
            for packed_states in (layer.keys, layer.values):
                heads, width = packed_states.shape[1], packed_states.shape[3]
                states = packed_states.new_zeros(self.batch, heads, prompt.shape[1], width)
                states[user, :, column] = packed_states[line, :, slot]
                spread.append(states)
            layer.pool = Pool(layer.pool.reserve)
            layer.keys, layer.values = layer.pool.append(*spread)

    @torch.inference_mode()
    def logits(self, step: Step, tokens: Tensor | None = None) -> Tensor:
        """Output logits of a step over the vocabulary, or over some of its ids, [..., V] or [..., n]."""
        logits = self.head(step.hidden) if step.logits is None else step.logits
        return logits if tokens is None else logits[..., tokens]

    def _extend(self, tokens: Tensor, visible: Tensor, query_depth: Tensor, key_depth: Tensor) -> Step:
        if self.prompt_bias is None:
            raise ValueError("first() runs the prompt and must come before advance() and force()")
        prompt = self.prompt_bias.expand(-1, -1, tokens.shape[1], -1)
        mask = torch.cat([prompt, additive(visible, prompt.dtype)[:, None]], dim=3)
        positions = self.lengths[:, None] + query_depth - 1
        embedded = self.embed is not None
        return self._call(self.embed(tokens) if embedded else tokens, embedded, mask, positions)

    def _rewind(self, size: int) -> None:
        self.cache.rewind(self.mask.shape[1] + size)

    def _call(
        self, tokens: Tensor, embedded: bool, mask: Tensor | None, positions: Tensor, last_only: bool = False
    ) -> Step:
        self.forwarded.append(tokens.shape[1])
        inputs: dict[str, Any] = {"inputs_embeds" if embedded else "input_ids": tokens}
        inputs.update(attention_mask=mask, position_ids=positions, past_key_values=self.cache, use_cache=True)
        if self.head is not None:
            hidden = self.model(**inputs).last_hidden_state
            return Step(hidden[:, -1:] if last_only else hidden, None)
        if last_only and "logits_to_keep" in _forward_arguments(self.model):
            inputs["logits_to_keep"] = 1
        seen: list[Tensor] = []
        # The head's input is the final hidden state in every causal LM, whatever the model's output object
        # offers.
        hook = self.model.get_output_embeddings().register_forward_pre_hook(
            lambda _, args: seen.append(args[0])
        )
        try:
            logits = self.model(**inputs).logits
        finally:
            hook.remove()
        hidden = seen[-1]
        return Step(hidden[:, -1:], logits[:, -1:]) if last_only else Step(hidden, logits)


def refuse_unfit_attention(model: nn.Module, prompt_length: int, new_tokens: int = 8) -> None:
    """Refuse, by rule, models whose forward would not honour a 4-D mask with shared positions.

    Args:
        model: a transformers model or peft wrapper.
        prompt_length: tokens of the longest prompt.
        new_tokens: tokens that may follow it.

    Raises:
        UserError: naming what stands in the way and what to do.
    """
    config = model.config.get_text_config()
    name = type(_unwrapped(model)).__name__
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{name} is an encoder-decoder: decode it with recbole_sigma.decoding.t5.T5Decoder.")
    adapters = getattr(model, "peft_config", None) or {}
    if isinstance(adapters, dict) and any(getattr(a, "is_prompt_learning", False) for a in adapters.values()):
        raise UserError(
            "the peft adapter is a soft prompt, which moves positions inside the forward: use LoRA instead."
        )
    attention = getattr(config, "_attn_implementation", None)
    if attention not in _RELIABLE_ATTENTION:
        raise UserError(
            f"{name} runs attention {attention!r}, which does not honour the 4-D mask of the beam search: "
            "load it with attn_implementation='sdpa' (or 'eager')."
        )
    missing = [a for a in ("position_ids", "past_key_values") if a not in _forward_arguments(model)]
    if missing:
        raise UserError(
            f"{name}.forward does not take {' and '.join(missing)} (relative or ALiBi positions, or a "
            "state-space model), so beams cannot share one prompt: choose a model with rotary or learned "
            "positions."
        )
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - _FULL_LAYERS:
        raise UserError(
            f"{name} has layers of kind {sorted(kinds - _FULL_LAYERS)}: only full attention can share a "
            "prompt."
        )
    needed = prompt_length + new_tokens
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in kinds or (not kinds and getattr(config, "use_sliding_window", True))
    if window and slides and needed > window:
        raise UserError(
            f"{name} attends to a sliding window of {window} tokens but prompt and code need {needed}: "
            "shorten the prompt."
        )
    longest = getattr(config, "max_position_embeddings", None)
    if longest and needed - new_tokens >= longest:
        raise UserError(
            f"the longest prompt has {prompt_length} tokens but {name} knows {longest} positions: shorten it."
        )


@torch.inference_mode()
def probe(model: nn.Module, trunk: bool) -> None:
    """Check once per model, on a small example, that beams sharing a prompt equal separate passes.

    Args:
        model: the model; its verdict is remembered for as long as its attention implementation and dtype stay
            the same.
        trunk: the model returns hidden states only.

    Raises:
        UserError: the model does not honour the mask (its outputs differ beyond rounding).
    """
    config = model.config.get_text_config()
    weight = next(model.parameters())
    key = (config._attn_implementation, weight.dtype, weight.device)
    if _probed.get(model) == key:
        return
    device, size = weight.device, config.vocab_size
    # Lengths 4, 2 and 3: the packed prompt, a padded cache and reordered beams all take part.
    prompt = torch.tensor([[2, 5, 3, 8], [0, 0, 7, 4], [0, 9, 6, 2]], device=device) % size
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1]], dtype=torch.bool, device=device)
    first = torch.tensor([[8, 9], [3, 11], [5, 7]], device=device) % size
    second = torch.tensor([[4, 10], [9, 2], [6, 3]], device=device) % size
    parents = torch.tensor([[1, 0], [1, 0], [0, 0]], device=device)
    shared = object.__new__(CausalDecoder)
    shared._start(model, prompt, mask, (lambda hidden: hidden) if trunk else None, None, 4)
    shared.first()
    shared.advance(first, torch.zeros_like(parents))
    got = shared.advance(second, parents).hidden
    worst = torch.zeros((), device=device)
    for user in range(3):
        for beam in range(2):
            path = torch.stack([first[user, parents[user, beam]], second[user, beam]])
            alone = object.__new__(CausalDecoder)
            sequence = torch.cat([prompt[user][mask[user]], path])[None]
            alone._start(model, sequence, torch.ones_like(sequence, dtype=torch.bool), shared.head, None, 0)
            wanted = alone.first().hidden[0, 0]
            worst = torch.maximum(worst, (got[user, beam] - wanted).abs().max() / (1 + wanted.abs().max()))
    if not bool(worst <= (1e-3 if weight.dtype == torch.float32 else 5e-2)):
        raise UserError(
            f"{type(_unwrapped(model)).__name__} does not give the same result when beams share one prompt "
            f"(relative error {float(worst):.1e} on a small probe), so constrained decoding would be "
            "wrong: choose another backbone."
        )
    _probed[model] = key


class _PooledLayer(DynamicLayer):
    """A transformers cache layer over a :class:`Pool`: it appends in place instead of concatenating."""

    def __init__(self, reserve: int) -> None:
        super().__init__()
        self.pool = Pool(reserve)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys, self.values = self.pool.append(key_states, value_states)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.pool.length


class PooledCache(Cache):
    """Full-attention cache of as many layers as the model asks for, which can step back."""

    def __init__(self, reserve: int) -> None:
        super().__init__(layer_class_to_replicate=lambda: _PooledLayer(reserve))

    @classmethod
    def continuing(cls, cache: Cache, reserve: int) -> PooledCache:
        """A cache that starts with what another one holds (copied, so that the other one stays as it is).

        Raises:
            UserError: layers that do not keep every position (sliding windows, states).
        """
        pooled = cls(0)
        for index, layer in enumerate(cache.layers):
            if not isinstance(layer, DynamicLayer) or layer.keys.shape[2] != layer.get_seq_length():
                raise UserError(
                    f"layer {index} of the prompt's cache is a {type(layer).__name__}, which forgets "
                    "positions: choose a backbone with full attention in every layer."
                )
            own = _PooledLayer(layer.keys.shape[2] + reserve)
            own.update(layer.keys, layer.values)
            own.pool.reserve = reserve
            pooled.layers.append(own)
        return pooled

    def rewind(self, length: int) -> None:
        """Keep the first ``length`` positions."""
        for layer in self.layers:
            layer.pool.length = length


def pack(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Place sequences end to end into rows as long as the longest one (first fit, longest first).

    Args:
        lengths: int64 [B].

    Returns:
        row int64 [B] and first slot int64 [B] of every sequence.
    """
    sizes = lengths.tolist()
    longest = max(sizes)
    row, begin, free = [0] * len(sizes), [0] * len(sizes), [longest]
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        size = sizes[index]
        place = next((r for r, left in enumerate(free) if left >= size), len(free))
        if place == len(free):
            free.append(longest)
        row[index], begin[index] = place, longest - free[place]
        free[place] -= size
    return torch.tensor(row, device=lengths.device), torch.tensor(begin, device=lengths.device)


def _left_padded(prompt: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move every row's real tokens to its end, and cut columns that are padding for all."""
    if bool(mask.all()):
        return prompt, mask
    longest = int(mask.sum(dim=1).max())
    order = torch.argsort(mask.int(), dim=1, stable=True)[:, -longest:]
    moved = prompt.gather(1, order if prompt.dim() == 2 else order[..., None].expand(-1, -1, prompt.shape[2]))
    return moved, mask.gather(1, order)


def _unwrapped(model: nn.Module) -> nn.Module:
    return (
        model.get_base_model()
        if hasattr(model, "peft_config") and hasattr(model, "get_base_model")
        else model
    )


def _forward_arguments(model: nn.Module) -> set[str]:
    return set(inspect.signature(_unwrapped(model).forward).parameters)
