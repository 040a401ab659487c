"""Instruction samples of a dataset: every task's qualified events, what is off and why, the mixture."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sigma.instructions.fields import Material, gather
from recbole_sigma.instructions.rules import TaskOff, TaskRows, qualify
from recbole_sigma.instructions.tasks import GENERAL, chosen_tasks
from recbole_sigma.machine.files import fingerprint
from recbole_sigma.settings.keys import TaskKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recipes import properties_dir

TEMPLATE_COPIES = 50
PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class TaskSet:
    """The tasks that a dataset carries.

    Attributes:
        rows: task name -> its qualified events; JustForYou first.
        off: task name -> the sentence that says why it is off.
        material: what the rules read.
    """

    rows: dict[str, TaskRows]
    off: dict[str, str]
    material: Material

    def count(self, name: str, part: int = 0) -> int:
        """Qualified events of a part (0 train, 1 validation, 2 test)."""
        return int((self.material.part[self.rows[name].ranks] == part).sum())

    def mixture(self) -> dict[str, float]:
        """Share of each task in training: weight * sqrt(training rows), normalised."""
        raw = {name: rows.task.weight * self.count(name) ** 0.5 for name, rows in self.rows.items()}
        total = sum(raw.values())
        return {name: value / total for name, value in raw.items()}

    def reported(self, name: str, part: int = 2) -> str:
        """Why a task is not reported on a part of the split; '' when it is."""
        n, least = self.count(name, part), self.rows[name].task.minimum_test_rows
        return f"{n} {PARTS[part]} rows, and below {least} no figure is given" if n < least else ""

    def texts(self) -> list[str]:
        """Every instruction that training can show, and none that only a held-out event has."""
        found: dict[str, None] = {}
        for rows in self.rows.values():
            for template in rows.task.templates:
                for slot in self.train_values(rows) or [""]:
                    found[rows.task.fill(template, slot)] = None
        return list(found)

    def corpus(self) -> list[str]:
        """What the tokenizer learns from; templates come often enough to become few tokens."""
        templates = [template for rows in self.rows.values() for template in rows.task.templates]
        return self.texts() + [text.replace("{", "").replace("}", "") for text in templates] * TEMPLATE_COPIES

    def train_values(self, rows: TaskRows) -> list[str]:
        """Slot texts of training, sorted; empty for a task without slot."""
        if not rows.slots.shape[1]:
            return []
        used = np.unique(rows.slots[self.material.part[rows.ranks] == 0])
        return sorted(rows.values[i] for i in used)

    def versions(self) -> dict[str, int]:
        """Version of every task that is on: what a result must carry."""
        return {name: rows.task.version for name, rows in self.rows.items()}

    def prompts(self, name: str, n: int = 10, part: int = 0) -> list[tuple[list[str], str, str]]:
        """Sample prompts of a task, spread evenly over its rows.

        Returns:
            (titles of the last three history items, instruction, title of the target), at most ``n`` of them.
        """
        rows, m = self.rows[name], self.material
        own = np.flatnonzero(m.part[rows.ranks] == part)
        picked = (
            own[np.unique(np.linspace(0, len(own) - 1, min(n, len(own))).astype(int))] if len(own) else own
        )
        templates = rows.task.templates
        out = []
        for turn, row in enumerate(picked.tolist()):
            rank = int(rows.ranks[row])
            before = np.flatnonzero(m.users[:rank] == m.users[rank])[-3:]
            text = rows.text(templates[turn % len(templates)], row)
            out.append(([self.title(m.items[i]) for i in before], text, self.title(m.items[rank])))
        return out

    def title(self, item: int) -> str:
        """Title of an item, or its id where it has none."""
        return self.material.words.titles[item] or self.material.tokens[item]


def build_tasks(dataset: Any, config: Any, asked: Any = None) -> TaskSet:
    """Qualify every asked task on a built dataset.

    Args:
        dataset: the train dataset that ``PackedDataset.build`` returned.
        config: RecBole config with ``tasks``, ``task_dir`` and the other keys ``task_*``.
        asked: names of tasks in place of the key ``tasks``, such as ``all``.

    Raises:
        UserError: an unknown task, a damaged task file, or a role that names an unusable column.
    """
    names = read(TaskKeys, config).tasks if asked is None else asked
    tasks = chosen_tasks(names, task_folder(config))
    material = gather(dataset, config)
    rows: dict[str, TaskRows] = {}
    off: dict[str, str] = {}
    for task in tasks:
        try:
            found = qualify(task, material)
        except TaskOff as reason:
            off[task.name] = f"{task.name} is off on {dataset.dataset_name}: {reason}"
            continue
        support = int((material.part[found.ranks] == 0).sum())
        if support < task.minimum_support and task.name != GENERAL:
            off[task.name] = (
                f"{task.name} is off on {dataset.dataset_name}: {support} training rows qualify, and "
                f"minimum_support is {task.minimum_support}"
            )
            continue
        rows[task.name] = found
    return TaskSet(rows, off, material)


def task_folder(config: Any) -> Path:
    """Folder of the task files: ``task_dir``, or the shipped one."""
    folder = read(TaskKeys, config).task_dir
    return Path(folder) if folder else properties_dir() / "tasks"


def wants_tasks(dataset: Any, config: Any) -> bool:
    """Whether more than the plain next item is asked for."""
    keys = read(TaskKeys, config)
    return any(name != GENERAL for name in keys.tasks) or (dataset.cold_rows and keys.task_empty_history)


def tasks_of(dataset: Any, config: Any) -> TaskSet | None:
    """The tasks of a dataset, built once; None when only JustForYou is asked for."""
    if not wants_tasks(dataset, config):
        return None
    if dataset.built_tasks is None:
        dataset.built_tasks = build_tasks(dataset, config)
        for sentence in dataset.built_tasks.off.values():
            logging.getLogger().info(sentence)
    return dataset.built_tasks


def describe(tasks: TaskSet) -> list[dict[str, Any]]:
    """One plain row per built task: rows per part, users, slot values, share of training."""
    mixture, m = tasks.mixture(), tasks.material
    out = []
    for name, rows in tasks.rows.items():
        values = tasks.train_values(rows)
        out.append(
            {
                "task": name,
                "version": rows.task.version,
                **{part: tasks.count(name, i) for i, part in enumerate(PARTS)},
                "users": len(np.unique(m.users[rows.ranks])),
                "slot": rows.kind or "none",
                "values": len(values),
                "share": round(mixture[name], 4),
                "reported": tasks.reported(name) or "yes",
            }
        )
    return out


def task_report(tasks: TaskSet) -> dict[str, Any]:
    """What prepared prompts remember of their tasks."""
    return {"versions": tasks.versions(), "texts": fingerprint(texts=tasks.texts())}
