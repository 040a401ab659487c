"""Causal language models as the trunk of SIGMA: trained from scratch, or pretrained through transformers."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer
from torch import Tensor, nn

from recbole_sigma.language.grown import GrownEmbedding, GrownHead, build_pretrained
from recbole_sigma.language.loading import check_causal_model
from recbole_sigma.language.lora import LoraOptions
from recbole_sigma.language.transformer import KeyValues, Transformer, TransformerShape, additive, columns_of
from recbole_sigma.values import UserError

SCRATCH_SHAPES = {"tiny": (64, 2, 2), "small": (128, 4, 4), "base": (256, 6, 8)}
"""Width, blocks and heads of a trunk that is trained from scratch."""


def build_backbone(
    name: str,
    vocab_size: int,
    max_positions: int,
    dropout: float,
    tokenizer: Tokenizer | None = None,
    lora: LoraOptions | None = None,
    checkpointing: bool = False,
) -> nn.Module:
    """Build the causal language model named by ``backbone``.

    ``scratch:<size>`` is a `transformer.Transformer` (dropout everywhere: what small data needs).
    ``pretrained:<name or folder>`` is `build_pretrained`.

    Args:
        name: ``scratch:tiny``, ``scratch:small``, ``scratch:base`` or ``pretrained:<name or folder>``.
        vocab_size: size of the tokenizer, semantic-ID tokens included.
        max_positions: longest packed row or prompt.
        dropout: embedding, attention and residual dropout of a scratch model.
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
    return Transformer(
        TransformerShape(vocab_size, max_positions, *SCRATCH_SHAPES[size], dropout), checkpointing
    )


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


def compiled_parts(model: nn.Module) -> list[nn.Module]:
    """What torch.compile is given of a trunk: all of one from scratch, each layer of a pretrained one, which
    are alike and are compiled once.
    """
    if isinstance(model, Transformer):
        return [model]
    stacks = [list(part) for part in model.modules() if isinstance(part, nn.ModuleList)]
    return max(stacks, key=len) if stacks else [model]


def empty_cache(model: Any) -> Any:
    """Where `hidden_states` keeps keys and values: `KeyValues`, or the same for transformers."""
    if isinstance(model, Transformer):
        return KeyValues(model.config.num_hidden_layers)
    from recbole_sigma.language.pooled import PooledCache

    return PooledCache(0)


def hidden_states(
    model: nn.Module,
    embeddings: Tensor,
    positions: Tensor,
    allowed: Tensor,
    cache: Any = None,
    wanted: Tensor | None = None,
) -> Tensor:
    """Last hidden states of the trunk (before the output embedding).

    Args:
        model: what `build_backbone` gave.
        embeddings: float [B, Q, d] input embeddings.
        positions: int64 [B, Q] position ids.
        allowed: bool [B, Q, S]; S = cached length + Q.
        cache: of `empty_cache`'s kind; it is read and extended. None for nothing.
        wanted: int64 [B, W], the columns whose states are asked for; None for all.

    Returns:
        float [B, Q, d], or [B, W, d].
    """
    if isinstance(model, Transformer):
        return model(embeddings, positions, allowed, cache, wanted)
    output = model.base_model(
        inputs_embeds=embeddings,
        position_ids=positions,
        attention_mask=additive(allowed, embeddings.dtype)[:, None],  # the form that sdpa and eager take
        past_key_values=cache,
        use_cache=cache is not None,
    )
    states = output.last_hidden_state
    return states if wanted is None else columns_of(states, wanted)
