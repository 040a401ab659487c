"""LoRA on a pretrained language model (arXiv 2106.09685), through peft."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from recbole_sigma.settings.keys import LoraKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.values import UserError


@dataclass(frozen=True)
class LoraOptions:
    """Low-rank adapters (arXiv 2106.09685).

    Attributes:
        rank: r; 0 trains all weights instead.
        alpha: the update is scaled by alpha / r.
        dropout: on the adapter's input.
        targets: ``all-linear``, or the last parts of module names.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("all-linear",)


def lora_options(config: Any) -> LoraOptions:
    """The ``lora_*`` keys of a config: one setting for a pretrained backbone and a causal-lm encoder."""
    keys = read(LoraKeys, config)
    return LoraOptions(keys.lora_rank, keys.lora_alpha, keys.lora_dropout, keys.lora_targets)


def add_lora(model: nn.Module, options: LoraOptions, key: str) -> list[nn.Parameter]:
    """Freeze a model and put adapters into its linear layers, in place.

    Args:
        model: a transformers causal LM.
        options: with rank 0 nothing is frozen and no adapter is added.
        key: the option prefix for errors, ``lora``.

    Returns:
        The parameters that training changes.

    Raises:
        UserError: no module of the model has such a name.
    """
    if not options.rank:
        model.requires_grad_(True)
        return list(model.parameters())
    from peft import LoraConfig, inject_adapter_in_model
    from transformers.pytorch_utils import Conv1D

    linear = sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in model.base_model.named_modules()
            if isinstance(module, (nn.Linear, Conv1D))
        }
    )
    wanted = linear if options.targets == ("all-linear",) else list(options.targets)
    unknown = [name for name in wanted if name not in linear]
    if unknown or not wanted:
        raise UserError(
            f"{key}_targets: {unknown} name no linear layer of this model; use all-linear or some of {linear}"
        )
    # GPT-2 keeps its weights as [in, out]
    conv = any(isinstance(module, Conv1D) for module in model.modules())
    model.requires_grad_(False)
    inject_adapter_in_model(
        LoraConfig(
            r=options.rank,
            lora_alpha=options.alpha,
            lora_dropout=options.dropout,
            target_modules=rf".*\.({'|'.join(wanted)})",
            fan_in_fan_out=conv,
        ),
        model,
    )
    trained = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    for parameter in trained:
        parameter.data = parameter.data.float()  # adapters stay fp32 where the base is bf16
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    return trained


def merge_lora(model: nn.Module) -> None:
    """Fold the adapters into the weights, in place; the model then has its original modules."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
