"""How the command line ends when it cannot go on: one sentence, an exit code, no secret."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import traceback
from collections.abc import Sequence
from typing import TextIO

from recbole_sigma.machine.terminal import visible
from recbole_sigma.run.logs import FILE_ONLY, without_secrets


def fail(sentence: str, code: int, words: Sequence[str]) -> int:
    """Say it on stderr, with ``--json`` on stdout too.

    Args:
        sentence: what went wrong and what to do.
        code: the exit code.
        words: the command line.

    Returns:
        The exit code.
    """
    sentence = visible(without_secrets(sentence))
    _say(sentence if code == 130 else f"error: {sentence}", sys.stderr)
    if "--json" in words:
        _say(json.dumps({"error": sentence, "exit_code": code}), sys.stdout)
    return code


def _say(text: str, stream: TextIO) -> None:
    """Print where that is possible; the exit code tells the rest."""
    with contextlib.suppress(OSError, ValueError):  # such as a full disk, or a closed stream
        print(text, file=stream, flush=True)


def show_fault(error: Exception) -> str:
    """Where a fault of this program happened goes to the log and to stderr: places, no values.

    Returns:
        The sentence to end with.
    """
    places = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)))
    text = without_secrets(f"{places}{type(error).__name__}")
    logging.getLogger().error(text, extra=FILE_ONLY)
    _say(text, sys.stderr)
    return f"{type(error).__name__}: {error} (a fault of this program: please report it with the log file)"
