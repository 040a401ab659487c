"""Causal language models as the trunk of SIGMA, through transformers; one path for every size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from recbole_sigma.language.grown import GrownEmbedding, GrownHead, build_pretrained
from recbole_sigma.language.loading import check_causal_model, recompute_activations
from recbole_sigma.language.lora import LoraOptions
from recbole_sigma.values import UserError


@dataclass(frozen=True)
class ScratchShape:
    """Width, depth and heads of a trunk that is trained from scratch."""

    d_model: int
    layers: int
    heads: int


SCRATCH_SHAPES = {
    "tiny": ScratchShape(64, 2, 2),
    "small": ScratchShape(128, 4, 4),
    "base": ScratchShape(256, 6, 8),
}


def build_backbone(
    name: str,
    vocab_size: int,
    max_positions: int,
    dropout: float,
    pad_id: int,
    start_id: int,
    end_id: int,
    tokenizer: Tokenizer | None = None,
    lora: LoraOptions | None = None,
    checkpointing: bool = False,
) -> nn.Module:
    """Build the causal language model named by ``backbone``.

    ``scratch:<size>`` is a GPT-2 shape (pre-norm, learned positions, dropout everywhere: what small data
    needs) with input and output embeddings untied. ``pretrained:<name or folder>`` is `build_pretrained`.

    Args:
        name: ``scratch:tiny``, ``scratch:small``, ``scratch:base`` or ``pretrained:<name or folder>``.
        vocab_size: size of the tokenizer, semantic-ID tokens included.
        max_positions: longest packed row or prompt.
        dropout: embedding, attention and residual dropout of a scratch model.
        pad_id: id of the padding token.
        start_id: id of the start token.
        end_id: id of the end token.
        tokenizer: of a pretrained model, with the new tokens.
        lora: adapters of a pretrained model; None takes the defaults.
        checkpointing: recompute activations in the backward pass (less memory, a third more time).

    Raises:
        UserError: unknown name, or a pretrained model that cannot be used.
    """
    kind, _, size = name.partition(":")
    if kind == "pretrained":
        if tokenizer is None:
            raise ValueError("a pretrained backbone needs its tokenizer")
        return build_pretrained(size, tokenizer, max_positions, lora or LoraOptions(), checkpointing)
    check_backbone(name)
    from transformers import AutoModelForCausalLM, GPT2Config

    shape = SCRATCH_SHAPES[size]
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=max_positions,
        n_embd=shape.d_model,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_inner=4 * shape.d_model,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        resid_pdrop=dropout,
        tie_word_embeddings=False,
        pad_token_id=pad_id,
        bos_token_id=start_id,
        eos_token_id=end_id,
        attn_implementation="sdpa",
    )
    model = AutoModelForCausalLM.from_config(config)
    if checkpointing:
        recompute_activations(model)
    return model


def check_backbone(name: str) -> None:
    """Refuse what `build_backbone` would refuse, before anything expensive is done; reads no weights.

    Raises:
        UserError: unknown name, or a pretrained model that cannot be used.
    """
    kind, _, size = name.partition(":")
    if kind == "pretrained":
        check_causal_model(size, "backbone")
    elif kind != "scratch" or size not in SCRATCH_SHAPES:
        known = ", ".join(f"scratch:{key}" for key in SCRATCH_SHAPES)
        raise UserError(f"backbone: '{name}' is unknown; use one of {known}, or pretrained:<name or folder>")


def output_rows(model: Any, ids: Tensor) -> Tensor:
    """Rows of the output embedding, float [*ids.shape, d]; a grown vocabulary included."""
    head = model.get_output_embeddings()
    return head.take(ids) if isinstance(head, GrownHead) else head.weight[ids]


def embedding_scale(model: Any) -> float:
    """Factor on item tokens, which have unit variance, so that they are as long as a pretrained model's
    words.

    A pretrained model's embeddings have a root mean square of about 0.02 to 1; a token fifty times as long as
    its neighbours drowns them in the first normalisation of the residual stream. 1 for scratch models, which
    grow up with their items.
    """
    table = model.get_input_embeddings()
    if not isinstance(table, GrownEmbedding):
        return 1.0
    return float(table.weight[: min(table.first, 8192)].detach().float().square().mean().sqrt())


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a boolean [B, Q, S] 'may attend' table into the additive 4-D mask [B, 1, Q, S] that sdpa and eager
    take.
    """
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min).unsqueeze(1)


def hidden_states(
    model: nn.Module, embeddings: Tensor, positions: Tensor, allowed: Tensor, cache: object | None = None
) -> Tensor:
    """Last hidden states of the trunk (before the output embedding).

    Args:
        model: a transformers causal LM.
        embeddings: float [B, Q, d] input embeddings.
        positions: int64 [B, Q] position ids.
        allowed: bool [B, Q, S]; S = cached length + Q.
        cache: a transformers ``Cache`` that is read and extended, or None.

    Returns:
        float [B, Q, d].
    """
    output = model.base_model(
        inputs_embeds=embeddings,
        position_ids=positions,
        attention_mask=additive_mask(allowed, embeddings.dtype),
        past_key_values=cache,
        use_cache=cache is not None,
    )
    return output.last_hidden_state
