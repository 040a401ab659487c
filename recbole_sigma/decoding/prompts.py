"""Token prompts of any transformers causal LM, run once, with a `CausalDecoder` behind them.

What a model must do to be read this way is checked: by rule where a rule is known, and by a probe of the
model itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from recbole_sigma.decoding.causal import CausalDecoder
from recbole_sigma.decoding.checks import prompt_mask, refuse_empty_prompts, refuse_unfit_model
from recbole_sigma.decoding.kv import Step
from recbole_sigma.language.loading import setting
from recbole_sigma.language.pooled import PooledCache
from recbole_sigma.language.transformer import additive
from recbole_sigma.values import UserError

_RELIABLE_ATTENTION = ("sdpa", "eager")
_FULL_LAYERS = {"full_attention", "sliding_attention"}
_FULL = 0.9
"""Share of real tokens from which prompts are not packed."""
_probed: WeakKeyDictionary[nn.Module, tuple] = WeakKeyDictionary()


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
        reserve: positions to make room for behind the prompts.
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
    lengths = mask.sum(dim=1)
    packing = None if int(lengths.sum()) > _FULL * mask.numel() else _Packing(lengths)
    embed = model.get_input_embeddings()
    if packing is None:
        cache = PooledCache(input_ids.shape[1] + reserve)
        positions = (mask.long().cumsum(dim=1) - 1).clamp_min_(0)
        # column 0 of a padded row sees itself, so that no row of the mask is empty
        itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        allowed = (mask[:, None, :] & torch.ones_like(itself).tril()) | itself
        step = _whole_model(model, embed(input_ids), positions, allowed, cache, lambda hidden: hidden[:, -1:])
    else:
        read = PooledCache(0)
        tokens = packing.packed(input_ids[mask])
        step = _whole_model(model, embed(tokens), packing.positions, packing.allowed, read, packing.last)
        cache = read.unpacked(packing.row, packing.places(mask.shape[1]), reserve)
    return CausalDecoder(partial(_whole_model, model), embed, _own_logits, cache, mask, lengths, step)


class _Packing:
    """Prompts side by side in few rows, each reading itself alone: padding would cost as much as words.

    The longest go first, each to the shortest row. Rows are about twice as long as the longest prompt: longer
    ones would cost more in attention than they spare.

    Args:
        lengths: int64 [B], tokens of each prompt.

    Attributes:
        row, start: int64 [B], where each prompt begins.
        positions: int64 [R, L].
        allowed: bool [R, L, L].
    """

    def __init__(self, lengths: Tensor) -> None:
        self.lengths = lengths
        sizes = lengths.tolist()
        filled = [0] * -(-sum(sizes) // (2 * max(sizes)))
        places = [(0, 0)] * len(sizes)
        for prompt in sorted(range(len(sizes)), key=lambda each: -sizes[each]):
            row = filled.index(min(filled))
            places[prompt] = (row, filled[row])
            filled[row] += sizes[prompt]
        self.row, self.start = torch.tensor(places, device=lengths.device).T.contiguous()
        self.shape = (len(filled), max(filled))
        user = torch.repeat_interleave(lengths)
        position = torch.arange(len(user), device=user.device) - (lengths.cumsum(0) - lengths)[user]
        self.flat = self.row[user] * self.shape[1] + self.start[user] + position
        owner, self.positions = self.packed(user + 1), self.packed(position)
        causal = self.positions[:, None] <= self.positions[:, :, None]
        self.allowed = (owner[:, None] == owner[:, :, None]) & causal  # what is left over reads itself

    def packed(self, values: Tensor) -> Tensor:
        """Values [T] of all tokens, prompt after prompt, in their rows: [R, L], 0 elsewhere."""
        return values.new_zeros(self.shape).view(-1).index_copy_(0, self.flat, values).view(self.shape)

    def last(self, hidden: Tensor) -> Tensor:
        """The states [B, 1, d] of the last tokens among all [R, L, d]."""
        return hidden[self.row, self.start + self.lengths - 1][:, None]

    def places(self, width: int) -> Tensor:
        """Columns [B, width] of each prompt's tokens, at the right end; any before them."""
        back = torch.arange(width, device=self.row.device) - width
        return (self.start + self.lengths)[:, None] + back.clamp_min(-self.lengths[:, None])


def _own_logits(step: Step, tokens: Tensor | None) -> Tensor:
    return step.logits if tokens is None else step.logits[..., tokens]


def _whole_model(
    model: nn.Module,
    embeddings: Tensor,
    positions: Tensor,
    allowed: Tensor,
    cache: PooledCache,
    wanted: Callable[[Tensor], Tensor] = lambda hidden: hidden,
) -> Step:
    """One forward pass of a causal LM, with the logits that it makes itself of the ``wanted`` states."""
    inputs: dict[str, Any] = {"inputs_embeds": embeddings, "position_ids": positions}
    inputs.update(attention_mask=additive(allowed, embeddings.dtype)[:, None], past_key_values=cache)
    seen: list[Tensor] = []

    # The head's input is the final hidden state in every causal LM, whatever the model's output object
    # offers.
    def before_head(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        seen.append(wanted(args[0]))
        return (seen[-1],)

    hook = model.get_output_embeddings().register_forward_pre_hook(before_head)  # type: ignore[operator]
    try:
        logits = model(**inputs, use_cache=True).logits
    finally:
        hook.remove()
    return Step(seen[-1], logits)


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
