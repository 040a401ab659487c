"""The command line: ``python run_recbole_sigma.py``, or ``recbole-sigma`` where installed.

A verb is an argparse sub-command in a module of this folder; keys of RecBole and of the models pass through.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from recbole_sigma._compat import keep_freed_memory
from recbole_sigma.commands import export, lists, play, recommend, tables, tasks, train
from recbole_sigma.commands.failures import fail, show_fault
from recbole_sigma.commands.help import DESCRIPTION, EPILOG, help_text
from recbole_sigma.commands.words import Parser, checkpoint_named, refuse_options_of_others
from recbole_sigma.machine.system import system_sentence
from recbole_sigma.machine.terminal import safe_output
from recbole_sigma.settings.reading import nearest
from recbole_sigma.values import UserError


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
    with safe_output():
        return _run(words)


def _run(words: list[str]) -> int:
    try:
        code = _dispatch(words)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a full disk still has an exit code
        return code
    except BrokenPipeError:  # whoever read the output has seen enough
        return 0
    except UserError as error:
        return fail(str(error), 2, words)
    except KeyboardInterrupt:
        return fail("stopped (the same command with --resume goes on from its last stored state)", 130, words)
    except OSError as error:
        return fail(system_sentence(error), 2, words)
    except Exception as error:
        return fail(show_fault(error), 1, words)


def _dispatch(words: list[str]) -> int:
    top, verbs = parsers()
    named = bool(words) and not words[0].startswith("-")
    verb = words[0] if named else "train"
    if verb not in verbs:
        raise UserError(f"unknown verb {verb!r}{nearest(verb, verbs)}; --help lists the verbs")
    if verb == "data":  # the adapters have verbs and options of their own
        if not {*words[1:]} <= {"-h", "--help"}:
            return lists.data(words[1:])
        words = ["data", "--help"]
    options, rest = verbs[verb].parse_known_args(words[1:] if named else words)
    if options.version:
        from recbole_sigma import __version__

        print(__version__)
        return 0
    if options.help:
        models = vars(options).get("model") or vars(options).get("models") or ""
        print(help_text(top, verbs[verb] if named else None, models.split(",")[0] or None))
        return 0
    refuse_options_of_others(verb, rest, verbs)
    if vars(options).get("checkpoint") is not None and "," not in options.checkpoint:
        found = checkpoint_named(options.checkpoint)
        if found != options.checkpoint and not options.quiet:
            print(f"--checkpoint={options.checkpoint} is {found}", file=sys.stderr)
        options.checkpoint = found
    return int(options.run(options, rest))


def parsers() -> tuple[Parser, dict[str, Parser]]:
    """The whole command line, and the parser of each verb."""
    program = Path(sys.argv[0]).name or "recbole-sigma"
    program = f"python {program}" if program.endswith(".py") else program
    top = Parser(
        prog=program,
        usage="%(prog)s [VERB] [options] [--key=value ...]",
        description=DESCRIPTION,
        epilog=EPILOG.format(program=program),
    )
    verbs = top.add_subparsers(title="verbs (VERB --help shows its options)", metavar="VERB", prog=program)
    for module in (train, tables, tasks, recommend, play, export, lists):
        module.add(verbs)
    return top, dict(verbs.choices)


if __name__ == "__main__":
    sys.exit(main())
