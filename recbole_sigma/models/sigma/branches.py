"""Instruction labels in packed rows, and what an instruction does to a list.

A label is a target that is predicted once more after an instruction. The instruction's branch corrects the
prediction that the history alone makes: its end state is added through a gate to the history's state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recbole_sigma.language.transformer import columns_of
from recbole_sigma.models.losses import history_of
from recbole_sigma.models.sigma.labels import LabelDraw, TaskLabels
from recbole_sigma.models.sigma.objective import ItemTable, Objective, Predictions
from recbole_sigma.models.sigma.paths import PULL, WordPath, covariance, divergence
from recbole_sigma.models.sigma.trunk import Branches, Prompt

LABEL_WEIGHT = 2.0
"""How many history positions a label counts for."""


@dataclass(frozen=True)
class LabelStates:
    """What the trunk says at the labels of some rows.

    Attributes:
        base: float [R, M, d], the state of the history that each label follows.
        end: float [R, M, d], the state at the end of the instruction.
        path: float [R, M, l, d], states behind each prefix token of the label.
    """

    base: Tensor
    end: Tensor
    path: Tensor

    @classmethod
    def of_groups(cls, groups: list[LabelStates]) -> LabelStates:
        """Those of all rows, group after group."""
        parts = [(part.base, part.end, part.path) for part in groups]
        return cls(*map(torch.cat, zip(*parts, strict=True)))


class InstructionBranches(nn.Module):
    """Draws the labels of a batch, reads their branches, and takes their loss.

    Args:
        instructions: int64 [n, I], wordings of JustForYou; row 0 is the one that evaluation uses.
        tasks: what labels a batch gets when several tasks are trained, or None for JustForYou alone.
        per_row: M, labels of a packed row; 0 = none.
        share: share of the batches that carry labels.
        d_model: d.
        vocabulary: number of token ids; 0 where the trunk knew its words before (it is pretrained), which
            then need no path of their own.
        pad: id of the padding token.
    """

    def __init__(
        self,
        instructions: Tensor,
        tasks: TaskLabels | None,
        per_row: int,
        share: float,
        d_model: int,
        vocabulary: int,
        pad: int,
    ) -> None:
        super().__init__()
        self.register_buffer("instructions", instructions, persistent=False)
        self.tasks, self.per_row, self.share, self.pad = tasks, per_row, share, pad
        self.word_path = WordPath(vocabulary, d_model, pad) if tasks is not None and vocabulary else None
        # shut for JustForYou alone; several tasks need the instruction from the first step on
        self.gate = nn.Parameter(torch.zeros(d_model) if tasks is None else torch.ones(d_model))

    # --- training -------------------------------------------------------------------------------------------

    def take_part(self) -> bool:
        """Whether a batch carries labels: a draw, on the host."""
        return self.per_row > 0 and (self.share >= 1.0 or float(torch.rand(())) < self.share)

    def draw(self, first: Tensor, length: Tensor, last: bool = False) -> LabelDraw:
        """Where labels are attached and what their instructions say: by task, or JustForYou anywhere.

        Args:
            first: int64 [B], each row's first event (`data.windows.FIRST_EVENT`).
            length: int64 [B], events of each row, its last target included.
            last: that last target is the only one.
        """
        if self.tasks is not None:
            return self.tasks.draw(first, length, self.per_row, last)
        if last:
            after = (length - 2)[:, None].expand(-1, self.per_row)
        else:
            share = torch.rand(len(length), self.per_row, device=length.device)
            after = (share * (length - 1)[:, None]).long()
        wording = torch.randint(len(self.instructions), after.shape, device=length.device)
        return LabelDraw(after, self.instructions[wording])

    @staticmethod
    def of(draw: LabelDraw, items: Tensor) -> Branches:
        """The branches of drawn labels; ``items`` int64 [B, T] holds the targets too."""
        return Branches(draw.after, draw.text, torch.gather(items, 1, draw.after + 1))

    @staticmethod
    def states(draw: LabelDraw, states: Tensor, branches: Tensor, start: Tensor) -> LabelStates:
        """Pick the labels' states from those of packed rows.

        A label after an empty history (``after`` -1) hangs off the profile, whose end state stands in for
        the last item.

        Args:
            draw: M labels for each of R rows.
            states: float [R, T, d] of the history, with the paths.
            branches: float [R, M, I + l, d].
            start: float [R, d], at the end of the profile.
        """
        width = draw.text.shape[2]
        end, path = branches[:, :, width - 1], branches[:, :, width:]
        base = columns_of(states, draw.after.clamp(min=0))
        return LabelStates(torch.where(draw.after[:, :, None] < 0, start[:, None], base), end, path)

    def loss(
        self,
        objective: Objective,
        draw: LabelDraw,
        found: LabelStates,
        items: Tensor,
        table: ItemTable,
        weight: Any,
        mask_seen: bool,
    ) -> Tensor:
        """Loss of the labels of a batch, weighted.

        With the gate shut (as it starts) a label is exactly the prediction of its history position.

        Args:
            objective: what the states are judged by.
            draw: the labels, M for each of B rows.
            found: their states.
            items: int64 [B, T], the rows, targets included.
            table: the catalogue.
            weight: how much one label counts, a number or a tensor [].
            mask_seen: items of the history are no negatives.
        """
        base, path = found.base.flatten(0, 1), found.path.flatten(0, 1)
        added = (self.gate * found.end).flatten(0, 1)
        words = None if self.word_path is None else self.word_path(draw.text).flatten(0, 1)
        pull = base.new_zeros(())
        if draw.task is not None and self.tasks is not None:
            # the general instruction asks for nothing: see the end of paths.py
            general = (draw.task == self.tasks.general).reshape(-1, 1)
            empty = (draw.text == self.pad).all(dim=-1).reshape(-1, 1)  # as generation reads it
            added = added.masked_fill(empty, 0.0)
            change = objective.similarity.queries(base.detach() + added, words)
            change = change - objective.similarity.queries(base.detach())
            spread = divergence(change, covariance(table.vectors))
            pull = PULL * weight * (spread * general[:, 0]).sum()
            added = added.masked_fill(general, 0.0)
            words = None if words is None else words.masked_fill(general, 0.0)
        row = torch.arange(len(items), device=items.device).repeat_interleave(draw.after.shape[1])
        column = draw.after.reshape(-1)
        predictions = Predictions(
            base + added,
            path,
            items[row, column + 1],
            base.new_ones(len(row)) * weight,
            history_of(items, row, column) if mask_seen else None,
            words,
        )
        parts, each = objective.losses(predictions, table)
        if draw.task is not None and self.tasks is not None:
            self.tasks.note(draw.task, each)
        return torch.stack(parts).sum() + pull

    # --- generation -----------------------------------------------------------------------------------------

    def text(self, interaction: Any, field: str, rows: int) -> Tensor:
        """The instruction of every row of a batch: int64 [B, I].

        What the batch brings; else the wording of JustForYou. Where nothing is asked, a model of several
        tasks answers from the history alone, which is all padding here.
        """
        if field in interaction.interaction:
            return interaction[field]
        text = self.instructions[:1].expand(rows, -1)
        return text if self.tasks is None else torch.full_like(text, self.pad)

    def context(self, prompt: Prompt) -> Tensor:
        """A prompt's context float [B, d] with what its instruction adds."""
        return prompt.context + (self.gate * prompt.instruction).masked_fill(~prompt.asked[:, None], 0.0)

    def words(self, text: Tensor) -> Tensor | None:
        """What the words of an instruction add to the query: float [B, d], or None."""
        return None if self.word_path is None else self.word_path(text)
