"""A loss whose gradients several processes join."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from recbole_sigma.machine.processes import World


def joined(model: nn.Module, loss: Callable[[Any], Any], world: World) -> nn.Module:
    """The loss inside DistributedDataParallel.

    Args:
        model: whose parameters the loss reads.
        loss: of a batch.
        world: the processes.
    """
    device = next(model.parameters()).device
    with warnings.catch_warnings():  # torch 2.13 renames it, older ones know this name only
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
        return DistributedDataParallel(
            _Loss(model, loss),
            device_ids=[world.local_rank] if device.type == "cuda" else None,
            broadcast_buffers=False,  # frozen item vectors are large; see `processes.same_everywhere`
            find_unused_parameters=True,  # negatives, adapters and branches use what the batch needs
        )


class _Loss(nn.Module):
    """A loss as a forward pass, which is where DistributedDataParallel joins gradients."""

    def __init__(self, model: nn.Module, loss: Callable[[Any], Any]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, interaction: Any) -> Any:
        """The loss of a batch."""
        return self.loss(interaction)
