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
    words_of,
)
from recbole_sigma.settings.reading import nearest
from recbole_sigma.values import UserError

PROMPTS = 3
LEGEND = """\
train, valid, test: events the task may ask for; slot: what fills the blank of its wordings ("pseudo": a query
made up from item texts), and how many values it has; share: its part of the instructions in training
"""


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = add_verb(
        verbs,
        "tasks",
        tasks,
        "the instruction tasks of a data set, or, with --checkpoint, how a model fares on them",
        (
            "tasks --dataset=ml-100k --route",
            "tasks --checkpoint=saved/FILE --baselines=saved/OTHER --modes=all",
        ),
        {
            **FILES_AND_DATA,
            "checkpoint": "FILE  judge this model: controls, lifts, baselines; or latest",
            "baselines": "FILE,FILE  checkpoints to compare it with",
            "sentences": "FILE  labelled sentences for --route in place of the shipped ones",
            "modes": "MODES  also judge under these values of decode_mode, or all",
            "rows": "N  test rows per task (0 = all), or people of --converse (200)",
            "output": "FOLDER  where the report goes (saved/results)",
            **MOVED,
        },
    )
    parser.add_argument("--route", action="store_true", help="judge how labelled sentences are understood")
    parser.add_argument(
        "--converse", action="store_true", help="let simulated people talk to --checkpoint, and judge it"
    )


def tasks(options: argparse.Namespace, rest: list[str]) -> int:
    """What a data set's tasks look like, or how a checkpoint fares on them."""
    if options.converse:
        refuse_rest("tasks", rest, ("checkpoint", "rows", "output", *MOVED))
        return _converse(options)
    if options.route:
        return _route(options, [*(f"--{name}={v}" for name, v in moved_places(options).items()), *rest])
    if options.sentences is not None:
        raise UserError("--sentences belongs to tasks --route")
    if options.checkpoint is None:
        words = [f"--{name}={value}" for name, value in moved_places(options).items()]  # keys here
        return _show_tasks(options, [*words, *rest])
    refuse_rest("tasks", rest, ("checkpoint", "baselines", "rows", "modes", *MOVED))
    return _judge_checkpoint(options)


def _built(options: argparse.Namespace, rest: list[str]) -> tuple[Any, Any, Any]:
    """(config, train dataset, its tasks) of a data set."""
    files = files_of(options)
    check_words(rest, files, "SIGMA", options.dataset)
    from recbole_sigma.instructions.samples import build_tasks
    from recbole_sigma.run.config import RunConfig
    from recbole_sigma.run.loaders import load_data

    asked = {} if any(word.startswith("--tasks") for word in rest) else {"tasks": ["all"]}
    config = RunConfig(
        "SIGMA",
        options.dataset,
        files,
        {"state": "WARNING", "show_progress": False, **asked},
        words_of(options, rest),
    )
    train = load_data(config, config.model_class).train._dataset
    return config, train, build_tasks(train, config)


def _show_tasks(options: argparse.Namespace, rest: list[str]) -> int:
    _, _, tasks = _built(options, rest)
    from tabulate import tabulate

    from recbole_sigma.instructions.samples import describe

    print(tabulate(describe(tasks), headers="keys"))
    print(LEGEND)
    for sentence in tasks.off.values():
        print(sentence)
    for name in tasks.rows:
        print(f"\n{name}: training prompts, history (last three) | instruction -> target")
        for history, text, target in tasks.prompts(name, PROMPTS):
            print(f"  {'; '.join(history) or '(no history)'} | {text} -> {target}")
    return 0


def _route(options: argparse.Namespace, rest: list[str]) -> int:
    """How labelled sentences are understood; needs no model."""
    config, train, tasks = _built(options, rest)
    from tabulate import tabulate

    from recbole_sigma.benchmark.cells import commit
    from recbole_sigma.evaluation.tasks.route import NONE, load_sentences, route, unlike_templates
    from recbole_sigma.settings.recipes import properties_dir
    from recbole_sigma.understanding.build import lexicon_of
    from recbole_sigma.understanding.reader import Understanding

    name = config["dataset"]
    path = Path(options.sentences or properties_dir() / "sentences" / f"{name}.yaml")
    if not path.is_file():
        raise UserError(f"{name} has no labelled sentences: give --sentences=FILE ({path} does not exist)")
    understanding = Understanding(lexicon_of(train, config, tasks.material, tasks.rows))
    templates = [rows.task.fill(text, "") for rows in tasks.rows.values() for text in rows.task.templates]
    report: dict[str, Any] = {"format": 1, "dataset": name, "command": sys.argv, "commit": commit()}
    body, left_out = [], 0
    known = (NONE, *tasks.rows, *tasks.off)
    for part, rows in load_sentences(path).items():
        if part in report:
            raise UserError(f"{path}: {part!r} is what the report calls something else: rename the part")
        for row in rows:
            if row.task not in known:
                raise UserError(f"{path}: {part}: unknown task {row.task!r}{nearest(row.task, known)}")
        own = [row for row in rows if row.task == NONE or row.task in tasks.rows]
        left_out += len(rows) - len(own)
        found = route(understanding, own)
        found["unlike_templates"] = unlike_templates(own, templates)
        report[part] = found
        shown = {key: value for key, value in found.items() if isinstance(value, dict) and "value" in value}
        body.append({"part": part, **{key: f"{_figure(v['value'])} ({v['n']})" for key, v in shown.items()}})
    _keep(options, report, "route", name)
    if not options.json:
        print(tabulate(body, headers="keys", disable_numparse=True))
        if left_out:
            off = "; ".join(tasks.off.values())
            print(f"{left_out} sentences of tasks that are off are left out: {off}")
        for part in (part for part in report if isinstance(report[part], dict)):
            for row in report[part]["wrong"] if part != "held" else ():
                print(
                    f"  {part}: {row['sentence']!r} is {row['task']} {row['slots']}, read as "
                    f"{row['read_as']} {row['slots_read']}"
                )
    return 0


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _keep(options: argparse.Namespace, report: dict[str, Any], kind: str, dataset: str) -> None:
    """Write a report and say where; with --json print it."""
    import json

    from recbole_sigma.benchmark.records import write_json
    from recbole_sigma.benchmark.results import result_path

    out = result_path(Path(options.output or "saved/results"), kind, dataset)
    write_json(out, report)
    print(json.dumps(report, ensure_ascii=False) if options.json else f"results: {out}")


def _converse(options: argparse.Namespace) -> int:
    """Simulated people talk to a checkpoint, to an oracle and to a popularity list."""
    if options.checkpoint is None:
        raise UserError("--converse talks to a model: give --checkpoint=FILE")
    from tabulate import tabulate

    from recbole_sigma.benchmark.cells import commit
    from recbole_sigma.evaluation.tasks.dialogue_rubric import LINES, Oracle, PopularList, System, converse
    from recbole_sigma.machine.progress import Progress
    from recbole_sigma.recommend.dialogue import Talker, drawn_people
    from recbole_sigma.recommend.recommender import Recommender
    from recbole_sigma.run import checkpoint as files

    count = whole_number(options.rows or ("20" if options.smoke else "200"), "rows", 1)
    files.read(options.checkpoint, dataset=options.dataset)
    recommender = Recommender.load(options.checkpoint, moved_places(options))
    persons = drawn_people(recommender, count)
    if not persons:
        raise UserError("no test row has a history and a target with a fact to tell: nobody can talk")
    lexicon, closed = recommender.lexicon, recommender.filters_seen
    length = min(100, lexicon.n - 1)
    systems: dict[str, System] = {
        recommender.config["model"]: Talker(recommender, length),
        "oracle": Oracle(lexicon, length, closed),
        "popular list": PopularList(lexicon, length, closed),
    }
    progress = Progress("Talk", len(systems) * len(persons), enabled=not (options.quiet or options.json))
    name = recommender.config["dataset"]
    report: dict[str, Any] = {
        "format": 1, "checkpoint": options.checkpoint, "dataset": name, "command": sys.argv,
        "commit": commit(), "systems": {},
    }  # fmt: skip
    try:
        for label, system in systems.items():
            report["systems"][label] = converse(
                system, lexicon, persons, length, closed, advance=progress.advance
            )
    finally:
        progress.close()
    _keep(options, report, "converse", name)
    if not options.json:
        body = []
        for label, found in report["systems"].items():
            lines = {
                line: f"{_figure(found['lines'][line]['value'])} ({found['lines'][line]['n']})"
                for line in LINES
            }
            turns = " ".join(f"{turn['value']:.3f}" for turn in found["hit@10"])
            once = found["one_shot"]
            body.append(
                {
                    "system": label,
                    **lines,
                    "hit@10 by turn": turns,
                    "last turn / one sentence": f"{once['dialogue']:.3f} / {once['one_sentence']:.3f}",
                }
            )
        print(f"{len(persons)} people")
        print(tabulate(body, headers="keys", disable_numparse=True))
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
    limit = whole_number(options.rows or ("20" if options.smoke else "0"), "rows", 0)
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
