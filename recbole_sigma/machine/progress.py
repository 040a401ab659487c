"""Progress of long work: one moving bar on a terminal, a plain line now and then in a file or pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

PLAIN_EVERY = 15.0  # seconds between lines when the output is no terminal


class Progress:
    """A counter that shows itself on stderr.

    Args:
        label: what is going on.
        total: steps of the whole work.
        enabled: False shows nothing.
    """

    def __init__(self, label: str, total: int, enabled: bool = True) -> None:
        self.label, self.total, self.done, self.note = label, total, 0, ""
        self._plain = enabled and not sys.stderr.isatty()
        self._bar = (
            tqdm(total=total, desc=label, dynamic_ncols=True, leave=False, unit="step")
            if enabled and not self._plain
            else None
        )
        self._started = self._last = time.monotonic()

    def advance(self, note: str | None = None) -> None:
        """One step further; ``note`` replaces the text beside the bar."""
        self.done += 1
        if note is not None:
            self.note = note
        if self._bar is not None:
            if note is not None:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update()
        elif self._plain and time.monotonic() - self._last >= PLAIN_EVERY:
            self._last = time.monotonic()
            share = min(1.0, self.done / max(1, self.total))
            print(
                f"{self.label}: {share:.0%}, {self._last - self._started:.0f} "
                f"s{', ' + self.note if self.note else ''}",
                file=sys.stderr,
                flush=True,
            )

    def say(self, note: str) -> None:
        """Replace the text beside the bar."""
        self.note = note
        if self._bar is not None:
            self._bar.set_postfix_str(note)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()


class Counted:
    """A loader whose batches advance a `Progress`; everything else is the loader's."""

    def __init__(self, loader: Any, progress: Progress) -> None:
        self._loader, self._progress = loader, progress

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            yield batch
            self._progress.advance()

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
