"""Instruction tasks as data: one versioned YAML file per task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from recbole_sigma.values import UserError


@dataclass(frozen=True)
class Task:
    """One instruction task.

    Attributes:
        name: the task's name, e.g. ``JustForYou``.
        version: raised whenever the wording or the construction changes; stored with every result.
        weight: share of the task in the training mixture before support is taken into account.
        slots: names that may stand in braces in a template.
        templates: the wordings; the first one is used in evaluation, all of them in training.
        minimum_support: rows below which the task is off.
    """

    name: str
    version: int
    weight: float
    slots: tuple[str, ...]
    templates: tuple[str, ...]
    minimum_support: int


_FIELDS = {"name", "version", "weight", "slots", "templates", "minimum_support"}


def load_task(path: Path) -> Task:
    """Read and check one task file.

    Raises:
        UserError: missing or unknown keys, no template, or a template with an unknown slot.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the task file {path}: {error}") from error
    if not isinstance(raw, dict) or set(raw) != _FIELDS:
        given = set(raw) if isinstance(raw, dict) else set()
        raise UserError(
            f"{path}: a task file needs exactly the keys {sorted(_FIELDS)}; "
            f"missing {sorted(_FIELDS - given)}, unknown {sorted(given - _FIELDS)}"
        )
    templates, slots = tuple(raw["templates"] or ()), tuple(raw["slots"] or ())
    if not templates:
        raise UserError(f"{path}: templates: give at least one sentence")
    for template in templates:
        try:
            template.format(**dict.fromkeys(slots, ""))
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(
                f"{path}: templates: '{template}' uses a slot outside slots={list(slots)}"
            ) from error
    return Task(
        str(raw["name"]),
        int(raw["version"]),
        float(raw["weight"]),
        slots,
        templates,
        int(raw["minimum_support"]),
    )


def load_tasks(folder: Path) -> dict[str, Task]:
    """All tasks of a folder by name, in file-name order.

    Raises:
        UserError: the folder holds no task file, or two files use one name.
    """
    tasks: dict[str, Task] = {}
    for path in sorted(folder.glob("*.yaml")):
        task = load_task(path)
        if task.name in tasks:
            raise UserError(
                f"{path}: the task name '{task.name}' is already taken by another file in {folder}"
            )
        tasks[task.name] = task
    if not tasks:
        raise UserError(f"no task files (*.yaml) in {folder}")
    return tasks
