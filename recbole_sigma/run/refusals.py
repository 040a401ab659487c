"""RecBole's own refusals as sentences: what it raises about settings or data is the user's to mend."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_sigma.run.logs import FILE_ONLY
from recbole_sigma.settings.baseline_keys import EnsembleKeys
from recbole_sigma.settings.policy_keys import PolicyKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.values import UserError

_HERE = str(Path(__file__).resolve().parents[1])


@contextlib.contextmanager
def recbole_refuses(doing: str, remedy: str) -> Iterator[None]:
    """Turn an exception that RecBole's code raised, itself or in a library below it, into a `UserError`.

    What this package raises stays what it is: its faults must be seen as such. Where the exception came from
    goes to the log file.

    Args:
        doing: what was tried, such as ``build SASRecF``.
        remedy: what the user can do.

    Raises:
        UserError: in place of RecBole's exception.
    """
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        if not _raised_by_recbole(error):
            raise
        places = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)))
        getLogger().info(f"{places}{type(error).__name__}", extra=FILE_ONLY)
        said = " ".join(str(error).split())[:300]
        named = f"{type(error).__name__}: " if not isinstance(error, ValueError) else ""
        raise UserError(f"RecBole cannot {doing}: {named}{said or 'it gives no reason'}; {remedy}") from error


def _raised_by_recbole(error: Exception) -> bool:
    """Whether the innermost frame that is RecBole's or ours is RecBole's."""
    import recbole

    theirs = str(Path(recbole.__file__).resolve().parent)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(_HERE):
            return False
        if frame.filename.startswith(theirs):
            return True
    return False


def refuse_policy(config: Any) -> None:
    """Refuse a policy where a training is supervised and nothing else would follow it.

    Raises:
        UserError: one is asked for.
    """
    if read(PolicyKeys, config).policy != "none":
        raise UserError(
            "policy: RecBole's own run and tune train with supervision only: use run_recbole_sigma.py, its "
            "benchmark, or recbole_sigma.quick_start.run"
        )


def refuse_ensemble(config: Any, model: Any) -> None:
    """Refuse a single network where the settings ask for several.

    Raises:
        UserError: RecBole built the model, which knows nothing of ``ensemble_size``.
    """
    size = read(EnsembleKeys, config).ensemble_size
    if size > 1 and len(getattr(model, "others", ())) != size - 1:
        raise UserError(
            f"ensemble_size: {size}: RecBole's own run builds one network: use run_recbole_sigma.py, its "
            "benchmark, or recbole_sigma.quick_start.run"
        )


def no_number(config: Any, loss: float, epoch: int, batch: int) -> UserError:
    """What to do about a training loss that is no number."""
    return UserError(
        f"the training loss of {config['model']} is {loss} in epoch {epoch}, batch {batch}: "
        f"lower learning_rate (now {config['learning_rate']}), set train_clip_norm, "
        "or look for extreme values in the data; the last checkpoint holds the epochs before"
    )
