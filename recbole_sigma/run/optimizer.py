"""AdamW that updates single rows of large tables, and the gradient norm beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_


def adamw(params: Any, rate: float, decay: float) -> torch.optim.AdamW:
    """AdamW, fused. A weight with a row-sparse gradient is updated, and decays, in these rows alone.

    Moments of the other rows stay as they are until their next gradient, and the bias correction counts the
    steps of the whole weight: torch's SparseAdam, with AdamW's decay. The state is AdamW's, so checkpoints
    hold it.

    Args:
        params: weights or groups of them.
        rate: learning rate.
        decay: weight decay.
    """
    optimizer = torch.optim.AdamW(params, lr=rate, weight_decay=decay, fused=True)
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]  # the rows know no scale
    optimizer.register_step_pre_hook(_step_rows)
    return optimizer


@torch.no_grad()
def _step_rows(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Update the rows of every row-sparse gradient and take it away, before AdamW sees it."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None and weight.grad.is_sparse:
                gradient, weight.grad = weight.grad.coalesce(), None
                _step_of(optimizer.state[weight], weight, gradient.indices()[0], gradient.values(), group)


def _step_of(state: dict[str, Tensor], weight: Tensor, rows: Tensor, gradient: Tensor, group: Any) -> None:
    """One step of AdamW for some rows of a weight, each named once."""
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
    state["step"] += 1
    (first, second), steps = group["betas"], state["step"]
    mean = state["exp_avg"][rows].lerp_(gradient, 1 - first)
    square = state["exp_avg_sq"][rows].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    state["exp_avg"].index_copy_(0, rows, mean)
    state["exp_avg_sq"].index_copy_(0, rows, square)
    size = (square / (1 - second**steps)).sqrt_().add_(group["eps"])
    own = weight[rows].mul_(1 - group["lr"] * group["weight_decay"])
    own -= group["lr"] / (1 - first**steps) * mean / size
    weight.index_copy_(0, rows, own)


def clip(weights: Iterable[Tensor], **how: Any) -> Tensor:
    """`torch.nn.utils.clip_grad_norm_`, row-sparse gradients included."""
    gradients = []
    for weight in weights:
        if weight.grad is not None and weight.grad.is_sparse:
            weight.grad = weight.grad.coalesce()
            values = weight.grad.values()  # shares its memory, so what is scaled there is scaled here
            weight = values.detach()
            weight.grad = values
        gradients.append(weight)
    return clip_grad_norm_(gradients, **how)
