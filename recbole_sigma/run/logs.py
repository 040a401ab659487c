"""What a run says: one log file with the resolved config, the console, and no secret in either."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from datetime import datetime
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_sigma.machine.terminal import visible
from recbole_sigma.settings.keys import FileKeys, ProtocolKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RecBoleKeys

if TYPE_CHECKING:
    from recbole_sigma.evaluation.judge import Judgement


def start_log(config: Any) -> Path | None:
    """One log file per run, and the console at level ``state``; handlers of an earlier run are replaced.

    Of several processes only rank 0 writes a file, and the others show errors only.
    """
    from recbole_sigma.machine import processes  # here: it loads torch, which the command line must not

    if not processes.current().main:
        getLogger().setLevel(logging.ERROR)
        return None
    folder = Path(read(FileKeys, config).log_dir) / config["model"]
    folder.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    path = folder / f"{config['model']}-{config['dataset']}-{stamp}-{os.getpid()}.log"
    root = getLogger()
    for handler in [h for h in root.handlers if "_recbole_sigma" in vars(h)]:
        root.removeHandler(handler)
        handler.close()
    level = logging.getLevelNamesMapping()[read(RecBoleKeys, config).state]
    form = "%(asctime)s %(levelname)s %(message)s"
    for handler, handler_level in (
        (_FileHandler(path, encoding="utf-8", errors="backslashreplace"), logging.INFO),
        (_StreamHandler(), level),
    ):
        handler._recbole_sigma = True  # type: ignore[union-attr]
        handler.setLevel(handler_level)
        to_file = isinstance(handler, logging.FileHandler)
        handler.setFormatter(_Formatter(form, plain=to_file or not sys.stderr.isatty()))
        if not to_file:
            handler.addFilter(_brief)
        root.addHandler(handler)
    root.setLevel(min(level, logging.INFO))
    getLogger("faiss").setLevel(logging.WARNING)  # it announces which SIMD build it loads
    return path


class _Quiet(logging.Handler):
    """A record that cannot be written is lost with one line: Python would print it whole, secrets too."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        if not self._told:
            self._told = True
            error = sys.exc_info()[1]
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stderr.write(f"the log cannot be written ({type(error).__name__}): free the disk\n")


class _FileHandler(_Quiet, logging.FileHandler):
    """The log file."""


class _StreamHandler(_Quiet, logging.StreamHandler):  # type: ignore[type-arg]
    """The console."""


FILE_ONLY = {"file_only": True}


def _brief(record: logging.LogRecord) -> bool:
    """Whether a record belongs on the console."""
    return not vars(record).get("file_only", False)


class _Formatter(logging.Formatter):
    """Text without secrets; ``plain`` text without terminal colours, for files and pipes."""

    def __init__(self, form: str, plain: bool) -> None:
        super().__init__(form)
        self.plain = plain

    def format(self, record: logging.LogRecord) -> str:
        text = without_secrets(super().format(record))
        parts = _COLOUR.split(text)
        if self.plain:
            return visible("".join(parts))
        colours = _COLOUR.findall(text)
        return "".join(visible(part) + colour for part, colour in zip(parts, [*colours, ""], strict=True))


_SECRET_NAME = re.compile(r"token$|secret|passw|api_?key|credential", re.I)
_ADDRESS = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")


def without_secrets(text: str) -> str:
    """The text with the values of secret environment variables, and passwords in addresses, blotted out."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET_NAME.search(name):
            text = text.replace(value, f"<{name}>")
    return _ADDRESS.sub("<hidden>", text)


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def say_protocol(config: Any, logger: logging.Logger) -> None:
    """One line that a reader needs before any number."""
    args = config["eval_args"]
    if config["judged_by"] == "labels":
        args = config.protocol()["eval_args"]
        logger.info(
            f"protocol: split {args['split']}, order {args['order']}, labelled rows, ties in the middle"
        )
        return
    logger.info(
        f"protocol: split {args['split']}, order {args['order']}, full catalogue, filter_seen "
        f"{read(ProtocolKeys, config).filter_seen}, "
        f"history {config['MAX_ITEM_LIST_LENGTH']}, ties by item id"
    )


def unreachable_sentence(judgement: Judgement) -> str:
    """How many targets the filter makes impossible, in words."""
    total = len(judgement.targets)
    return (
        f"{judgement.unreachable} of {total} test targets ({judgement.unreachable / max(1, total):.1%}) "
        f"repeat an item the user had met before, so filter_seen makes them unreachable for every model"
    )


def training_line(epoch: int, seconds: float, losses: Any, names: list[str], steps: int, places: int) -> str:
    """RecBole's line about a training epoch, with the mean loss per step and names for its parts.

    Args:
        epoch: its number.
        seconds: how long it took.
        losses: the sum over the steps, or one for each part.
        names: of the parts; empty for none.
        steps: how many there were.
        places: decimal places.
    """
    from recbole.utils import set_color  # here: it loads torch, which the command line must not

    parts = losses if isinstance(losses, tuple) else (losses,)
    names = names or ([f"train_loss{i + 1}" for i in range(len(parts))] if len(parts) > 1 else ["train loss"])
    shown = ", ".join(
        f"{set_color(name, 'blue')}: {part / steps:.{places}f}"
        for name, part in zip(names, parts, strict=False)
    )
    head = set_color(f"epoch {epoch} training", "green")
    return f"{head} [{set_color('time', 'blue')}: {seconds:.2f}s, {shown}]"
