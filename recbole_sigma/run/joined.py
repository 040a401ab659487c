"""Several processes take one step: the model's loss where DistributedDataParallel joins the gradients."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class _Loss(nn.Module):
    """The model's loss as a forward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, interaction: Any) -> Any:
        """The model's ``calculate_loss``."""
        return self.model.calculate_loss(interaction)


def joined(model: nn.Module, local_rank: int, device: torch.device) -> DistributedDataParallel:
    """A function from a batch to its loss whose gradients are the mean over all processes.

    Args:
        model: on its device, the same in every process.
        local_rank: number of this process on its machine.
        device: where the model is.
    """
    with warnings.catch_warnings():  # torch 2.13 renames it, older ones know this name only
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
        return DistributedDataParallel(
            _Loss(model),
            device_ids=[local_rank] if device.type == "cuda" else None,
            broadcast_buffers=False,  # frozen item vectors are large; see `same_everywhere`
            find_unused_parameters=True,  # negatives, adapters and branches use what the batch needs
        )
