"""The verb ``tasks``: the instruction tasks of a data set, or how a checkpoint fares on them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from recbole_sigma.commands.words import (
    FILES_AND_DATA,
    MOVED,
    add_verb,
    check_words,
    files_of,
    moved_places,
    refuse_rest,
    whole_number,
)
from recbole_sigma.settings.reading import nearest
from recbole_sigma.values import UserError

PROMPTS = 10


def add(verbs: Any) -> None:
    """Declare the verb."""
    add_verb(
        verbs,
        "tasks",
        tasks,
        "the instruction tasks of a data set, or, with --checkpoint, how a model fares on them",
        ("tasks --dataset=ml-100k", "tasks --checkpoint=saved/FILE --baselines=saved/OTHER --modes=all"),
        {
            **FILES_AND_DATA,
            "checkpoint": "FILE  judge this model: controls, lifts, baselines",
            "baselines": "FILE,FILE  checkpoints to compare it with",
            "modes": "MODES  also judge under these values of decode_mode, or all",
            "rows": "N  test rows per task (0 = all)",
            "output": "FOLDER  where the report goes (saved/results)",
            **MOVED,
        },
    )


def tasks(options: argparse.Namespace, rest: list[str]) -> int:
    """What a data set's tasks look like, or how a checkpoint fares on them."""
    if options.checkpoint is None:
        words = [f"--{name}={value}" for name, value in moved_places(options).items()]  # keys here
        return _show_tasks(options, [*words, *rest])
    refuse_rest("tasks", rest, ("checkpoint", "baselines", "rows", "modes", *MOVED))
    return _judge_checkpoint(options)


def _show_tasks(options: argparse.Namespace, rest: list[str]) -> int:
    files = files_of(options)
    check_words(rest, files, "SIGMA", options.dataset)
    from tabulate import tabulate

    from recbole_sigma.instructions.samples import build_tasks, describe
    from recbole_sigma.run.config import RunConfig
    from recbole_sigma.run.loaders import load_data

    asked = {} if any(word.startswith("--tasks") for word in rest) else {"tasks": ["all"]}
    config = RunConfig(
        "SIGMA",
        options.dataset,
        files,
        {"state": "WARNING", "show_progress": False, **asked},
        rest,
    )
    train = load_data(config, config.model_class).train._dataset
    tasks = build_tasks(train, config)
    print(tabulate(describe(tasks), headers="keys"))
    for sentence in tasks.off.values():
        print(sentence)
    for name in tasks.rows:
        print(f"\n{name}: training prompts, history (last three) | instruction -> target")
        for history, text, target in tasks.prompts(name, PROMPTS):
            print(f"  {'; '.join(history) or '(no history)'} | {text} -> {target}")
    return 0


def _judge_checkpoint(options: argparse.Namespace) -> int:
    from recbole_sigma.benchmark.cells import commit
    from recbole_sigma.benchmark.records import write_json
    from recbole_sigma.benchmark.results import result_path
    from recbole_sigma.decoding.fusion import MODES
    from recbole_sigma.evaluation.tasks.bench import TaskBench
    from recbole_sigma.evaluation.tasks.report import full_report
    from recbole_sigma.machine.progress import Progress
    from recbole_sigma.models.contract import contract
    from recbole_sigma.quick_start import load_data_and_model
    from recbole_sigma.run import checkpoint as files

    path = options.checkpoint
    modes = options.modes.split(",") if options.modes else []
    modes = list(MODES) if modes == ["all"] else modes
    for mode in modes:
        if mode not in MODES:
            raise UserError(f"--modes: '{mode}' is unknown{nearest(mode, MODES)}; use all or some of {MODES}")
    limit = whole_number(options.rows or "0", "rows", 0)
    files.read(path, dataset=options.dataset)
    moved = {"show_progress": False, "state": "WARNING", **moved_places(options)}
    config, model, _, train, _, test = load_data_and_model(path, moved)
    if contract(model).task_labels is None:
        raise UserError(f"{path} was trained on JustForYou alone: train with --tasks=all to compare tasks")
    others = {}
    for name in [part for part in (options.baselines or "").split(",") if part]:
        other = load_data_and_model(name, moved)
        if other[2].item_num != train._dataset.item_num or other[0]["dataset"] != config["dataset"]:
            raise UserError(f"--baselines: {name} was trained on another dataset than {path}")
        others[str(other[0]["model"])] = other[1]
    progress = Progress("Judge tasks", 1, enabled=not (options.quiet or options.json))
    try:
        bench = TaskBench(model, test, config, limit, progress.advance)
        report = full_report(bench, train._dataset, others, modes)
    finally:
        progress.close()
    report = {
        "format": 1,
        "checkpoint": path,
        "dataset": config["dataset"],
        "command": sys.argv,
        "commit": commit(),
        "protocol": config.protocol(),
        **report,
    }
    out = result_path(Path(options.output or "saved/results"), "tasks", config["dataset"])
    write_json(out, report)
    print_report(report)
    print(f"results: {out}")
    return 0


def print_report(report: dict[str, Any]) -> None:
    """Tables of ``full_report``: a row per condition, with the lift of the task's instruction over it."""
    from tabulate import tabulate

    for name, entry in report["tasks"].items():
        print(f"\n{name} (version {entry['version']}, slot {entry['slot']}, {entry['rows']} rows)")
        body = []
        for label, figures in entry["figures"].items():
            lift = entry["lifts"].get(label)
            shown = f"{lift['lift']:+.4f} [{lift['low']:+.4f}, {lift['high']:+.4f}]" if lift else ""
            body.append({"condition": label, **figures, "task minus this, hit@10": shown})
        print(tabulate(body, headers="keys", floatfmt=".4f"))
        for mode, figures in entry["modes"].items():
            kept = {key: round(value, 4) for key, value in figures.items() if "10" in key}
            print(f"  fusion {mode}: {kept}")
        for part, row in entry.get("queries", {}).items():
            print(f"  {part} queries: { {k: round(v, 4) for k, v in row.items()} }")
    for sentence in report["skipped"].values():
        print(sentence)
    for name, value in report["generalrec"].items():
        print(f"{name} {value:.4f}")
