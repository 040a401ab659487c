"""Where an unfinished run keeps its state, so that the same command with ``--resume`` finds it."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from typing import IO, Any

from recbole_sigma.machine.files import clear_leftovers, fingerprint
from recbole_sigma.run import checkpoint as files
from recbole_sigma.values import UserError

# They change how a run is shown or where its other files go, not what it computes.
NOT_PART_OF_A_RUN = frozenset(
    "resume checkpoint_dir checkpoint_steps artifact_dir log_dir log_wandb wandb_project state show_progress "
    "verbose save_dataset save_dataloaders dataset_save_path dataloaders_save_path log_to "
    "ip port nproc world_size group_offset offset gpu_id use_gpu config_files".split()
)


def run_id(requested: dict[str, Any], size: int = 1) -> str:
    """Name of a run: model, dataset and a hash of everything asked for that can change its result.

    Args:
        requested: what `config.requested_values` gave.
        size: number of processes.
    """
    asked = {key: value for key, value in requested.items() if key not in NOT_PART_OF_A_RUN}
    short = fingerprint(asked=asked, processes=size)[:12]
    return f"{requested['model']}-{requested['dataset']}-{short}"


class RunFolder:
    """The folder ``<checkpoint_dir>/runs/<run id>``, locked while a process trains in it.

    A second run of the same command beside a living one takes a folder with the suffix ``-2`` and so on, so
    neither touches the other's state. The lock goes with the process, however it ends.

    Args:
        root: ``checkpoint_dir``.
        name: what `run_id` gave.
        resume: look for a stored state first.

    Attributes:
        stored: the state found, or None.

    Raises:
        UserError: the folder cannot be written; or, with ``resume``, the only stored state belongs to a run
            that is still going, or is damaged.
    """

    def __init__(self, root: Path | str, name: str, resume: bool) -> None:
        self.root, self.name = Path(root) / "runs", name
        self.stored: files.Checkpoint | None = None
        self._lock: IO[bytes] | None = None
        busy = 0
        candidates = [self.root / name, *(self.root / f"{name}-{number}" for number in range(2, 1000))]
        if resume:
            written = [path for path in candidates if (path / "last.safetensors").is_file()]
            for path in sorted(written, key=_age):
                if self._take(path):
                    self.stored = files.read(self.state_path)
                    break
                busy += 1
            if busy and self.stored is None:
                raise UserError(
                    f"the run in {self.root / name} is still going in another process: wait for it, or end it"
                )
        if self._lock is None:
            for path in candidates:
                if self._take(path):
                    break
        for folder in (self.root.parent, self.folder):  # a finished run may write to neither again
            clear_leftovers(folder)

    @classmethod
    def follow(cls, folder: Path | str, resume: bool) -> RunFolder:
        """The folder that rank 0 has taken, for a process of the same run that only reads."""
        follower = object.__new__(cls)
        follower.folder, follower._lock = Path(folder), None
        follower.root, follower.name = follower.folder.parent, follower.folder.name
        follower.stored = files.read(follower.state_path) if resume else None
        return follower

    def _take(self, path: Path) -> bool:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self.folder, self._lock = path, lock
        return True

    @property
    def state_path(self) -> Path:
        """The stored state."""
        return self.folder / "last.safetensors"

    def announce(self, logger: logging.Logger) -> None:
        """Say what was found, in a line."""
        if self.stored is not None:
            return
        if self.state_path.is_file() and not files.read_meta(self.state_path).get("finished"):
            logger.info(
                f"an unfinished run of this command is stored in {self.folder}; this run replaces it "
                "(--resume would have continued it)"
            )

    def close(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _age(folder: Path) -> float:
    return -os.stat(folder / "last.safetensors").st_mtime


__all__ = ["RunFolder", "run_id"]
