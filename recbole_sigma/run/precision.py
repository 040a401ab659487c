"""What lets a large model train in small memory: bf16, a batch in pieces, and what it will take."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from recbole_sigma.language.loading import setting
from recbole_sigma.models.contract import contract
from recbole_sigma.values import UserError


def precision(name: str, device: torch.device) -> torch.dtype | None:
    """Type of matrix products in training, or None for fp32.

    Args:
        name: ``fp32``, ``bf16``, or ``auto``: bf16 where an accelerator computes it, fp32 elsewhere.
        device: where the model is.

    Raises:
        UserError: bf16 on an accelerator that lacks it.
    """
    able = device.type != "cuda" or torch.cuda.is_bf16_supported()
    if name == "bf16" and not able:
        raise UserError("train_precision: this accelerator cannot compute in bf16; use fp32 or auto")
    half = name == "bf16" or (name == "auto" and device.type == "cuda" and able)
    return torch.bfloat16 if half else None


@contextlib.contextmanager
def fast_products(half: torch.dtype | None) -> Iterator[None]:
    """Let the products that stay in fp32 run in TF32 where the others run in bf16: eight times the rate, and
    still three more digits than those have.

    Args:
        half: what `precision` chose.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before if half is None else "high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def wants_compile(name: str) -> bool:
    """Whether ``train_compile`` means torch.compile.

    Raises:
        UserError: asked for, and nothing that could compile is installed.
    """
    if name == "on" and not any(shutil.which(compiler) for compiler in ("cc", "gcc", "clang")):
        raise UserError("train_compile: torch.compile needs a C compiler (gcc); install one, or use off")
    return name == "on"


def pieces(interaction: Any, count: int, length_field: str | None) -> Iterator[tuple[Any, int]]:
    """Split a batch for gradient accumulation; rows of similar length go together, so pieces waste no
    padding.

    Args:
        interaction: a RecBole batch.
        count: number of pieces; a batch with fewer rows gives fewer.
        length_field: name of the column with sequence lengths, or None to keep the order of rows.

    Yields:
        (interaction, its number of rows).
    """
    rows = len(interaction)
    if count <= 1 or rows <= 1:
        yield interaction, rows
        return
    order = torch.arange(rows)
    if length_field is not None and length_field in interaction.interaction:
        order = torch.argsort(interaction[length_field].cpu(), stable=True)
    for part in order.tensor_split(min(count, rows)):
        yield interaction[part], len(part)


def loss_weight(model: Any, interaction: Any) -> float:
    """How much of a batch's mean loss a piece makes: predictions where the model counts them, else rows."""
    return contract(model).prediction_count(interaction)


def memory_estimate(model: nn.Module, positions: int, half: bool) -> dict[str, float]:
    """What training will hold, in GiB: exact for weights, gradients and AdamW, a model for activations.

    Activations of a transformer, per position and layer, counted as 34 d bytes in 16 bits and 68 d in 32
    (Korthikanti et al., arXiv 2205.05198, without the attention scores, which sdpa does not keep).

    Args:
        model: the whole model.
        positions: positions of one forward pass, padding included.
        half: bf16 autocast.
    """
    weights = sum(value.numel() * value.element_size() for value in [*model.parameters(), *model.buffers()])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = sum(parameter.numel() * parameter.element_size() for parameter in trained)
    activations = 0.0
    for part in model.modules():
        config = setting(part, "config")
        if setting(config, "num_hidden_layers") and setting(part, "base_model_prefix") is not None:
            per_layer = (34 if half else 68) * config.hidden_size * positions
            kept = 2 * config.hidden_size * positions if _recomputes(part) else per_layer
            activations = float(per_layer + (config.num_hidden_layers - 1) * kept)
            break
    parts = {
        "weights": float(weights),
        "gradients": float(gradients),
        "optimizer": 2.0 * gradients,
        "activations": activations,
    }
    parts["total"] = sum(parts.values())
    return {name: value / 2**30 for name, value in parts.items()}


def _recomputes(model: Any) -> bool:
    """Whether a transformers model recomputes activations in the backward pass."""
    found = setting(model, "is_activation_checkpointing")
    return bool(model.is_gradient_checkpointing if found is None else found)  # transformers before 5 has one


def memory_sentence(model: nn.Module, positions: int, half: bool) -> str:
    """One line for the log, with the remedy when the device has less."""
    need = memory_estimate(model, positions, half)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    whole = sum(parameter.numel() for parameter in model.parameters())
    shown = ", ".join(f"{name} {value:.2f}" for name, value in need.items() if name != "total")
    line = (
        f"training {trained:,} of {whole:,} parameters will hold about {need['total']:.2f} GiB ({shown}),"
        " item scores not counted"
    )
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] / 2**30 + need["weights"]
        if need["total"] > free:
            line += (
                f"; the device has {free:.1f} GiB: raise train_accumulation, set backbone_checkpointing: True"
                " or train_precision: bf16"
            )
    return line
