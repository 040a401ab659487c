"""What reaches a terminal: no control character of a title, and a clean end where nobody reads on."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

# Control characters but tab and line feed, line separators, half characters, marks that turn the direction.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""The text with what could steer a terminal shown as escapes, which JSON reads back.

    >>> print(visible("a\x1b]0;x\x07"))
    a\u001b]0;x\u0007
    """
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class _Visible:
    """A text stream that makes everything written to it visible."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return int(self._stream.write(visible(text)) or 0)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Forgiving:
    """A stream of messages: where they cannot be written (a full disk, a closed stream), the work goes on."""

    def __init__(self, stream: Any) -> None:
        self._stream = open(os.devnull, "w", encoding="utf-8") if stream is None else stream  # noqa: SIM115

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def safe_output() -> Iterator[None]:
    """While a command runs: stdout shows no control characters, and no alphabet is too small for a text.

    A reader that closed the pipe (``| head``) ends the output, not the command with an error; messages on
    stderr that cannot be written end nothing.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):  # what is typed may be no text either
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    _occupy_closed_streams()
    before, messages = sys.stdout, sys.stderr
    sys.stderr = _Forgiving(messages)  # type: ignore[assignment]
    if before is not None:
        sys.stdout = _Visible(before)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before, messages
        for stream in (before, messages):
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):  # the reader is gone, or the stream is closed
                _to_nothing(stream)


def _occupy_closed_streams() -> None:
    """Open what the shell closed (``2>&-``) on nothing: a file that took its number would get messages."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        number = 0
        while number <= 2:
            number = os.open(os.devnull, os.O_RDWR)
        os.close(number)


def _to_nothing(stream: Any) -> None:
    """Let what is left in a stream's buffer go nowhere, or Python complains about it at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
