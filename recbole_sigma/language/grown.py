"""A pretrained language model as trunk: its weights and vocabulary kept, adapters and new rows trained.

Only what training changes is in the ``state_dict``: LoRA factors, the rows of new tokens, and the
fingerprints of the base. A checkpoint is therefore a few MB, and loading it onto another base is refused.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from recbole_sigma.language.loading import (
    load_causal_model,
    load_tokenizer,
    quiet,
    recompute_activations,
    setting,
    vocabulary_fingerprint,
    weights_fingerprint,
)
from recbole_sigma.language.lora import LoraOptions, add_lora, merge_lora
from recbole_sigma.machine.files import writing
from recbole_sigma.values import UserError

VOCABULARY, WEIGHTS = "base_vocabulary", "base_weights"


class GrownEmbedding(nn.Module):
    """An embedding that stays as it is, with trained rows for the ids from ``first`` on.

    Args:
        base: the model's own embedding; rows from ``first`` on (padding of the table) are not used.
        first: id of the first new token.
        rows: float [n, d], the new rows.
    """

    def __init__(self, base: nn.Module, first: int, rows: nn.Parameter) -> None:
        super().__init__()
        self.base, self.first, self.rows = base, first, rows

    @property
    def weight(self) -> Tensor:
        """The base's own table; its width is the model's."""
        weight = self.base.weight
        assert isinstance(weight, Tensor)
        return weight

    def forward(self, ids: Tensor) -> Tensor:
        new = ids >= self.first
        own = F.embedding((ids - self.first).clamp(min=0), self.rows) if len(self.rows) else None
        base = self.base(ids.masked_fill(new, 0))
        return base if own is None else torch.where(new[..., None], own.to(base.dtype), base)


class GrownHead(nn.Module):
    """An output embedding that stays as it is, with rows for the new ids after the first ``first`` ones."""

    def __init__(self, base: nn.Module, first: int, rows: nn.Parameter) -> None:
        super().__init__()
        self.base, self.first, self.rows = base, first, rows

    def forward(self, states: Tensor) -> Tensor:
        return torch.cat(
            [self.base(states)[..., : self.first], F.linear(states, self.rows.to(states.dtype))], -1
        )

    def take(self, ids: Tensor) -> Tensor:
        """Rows of some ids: float [*ids.shape, d]."""
        weight = self.base.weight
        assert isinstance(weight, Tensor)
        new = ids >= self.first
        if ids.device.type == "cpu" and bool(new.all()):  # semantic-ID tokens: the usual case
            return self.rows[ids - self.first]
        old = weight[ids.masked_fill(new, 0)].to(self.rows.dtype)
        if not len(self.rows):
            return old
        return torch.where(new[..., None], self.rows[(ids - self.first).clamp(min=0)], old)


def build_pretrained(
    name: str,
    tokenizer: Tokenizer,
    max_positions: int,
    lora: LoraOptions,
    checkpointing: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """Load a causal language model and make it grow: adapters inside, new rows at both ends.

    A new row starts at the mean of the model's own rows plus a little noise, so that no token begins far from
    all others. Where the base ties input and output embedding, so do the new rows.

    Args:
        name: folder or hub name.
        tokenizer: from ``instructions.prompts.pretrained_tokenizer`` of the same name.
        max_positions: longest packed row or prompt.
        lora: adapters; rank 0 trains every weight.
        checkpointing: recompute activations in the backward pass.
        dtype: of the frozen weights; the trained ones are fp32.

    Raises:
        UserError: the model cannot be loaded, is no causal language model, is too short for
            ``max_positions``, or its tokenizer is another model's.
    """
    model = load_causal_model(name, "backbone", torch.float32 if not lora.rank else dtype)
    base = load_tokenizer(name, "backbone")
    limit = setting(model.config, "max_position_embeddings")
    if limit is not None and max_positions > limit:
        raise UserError(
            f"backbone: '{name}' reads at most {limit} positions but a packed row takes {max_positions}:"
            " lower MAX_ITEM_LIST_LENGTH or tokenizer_prefix_length, or take another model"
        )
    table, first = model.get_input_embeddings(), base.get_vocab_size(with_added_tokens=True)
    if first > len(table.weight):
        raise UserError(
            f"backbone: the tokenizer of '{name}' has {first} tokens but the model {len(table.weight)}"
            " embeddings: tokenizer and weights belong to different models"
        )
    kept, own = tokenizer.get_vocab(with_added_tokens=True), base.get_vocab(with_added_tokens=True)
    if any(kept.get(token) != number for token, number in own.items()):
        raise UserError(_other_base(name, "vocabulary"))
    fingerprints = {VOCABULARY: vocabulary_fingerprint(base), WEIGHTS: weights_fingerprint(model)}
    grow_pretrained(model, first, tokenizer.get_vocab_size(with_added_tokens=True) - first, lora)
    for key, value in fingerprints.items():
        model.register_buffer(key, value)
    if checkpointing:
        recompute_activations(model)
    _keep_only_trained(model, name)
    return model


def grow_pretrained(model: Any, first: int, count: int, lora: LoraOptions) -> None:
    """Adapters inside and new rows at both ends of a loaded model, in place.

    Args:
        model: a transformers causal LM.
        first: id of the first new token.
        count: number of new tokens.
        lora: adapters; rank 0 trains every weight.
    """
    add_lora(model, lora, "lora")
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is table.weight

    def rows(weight: Tensor) -> nn.Parameter:
        known = weight[:first].detach().float()
        noise = torch.randn(count, known.shape[1]).to(known.device) * known.std() * 0.1
        return nn.Parameter(known.mean(dim=0) + noise)

    grown = GrownEmbedding(table, first, rows(table.weight))
    model.set_input_embeddings(grown)
    if head is not None:
        model.set_output_embeddings(GrownHead(head, first, grown.rows if tied else rows(head.weight)))


def _keep_only_trained(model: Any, name: str) -> None:
    """Leave frozen weights out of the ``state_dict``, and check the base when one is loaded."""

    def frozen(prefix: str) -> set[str]:
        return {
            prefix + key
            for key, value in model.named_parameters(remove_duplicate=False)
            if not value.requires_grad
        }

    def drop(module: nn.Module, state: dict[str, Any], prefix: str, meta: Any) -> None:
        for key in frozen(prefix):
            state.pop(key, None)

    where = {"prefix": ""}

    def check_base(state: dict[str, Any], prefix: str) -> None:
        for key, what in ((VOCABULARY, "vocabulary"), (WEIGHTS, "weights")):
            stored = state.get(prefix + key)
            if stored is not None and not torch.equal(stored.cpu(), model.get_buffer(key).cpu()):
                raise UserError(_other_base(name, what))

    def check(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        where["prefix"] = prefix
        check_base(state, prefix)

    def excuse(module: nn.Module, result: Any) -> None:
        absent = frozen(where["prefix"])
        result.missing_keys[:] = [key for key in result.missing_keys if key not in absent]

    model.check_base = check_base  # `checkpoint.load_weights` asks before it compares shapes
    model.register_state_dict_post_hook(drop)
    model.register_load_state_dict_pre_hook(check)
    model.register_load_state_dict_post_hook(excuse)


def _other_base(name: str, what: str) -> str:
    return (
        f"backbone: the adapter was trained on a base with other {what} than '{name}' has now: name the model"
        " it was trained on, in its original version, or train again"
    )


def export_merged(
    model: Any,
    tokenizer: Tokenizer,
    folder: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the language model as a plain transformers folder: adapters merged, new rows in the tables.

    The model is changed in place and cannot be trained on. The fused item tokens are not part of it: they
    live in the checkpoint.

    Args:
        model: from `build_pretrained`.
        tokenizer: the one it was built with.
        folder: created; must be empty or absent.
        dtype: of the written weights.

    Raises:
        UserError: the folder holds something or cannot be written.
    """
    from transformers import PreTrainedTokenizerFast

    target = Path(folder)
    check_empty(target)
    merge_lora(model)
    grown, head = model.get_input_embeddings(), model.get_output_embeddings()
    total = grown.first + len(grown.rows)
    tied = head is not None and head.rows is grown.rows
    model.set_input_embeddings(grown.base)
    if head is not None:
        model.set_output_embeddings(head.base)
    if total > len(grown.base.weight):
        model.resize_token_embeddings(total, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[grown.first : total] = grown.rows.to(grown.base.weight.dtype)
        if head is not None and not tied:
            model.get_output_embeddings().weight[head.first : total] = head.rows.to(head.base.weight.dtype)
    for key in (VOCABULARY, WEIGHTS):
        delattr(model, key)
    del model.check_base
    model._state_dict_hooks.clear()
    model.to(dtype)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with writing(target, "free the space, or name another folder"):
            with quiet():
                model.save_pretrained(temporary)
                PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(temporary)
            if target.exists():
                target.rmdir()
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_empty(target: Path) -> None:
    """Refuse a folder to export to that holds something."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"the export folder {target} is not empty: name another, nothing was overwritten")
