"""The benchmark: plan, run every missing cell once, record a failed one and go on, gather, report."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_sigma.benchmark import cells
from recbole_sigma.benchmark.folder import RunFolder
from recbole_sigma.benchmark.plan import Cell, Plan, Training, make_plan
from recbole_sigma.benchmark.publish import publish as lean
from recbole_sigma.benchmark.records import AGAIN, RESULTS, read_record, write_record
from recbole_sigma.benchmark.report import add_significance, write_report
from recbole_sigma.benchmark.results import collect
from recbole_sigma.benchmark.variants import plain_name, rows_of
from recbole_sigma.machine.progress import Progress
from recbole_sigma.machine.system import system_sentence
from recbole_sigma.settings.reading import nearest
from recbole_sigma.values import UserError

POLICIES: dict[str, tuple[bool, ...]] = {"filtered": (True,), "unfiltered": (False,), "both": (True, False)}


def run_benchmark(
    models: Sequence[str],
    dataset: str,
    seeds: Sequence[int] = (2020,),
    policies: str | None = None,
    config_file_list: Iterable[str] = (),
    config_dict: dict[str, Any] | None = None,
    arguments: Iterable[str] = (),
    output: Path | str = "saved/benchmark",
    force: bool = False,
    reference: str | None = None,
) -> dict[str, Any]:
    """Fill a folder with one JSON per cell, and write results.json and the report over all of them.

    Args:
        models: words of ``--models``, see `variants.rows_of`.
        dataset: dataset name.
        seeds: seeds; a training-free model takes the first alone.
        policies: ``filtered``, ``unfiltered`` or ``both``; None is what the settings say.
        config_file_list: property files for every row.
        config_dict: values that outrank the files.
        arguments: ``--key=value`` words that outrank the dictionary.
        output: the folder; a second run with the same folder does what is missing.
        force: do finished cells of this plan again.
        reference: row that the others are compared with, in place of the best baseline.

    Returns:
        The record that results.json holds, with ``outcome`` (see `run_plan`) and ``corrected`` (see
        `RunFolder`) beside it.

    Raises:
        UserError: if the settings or data of any row are unusable, before anything trains.
    """
    if policies is not None and policies not in POLICIES:
        raise UserError(f"--filter must be one of {', '.join(POLICIES)}; not {policies!r}")
    values = dict(config_dict or {})
    rows = rows_of(models)
    if not rows:
        raise UserError("--models names no model")
    if reference is not None and plain_name(reference) not in {row.name for row in rows}:
        raise UserError(
            f"--reference={reference} is no row of --models{nearest(reference, [r.name for r in rows])}"
        )
    plan = make_plan(
        rows, dataset, seeds, POLICIES[policies] if policies else None, config_file_list, values, arguments
    )
    if reference is not None:  # the row may have been renamed by a word that outranks one of its keys
        names = {plain_name(cell.row.name): cell.row.name for cell in plan.cells}
        reference = names[plain_name(reference)]
    folder = RunFolder(output)
    outcome: dict[str, list[str]] = {}
    try:
        outcome = run_plan(plan, output, force, bool(values.get("show_progress", True)))
    finally:  # after Ctrl-C too: what is finished gets its table
        record = collect(folder, plan)
        write_report(folder.path, record, reference)
        write_record(folder.path / "results.json", record)
    return {**record, "outcome": outcome, "corrected": folder.corrected}


def rebuild_report(
    output: Path | str, reference: str | None = None, publish: Path | str | None = None
) -> dict[str, Any]:
    """Make results.json and the report of a folder again from its finished cells.

    Args:
        output: a folder that `run_benchmark` filled; with ``publish`` a results.json will do.
        reference: row to compare with, in place of the best baseline.
        publish: folder for the lean record, see `publish.publish`.

    Returns:
        The record that results.json holds, with ``corrected`` (see `RunFolder`) beside it.

    Raises:
        UserError: when ``output`` is neither, or ``publish`` is the folder of the heavy record.
    """
    output = Path(output)
    corrected: list[str] = []
    if publish is not None and output.is_file():
        record = read_record(output, RESULTS, AGAIN)
        if reference is not None:
            add_significance(record, reference)
    elif (output / "cells").is_dir():
        folder = RunFolder(output)
        record = collect(folder)
        corrected = folder.corrected
        write_report(folder.path, record, reference)
        write_record(folder.path / "results.json", record)
    else:
        raise UserError(f"{output} is no folder of the benchmark command: it has no cells/")
    if publish is not None:
        if Path(publish).resolve() == output.resolve():
            raise UserError(f"--publish={publish} is the folder of the heavy record: name another one")
        words = [f"--output={output}", *([f"--reference={reference}"] if reference else [])]
        lean(record, publish, ["run_recbole_sigma.py", "report", *words, f"--publish={publish}"])
    return {**record, "corrected": corrected}


# --- the loop ---


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
        except Exception as caught:  # one cell must not cost the others
            error = UserError(system_sentence(caught)) if isinstance(caught, OSError) else caught
            folder.write_failure(cell.key, _failure(cell, error))
            outcome["failed"].append(f"{cell.label}: {error}")
            if not isinstance(error, UserError):
                getLogger().error(f"{cell.label}: {error!r} at {'; '.join(_places(error))}")
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
