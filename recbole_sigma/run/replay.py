"""Training steps as one launch: losses and gradients of equal shapes are recorded once and then replayed.

The steps of a small model are hundreds of small launches, and a card finishes each sooner than the host sends
the next. A CUDA graph holds them all. What it computes is the same, kernel for kernel; random numbers come
from the same generator, in the same order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from recbole_sigma.models.contract import contract
from recbole_sigma.run.optimizer import clip

MOST = 48  # recordings of one model; batches of further shapes are computed step by step


@dataclass(frozen=True)
class Recording:
    """One recorded step.

    Attributes:
        graph: forward and backward pass.
        inputs: the tensors that it reads, to be overwritten before a replay.
        losses: the tensors [] that it writes.
        several: whether the model gives its losses as parts.
        trained: the weights that it gives a gradient.
    """

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    losses: tuple[Tensor, ...]
    several: bool
    trained: list[nn.Parameter]


class Replay:
    """Losses and gradients of batches whose shapes came before.

    The first batch of each shape is computed step by step, which also lets the libraries choose their
    kernels; the second is recorded.

    Args:
        model: on its device.
        enabled: otherwise every batch is left to the caller.
    """

    def __init__(self, model: nn.Module, enabled: bool) -> None:
        self.model, self.enabled = model, enabled
        self.found: dict[Hashable, Recording | None] = {}
        self.pool: Any = None  # recordings are replayed one at a time and share their memory
        self.gradients: dict[nn.Parameter, Tensor] = {}  # where all recordings leave theirs

    def __call__(self, batch: Any, losses_of: Callable[[Any], Any]) -> tuple[tuple[Tensor, ...], bool] | None:
        """Losses [] of a batch and whether they are parts, its gradients in place of the weights' old ones.

        Args:
            batch: what the model's ``on_device`` gave.
            losses_of: batch -> the loss or the losses, under the precision of the training.

        Returns:
            None where the caller has to compute it.
        """
        shapes = contract(self.model).step_shapes(batch) if self.enabled else None
        if shapes is None:
            return None
        if shapes not in self.found:
            if len(self.found) < MOST:
                self.found[shapes] = None
            return None
        recording = self.found[shapes] or self._record(shapes, batch, losses_of)
        if recording is None:
            return None
        torch._foreach_copy_(recording.inputs, contract(self.model).step_inputs(batch))
        recording.graph.replay()
        for weight in recording.trained:
            weight.grad = self.gradients[weight]
        return tuple(loss.clone() for loss in recording.losses), recording.several

    def _record(self, shapes: Hashable, batch: Any, losses_of: Callable[[Any], Any]) -> Recording | None:
        """Record a step on the batch's own tensors, without taking it; None where the model resists."""
        self.model.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.pool):
                found = losses_of(batch)
                losses = found if isinstance(found, tuple) else (found,)
                reduce(torch.add, losses).backward()
                trained = [weight for weight in self.model.parameters() if weight.grad is not None]
                known = [weight for weight in trained if weight in self.gradients]
                if known:
                    kept = [self.gradients[weight] for weight in known]
                    torch._foreach_copy_(kept, [weight.grad for weight in known])
        except RuntimeError as error:
            self.enabled = False
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            generator.graphsafe_set_state(generator.clone_state())  # the old one still waits for the end
            self.found.clear()
            self.model.zero_grad(set_to_none=True)
            logging.getLogger().info(
                f"train_compile: steps of {type(self.model).__name__} are not replayed "
                f"({str(error).splitlines()[0]}); they run one by one"
            )
            return None
        self.pool = graph.pool()
        for weight in trained:
            self.gradients.setdefault(weight, weight.grad)
        self.model.zero_grad(set_to_none=True)
        inputs = contract(self.model).step_inputs(batch)
        ends = tuple(loss.detach().reshape(()) for loss in losses)
        several = isinstance(found, tuple)
        self.found[shapes] = recording = Recording(graph, inputs, ends, several, trained)
        return recording


class Update:
    """Clipping and AdamW's update as one launch, for gradients that a replayed step left.

    The optimizer keeps its state and its groups; only the way over its Python is saved, which for a small
    model takes as long as the whole step on the card.

    Args:
        optimizer: with its weights on their device.
        enabled: otherwise every step is left to the optimizer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, enabled: bool) -> None:
        known = type(optimizer) is torch.optim.AdamW and bool(optimizer.defaults.get("fused"))
        self.optimizer, self.enabled = optimizer, enabled and known
        self.found: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self.rates: list[Tensor] = []  # the groups' learning rates, where the recordings read them

    def __call__(self, replay: Replay, limit: dict[str, Any] | None) -> bool:
        """Take the optimizer's step, if the gradients are those that recordings share.

        Args:
            replay: what left the gradients.
            limit: of `clip`; None or empty for none.
        """
        if not self.enabled:
            return False
        groups = [[w for w in group["params"] if w.grad is not None] for group in self.optimizer.param_groups]
        weights = [weight for group in groups for weight in group]
        shared = all(weight.grad is replay.gradients.get(weight) for weight in weights)
        if not shared or not all(self.optimizer.state.get(weight) for weight in weights):
            return False
        key = tuple(map(id, weights))
        if key not in self.found and not self._record(key, groups, limit, replay):
            return False
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        self.found[key].replay()
        for hook in self.optimizer._optimizer_step_post_hooks.values():  # the schedule among them
            hook(self.optimizer, (), {})
        return True

    def _record(
        self, key: Hashable, groups: list[list[Tensor]], limit: dict[str, Any] | None, replay: Replay
    ) -> bool:
        if not self.rates:
            device = groups[0][0].device if groups[0] else groups[-1][0].device
            self.rates = [torch.zeros((), device=device) for _ in groups]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=replay.pool):
                self.compute(groups, limit)
        except RuntimeError as error:
            self.enabled = False
            logging.getLogger().info(
                f"train_compile: AdamW is not replayed ({str(error).splitlines()[0]}); it steps by itself"
            )
            return False
        self.found[key] = graph
        return True

    @torch.no_grad()
    def compute(self, groups: list[list[Tensor]], limit: dict[str, Any] | None) -> None:
        """What is recorded: the optimizer's step on the weights of every group, with `rates`."""
        if limit:
            clip([weight for group in groups for weight in group], **limit)
        for weights, rate, group in zip(groups, self.rates, self.optimizer.param_groups, strict=True):
            if not weights:
                continue
            states = [self.optimizer.state[weight] for weight in weights]
            adamw(
                weights,
                [weight.grad for weight in weights],  # type: ignore[misc]
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=True,
                capturable=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=rate,  # type: ignore[arg-type]
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )
