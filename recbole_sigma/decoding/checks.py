"""Refusals shared by the decoding back ends: settings under which a search would break its promises."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from recbole_sigma.language.loading import setting
from recbole_sigma.values import UserError

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "do_sample": (None, False),
    "repetition_penalty": (None, 1.0),
    "encoder_repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None, []),
    "sequence_bias": (None, {}, []),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "exponential_decay_length_penalty": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "guidance_scale": (None, 1.0),
    "renormalize_logits": (None, False),
    "watermarking_config": (None,),
}
"""Keys of a generation config that change logits, each with the values under which it does nothing.
Temperature, top_k and the like act under ``do_sample`` only."""


def warping_settings(generation_config: Any) -> dict[str, Any]:
    """Settings of a transformers ``GenerationConfig`` that change logits or sample, as {key: value}."""
    if generation_config is None:
        return {}
    found = {}
    for key, neutral in _NEUTRAL.items():
        value = setting(generation_config, key)
        if not any(value == allowed and type(value) in (type(allowed), int, float) for allowed in neutral):
            found[key] = value
    return found


def refuse_unfit_model(model: Any, ignore_generation_config: bool) -> None:
    """Refuse a model in training mode, and one whose generation config asks for more than a plain search.

    Args:
        model: a transformers model or a peft wrapper around one.
        ignore_generation_config: search with the model's own logits all the same, and say so in the log.

    Raises:
        UserError: naming the settings and both remedies.
    """
    if model.training:
        raise UserError(
            "the model is in training mode, so dropout would change the ranking: call model.eval() first."
        )
    found = warping_settings(setting(model, "generation_config"))
    if not found:
        return
    listed = ", ".join(f"{key}={value!r}" for key, value in found.items())
    if ignore_generation_config:
        logging.getLogger(__name__).info(
            "ignoring the model's generation_config (%s): the beam never uses it.", listed
        )
        return
    raise UserError(
        f"the model's generation_config sets {listed}, which warps logits or samples, while constrained "
        "decoding ranks by the model's own log-probabilities: reset it with model.generation_config = "
        "GenerationConfig() or pass ignore_generation_config=True."
    )


def refuse_empty_prompts(mask: Tensor) -> None:
    """Refuse a prompt without a single token: there is nothing to condition on.

    Args:
        mask: bool [B, S], true on real tokens.
    """
    filled = mask.any(dim=1)
    if not bool(filled.all()):
        row = int((~filled).nonzero()[0])
        raise UserError(f"row {row} of the batch has an empty prompt (its attention mask is all zero).")


def prompt_mask(shape: torch.Size, attention_mask: Tensor | None, device: torch.device) -> Tensor:
    """The prompt's mask as bool [B, S]; all true if none is given."""
    if attention_mask is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    if attention_mask.shape != shape:
        raise ValueError(
            f"attention_mask {tuple(attention_mask.shape)} does not fit a prompt of shape {tuple(shape)}"
        )
    return attention_mask.bool()
