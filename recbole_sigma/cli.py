"""The command line: ``python run_recbole_sigma.py``, or ``recbole-sigma`` where installed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recbole_sigma.values import UserError

USAGE = """\
usage: {program} [VERB] --model=NAME --dataset=NAME [--config_files="a.yaml b.yaml"] [--key=value ...]

verbs
  (none)      train and test one model
  demo        Pop, WindowItemKNN and SIGMA on the MovieLens-100K inside RecBole, then a table
  benchmark   a table of --models=A,B,C with --seeds=1,2,3

examples
  {program} demo
  {program} --model=SIGMA --dataset=ml-100k
  {program} --model=SASRec --dataset=ml-100k --learning_rate=1e-3 --epochs=50
  {program} --model=SIGMA --dataset=my-data --data_path=dataset/ --config_files="my.yaml"
  {program} benchmark --models=Pop,WindowItemKNN,PackedSASRec,SIGMA --dataset=ml-100k --seeds=2024,2025,2026
  {program} --help --model=SIGMA

options
  --output=FOLDER   where the JSON of the results goes (saved/results)
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
    words = list(sys.argv[1:] if argv is None else argv)
    from recbole_sigma.failures import fail, show_fault, system_sentence

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
    from recbole_sigma.settings import nearest

    verb = words.pop(0) if words and not words[0].startswith("-") else ""
    if verb not in VERBS:
        raise UserError(f"unknown verb {verb!r}{nearest(verb, VERBS)}; --help lists the verbs")
    own, rest = _own_options(words)
    if "help" in own:
        print(help_text(own.get("model") or (own.get("models") or "").split(",")[0]))
        return 0
    if "version" in own:
        from recbole_sigma import __version__

        print(__version__)
        return 0
    return VERBS[verb](own, rest)


OWN = ("model", "models", "dataset", "seeds", "config_files", "output", "quiet", "json", "help", "version")
_SWITCHES = ("quiet", "json", "help", "version")


def _own_options(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Take the options that are not configuration keys out of the words."""
    own: dict[str, str] = {}
    rest: list[str] = []
    position = 0
    while position < len(words):
        word = {"-h": "--help", "-m": "--model", "-d": "--dataset"}.get(words[position], words[position])
        position += 1
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in OWN:
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


def _shared(own: dict[str, str], refused: Sequence[str]) -> dict[str, Any]:
    for name in refused:
        if name in own:
            raise UserError(f"--{name} does not belong to this verb; --help shows examples")
    quiet = "quiet" in own or "json" in own
    return {
        "config_file_list": own.get("config_files", "").split(),
        "config_dict": {"state": "WARNING", **({"show_progress": False} if quiet else {})},
        "output": own.get("output", "saved/results"),
    }


def _train(own: dict[str, str], rest: list[str]) -> int:
    shared = _shared(own, ("models", "seeds"))
    output = shared.pop("output")
    if "quiet" not in own and "json" not in own:
        shared["config_dict"]["state"] = "INFO"
    shared["config_dict"] = _let_words_win(shared["config_dict"], shared["config_file_list"])
    from recbole_sigma import distributed
    from recbole_sigma.benchmark import (
        cell,
        commit,
        format_table,
        machine,
        result_path,
        summarize,
        write_json,
    )
    from recbole_sigma.quick_start import run_sigma, unreachable_sentence

    result = run_sigma(own.get("model"), own.get("dataset"), arguments=rest, **shared)
    if result is None or not distributed.current().main:
        return 0  # process 0 speaks for all
    plain = cell(result)
    rows = summarize([plain])
    path = result_path(Path(output), result["model"], result["dataset"])
    write_json(
        path,
        {
            "format": 1,
            "command": sys.argv,
            "dataset": result["dataset"],
            "commit": commit(),
            "machine": machine(),
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


def _let_words_win(values: dict[str, Any], files: Sequence[str]) -> dict[str, Any]:
    """Drop a default of the command line that a config file sets."""
    from recbole_sigma.settings import load_yaml

    named: set[str] = set()
    for file in files:
        named |= load_yaml(file, []).keys()
    return {key: value for key, value in values.items() if key not in named}


def _table(
    own: dict[str, str], rest: list[str], models: Sequence[str], dataset: str, seeds: Sequence[int], name: str
) -> int:
    from recbole_sigma.benchmark import format_table, run_table

    shared = _shared(own, ("model",))
    shared["config_dict"] = _let_words_win(shared["config_dict"], shared["config_file_list"])
    record, path = run_table(models, dataset, seeds, arguments=rest, name=name, **shared)
    if "json" in own:
        print(
            json.dumps({"table": record.get("table", []), "failed": record["failed"], "results": str(path)})
        )
        return 1 if record["failed"] else 0
    if record["cells"]:
        print(protocol_line(record["protocol"]))
        print(format_table(record["table"]))
    for failure in record["failed"]:
        print(f"failed: {failure['model']}, seed {failure['seed']}: {failure['error']}", file=sys.stderr)
    print(f"results: {path}")
    return 1 if record["failed"] else 0


def _demo(own: dict[str, str], rest: list[str]) -> int:
    from recbole_sigma.benchmark import DEMO_MODELS

    models = own["models"].split(",") if "models" in own else DEMO_MODELS
    return _table(own, rest, models, own.get("dataset", "ml-100k"), _seeds(own), "demo")


def _benchmark(own: dict[str, str], rest: list[str]) -> int:
    if "models" not in own or "dataset" not in own:
        raise UserError("benchmark needs --models=A,B,C and --dataset=NAME")
    models = [name.strip() for name in own["models"].split(",") if name.strip()]
    return _table(own, rest, models, own["dataset"], _seeds(own), "benchmark")


def _seeds(own: dict[str, str]) -> list[int]:
    text = own.get("seeds", "2020")
    try:
        seeds = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds must be integers separated by commas, not {text!r}") from None
    if any(not 0 <= seed < 2**32 for seed in seeds):
        raise UserError(f"--seeds must lie in 0..{2**32 - 1}, not {text!r}")
    return seeds


VERBS: dict[str, Callable[[dict[str, str], list[str]], int]] = {
    "": _train,
    "demo": _demo,
    "benchmark": _benchmark,
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
    from recbole_sigma.settings import nearest, properties_dir, recbole_properties

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
