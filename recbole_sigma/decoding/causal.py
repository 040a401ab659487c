"""Beams behind prompts of a causal language model: the prompt runs once per user, whatever the number of
beams.

Beams are query positions behind the prompt, all beams of a step with the same position ids, and a 4-D mask
lets every beam see the prompt, its ancestors and itself. The model's own forward does the rest, so whatever
it is (grouped queries, rotary positions, LoRA, soft-capped logits) stays exact. SIGMA packs and runs its
prompts itself and then stands a `CausalDecoder` behind them; `read_prompts` does the same for token prompts
of any transformers causal LM.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from recbole_sigma.decoding.checks import prompt_mask, refuse_empty_prompts, refuse_unfit_model
from recbole_sigma.decoding.kv import Ancestry, BranchingDecoder, Pool, Step, additive
from recbole_sigma.language.loading import setting
from recbole_sigma.values import UserError

Forward = Callable[[Tensor, Tensor, Tensor, Cache], "Tensor | Step"]

_RELIABLE_ATTENTION = ("sdpa", "eager")
_FULL_LAYERS = {"full_attention", "sliding_attention"}
_probed: WeakKeyDictionary[nn.Module, tuple] = WeakKeyDictionary()


class CausalDecoder(BranchingDecoder):
    """Incremental decoder behind a filled cache.

    ``advance(tokens, parents, keep=False)`` reads prefixes without changing anything: the cache is cut back
    after every such call, so its length never grows from chunk to chunk (:attr:`cached` stays the same).

    Args:
        forward: (embeddings float [B, Q, d], position ids int64 [B, Q], may-attend bool [B, Q, S + P + Q],
            cache) -> last hidden states float [B, Q, d], or a `Step` that holds the logits too: one pass of
            the trunk that reads and extends the cache. The model must honour a 4-D mask (sdpa or eager
            attention).
        embed: vocabulary ids -> input embeddings.
        head: (step, vocabulary ids int64 [n] or None) -> logits [B, W, n], over the whole vocabulary for
            None.
        cache: the prompt's keys and values, S positions. A `PooledCache` that the prompt was run with is
            taken over; any other cache is copied once and left alone.
        readable: bool [B, S], the positions that what follows may attend to.
        position: int64 [B], position id of the first token behind the prompt.
        start: what the first code is predicted from, hidden [B, 1, d].
        reserve: positions to reserve for keys and values when a buffer is first allocated or must grow.

    Raises:
        UserError: a cache that forgets positions.
    """

    @torch.inference_mode()
    def __init__(
        self,
        forward: Forward,
        embed: Callable[[Tensor], Tensor],
        head: Callable[[Step, Tensor | None], Tensor],
        cache: Cache,
        readable: Tensor,
        position: Tensor,
        start: Step,
        reserve: int = 160,
    ) -> None:
        self.forward, self.embed, self.head, self.start = forward, embed, head, start
        self.cache = cache if isinstance(cache, PooledCache) else PooledCache.continuing(cache, reserve)
        self.prompt = self.cached
        self.batch = len(position)
        if readable.shape != (self.batch, self.prompt):
            raise ValueError(
                f"readable {tuple(readable.shape)} must be [{self.batch}, {self.prompt}], the cached prompt"
            )
        self.readable, self.position = readable, position
        self.ancestry = Ancestry(self.batch, 0, position.device)
        self.forwarded: list[int] = []
        """Query positions per user of every forward pass so far."""

    @property
    def cached(self) -> int:
        """Positions per user in the cache."""
        return self.cache.layers[0].get_seq_length()

    def first(self) -> Step:
        """What the first code is predicted from: the prompt has been run already."""
        return self.start

    @torch.inference_mode()
    def logits(self, step: Step, tokens: Tensor | None = None) -> Tensor:
        """Logits of a step over some vocabulary ids, or over all of them."""
        return self.head(step, tokens)

    def _extend(self, tokens: Tensor, visible: Tensor, query_depth: Tensor, key_depth: Tensor) -> Step:
        self.forwarded.append(tokens.shape[1])
        prompt = self.readable[:, None].expand(-1, tokens.shape[1], -1)
        positions = self.position[:, None] + query_depth - 1
        allowed = torch.cat([prompt, visible.expand(self.batch, -1, -1)], dim=2)
        found = self.forward(self.embed(tokens), positions, allowed, self.cache)
        return found if isinstance(found, Step) else Step(found, None)

    def _rewind(self, size: int) -> None:
        self.cache.rewind(self.prompt + size)


@torch.inference_mode()
def read_prompts(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    reserve: int = 160,
    ignore_generation_config: bool = False,
) -> CausalDecoder:
    """Run token prompts through a whole causal LM and stand behind them.

    Args:
        model: a transformers causal LM, or a peft wrapper around one; in eval mode.
        input_ids: int64 [B, S] prompts of differing length, padded on either side.
        attention_mask: [B, S], nonzero on real tokens; None = no padding.
        reserve: see `CausalDecoder`.
        ignore_generation_config: see :func:`recbole_sigma.decoding.checks.refuse_unfit_model`.

    Raises:
        UserError: a model that cannot honour the mask, by rule where known and by a one-time probe of the
            model otherwise; a prompt that is empty or too long; a model in training mode; a generation
            config that warps logits.
    """
    refuse_unfit_model(model, ignore_generation_config)
    mask = prompt_mask(input_ids.shape[:2], attention_mask, input_ids.device)
    refuse_empty_prompts(mask)
    refuse_unfit_attention(model, int(mask.sum(dim=1).max()))
    if model.get_output_embeddings() is None:
        raise UserError(f"{type(model).__name__} has no output head: pass a causal LM.")
    _probe(model)
    return _behind(model, input_ids, mask, reserve)


def _behind(model: nn.Module, input_ids: Tensor, mask: Tensor, reserve: int) -> CausalDecoder:
    """`read_prompts` without its refusals."""
    input_ids, mask = _left_padded(input_ids, mask)
    cache = PooledCache(input_ids.shape[1] + reserve)
    positions = (mask.long().cumsum(dim=1) - 1).clamp_min_(0)
    # column 0 of a padded row sees itself, so that no row of the mask is empty
    itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    allowed = (mask[:, None, :] & torch.ones_like(itself).tril()) | itself
    embed = model.get_input_embeddings()
    step = _whole_model(model, embed(input_ids), positions, allowed, cache, last_only=True)
    return CausalDecoder(
        partial(_whole_model, model), embed, _own_logits, cache, mask, mask.sum(dim=1), step, reserve
    )


def _own_logits(step: Step, tokens: Tensor | None) -> Tensor:
    return step.logits if tokens is None else step.logits[..., tokens]


def _whole_model(
    model: nn.Module,
    embeddings: Tensor,
    positions: Tensor,
    allowed: Tensor,
    cache: Cache,
    last_only: bool = False,
) -> Step:
    """One forward pass of a causal LM, with the logits that the model itself makes."""
    inputs: dict[str, Any] = {"inputs_embeds": embeddings, "position_ids": positions}
    inputs.update(attention_mask=additive(allowed, embeddings.dtype)[:, None], past_key_values=cache)
    if last_only and "logits_to_keep" in _forward_arguments(model):
        inputs["logits_to_keep"] = 1
    seen: list[Tensor] = []
    # The head's input is the final hidden state in every causal LM, whatever the model's output object
    # offers.
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        logits = model(**inputs, use_cache=True).logits
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
    if setting(config, "is_encoder_decoder"):
        raise UserError(f"{name} is an encoder-decoder: decode it with recbole_sigma.decoding.t5.T5Decoder.")
    adapters = setting(model, "peft_config") or {}
    if isinstance(adapters, dict) and any(setting(each, "is_prompt_learning") for each in adapters.values()):
        raise UserError(
            "the peft adapter is a soft prompt, which moves positions inside the forward: use LoRA instead."
        )
    attention = config._attn_implementation
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
    kinds = set(setting(config, "layer_types") or ())
    if kinds - _FULL_LAYERS:
        raise UserError(
            f"{name} has layers of kind {sorted(kinds - _FULL_LAYERS)}: only full attention can share a "
            "prompt."
        )
    needed = prompt_length + new_tokens
    window = setting(config, "sliding_window")
    slides = "sliding_attention" in kinds or (
        not kinds and setting(config, "use_sliding_window") is not False
    )
    if window and slides and needed > window:
        raise UserError(
            f"{name} attends to a sliding window of {window} tokens but prompt and code need {needed}: "
            "shorten the prompt."
        )
    longest = setting(config, "max_position_embeddings")
    if longest and needed - new_tokens >= longest:
        raise UserError(
            f"the longest prompt has {prompt_length} tokens but {name} knows {longest} positions: shorten it."
        )


@torch.inference_mode()
def _probe(model: nn.Module) -> None:
    """Check once per model, on a small example, that beams sharing a prompt equal separate passes.

    The verdict is remembered for as long as the attention implementation and dtype stay the same.

    Raises:
        UserError: the model does not honour the mask (its outputs differ beyond rounding).
    """
    config = model.config.get_text_config()
    weight = next(model.parameters())
    key = (config._attn_implementation, weight.dtype, weight.device)
    if _probed.get(model) == key:
        return
    device, size = weight.device, config.vocab_size
    # Lengths 4, 2 and 3: a padded cache and reordered beams take part.
    prompt = torch.tensor([[2, 5, 3, 8], [0, 0, 7, 4], [0, 9, 6, 2]], device=device) % size
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1]], dtype=torch.bool, device=device)
    first = torch.tensor([[8, 9], [3, 11], [5, 7]], device=device) % size
    second = torch.tensor([[4, 10], [9, 2], [6, 3]], device=device) % size
    parents = torch.tensor([[1, 0], [1, 0], [0, 0]], device=device)
    shared = _behind(model, prompt, mask, 4)
    shared.advance(first, torch.zeros_like(parents))
    got = shared.advance(second, parents).hidden
    worst = torch.zeros((), device=device)
    for user in range(3):
        for beam in range(2):
            path = torch.stack([first[user, parents[user, beam]], second[user, beam]])
            sequence = torch.cat([prompt[user][mask[user]], path])[None]
            alone = _behind(model, sequence, torch.ones_like(sequence, dtype=torch.bool), 0)
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


def _left_padded(prompt: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move every row's real tokens to its end, and cut columns that are padding for all."""
    if bool(mask.all()):
        return prompt, mask
    longest = int(mask.sum(dim=1).max())
    order = torch.argsort(mask.int(), dim=1, stable=True)[:, -longest:]
    moved = prompt.gather(1, order if prompt.dim() == 2 else order[..., None].expand(-1, -1, prompt.shape[2]))
    return moved, mask.gather(1, order)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside a peft wrapper, or the model itself."""
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def _forward_arguments(model: nn.Module) -> set[str]:
    return set(inspect.signature(_unwrapped(model).forward).parameters)
