"""Instruction labels of packed rows: which task, after which history item, in which words.

A packed row is a window of a user's training events. Each of its targets qualifies for some tasks; a label
takes a task from the mixture among those that qualify somewhere in the row, then one of that task's positions
in the row, then a template and a slot. All of it is table look-up: a batch costs one sorted search per task.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from recbole_sigma.instructions.samples import TaskSet, task_report, tasks_of
from recbole_sigma.instructions.tasks import GENERAL
from recbole_sigma.language.loading import encode_as_text
from recbole_sigma.language.vocabulary import END, PAD, encode_left_padded
from recbole_sigma.settings.keys import BackboneKeys, TaskKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.values import UserError

_SPACES = " \u0120\u2581"  # how byte-level and sentence-piece vocabularies write a space

INSTRUCTION = "instruction_tokens"
"""Interaction field [B, I] that replaces the JustForYou instruction when a list is generated."""


@dataclass(frozen=True)
class LabelDraw:
    """Labels of a batch of packed rows.

    Attributes:
        after: int64 [B, M], 0-based history item that the branch follows; -1 hangs it off the profile, for a
            user's first event.
        text: int64 [B, M, I], instruction tokens, left-padded.
        task: int64 [B, M], index into ``TaskLabels.names``; None when there is JustForYou alone.
    """

    after: Tensor
    text: Tensor
    task: Tensor | None = None

    def rows(self, rows: slice) -> LabelDraw:
        """The labels of some rows of the batch."""
        return LabelDraw(self.after[rows], self.text[rows], None if self.task is None else self.task[rows])


class TaskLabels(nn.Module):
    """Draws labels for packed rows and keeps each task's mean loss of the epoch.

    It holds no weights; its tables are buffers outside the checkpoint.

    Args:
        tasks: what the dataset carries.
        packer: the training rows' ``WindowPacker``: its event positions are the keys of the tables.
        tokenizer: the prompt's tokenizer.
        width: I, tokens of an instruction.
        reads_all: the trunk knew its tokens before (it is pretrained). Otherwise tokens that stand in no
            training instruction are noise to it, and `encode` leaves them out.
    """

    def __init__(
        self,
        tasks: TaskSet,
        packer: Any,
        tokenizer: Tokenizer,
        width: int,
        reads_all: bool = False,
    ) -> None:
        super().__init__()
        self.pad = tokenizer.token_to_id(PAD)
        self.tasks, self.tokenizer, self.width = tasks, tokenizer, width
        self.names = tuple(tasks.rows)
        self.general = self.names.index(GENERAL) if GENERAL in self.names else -1
        self.history: list[dict[str, dict[str, float]]] = []
        position = np.full(len(tasks.material.users), -1, dtype=np.int64)
        position[packer.ranks] = np.arange(len(packer.ranks))
        columns = max(1, *(rows.slots.shape[1] for rows in tasks.rows.values()))
        events, slots, starts, bases, wordings = [], [], [0], [], []
        texts: list[str] = []
        for rows in tasks.rows.values():
            place = position[rows.ranks]
            order = np.argsort(place, kind="stable")
            order = order[place[order] >= 0]  # held-out events have no position
            own = rows.slots[order] if rows.slots.shape[1] else np.zeros((len(order), 1), dtype=np.int32)
            events.append(place[order])
            slots.append(np.resize(own.T, (columns, len(order))).T if len(order) else own.repeat(columns, 1))
            starts.append(starts[-1] + len(order))
            bases.append(len(texts))
            wordings.append(len(rows.task.templates))
            values = rows.values[: rows.known] or ("",)
            texts += [rows.task.fill(template, value) for value in values for template in rows.task.templates]
        self._table("events", np.concatenate(events))
        self._table("slots", np.concatenate(slots))
        self.as_packed: tuple[np.ndarray, np.ndarray] | None = None  # both, before `follow` moved them
        self._table("text_base", np.array(bases))
        self._table("wordings", np.array(wordings))
        self._table("texts", encode_left_padded(tokenizer, texts, False, True, width).astype(np.int32))
        vocabulary = tokenizer.get_vocab()
        spaces = [number for token, number in vocabulary.items() if not token.strip(_SPACES)]
        self.wordless = [self.pad, tokenizer.token_to_id(END), *spaces]
        known = np.full(max(vocabulary.values()) + 1, reads_all)
        known[np.unique(self.texts.numpy())] = True
        self._table("known", known)
        mixture = tasks.mixture()
        self._table("mixture", np.array([mixture[name] for name in self.names], dtype=np.float32))
        begins = np.r_[True, packer.users[1:] != packer.users[:-1]] & bool(packer.cold)
        self._table("opens", begins)  # events that are their user's first, where these are targets
        self.starts = starts
        self._table("loss_sum", np.zeros(len(self.names), dtype=np.float64))
        self._table("loss_count", np.zeros(len(self.names), dtype=np.float64))

    def _table(self, name: str, values: np.ndarray) -> None:
        self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values)), persistent=False)

    def follow(self, order: np.ndarray) -> None:
        """Find the events again where an epoch's order has put them.

        Args:
            order: int64 [E], which of the packer's events stands where.
        """
        if self.as_packed is None:
            self.as_packed = self.events.cpu().numpy().copy(), self.slots.cpu().numpy().copy()
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        events, slots = place[self.as_packed[0]], self.as_packed[1]
        for begin, end in pairwise(self.starts):
            own = np.argsort(events[begin:end]) + begin
            self.events[begin:end] = torch.from_numpy(events[own])
            self.slots[begin:end] = torch.from_numpy(slots[own])

    def draw(self, first: Tensor, length: Tensor, labels: int, last: bool = False) -> LabelDraw:
        """Labels of a batch.

        Args:
            first: int64 [B], each row's first event as a position in the packer's arrays.
            length: int64 [B], events of the row, its last target included.
            labels: M.
            last: that last target is the only one; every event is one of JustForYou's.
        """
        high = first + length
        low = high - 1 if last else first + 1 - self.opens[first].long()
        begin, count = [], []
        for number in range(len(self.names)):
            own = self.events[self.starts[number] : self.starts[number + 1]]
            left = torch.searchsorted(own, low)
            begin.append(left + self.starts[number])
            count.append(torch.searchsorted(own, high) - left)
        begins, counts = torch.stack(begin, dim=1), torch.stack(count, dim=1)
        # by the inverse of the distribution: torch.multinomial would read its sums on the host
        mass = (self.mixture * (counts > 0)).cumsum(dim=1)
        drawn = torch.rand(len(low), labels, device=low.device) * mass[:, -1:]
        task = (drawn[..., None] >= mass[:, None]).sum(dim=-1).clamp_max(len(self.names) - 1)
        place = (torch.rand(task.shape, device=task.device) * counts.gather(1, task)).long()
        row = begins.gather(1, task) + place
        slot = self.slots[row]
        column = torch.randint(slot.shape[-1], task.shape, device=task.device)
        slot = slot.gather(-1, column[..., None])[..., 0].long()
        wording = (torch.rand(task.shape, device=task.device) * self.wordings[task]).long()
        text = self.texts[self.text_base[task] + slot * self.wordings[task] + wording].long()
        return LabelDraw(self.events[row] - first[:, None] - 1, text, task)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Tokens of instructions in the trained width: int64 [n, I].

        Tokens that training never saw are left out; a longer instruction loses its beginning; one without a
        known word, such as the empty one, is all padding: nothing is asked.
        """
        known, out = self.known.cpu().numpy(), np.full((len(texts), self.width), self.pad, dtype=np.int64)
        rows = encode_left_padded(self.tokenizer, texts, False, True) if texts else out
        for row, tokens in zip(out, rows, strict=True):
            kept = tokens[(tokens != self.pad) & known[tokens]][-self.width :]
            if not np.isin(kept, self.wordless).all():
                row[self.width - len(kept) :] = kept
        return torch.from_numpy(out).to(self.texts.device)

    def unknown_words(self, text: str) -> list[str]:
        """Words of an instruction that `encode` leaves out, whole or in part, in their order."""
        (encoding,) = encode_as_text(self.tokenizer, [text])
        known = self.known.cpu().numpy()
        spans = [span for token, span in zip(encoding.ids, encoding.offsets, strict=True) if not known[token]]
        words = [
            match.group().strip(".,;:!?\"'()")
            for match in re.finditer(r"\S+", text)
            if any(begin < match.end() and end > match.start() for begin, end in spans)
        ]
        return list(dict.fromkeys(word for word in words if word))

    @torch.no_grad()
    def note(self, task: Tensor, loss: Tensor) -> None:
        """Add the losses of a batch's labels [B * M] to their tasks' sums."""
        flat = task.reshape(-1)
        self.loss_sum.index_add_(0, flat, loss.detach().double())
        self.loss_count.index_add_(0, flat, torch.ones_like(flat, dtype=torch.float64))

    def train(self, mode: bool = True) -> TaskLabels:
        """Close the epoch's account when training pauses for an evaluation."""
        sums, counts = (
            torch.stack([self.loss_sum, self.loss_count]).tolist() if self.training and not mode else ((), ())
        )
        if any(counts):
            means = {
                name: {"loss": float(total / max(count, 1.0)), "labels": int(count)}
                for name, total, count in zip(self.names, sums, counts, strict=True)
            }
            self.history.append(means)
            shown = ", ".join(f"{name} {row['loss']:.4f} ({row['labels']})" for name, row in means.items())
            logging.getLogger().info(f"mean label loss per task (labels): {shown}")
            self.loss_sum.zero_()
            self.loss_count.zero_()
        return super().train(mode)


def build_task_labels(config: Any, dataset: Any, prepared: Any) -> TaskLabels | None:
    """The label component of a model, or None when only JustForYou is asked for.

    Args:
        config: RecBole config with ``tasks`` and ``task_*``.
        dataset: the train dataset that ``PackedDataset.build`` returned.
        prepared: the items and prompts (``preparation.Prepared``) that the model uses.

    Raises:
        UserError: labels are switched off, or the prepared prompts belong to other tasks.
    """
    tasks = tasks_of(dataset, config)
    if tasks is None:
        return None
    if not read(TaskKeys, config).task_labels_per_row:
        raise UserError(
            f"tasks: {list(tasks.rows)} need labels, but task_labels_per_row is 0: set it above 0, or tasks: "
            f"[{GENERAL}] and task_empty_history: False"
        )
    stored = prepared.report.get("tasks")
    if stored != task_report(tasks):
        raise UserError(
            f"the prompts were prepared for the tasks {stored and stored['versions']}, the dataset and task "
            f"files now give {tasks.versions()} in other words: restore them or train again"
        )
    width, reads_all = (
        prepared.instructions.shape[1],
        read(BackboneKeys, config).backbone.startswith("pretrained:"),
    )
    return TaskLabels(tasks, dataset.packer, prepared.tokenizer, width, reads_all)
