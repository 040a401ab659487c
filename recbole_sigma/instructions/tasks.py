"""Instruction tasks as data: one versioned YAML file per task."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from recbole_sigma.settings.reading import load_yaml, nearest
from recbole_sigma.values import UserError

GENERAL = "JustForYou"
OPTIONS: dict[str, dict[str, type]] = {
    "next_item": {},
    "query": {"least_items": int, "least_share": float, "most_share": float, "per_item": int, "longest": int},
    "category": {"least_items": int},
    "longtail": {"head_share": float},
    "discover": {"least_history": int, "window": int},
    "season": {"least_lift": float, "least_rows": int, "least_years": float},
    "holiday": {"least_lift": float, "least_rows": int, "least_years": float},
}
"""Qualification rule -> its options and their types; `instructions.rules` holds one function per rule."""


@dataclass(frozen=True)
class Task:
    """One instruction task.

    Attributes:
        name: the task's name, e.g. ``JustForYou``.
        version: raised whenever the wording or the construction changes; stored with every result.
        weight: factor on the square root of the task's training rows in the mixture.
        slots: names that may stand in braces in a template; at most one.
        templates: the wordings; the first one is used in evaluation, all of them in training.
        held_out: a wording that training never sees; evaluation reports it beside the first one.
        rule: which interactions qualify, a key of `OPTIONS`.
        options: numbers of the rule.
        minimum_support: training rows below which the task is off.
        minimum_test_rows: judged rows below which the task is not reported.
    """

    name: str
    version: int
    weight: float
    slots: tuple[str, ...]
    templates: tuple[str, ...]
    held_out: str
    rule: str
    options: dict[str, Any]
    minimum_support: int
    minimum_test_rows: int

    def fill(self, template: str, slot: str | None) -> str:
        """A template with its slot filled; a task without slot ignores ``slot``.

        >>> task = Task("Category", 1, 1.0, ("category",), ("From {category}",), "In {category}",
        ...             "category", {"least_items": 20}, 1, 1)
        >>> task.fill(task.templates[0], "shoes {red}")
        'From shoes {red}'
        """
        return template.format(**{self.slots[0]: slot or ""}) if self.slots else template


_FIELDS = {
    "name", "version", "weight", "slots", "templates", "held_out", "rule", "options",
    "minimum_support", "minimum_test_rows",
}  # fmt: skip


def load_task(path: Path) -> Task:
    """Read and check one task file.

    Raises:
        UserError: missing or unknown keys, no template, a template with an unknown slot, or a number that
            is none.
    """
    raw = load_yaml(path, what="the task file")
    if set(raw) != _FIELDS:
        given = set(raw)
        raise UserError(
            f"{path}: a task file needs exactly the keys {sorted(_FIELDS)}; "
            f"missing {sorted(_FIELDS - given)}, unknown {sorted(given - _FIELDS)}"
        )
    slots, templates = _texts(path, raw, "slots"), _texts(path, raw, "templates")
    if not templates:
        raise UserError(f"{path}: templates: give at least one sentence")
    if len(slots) > 1:
        raise UserError(f"{path}: slots: a task has at most one slot, not {list(slots)}")
    held_out = str(raw["held_out"] or "")
    for template in (*templates, held_out):
        _check_template(path, template, slots)
    if not held_out or held_out in templates:
        raise UserError(f"{path}: held_out: give one sentence that is not among the templates")
    return Task(
        name=str(raw["name"]),
        version=int(_number(path, raw, "version", 1)),
        weight=_number(path, raw, "weight", 0.0),
        slots=slots,
        templates=templates,
        held_out=held_out,
        rule=str(raw["rule"]),
        options=_options(path, str(raw["rule"]), raw["options"] or {}),
        minimum_support=int(_number(path, raw, "minimum_support", 1)),
        minimum_test_rows=int(_number(path, raw, "minimum_test_rows", 1)),
    )


def _texts(path: Path, raw: dict[str, Any], key: str) -> tuple[str, ...]:
    value = raw[key] or []
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise UserError(f"{path}: {key}: give a list of texts, not {value!r}")
    return tuple(value)


def _check_template(path: Path, template: str, slots: tuple[str, ...]) -> None:
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"{path}: templates: '{template}' has a brace without its partner") from error
    for _, name, form, conversion in parts:
        # {category.x} would read what belongs to the program, {category:>999999999} fill the memory
        if name is not None and (name not in slots or form or conversion):
            raise UserError(f"{path}: templates: '{template}' uses a slot outside slots={list(slots)}")
    without = template.format(**dict.fromkeys(slots, ""))
    if slots and without == template:
        raise UserError(f"{path}: templates: '{template}' lacks the slot {{{slots[0]}}}")


def _number(path: Path, raw: dict[str, Any], key: str, least: float) -> float:
    value = raw[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < math.inf:
        raise UserError(f"{path}: {key}: give a number of at least {least:g}, not {value!r}")
    return float(value)


def _options(path: Path, rule: str, given: Any) -> dict[str, Any]:
    if rule not in OPTIONS:
        raise UserError(f"{path}: rule: '{rule}' is unknown; use one of {', '.join(OPTIONS)}")
    kinds = OPTIONS[rule]
    if not isinstance(given, dict) or set(given) != set(kinds):
        raise UserError(f"{path}: options: the rule '{rule}' takes exactly {sorted(kinds)}, not {given!r}")
    return {key: kind(_number(path, given, key, 0.0)) for key, kind in kinds.items()}


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


def chosen_tasks(asked: Any, folder: Path) -> tuple[Task, ...]:
    """The tasks named by the key ``tasks``: JustForYou first, then in file order.

    Args:
        asked: a list of names, one name, or ``all``. JustForYou is always among them: the paired control of
            every other task is its instruction.
        folder: folder of the task files.

    Raises:
        UserError: a name without a file.
    """
    known = load_tasks(folder)
    if GENERAL not in known:
        raise UserError(f"{folder} has no task named {GENERAL}, which every other task is compared with")
    names = [asked] if isinstance(asked, str) else list(asked or [])
    names = list(known) if names == ["all"] else [str(name) for name in names]
    for name in names:
        if name not in known:
            raise UserError(
                f"tasks: '{name}' is no task{nearest(name, known)}; there are {', '.join(known)}, or all"
            )
    return tuple(known[name] for name in (GENERAL, *(n for n in known if n in names and n != GENERAL)))
