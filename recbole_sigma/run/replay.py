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

from recbole_sigma.models.contract import contract

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
