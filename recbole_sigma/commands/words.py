"""The words of a command line: options of a verb, keys that pass through, and what is wrong with them.

Nothing here imports torch or RecBole, so that a typed mistake is answered in a fraction of a second.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from recbole_sigma.models import registry
from recbole_sigma.settings.reading import nearest, parse_arguments, raise_all
from recbole_sigma.settings.recipes import (
    declared_keys,
    foreign_variant,
    key_problems,
    settings_of,
    shipped_defaults,
)
from recbole_sigma.settings.stages import KEYS_OF_MODEL
from recbole_sigma.values import UserError


def _wide(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=110)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes are `UserError`, and which never completes a shortened option."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more, allow_abbrev=False, add_help=False, formatter_class=_wide)

    def error(self, message: str) -> NoReturn:
        """Raise argparse's message in our words."""
        found = re.fullmatch(r"argument (?:-\w/)?(--\w+)[^:]*: expected one argument", message)
        if found:
            raise UserError(f"{found[1]} needs a value: {found[1]}=...")
        raise UserError(f"{message.removeprefix('argument ')}; see: {self.prog} --help")

    def options(self) -> set[str]:
        """The names of the options, without dashes."""
        return {word[2:] for word in self._option_string_actions if word.startswith("--")}


class Once(argparse.Action):
    """An option that may be given once."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Store the value; a second one is a mistake."""
        if vars(namespace)[self.dest] not in (self.default, values):
            raise UserError(f"{option_string} is given twice with different values")
        setattr(namespace, self.dest, values.strip())


def add_verb(
    verbs: Any, name: str, run: Any, summary: str, examples: Sequence[str], options: dict[str, str]
) -> Parser:
    """A sub-command.

    Args:
        verbs: what ``add_subparsers`` returned.
        name: the verb.
        run: called with (options, the words left over), returns the exit code.
        summary: one sentence.
        examples: two commands, without the program's name.
        options: ``name`` or ``short name`` -> its help; each takes one value.
    """
    program = verbs._prog_prefix
    shown = "\n".join(f"  {program} {example}" for example in examples)
    parser: Parser = verbs.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"examples\n{shown}",
        usage=f"%(prog)s [options]{' [--key=value ...]' if 'config_files' in options else ''}",
    )
    for names, text in options.items():
        *short, long = names.split()
        metavar, _, text = text.partition("  ")
        parser.add_argument(*short, f"--{long}", action=Once, metavar=metavar, help=text)
    if "config_files" in options:
        parser.add_argument(
            "--smoke",
            action="store_true",
            help=f"only see that the command works: {SMOKE['limit']} users, {SMOKE['epochs']} epoch",
        )
    parser.add_argument("--quiet", action="store_true", help="no progress, only the result")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    parser.add_argument("-h", "--help", action="store_true", help="show this text")
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.set_defaults(run=run)
    return parser


FILES_AND_DATA = {
    "-d dataset": "NAME  folder of the data set below data_path",
    "config_files": '"A B"  property files, later ones win',
}
MOVED = {
    "data_path": "FOLDER  where the data lies now",
    "backbone": "pretrained:FOLDER  where a pretrained base lies now",
}
"""Options for what lies elsewhere than when a checkpoint was written."""


def moved_places(options: argparse.Namespace, checkpoint: str | None = None) -> dict[str, str]:
    """The values of `MOVED` that are given; a folder of save_pretrained that holds data brings its own.

    Args:
        options: the command's.
        checkpoint: the file that is loaded; None is that of the options.
    """
    values = {name: vars(options)[name] for name in MOVED}
    beside = Path(checkpoint or options.checkpoint or "")
    if values["data_path"] is None and beside.name == _SHARED and (beside.parent / "data").is_dir():
        values["data_path"] = str(beside.parent / "data")
    return {name: value for name, value in values.items() if value is not None}


LATEST = "latest"
_SHARED = "model.safetensors"  # the weights in a folder of save_pretrained


def checkpoint_named(word: str) -> str:
    """The file of ``--checkpoint``; ``latest`` is the newest model below saved/.

    Raises:
        UserError: latest, and nothing was trained here.
    """
    if word != LATEST:
        inside = Path(word) / _SHARED
        return str(inside) if inside.is_file() else word
    saved = Path("saved")
    # trained alone, or a row of a benchmark (the file beside the weights that says how the row decodes them)
    found = [*saved.glob("*.safetensors"), *saved.glob("*/*/checkpoints/*.json")]
    if not found:
        raise UserError(
            f"--checkpoint={LATEST}: no trained model lies below {saved.absolute()}; train one or name a file"
        )
    return str(max(found, key=lambda path: (path.stat().st_mtime, path.name)))


def files_of(options: argparse.Namespace) -> list[str]:
    """The property files of ``--config_files="a.yaml b.yaml"``."""
    return (options.config_files or "").strip("\"'").split()


SMOKE = {"limit": 200, "epochs": 1}
"""What ``--smoke`` sets where the command line does not."""


def words_of(options: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    """The words of keys, those of ``--smoke`` among them; what the user names himself stays."""
    if not options.smoke:
        return list(rest)
    named = {word.removeprefix("--").partition("=")[0] for word in rest}
    return [*(f"--{key}={value}" for key, value in SMOKE.items() if key not in named), *rest]


def say_smoke(options: argparse.Namespace) -> None:
    """End a command of ``--smoke`` with what it is worth."""
    if options.smoke and not options.json:
        print(
            f"--smoke: the command works. With {SMOKE['limit']} users and {SMOKE['epochs']} epoch the figures"
            " say nothing: run it again without --smoke"
        )


def shared_options(options: argparse.Namespace, rest: Sequence[str], output: str) -> dict[str, Any]:
    """Keyword arguments that every verb that trains hands on.

    Args:
        options: of the verb.
        rest: words of keys.
        output: the folder of results, where the user names none.
    """
    quiet = options.quiet or options.json
    files = files_of(options)
    values = {"state": "WARNING", **({"show_progress": False} if quiet else {})}
    return {
        "config_file_list": files,
        "config_dict": let_files_win(values, files),
        "output": options.output or (f"{Path('saved') / 'smoke'}" if options.smoke else output),
        "arguments": words_of(options, rest),
    }


def let_files_win(values: dict[str, Any], files: Sequence[str]) -> dict[str, Any]:
    """Drop a default of the command line that a config file sets."""
    named: set[str] = set()
    for file in files:
        named |= settings_of(file, [])[0].keys()
    return {key: value for key, value in values.items() if key not in named}


def check_words(
    rest: Sequence[str], files: Sequence[str], model: str | None, dataset: str | None, one_model: bool = True
) -> None:
    """Refuse what can be seen to be wrong before RecBole is loaded: files, keys, values, the model's name.

    Args:
        rest: words of keys.
        files: property files.
        model: the model's name, where the command line gives it.
        dataset: the data set's name, likewise.
        one_model: whether the run needs a model and a data set; a table names its models otherwise.

    Raises:
        UserError: with every problem at once.
    """
    problems: list[str] = []
    read = [(file, *settings_of(file, problems)) for file in files]
    given = [(file, values) for file, values, _ in read]
    given.append(("the command line", parse_arguments(rest, problems)))
    named = {key: value for _, values in given for key, value in values.items()}
    own_file = model is not None and registry.names_file(
        model
    )  # runs code; `registry.from_file` checks it later
    bases = {file: base for file, _, base in read if base}
    model = model or named.get("model") or next(iter(bases.values()), None)
    dataset = dataset or named.get("dataset")
    problems += [foreign_variant(file, base, model) for file, base in bases.items() if base != model]
    if one_model:
        if model is None:
            problems.append("no model is named: give --model=SIGMA (or model: SIGMA in a config file)")
        elif not own_file and not registry.is_model(str(model)):
            problems.append(f"unknown model {model!r}{nearest(str(model), registry.model_names())}")
        if dataset is None:
            problems.append(
                "no dataset is named: give --dataset=ml-100k (or dataset: ml-100k in a config file)"
            )
    shipped = shipped_defaults((str(model),) if model in KEYS_OF_MODEL else ())
    raise_all([*problems, *key_problems(given, shipped)])


def refuse_options_of_others(verb: str, rest: Iterable[str], parsers: dict[str, Parser]) -> None:
    """Refuse options that another verb owns, unless they are keys too and this verb takes keys."""
    keys = declared_keys() - {"model", "dataset"} if "config_files" in parsers[verb].options() else ()
    for word in rest:
        name = word.removeprefix("--").partition("=")[0]
        owners = [other for other, parser in parsers.items() if name in parser.options()]
        if word.startswith("--") and owners and name not in keys:
            raise UserError(f"--{name} does not belong to {verb}: it is an option of {', '.join(owners)}")


def refuse_rest(verb: str, rest: Sequence[str], known: Iterable[str]) -> None:
    """Refuse words that are left over, where a verb takes no keys."""
    if rest:
        word = rest[0][:80]
        name = word.removeprefix("--").partition("=")[0]
        raise UserError(f"{verb}: unknown word {word!r}{nearest(name, known)}; see: {verb} --help")


def whole_number(text: str, name: str, least: int) -> int:
    """A whole number of at least ``least``.

    Raises:
        UserError: it is none.
    """
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise UserError(f"--{name}: give a whole number of at least {least}, not {text[:80]!r}")
    return value


def protocol_line(protocol: dict[str, Any]) -> str:
    """The protocol in one line, for the head of a table."""
    args = protocol["eval_args"]
    if protocol.get("judged_by") == "labels":
        files = args["split"].get("files")
        split = f"files {', '.join(files)}" if files else f"split {args['split']}, order {args['order']}"
        return f"{split}, labelled rows; equal scores share a rank"
    policy = "seen items filtered" if protocol["filter_seen"] else "seen items kept"
    few = f", only the first {protocol['limit']} users" if protocol.get("limit") else ""
    split = f"split {args['split']}, order {args['order']}"
    return f"{split}, full catalogue, {policy}, history {protocol['history']}{few}"
