"""The command line: ``python run_recbole_sigma.py``, or ``recbole-sigma`` where installed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from recbole_sigma._compat import keep_freed_memory
from recbole_sigma.values import UserError

USAGE = """\
usage: {program} [VERB] --model=NAME --dataset=NAME [--config_files="a.yaml b.yaml"] [--key=value ...]

verbs
  (none)      train and test one model
  demo        Pop, WindowItemKNN and SIGMA on the MovieLens-100K inside RecBole, then a table
  benchmark   a table of --models=A,B,C with --seeds=1,2,3; run it again to continue after an interruption
  tune        search --models on validation, --trials=N each; best settings become property files
  report      the tables, plots and report.html of a benchmark's --output folder, made again
  tasks       the instruction tasks of a --dataset: rows, why a task is off, sample prompts;
              with --checkpoint=FILE their figures: controls, lifts, baselines (--baselines=FILE,FILE
              --modes=all --rows=N)
  recommend   lists from a --checkpoint=FILE: --history="title; title" or --user=ID or --users_file=FILE,
              --instruction="any sentence" or --task=NAME --slot=TEXT, --k=10, --filter=category=NAME,
              --filter=seen=false, --format=json, --output=FILE
  export      the language model of a --checkpoint=FILE as a transformers folder --output=FOLDER, adapters
              merged (--dtype=bf16 halves it; --backbone=pretrained:FOLDER where the base lies elsewhere now)

examples
  {program} demo
  {program} --model=SIGMA --dataset=ml-100k
  {program} --model=SASRec --dataset=ml-100k --learning_rate=1e-3 --epochs=50
  {program} --model=SIGMA --dataset=my-data --data_path=dataset/ --config_files="my.yaml"
  {program} benchmark --models=Pop,WindowItemKNN,PackedSASRec,SIGMA --dataset=ml-100k --seeds=2024,2025,2026
  {program} benchmark --models="SIGMA,SIGMA-*,SASRec-BCE,mine.yaml" --dataset=ml-100k --filter=both
  {program} benchmark --models=list
  {program} tasks --dataset=ml-100k
  {program} --model=SIGMA --dataset=ml-100k --tasks=all
  {program} recommend --checkpoint=saved/FILE --history="Toy Story; Aladdin" --instruction="something new"
  {program} --help --model=SIGMA

options
  --output=FOLDER   where results go (saved/results; saved/benchmark/DATASET for benchmark)
  --filter=POLICY   benchmark: filtered, unfiltered or both (seen items)
  --force           benchmark: do finished cells again
  --trials=N        tune: trials per model, the shipped settings among them (20)
  --budget=SECONDS  tune: CPU seconds per model after which no new trial starts
  --sampler=NAME    tune: random, or tpe (needs hyperopt); --space=FILE.yaml replaces the shipped search space
  --reference=ROW   benchmark, report: compare with this row, not with the best baseline
  --publish=FOLDER  report: write the lean record there (table.md, cells.csv, commands.sh, two pictures)
  --quiet           no progress, only the table and the path of the JSON
  --json            no progress, one JSON object on stdout and nothing else: for scripts
  --resume          go on where the same command was cut off
  --nproc=N         N processes on this machine (torchrun works too)
  --version         print the version
  --help            this text; with --model=NAME the keys of that model too

Every key of RecBole works as --key=value or --key value, in a file, or in a dictionary. Order of precedence:
RecBole's and our property files < config files < dictionary < command line. A key that nothing declares is
refused.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: words after the program's name; None reads ``sys.argv``.

    Returns:
        The exit code: 0, 1 when a cell of a table failed or this program did, 2 for a mistake the user can
        mend, 130 after Ctrl-C.
    """
    keep_freed_memory()
    words = list(sys.argv[1:] if argv is None else argv)
    from recbole_sigma.commands.failures import fail, show_fault, system_sentence

    try:
        return _dispatch(words)
    except UserError as error:
        return fail(str(error), 2, words)
    except KeyboardInterrupt:
        return fail("stopped (the same command with --resume goes on from its last stored state)", 130, words)
    except OSError as error:
        return fail(system_sentence(error), 2, words)
    except Exception as error:
        return fail(show_fault(error), 1, words)


def _dispatch(words: list[str]) -> int:
    from recbole_sigma.settings.reading import nearest

    verb = words.pop(0) if words and not words[0].startswith("-") else ""
    if verb not in VERBS:
        raise UserError(f"unknown verb {verb!r}{nearest(verb, VERBS)}; --help lists the verbs")
    # recommend has a --filter of its own, which may be given several times
    own, rest = _own_options(
        words, [name for name in OWN if name != "filter"] if verb == "recommend" else OWN
    )
    if "help" in own:
        print(help_text(own.get("model") or (own.get("models") or "").split(",")[0]))
        return 0
    if "version" in own:
        from recbole_sigma import __version__

        print(__version__)
        return 0
    return VERBS[verb](own, rest)


OWN = (
    "model", "models", "dataset", "seeds", "config_files", "output", "quiet", "json", "help", "version",
    "filter", "force", "reference", "trials", "budget", "sampler", "space", "publish",
)  # fmt: skip
OF_SEARCH = ("trials", "budget", "sampler", "space")
OF_TABLES = ("models", "seeds", "filter", "force", "reference", "publish", *OF_SEARCH)
_SWITCHES = ("quiet", "json", "help", "version", "force")


def _own_options(words: list[str], names: Sequence[str] = OWN) -> tuple[dict[str, str], list[str]]:
    """Take the options that are not configuration keys out of the words."""
    own: dict[str, str] = {}
    rest: list[str] = []
    position = 0
    while position < len(words):
        word = {"-h": "--help", "-m": "--model", "-d": "--dataset"}.get(words[position], words[position])
        position += 1
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in names:
            rest.append(word)
            continue
        if name in _SWITCHES:
            own[name] = value or "true"
            continue
        if not equals:
            if position >= len(words) or words[position].startswith("--"):
                raise UserError(f"--{name} needs a value: --{name}=...")
            value = words[position]
            position += 1
        own[name] = value.strip().strip("\"'") if name == "config_files" else value.strip()
    return own, rest


def refuse(own: dict[str, str], names: Iterable[str]) -> None:
    """Refuse options that another verb owns."""
    for name in names:
        if name in own:
            raise UserError(f"--{name} does not belong to this verb; --help shows examples")


def shared_options(own: dict[str, str], refused: Sequence[str]) -> dict[str, Any]:
    """Config files, defaults and output folder; options that another verb owns are refused."""
    refuse(own, refused)
    quiet = "quiet" in own or "json" in own
    return {
        "config_file_list": own.get("config_files", "").split(),
        "config_dict": {"state": "WARNING", **({"show_progress": False} if quiet else {})},
        "output": own.get("output", "saved/results"),
    }


def _train(own: dict[str, str], rest: list[str]) -> int:
    shared = shared_options(own, OF_TABLES)
    output = shared.pop("output")
    if "quiet" not in own and "json" not in own:
        shared["config_dict"]["state"] = "INFO"
    shared["config_dict"] = let_words_win(shared["config_dict"], shared["config_file_list"])
    from recbole_sigma.benchmark.cells import commit
    from recbole_sigma.benchmark.folder import write_json
    from recbole_sigma.benchmark.results import format_table, result_path, single_record, summarize
    from recbole_sigma.machine import processes as distributed
    from recbole_sigma.quick_start import run_sigma, unreachable_sentence

    result = run_sigma(own.get("model"), own.get("dataset"), arguments=rest, **shared)
    if result is None or not distributed.current().main:
        return 0  # process 0 speaks for all
    plain = single_record(result)
    rows = summarize([plain])
    path = result_path(Path(output), result["model"], result["dataset"])
    write_json(
        path,
        {
            "format": 1,
            "command": sys.argv,
            "dataset": result["dataset"],
            "commit": commit(),
            "machine": result["machine"],
            "versions": result["versions"],
            "protocol": result["protocol"],
            "cells": [plain],
            "failed": [],
            "table": rows,
        },
    )
    if "json" in own:
        kept = ("model", "dataset", "seed", "test_result", "best_valid_result", "best_epoch", "checkpoint")
        print(json.dumps({**{key: plain[key] for key in kept}, "results": str(path)}))
        return 0
    print(protocol_line(result["protocol"]))
    if result["unreachable_targets"]:
        print(unreachable_sentence(result["test"]))
    print(format_table(rows))
    print(f"checkpoint: {result['checkpoint']}\nresults: {path}")
    return 0


def let_words_win(values: dict[str, Any], files: Sequence[str]) -> dict[str, Any]:
    """Drop a default of the command line that a config file sets."""
    from recbole_sigma.settings.reading import load_yaml

    named: set[str] = set()
    for file in files:
        named |= load_yaml(file, []).keys()
    return {key: value for key, value in values.items() if key not in named}


def _of_tables(name: str) -> Callable[[dict[str, str], list[str]], int]:
    """A verb of `benchmark.verbs`, imported when it is used."""

    def verb(own: dict[str, str], rest: list[str]) -> int:
        from recbole_sigma.commands import tables as verbs

        return getattr(verbs, name)(own, rest)

    return verb


def _tasks(own: dict[str, str], rest: list[str]) -> int:
    from recbole_sigma.commands.recommend import tasks_command

    return tasks_command(own, rest)


def _recommend(own: dict[str, str], rest: list[str]) -> int:
    from recbole_sigma.commands.recommend import recommend_command

    return recommend_command(own, rest)


def _export(own: dict[str, str], rest: list[str]) -> int:
    from recbole_sigma.commands.export import export_command

    return export_command(own, rest)


VERBS: dict[str, Callable[[dict[str, str], list[str]], int]] = {
    "": _train,
    "demo": _of_tables("demo"),
    "benchmark": _of_tables("benchmark"),
    "tune": _of_tables("tune"),
    "report": _of_tables("report"),
    "tasks": _tasks,
    "recommend": _recommend,
    "export": _export,
}


# --- help ---


def protocol_line(protocol: dict[str, Any]) -> str:
    """The protocol in one line, for the head of a table."""
    args = protocol["eval_args"]
    policy = "seen items filtered" if protocol["filter_seen"] else "seen items kept"
    split = f"split {args['split']}, order {args['order']}"
    return f"{split}, full catalogue, {policy}, history {protocol['history']}"


_KEY_LINE = re.compile(r"^(?P<key>[A-Za-z_]\w*):\s*(?P<default>.*?)\s*(?:#\s*(?P<help>.*))?$")


def described_keys(path: Path) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Keys of a property file with default and help, grouped under the comment lines above them."""
    groups: list[tuple[str, list[tuple[str, str, str]]]] = [("", [])]
    comments: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            comments.append(line.lstrip("# ").rstrip())
            continue
        if len(comments) == 1:  # a longer block is prose about the file
            groups.append((comments[0], []))
        comments = []
        found = _KEY_LINE.match(line)
        if found:
            groups[-1][1].append((found["key"], found["default"], found["help"] or ""))
    return [(title, keys) for title, keys in groups if keys]


def help_text(model: str | None = None) -> str:
    """The text of ``--help``, with the keys of every model and of one model."""
    from recbole_sigma.settings.reading import nearest
    from recbole_sigma.settings.recipes import properties_dir, recbole_properties

    program = Path(sys.argv[0]).name or "recbole-sigma"
    program = f"python {program}" if program.endswith(".py") else program
    parts = [USAGE.format(program=program)]
    files = [("keys of every model", properties_dir() / "overall.yaml")]
    if model:
        own = [root / "model" / f"{model}.yaml" for root in (properties_dir(), recbole_properties())]
        found = [path for path in own if path.is_file()]
        if not found:
            names = [path.stem for root in own for path in root.parent.glob("*.yaml")]
            raise UserError(f"no property file for model {model!r}{nearest(model, names)}")
        files += [(f"keys of {model}", path) for path in found]
    for title, path in files:
        parts.append(title)
        for group, keys in described_keys(path):
            if group:
                parts.append(f"  {group}")
            width = max(len(f"{key}={default}") for key, default, _ in keys)
            parts += [
                f"    --{f'{key}={default}':<{min(width, 44)}}  {help_}".rstrip()
                for key, default, help_ in keys
            ]
        parts.append("")
    models = ", ".join(sorted(path.stem for path in (properties_dir() / "model").glob("*.yaml")))
    parts.append(
        f"models of this package with their own keys (--help --model=NAME): {models}; and every RecBole model"
    )
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
