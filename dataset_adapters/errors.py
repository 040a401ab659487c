"""The two ways in which raw data can be wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AdapterError(ValueError):
    """A failure that the user can cause and mend; the command prints its sentence and exits with code 2."""


class BadRow(ValueError):
    """One row cannot be used; the message is the reason, the reader adds file and line."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known name closest to ``word``, or an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {match[0]!r}?)" if match else ""
