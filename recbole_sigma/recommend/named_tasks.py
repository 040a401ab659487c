"""Requests that name a trained task in place of a sentence, or beside one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_sigma.instructions.phrases import normalise_query
from recbole_sigma.instructions.rules import TaskRows
from recbole_sigma.instructions.tasks import GENERAL
from recbole_sigma.language.loading import encode_as_text
from recbole_sigma.recommend.answers import Request
from recbole_sigma.settings.reading import nearest
from recbole_sigma.values import UserError


def named_task(request: Request, labels: Any, instructed: bool, model: str) -> tuple[str, str, list[str]]:
    """(sentence for the model, task, notes) of a request without a sentence, or with a named task.

    Args:
        request: what is asked.
        labels: the model's `models.sigma.labels.TaskLabels`, or None.
        instructed: whether the model reads instructions at all.
        model: its name.

    Raises:
        UserError: a task that was not trained, or a slot that does not fit.
    """
    if not instructed or labels is None:
        for name, value in (("task", request.task), ("slot", request.slot)):
            if value is not None:
                what = "reads no instructions" if not instructed else "was trained on JustForYou alone"
                raise UserError(
                    f"{name}: this {model} {what}; train SIGMA with --tasks=all to name tasks, or write a "
                    "sentence as the instruction"
                )
        return "", GENERAL if instructed else "", []
    if request.task is not None:
        text, name = _filled(request, labels.tasks.rows)
        return text, name, not_read(text, labels) if text else []
    if request.slot is not None:
        raise UserError("slot: name the task that it belongs to")
    return "", GENERAL, []


def _filled(request: Request, tasks: Mapping[str, TaskRows]) -> tuple[str, str]:
    """(first wording of the named task with its slot, name of the task)."""
    name, slot = str(request.task), request.slot
    if name not in tasks:
        raise UserError(
            f"task: '{name[:80]}' is not among the trained ones{nearest(name[:80], tasks)}; there are "
            f"{', '.join(tasks)}"
        )
    found = tasks[name]
    if slot is None and request.instruction is not None:
        return request.instruction.strip(), name
    if found.task.slots and slot is None:
        raise UserError(f"slot: the task {name} needs one: its {found.task.slots[0]}")
    if not found.task.slots and slot is not None:
        raise UserError(f"slot: the task {name} has none")
    if name == GENERAL:
        return "", name
    if slot is not None and found.task.rule == "query":
        slot = normalise_query(slot, found.task.options["longest"])
        if not slot:
            raise UserError("slot: the query holds no word")
    elif slot is not None:
        known = {value.lower(): value for value in found.values}
        if slot.lower() not in known:
            listed = nearest(slot[:80], found.values) or f"; there are {', '.join(found.values[:20])}"
            raise UserError(f"slot: the task {name} knows no '{slot[:80]}'{listed}")
        slot = known[slot.lower()]
    return found.task.fill(found.task.templates[0], slot), name


def not_read(text: str, labels: Any) -> list[str]:
    """What the model leaves out of an instruction, in sentences."""
    notes = []
    length = len(encode_as_text(labels.tokenizer, [text])[0].ids) + 1
    if length > labels.width:
        notes.append(f"the model reads the last {labels.width} of {length} tokens of the instruction")
    unknown = labels.unknown_words(text)
    if unknown:
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        notes.append(f"training never saw, so not read: {', '.join(unknown[:8])}{more}")
    return notes
