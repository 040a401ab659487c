"""The verbs ``tasks`` and ``recommend`` of the command line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recbole_sigma.commands.main import refuse
from recbole_sigma.models.contract import contract
from recbole_sigma.settings.reading import nearest, raise_all
from recbole_sigma.values import UserError

PROMPTS = 10
BATCH = 256  # users of one batch of --users-file
_RECOMMEND = (
    "checkpoint", "user", "history", "instruction", "task", "slot", "k", "filter", "format", "users_file",
    "data_path", "backbone",
)  # fmt: skip
_TASKS = ("checkpoint", "baselines", "rows", "modes", "data_path", "backbone")


def options(words: Sequence[str], known: Sequence[str], verb: str) -> dict[str, list[str]]:
    """``--name=value`` and ``--name value`` words of a verb, in order.

    Raises:
        UserError: a word that is no option, or an option that the verb does not have.
    """
    found: dict[str, list[str]] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--") or name not in known:
            shown = word[:80]
            raise UserError(
                f"{verb}: unknown word {shown!r}{nearest(name[:80], known)}; --help shows examples"
            )
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"--{name} needs a value: --{name}=...")
            value = rest.pop(0)
        found.setdefault(name, []).append(value)
    return found


def single(found: dict[str, list[str]], name: str) -> str | None:
    """The value of an option that may be given once, None where it is not given."""
    values = found.get(name)
    if values and len(values) > 1:
        raise UserError(f"--{name} is given {len(values)} times")
    return values[0] if values else None


def _overrides(found: dict[str, list[str]]) -> dict[str, Any]:
    """What lies elsewhere now than when the checkpoint was written."""
    values = {name: single(found, name) for name in ("data_path", "backbone")}
    return {name: value for name, value in values.items() if value is not None}


# --- tasks ---


def tasks_command(own: dict[str, str], rest: list[str]) -> int:
    """What a dataset's tasks look like, or how a checkpoint fares on them."""
    refuse(own, ("models", "seeds"))
    if any(word.startswith("--checkpoint") for word in rest):
        return _judge_checkpoint(own, options(rest, _TASKS, "tasks"))
    return _show_tasks(own, rest)


def _show_tasks(own: dict[str, str], rest: list[str]) -> int:
    from tabulate import tabulate

    from recbole_sigma.instructions.samples import build_tasks, describe
    from recbole_sigma.run.config import SigmaConfig
    from recbole_sigma.run.loaders import load_data

    asked = {} if any(word.startswith("--tasks") for word in rest) else {"tasks": ["all"]}
    config = SigmaConfig(
        "SIGMA",
        own.get("dataset"),
        own.get("config_files", "").split(),
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


def _judge_checkpoint(own: dict[str, str], found: dict[str, list[str]]) -> int:
    from recbole_sigma.benchmark.cells import commit
    from recbole_sigma.benchmark.folder import write_json
    from recbole_sigma.benchmark.results import result_path
    from recbole_sigma.decoding.fusion import MODES
    from recbole_sigma.evaluation.tasks.bench import TaskBench
    from recbole_sigma.evaluation.tasks.report import full_report
    from recbole_sigma.machine.progress import Progress
    from recbole_sigma.quick_start import load_data_and_model
    from recbole_sigma.run import checkpoint as files

    path = str(single(found, "checkpoint"))
    modes = (single(found, "modes") or "").split(",") if "modes" in found else []
    modes = list(MODES) if modes == ["all"] else modes
    for mode in modes:
        if mode not in MODES:
            raise UserError(f"--modes: '{mode}' is unknown{nearest(mode, MODES)}; use all or some of {MODES}")
    limit = _count(single(found, "rows") or "0", "rows", 0)
    files.read(path, dataset=own.get("dataset"))
    config, model, _, train, _, test = load_data_and_model(
        path, {"show_progress": False, "state": "WARNING", **_overrides(found)}
    )
    if contract(model).task_labels is None:
        raise UserError(f"{path} was trained on JustForYou alone: train with --tasks=all to compare tasks")
    others = {}
    for name in [part for part in (single(found, "baselines") or "").split(",") if part]:
        other = load_data_and_model(name, {"show_progress": False, "state": "WARNING", **_overrides(found)})
        if other[2].item_num != train._dataset.item_num or other[0]["dataset"] != config["dataset"]:
            raise UserError(f"--baselines: {name} was trained on another dataset than {path}")
        others[str(other[0]["model"])] = other[1]
    progress = Progress("Judge tasks", 1, enabled="quiet" not in own)
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
    out = result_path(Path(own.get("output", "saved/results")), "tasks", config["dataset"])
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


# --- recommend ---


def recommend_command(own: dict[str, str], rest: list[str]) -> int:
    """Lists from a checkpoint."""
    from recbole_sigma.recommend.recommender import Recommender
    from recbole_sigma.run import checkpoint as files

    refuse(own, ("model", "models", "seeds", "config_files"))
    found = options(rest, _RECOMMEND, "recommend")
    path = single(found, "checkpoint")
    if path is None:
        raise UserError(
            "recommend needs --checkpoint=FILE, and --history=... or --user=... or --users_file=..."
        )
    form = single(found, "format") or "table"
    if form not in ("table", "json"):
        raise UserError(f"--format must be table or json, not {form!r}")
    k = _count(single(found, "k") or "10", "k", 1)
    base = _request(found)
    batch = single(found, "users_file")
    if batch is None and base.user is None and base.history is None:
        raise UserError("recommend needs --history='title; title', --user=ID or --users_file=FILE")
    requests = None if batch is None else read_requests(Path(batch), base)
    files.read(path, dataset=own.get("dataset"))
    recommender = Recommender.load(path, _overrides(found))
    if requests is not None:
        return _many(recommender, requests, k, own.get("output"))
    answer = recommender.answer([base], k)[0]
    if form == "json":
        print(json.dumps(answer.plain(), ensure_ascii=False, indent=1))
        return 0
    _print_answer(answer)
    return 0


def _count(text: str, name: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise UserError(f"--{name}: give a whole number of at least {least}, not {text[:80]!r}")
    return value


def _request(found: dict[str, list[str]]) -> Any:
    """The request of the command line."""
    from recbole_sigma.recommend.recommender import Request

    history = single(found, "history")
    category, keep_seen = None, None
    for text in found.get("filter", []):
        name, equals, value = text.partition("=")
        if name == "category" and value:
            category = value
        elif name == "seen" and value in ("", "true", "false"):
            keep_seen = value == "false"
        else:
            raise UserError(
                f"--filter: {text[:80]!r} is no filter; use category=NAME, seen (no repeats of the history) "
                "or seen=false (repeats allowed)"
            )
    return Request(
        user=single(found, "user"),
        history=None if history is None else split_history(history),
        instruction=single(found, "instruction"),
        task=single(found, "task"),
        slot=single(found, "slot"),
        category=category,
        keep_seen=keep_seen,
    )


def split_history(text: str) -> list[str]:
    """Titles separated by ';' (a title may hold commas).

    >>> split_history("Toy Story; Usual Suspects, The;")
    ['Toy Story', 'Usual Suspects, The']
    """
    return [part.strip() for part in text.split(";") if part.strip()]


def _print_answer(answer: Any) -> None:
    from tabulate import tabulate

    if answer.instruction:
        print(f"task: {answer.task}\ninstruction: {answer.instruction}")
    for note in answer.notes:
        print(note)
    body = [[row.rank, row.title, row.item, f"{row.score:.4f}", row.prefix] for row in answer.items]
    print(tabulate(body, headers=["rank", "title", "item", "score", "prefix"], disable_numparse=True))


def read_requests(path: Path, base: Any) -> list[tuple[str, Any]]:
    """Requests of a file: a line is a user id, or a JSON object with keys of `recommend.Request`.

    Args:
        path: the file; empty lines are skipped.
        base: what a line does not say comes from here.

    Raises:
        UserError: with every bad line; no file; no line.
    """
    import dataclasses

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--users_file: {path} cannot be read: {error}") from error
    known = [field.name for field in dataclasses.fields(base)]
    found: list[tuple[str, Any]] = []
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        where = f"{path}:{number}"
        values: Any = {"user": text}
        if text.startswith("{"):
            try:
                values = json.loads(text)
            except ValueError as error:
                problems.append(f"{where} is no JSON object: {error}")
                continue
        unknown = [key for key in values if key not in known]
        if unknown:
            problems.append(f"{where} has the unknown key {unknown[0]!r}{nearest(unknown[0], known)}")
        elif not isinstance(values.get("history", []), list):
            problems.append(f"{where}: history must be a list of titles or ids")
        else:
            texts = {key: value for key, value in values.items() if key not in ("history", "keep_seen")}
            texts = {key: None if value is None else str(value) for key, value in texts.items()}
            found.append((where, dataclasses.replace(base, **{**values, **texts})))
    if not found and not problems:
        problems.append(f"--users_file: {path} holds no user")
    raise_all(problems[:20])
    return found


def _many(recommender: Any, requests: list[tuple[str, Any]], k: int, output: str | None) -> int:
    """One JSON line per request, to a file or to standard output; the throughput to standard error."""
    from recbole_sigma.machine.files import write_atomically

    started = time.perf_counter()
    lines: list[str] = []
    for part in _batches(requests):
        try:
            answers = recommender.answer([request for _, request in part], k)
        except UserError:
            for where, request in part:  # name the line
                try:
                    recommender.answer([request], k)
                except UserError as error:
                    raise UserError(f"{where}: {error}") from error
            raise
        for (_, request), answer in zip(part, answers, strict=True):
            lines.append(json.dumps({"user": request.user, **answer.plain()}, ensure_ascii=False))
    seconds = time.perf_counter() - started
    text = "\n".join(lines) + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        path = Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    rate = len(lines) / max(seconds, 1e-9)
    print(f"{len(lines)} users in {seconds:.2f} s, {rate:.1f} users per second", file=sys.stderr)
    return 0


def _batches(requests: list[tuple[str, Any]]) -> Iterator[list[tuple[str, Any]]]:
    for begin in range(0, len(requests), BATCH):
        yield requests[begin : begin + BATCH]
