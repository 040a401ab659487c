"""AdamW that updates single rows of large tables when they are read, and the gradient norm beside it.

A row without a gradient still moves under AdamW: its momentum runs on, its moments and the weight decay.
Nobody sees that before the row is read again, so `adamw` puts it off: a table whose gradients are row-sparse
remembers the step up to which each row is done, and the steps that a row missed are made up for in one go
before it is read. The weights are those of AdamW over the whole table; the cost is that of the rows met.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

FADED = 128  # steps after which momentum, at 0.9005 a step against the root of the second moment, is spent
_ROWS = 1 << 16  # rows made up for at once


def adamw(model: nn.Module, params: Any, rate: float, decay: float) -> torch.optim.AdamW:
    """AdamW, fused; see the module's docstring for tables that are ``nn.Embedding(sparse=True)``.

    Missed steps are taken at today's learning rate, and AdamW's eps counts once for all of them. The state
    has AdamW's names; of such a table ``step`` is float32 [N], the step up to which each row is done.

    Args:
        model: its sparse embeddings are brought up to date when they are called.
        params: weights of the model, or groups of them.
        rate: learning rate.
        decay: weight decay.
    """
    optimizer = torch.optim.AdamW(params, lr=rate, weight_decay=decay, fused=True)
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]  # the rows know no scale
    optimizer.register_step_pre_hook(_step_rows)
    for table in model.modules():
        if isinstance(table, nn.Embedding) and table.sparse:
            table.register_forward_pre_hook(
                lambda read, ids: _make_up(optimizer, read.weight, ids[0].unique())
            )
    return optimizer


def _by_rows(state: dict[str, Any] | None) -> bool:
    """Whether a weight's state counts the steps of each row; other optimizers may count in plain numbers."""
    step = (state or {}).get("step")
    return isinstance(step, Tensor) and step.dim() > 0


@torch.no_grad()
def settle(optimizer: torch.optim.Optimizer) -> None:
    """Bring every row up to date, for whoever reads whole tables: an evaluation, a checkpoint of weights."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if _by_rows(optimizer.state.get(weight)):
                for rows in torch.arange(len(weight), device=weight.device).split(_ROWS):
                    _make_up(optimizer, weight, rows)


@torch.no_grad()
def _step_rows(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Take the step of every row-sparse gradient and then the gradient away, before AdamW sees it."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None and weight.grad.is_sparse:
                gradient, weight.grad = weight.grad.coalesce(), None
                _step_of(optimizer, weight, gradient.indices()[0], gradient.values(), group)


def _step_of(optimizer: Any, weight: Tensor, rows: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
    """One step of AdamW for some rows of a table, each named once."""
    state = optimizer.state[weight]
    if not state:
        state["step"] = torch.zeros(len(weight), dtype=torch.float32, device=weight.device)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
    _make_up(optimizer, weight, rows)
    (first, second), steps = group["betas"], state["step"].max().double() + 1
    mean = state["exp_avg"][rows].lerp_(gradient, 1 - first)
    square = state["exp_avg_sq"][rows].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    size = (square / (1 - second**steps)).sqrt_().add_(group["eps"])
    own = weight[rows].mul_(1 - group["lr"] * group["weight_decay"])
    own -= (group["lr"] / (1 - first**steps)).to(own.dtype) * mean / size
    _write(state, weight, rows, own, mean, square, step=steps)


@torch.no_grad()
def _make_up(optimizer: Any, weight: Tensor, rows: Tensor) -> None:
    """Take the steps that some rows of a table missed, up to the table's last one."""
    state = optimizer.state.get(weight)
    if not _by_rows(state):
        return
    done, now = state["step"][rows].double(), state["step"].max().double()
    behind = done < now
    rows, done = rows[behind], done[behind]
    if not len(rows):
        return
    group = next(one for one in optimizer.param_groups if any(each is weight for each in one["params"]))
    (first, second), missed = group["betas"], now - done
    kept = 1 - group["lr"] * group["weight_decay"]
    # What momentum adds over the missed steps, as a multiple of lr m / sqrt(v). Step number s + j moves by
    # m first^j / (1 - first^(s + j)) over the root of v second^j / (1 - second^(s + j)).
    total, fade = torch.zeros_like(done), 1.0
    mean_left, square_left = first**done, second**done
    for step in range(1, min(int(missed.max()), FADED) + 1):
        fade *= first / second**0.5
        mean_left, square_left = mean_left * first, square_left * second
        move = fade * (1 - square_left).sqrt() / (1 - mean_left)
        total = torch.where(missed >= step, total * kept + move, total)
    total *= kept ** (missed - FADED).clamp_min(0)
    mean, square = state["exp_avg"][rows], state["exp_avg_sq"][rows]
    own = weight[rows] * (kept**missed)[:, None].to(weight.dtype)
    own -= (group["lr"] * total)[:, None].to(own.dtype) * mean / square.sqrt().add_(group["eps"])
    mean *= (first**missed)[:, None].to(mean.dtype)
    square *= (second**missed)[:, None].to(square.dtype)
    _write(state, weight, rows, own, mean, square, step=now)


def _write(state: Any, weight: Tensor, rows: Tensor, own: Tensor, *moments: Tensor, step: Tensor) -> None:
    for table, values in zip((weight, state["exp_avg"], state["exp_avg_sq"]), (own, *moments), strict=True):
        table.index_copy_(0, rows, values)
    state["step"][rows] = step.to(torch.float32)


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


def take_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any, limit: dict[str, Any] | None
) -> None:
    """Clip the gradients of a model and let its optimizer step.

    Args:
        model: with its gradients.
        optimizer: of its weights.
        scaler: a `torch.amp.GradScaler`, which may be switched off.
        limit: of `clip`; None or empty for none.
    """
    if limit:
        scaler.unscale_(optimizer)
        clip(model.parameters(), **limit)
    scaler.step(optimizer)
    scaler.update()
