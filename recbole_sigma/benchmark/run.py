"""The benchmark's loop: every missing cell once, a failed one recorded, and the rest goes on."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from recbole_sigma.benchmark import cells
from recbole_sigma.benchmark.folder import RunFolder
from recbole_sigma.benchmark.plan import Cell, Plan, Training
from recbole_sigma.machine.progress import Progress
from recbole_sigma.values import UserError


def run_plan(
    plan: Plan, output: Path | str, force: bool = False, progress: bool = True
) -> dict[str, list[str]]:
    """Do every cell of a plan that the folder lacks.

    Finished cells are kept and skipped. A training that another process holds is left to it. A cell that
    fails is recorded with its error; the next run tries it again. After Ctrl-C or a kill nothing but the
    training under way is lost.

    Args:
        plan: what `make_plan` gave.
        output: the folder.
        force: do finished cells again.
        progress: show bars.

    Returns:
        Labels of the cells: ``done`` now, ``kept`` from before, ``elsewhere`` (held by another process),
        ``failed``.
    """
    folder = RunFolder(output)
    outcome: dict[str, list[str]] = {"done": [], "kept": [], "elsewhere": [], "failed": []}
    bar = Progress("All cells", len(plan.cells), enabled=progress and len(plan.cells) > 1)
    try:
        for training in plan.trainings:
            if not force and not _missing(training, folder):
                outcome["kept"] += [cell.label for cell in training.cells]
            else:
                with folder.lock(training.key, training.cells[0].label) as mine:
                    if mine:
                        _run_training(plan, training, folder, force, outcome, bar)
                    else:
                        outcome["elsewhere"] += [
                            f"{c.label} ({folder.holder(training.key)})" for c in training.cells
                        ]
            for _ in training.cells:
                bar.advance()
    finally:
        bar.close()
    return outcome


def _missing(training: Training, folder: RunFolder) -> list[Cell]:
    return [cell for cell in training.cells if folder.cell_path(cell.key) is None]


def _run_training(
    plan: Plan,
    training: Training,
    folder: RunFolder,
    force: bool,
    outcome: dict[str, list[str]],
    bar: Progress,
) -> None:
    """Train once, then judge each missing cell."""
    if force:
        folder.forget(training.key, [cell.key for cell in training.cells])
    todo = _missing(training, folder)  # again: another process may have finished them since
    outcome["kept"] += [cell.label for cell in training.cells if cell not in todo]
    fresh: Any = None
    trained: dict[str, Any] = {}
    for cell in todo:
        bar.say(cell.label)
        try:
            if not trained:
                trained, fresh = cells.train(plan, training, folder)
            same = fresh is not None and cell.config == training.config
            judged = fresh if same else cells.judge_again(cell, trained, folder, training, plan)
            folder.write_cell(cells.cell_record(cell, training, trained, judged))
        except Exception as error:  # one cell must not cost the others
            folder.write_failure(cell.key, _failure(cell, error))
            outcome["failed"].append(f"{cell.label}: {error}")
            if not isinstance(error, UserError):
                traceback.print_exc()
            if not trained:  # the weights are what failed: so do the other cells of this training
                for other in todo[todo.index(cell) + 1 :]:
                    folder.write_failure(other.key, _failure(other, error))
                    outcome["failed"].append(f"{other.label}: {error}")
                return
        else:
            outcome["done"].append(cell.label)


def _failure(cell: Cell, error: Exception) -> dict[str, Any]:
    return {
        "created": cells.now(),
        "row": {"name": cell.row.name, "base": cell.row.base},
        "model": cell.row.base,
        "seed": cell.seed,
        "filter_seen": cell.filter_seen,
        "kind": type(error).__name__,
        "error": str(error) or repr(error),
        "where": [] if isinstance(error, UserError) else _places(error),
    }


def _places(error: Exception) -> list[str]:
    """File names and lines of a traceback, innermost last, without folders."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
