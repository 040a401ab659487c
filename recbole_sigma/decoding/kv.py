"""Keys and values of beams without moving them: one pool per user plus a table of who descends from whom.

A beam search that keeps one cache row per beam must copy the whole history whenever beams change places. Here
all beams of a user share one cache row: the history's keys and values lie in it once, each decoding step
appends the keys and values of its new positions, and a boolean table says which of them every beam may attend
to (itself and its ancestors). Beams are query positions. Changing places is then a gather in that small
table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor


class Step(NamedTuple):
    """What one forward pass hands to the search.

    Attributes:
        hidden: [B, W, d], the last hidden state of every query position (what the output head reads).
        logits: [B, W, V] if the model computed them on its own, else None (the decoder's head computes them
            on demand).
    """

    hidden: Tensor
    logits: Tensor | None


class BranchingDecoder(ABC):
    """What the back ends share: beams branch off one pool of positions, and stepping back is cutting it.

    A back end sets ``batch`` and ``ancestry`` and defines ``_extend`` (one forward pass over new query
    positions) and ``_rewind`` (forget all but the first positions of the pool).
    """

    batch: int
    ancestry: Ancestry

    @torch.inference_mode()
    def advance(self, tokens: Tensor, parents: Tensor, keep: bool = True) -> Step:
        """Feed one more token per beam.

        Args:
            tokens: int64 [B, W], vocabulary ids.
            parents: int64 [B, W], the current beam that each of them extends.
            keep: make them the current beams; False evaluates them and leaves the decoder as it was, so any
                number of prefixes can be looked at in chunks.

        Returns:
            hidden states [B, W, d], and logits where the model computes them on its own.
        """
        visible, positions = self.ancestry.branch(parents)
        step = self._extend(tokens, visible, positions[-tokens.shape[1] :], positions)
        if keep:
            self.ancestry.commit(visible, positions)
        else:
            self._rewind(self.ancestry.size)
        return step

    @torch.inference_mode()
    def force(self, tokens: Tensor) -> Step:
        """Teacher forcing: states after every token of independent paths that continue the prompt.

        Args:
            tokens: int64 [B, M, T], vocabulary ids of M paths per user.

        Returns:
            hidden states [B, M, T, d] (and logits [B, M, T, V] where the model computes them on its own);
            entry t has read the prompt and tokens 0..t. The decoder is left as it was.
        """
        shape = tokens.shape[1:]
        visible, positions = self.ancestry.paths(*shape)
        visible = visible.expand(len(tokens), -1, -1)
        step = self._extend(tokens.flatten(1), visible, positions[self.ancestry.size :], positions)
        self._rewind(self.ancestry.size)
        logits = None if step.logits is None else step.logits.unflatten(1, shape)
        return Step(step.hidden.unflatten(1, shape), logits)

    @abstractmethod
    def _extend(self, tokens: Tensor, visible: Tensor, query_depth: Tensor, key_depth: Tensor) -> Step:
        """One forward pass over tokens [B, Q] that may attend to ``visible`` [B or 1, Q, P + Q]."""

    @abstractmethod
    def _rewind(self, size: int) -> None:
        """Forget all but the first ``size`` pooled positions."""


class Ancestry:
    """Which pooled positions each beam descends from.

    Args:
        batch: number of users B.
        root: number of positions that every beam descends from (1 for an encoder-decoder's start token, 0
            otherwise).
        device: where the table lives.
    """

    def __init__(self, batch: int, root: int, device: torch.device) -> None:
        self.root = root
        self.depth = 0
        self.visible = torch.ones(batch, 1, root, dtype=torch.bool, device=device)
        self.positions = torch.zeros(root, dtype=torch.int64, device=device)

    @property
    def size(self) -> int:
        """Positions in the pool."""
        return self.positions.numel()

    def branch(self, parents: Tensor) -> tuple[Tensor, Tensor]:
        """Let new beams grow from the current ones.

        Args:
            parents: int64 [B, W], for every new beam the current beam it extends.

        Returns:
            visible bool [B, W, P + W] over the pool and the W new positions, and the depth of these P + W
            positions.
        """
        batch, width = parents.shape
        inherited = self.visible.gather(1, parents[:, :, None].expand(-1, -1, self.size))
        itself = torch.eye(width, dtype=torch.bool, device=parents.device).expand(batch, -1, -1)
        new = self.positions.new_full((width,), self.depth + 1)
        return torch.cat([inherited, itself], dim=2), torch.cat([self.positions, new])

    def commit(self, visible: Tensor, positions: Tensor) -> None:
        """Make the beams of the last :meth:`branch` the current ones."""
        self.visible, self.positions = visible, positions
        self.depth += 1

    def paths(self, number: int, length: int) -> tuple[Tensor, Tensor]:
        """Mask for ``number`` token paths of ``length`` that each continue the root, fed side by side.

        Returns:
            visible bool [1, M * T, P + M * T] (the root, and causal within a path; other paths and current
            beams are hidden), and the depth of these P + M * T key positions.
        """
        device = self.positions.device
        path = torch.arange(number * length, device=device) // length
        depth = torch.arange(number * length, device=device) % length
        within = (path[:, None] == path[None]) & (depth[None] <= depth[:, None])
        pool = torch.zeros(number * length, self.size, dtype=torch.bool, device=device)
        pool[:, : self.root] = True
        return torch.cat([pool, within], dim=1)[None], torch.cat([self.positions, depth + 1])
