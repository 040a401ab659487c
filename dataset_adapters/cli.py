"""``python -m dataset_adapters list | describe NAME | fetch NAME | convert NAME ...``."""

from __future__ import annotations

import argparse
import io
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from dataset_adapters.convert import Result, convert, peak_memory_mb
from dataset_adapters.errors import AdapterError, nearest
from dataset_adapters.fetch import fetch
from dataset_adapters.filters import DUPLICATES
from dataset_adapters.job import PROTOCOLS, Adapter, Job, resolve_inputs
from dataset_adapters.labelled import LabelledAdapter, convert_labelled
from dataset_adapters.registry import ADAPTERS, LABELLED
from dataset_adapters.rows import ENCODINGS, RowReader
from dataset_adapters.sources import SOURCES
from dataset_adapters.values import TextCleaner, visible


class _Once(argparse.Action):
    """An option that may be given once: of two different values none is the one that was meant."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        given = vars(namespace).setdefault("_given", {})  # a default is nothing given
        if given.setdefault(self.dest, values) != values:
            raise AdapterError(f"{option_string} is given twice with different values: keep one of them")
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.register("action", None, _Once)  # what an option without an action of its own does

    def error(self, message: str) -> NoReturn:
        raise AdapterError(f"{message}; see: {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 0, 2 for a failure of the input, 130 when interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if sys.stdout is None:  # closed by the shell: `>&-`
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  until the process ends
    if sys.stderr is None:
        sys.stderr = sys.stdout
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal whose alphabet is small shows the rest escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        with _polite_kill():
            code = _run(given)
            sys.stdout.flush()
            return code
    except AdapterError as error:
        return _fail(str(error), 2)
    except BrokenPipeError:  # whoever read our output has closed it, such as `head`
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  nothing is left to flush
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was written", 130)
    except OSError as error:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  what it holds can go nowhere
        where = f"{error.filename}: " if error.filename is not None else "the output cannot be written: "
        return _fail(f"{where}{error.strerror or error}", 2)


def _fail(sentence: str, code: int) -> int:
    """Say on stderr why the command ends, where that is possible; the exit code."""
    with suppress(OSError, ValueError):  # such as a full disk, or a closed stream
        sys.stderr.write(f"{'' if code == 130 else 'error: '}{visible(sentence)}\n")
        sys.stderr.flush()
    return code


@contextmanager
def _polite_kill() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that the unfinished folder is removed as after any other failure."""
    try:
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    except ValueError:  # not the main thread: signals are someone else's business
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(given: list[str]) -> int:
    parser = _Parser(prog="python -m dataset_adapters", description=__doc__, add_help=True)
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=_Parser)
    verbs.add_parser("list", help="name the adapters")
    verbs.add_parser("describe", help="say what an adapter reads and writes").add_argument("name")
    verbs.add_parser(
        "convert", help="convert raw files into a RecBole data set", add_help=False
    ).add_argument("rest", nargs=argparse.REMAINDER)
    verbs.add_parser("fetch", help="download a set from its publisher and convert it", add_help=False)
    if given[:1] == ["convert"]:  # the options depend on the adapter
        return _convert(given[1:])
    if given[:1] == ["fetch"]:
        return fetch(given[1:], _Parser, _convert, _check_options)
    options = parser.parse_args(given)
    if options.verb == "list":
        every: list[Adapter | LabelledAdapter] = [*ADAPTERS.values(), *LABELLED.values()]
        width = max(map(len, (*(adapter.name for adapter in every), *SOURCES)))
        sys.stdout.write("convert NAME: adapters of raw files\n")
        sys.stdout.writelines(f"  {a.name:<{width}}  {a.summary}\n" for a in every)
        sys.stdout.write("fetch NAME: sets that their publisher lets you download\n")
        sys.stdout.writelines(f"  {s.name:<{width}}  {s.about}\n" for s in SOURCES.values())
    else:
        sys.stdout.write(describe(find_adapter(options.name)))
    return 0


def find_adapter(name: str) -> Adapter | LabelledAdapter:
    """Look an adapter up.

    Raises:
        AdapterError: there is none of that name.
    """
    every: dict[str, Adapter | LabelledAdapter] = {**ADAPTERS, **LABELLED}
    if name not in every:
        raise AdapterError(f"no adapter {name!r}{nearest(name, every)}; there are {', '.join(every)}")
    return every[name]


def convert_parser(adapter: Adapter | LabelledAdapter) -> argparse.ArgumentParser:
    """Options of ``convert`` for one adapter."""
    parser = _Parser(
        prog=f"python -m dataset_adapters convert {adapter.name}",
        description=adapter.summary,
        allow_abbrev=False,
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--input",
        nargs="+",
        default=[],
        metavar="PATH",
        help="files or a folder; which is which is told by the file names",
    )
    for spec in adapter.inputs:
        files.add_argument(
            f"--{spec.role}", nargs="+", default=[], metavar="FILE", dest=f"input_{spec.role}", help=spec.help
        )
    files.add_argument(
        "--output", required=True, metavar="DIR", help="RecBole's data_path; the files go to DIR/NAME/"
    )
    files.add_argument("--name", help="name of the data set (proposed from the file names)")
    files.add_argument("--overwrite", action="store_true", help="replace an older conversion of that name")
    if adapter.options:
        own = parser.add_argument_group(f"options of {adapter.name}")
        for option in adapter.options:
            extra: dict[str, Any] = {"action": "store_true"} if option.flag else {"default": option.default}
            if option.choices:
                extra["choices"] = option.choices
            own.add_argument(f"--{option.name}", help=option.help, **extra)
    rows = parser.add_argument_group("rows")
    if isinstance(adapter, Adapter):
        _log_options(parser, rows, adapter)
    rows.add_argument(
        "--on-bad-row", choices=("stop", "skip"), default="stop", help="default: stop at file:line"
    )
    rows.add_argument("--encoding", choices=ENCODINGS, default=adapter.encoding, help="default: %(default)s")
    rows.add_argument("--quiet", action="store_true", help="no progress bar and no report")
    return parser


def _log_options(parser: argparse.ArgumentParser, rows: Any, adapter: Adapter) -> None:
    """Filters, protocol and texts: options of event logs alone."""
    common = parser.add_argument_group("filters and protocol")
    common.add_argument(
        "--protocol", choices=PROTOCOLS, default=adapter.protocols[0], help="default: %(default)s"
    )
    common.add_argument(
        "--k-core",
        type=_k_core,
        default=adapter.k_core,
        metavar="K",
        help="keep users and items with K events (0: all); default: %(default)s",
    )
    common.add_argument(
        "--since", metavar="DATE", help="first moment kept (ISO date in UTC, or unix seconds)"
    )
    common.add_argument("--until", metavar="DATE", help="first moment no longer kept")
    common.add_argument("--min-rating", type=float, metavar="R", help="keep ratings from R on")
    common.add_argument(
        "--duplicates",
        choices=DUPLICATES,
        default="keep",
        help="exact: drop a repeated user, item and time; first: one event a pair",
    )
    common.add_argument(
        "--filter-seen", choices=("true", "false"), help="key of that name in the property file"
    )
    common.add_argument(
        "--catalogue", choices=("used", "all"), default="used", help="all: keep items without events too"
    )
    rows.add_argument(
        "--html",
        choices=("unescape", "keep"),
        default=adapter.html,
        help="HTML tags and entities in texts: take them out or keep them; default: %(default)s",
    )


def _k_core(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _check_options(name: str, words: Sequence[str]) -> None:
    """Refuse an option of ``convert`` that an adapter does not have."""
    adapter = find_adapter(name)
    parser = convert_parser(adapter)
    known = [text for action in parser._actions for text in action.option_strings]
    for text in words:
        option = text.split("=", 1)[0]
        if option.startswith("--") and option not in known:
            raise AdapterError(
                f"{adapter.name} has no option {option}{nearest(option, known)}; see: {parser.prog} --help"
            )


def _convert(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write(
            f"usage: python -m dataset_adapters convert NAME [options]\n\nNAME is one of "
            f"{', '.join([*ADAPTERS, *LABELLED])}; its options: "
            "python -m dataset_adapters convert NAME --help\n"
        )
        return 0 if given else 2
    adapter = find_adapter(given[0])
    parser = convert_parser(adapter)
    _check_options(given[0], given[1:])
    options = parser.parse_args(given[1:])
    named = {spec.role: getattr(options, f"input_{spec.role}") for spec in adapter.inputs}
    job = Job(
        adapter=adapter,
        inputs=resolve_inputs(adapter, named, options.input),
        options=options,
        reader=RowReader(options.on_bad_row, options.encoding, not options.quiet),
        text=TextCleaner(vars(options).get("html") == "unescape"),
    )
    name = options.name or adapter.default_name(job)
    if isinstance(adapter, LabelledAdapter):
        folder, card, seconds = convert_labelled(job, Path(options.output), name, _on_record(given))
        if not options.quiet:
            sys.stdout.write(labelled_report(folder, card, seconds))
        return 0
    result = convert(job, Path(options.output), name, _on_record(given))
    if not options.quiet:
        sys.stdout.write(report(result))
    return 0


def _on_record(given: Sequence[str]) -> str:
    """The command as a reader can repeat it: file names without the folders of one machine."""
    shown = [Path(text).name if "/" in text and Path(text).exists() else text for text in given]
    kept, skip = [], False
    for text in shown:
        skip_this, skip = skip, text == "--output"
        if not (skip_this or skip or text.startswith("--output=") or text in ("--overwrite", "--quiet")):
            kept.append(text)
    return "python -m dataset_adapters convert " + shlex.join(kept)


def report(result: Result) -> str:
    """What the command prints at its end."""
    card, facts = result.card, result.card["statistics"]
    width = max(len(s["name"]) for s in card["steps"])
    lines = [f"{card['name']} -> {result.folder}"]
    lines += [
        f"  {s['name']:<{width}}  {s['interactions']:>11,} interactions {s['users']:>9,} users "
        f"{s['items']:>9,} items"
        for s in card["steps"]
    ]
    skipped = sum(card["rows"]["bad_rows_skipped"].values())
    if skipped:
        lines.append(f"  skipped {skipped:,} bad rows, such as {card['rows']['bad_row_examples'][0]}")
    if "any_text" in card.get("items", {}).get("share_filled", {}):
        lines.append(
            f"  items with text  {card['items']['share_filled']['any_text']:.1%} "
            f"({', '.join(card['roles']['text_fields'])})"
        )
    if "first_time" in facts:
        lines.append(f"  time             {facts['first_time']} to {facts['last_time']}")
        lines.append(
            f"  ties             {facts['tied_consecutive_events']:.1%} of consecutive events of a user "
            f"share their time"
        )
    lines.append(
        f"  protocol         {card['protocol']}, filter_seen {str(card['filter_seen']).lower()}; "
        f"{_parts(card['split'])}"
    )
    changes = card["rows"]["text_changes"]
    if changes:
        lines.append(
            "  texts changed    " + ", ".join(f"{k.replace('_', ' ')} {v:,}" for k, v in changes.items())
        )
    lines += [f"  warning: {text}" for text in card["warnings"]]
    speed = result.rows / max(result.seconds, 1e-9)
    lines.append(
        f"  {result.rows:,} rows in {result.seconds:.1f} s ({speed:,.0f} rows/s), peak memory "
        f"{peak_memory_mb():,.0f} MB"
    )
    model = "EASE" if card["protocol"] == "random" else "SIGMA"  # no order: no sequential model
    lines.append(
        f"train on it: python -m recbole_sigma --model={model} "
        + shlex.join([f"--dataset={card['name']}", f"--data_path={result.folder.parent}"])
    )
    return "\n".join(map(visible, lines)) + "\n"


def labelled_report(folder: Path, card: dict[str, Any], seconds: float) -> str:
    """What the command prints at the end of a labelled conversion."""
    lines = [f"{card['name']} -> {folder}"]
    lines += [
        f"  {part:<6} {facts['rows']:>11,} rows, {facts['share']:.1%} with label 1"
        for part, facts in card["parts"].items()
    ]
    skipped = sum(card["rows"]["bad_rows_skipped"].values())
    if skipped:
        lines.append(f"  skipped {skipped:,} bad rows, such as {card['rows']['bad_row_examples'][0]}")
    lines += [f"  warning: {text}" for text in card["warnings"]]
    read = sum(source["rows"] for source in card["sources"])
    lines.append(f"  {read:,} rows read in {seconds:.1f} s, peak memory {peak_memory_mb():,.0f} MB")
    lines.append(
        "train on it: python -m recbole_sigma --model=DeepFM "
        + shlex.join([f"--dataset={card['name']}", f"--data_path={folder.parent}"])
    )
    return "\n".join(map(visible, lines)) + "\n"


def _parts(split: dict[str, Any]) -> str:
    return ", ".join(
        f"{k.replace('_', ' ')} {v:,}" if isinstance(v, int) else f"{k.replace('_', ' ')} {v}"
        for k, v in split.items()
    )


def describe(adapter: Adapter | LabelledAdapter) -> str:
    """Text of ``describe``."""
    lines = [f"{adapter.name}: {adapter.summary}", "", "reads"]
    for spec in adapter.inputs:
        need = "needed" if spec.required else "optional"
        lines.append(f"  --{spec.role:<12} {need}; {spec.help}")
    if adapter.options:
        lines += ["", "options"]
        lines += [
            f"  --{o.name:<18} {o.help.replace('%%', '%')}" + (f" (default {o.default})" if o.default else "")
            for o in adapter.options
        ]
    lines += (
        _defaults_of_log(adapter) if isinstance(adapter, Adapter) else ["", "for models judged by labels"]
    )
    files = "NAME.train.inter, NAME.valid.inter, NAME.test.inter" if _splits(adapter) else "NAME.inter"
    lines += [
        "",
        f"writes     {files}, NAME.item, NAME.user where there is something to write, NAME.yaml, "
        "NAME.card.json, NAME.card.md",
    ]
    if adapter.left_out:
        lines += ["", "left out", *(f"  {fields}: {reason}" for fields, reason in adapter.left_out)]
    if adapter.notes:
        lines += ["", "notes", *(f"  {note}" for note in adapter.notes)]
    lines += [
        "",
        f"from       {adapter.homepage}",
        f"licence    {adapter.licence}",
        f"cite       {adapter.citation}",
    ]
    files = adapter.example or " ".join(f"--{s.role} FILE" for s in adapter.inputs if s.required)
    lines += ["", f"example    python -m dataset_adapters convert {adapter.name} {files} --output dataset/"]
    return "\n".join(lines) + "\n"


def _splits(adapter: Adapter | LabelledAdapter) -> bool:
    return isinstance(adapter, LabelledAdapter) and adapter.split


def _defaults_of_log(adapter: Adapter) -> list[str]:
    seen = "by the share of repeats" if adapter.filter_seen is None else str(adapter.filter_seen).lower()
    return [
        "",
        "protocols  " + ", ".join(adapter.protocols) + " (the first is the default)",
        f"defaults   k-core {adapter.k_core}, encoding {adapter.encoding}, HTML entities "
        f"{adapter.html}, filter_seen {seen}",
    ]
