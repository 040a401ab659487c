"""A benchmark's folder: a JSON per finished cell, a checkpoint per training, locks against doubles."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import yaml

from recbole_sigma.benchmark.records import (
    COMMAND,
    FAILURE,
    FORMAT,
    TRAINING,
    read_cell,
    read_record,
    write_record,
)
from recbole_sigma.machine.files import fingerprint, write_atomically
from recbole_sigma.settings.recipes import declared_keys
from recbole_sigma.values import UserError


class RunFolder:
    """A benchmark's folder; any number of processes may work on it.

    Args:
        path: created when needed.

    Attributes:
        corrected: sentences about metrics that `cells` took from the places and not from the file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.corrected: list[str] = []
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--output={self.path} is a file: name a folder")
        for part in ("cells", "settings", "failed", "trainings", "checkpoints", "commands", "locks"):
            (self.path / part).mkdir(parents=True, exist_ok=True)

    # --- cells ---

    def cell_path(self, key: str) -> Path | None:
        """File of a finished cell, or None."""
        return next(iter(self.path.glob(f"cells/*-{key[:16]}.json")), None)

    def write_cell(self, record: dict[str, Any]) -> Path:
        """Keep a finished cell and how it decodes its weights, and forget that it failed before."""
        from recbole_sigma.run.checkpoint import write_row

        name = f"{_file_name(record)}-{record['key'][:16]}"
        weights = self.checkpoint_path(record["training"])
        write_row(weights.with_name(f"{name}.json"), weights.name, decoding_of(record))
        path = self.path / "cells" / f"{name}.json"
        write_atomically(self.path / "settings" / f"{name}.yaml", property_file(record).encode())
        write_record(path, record)
        self.failure_path(record["key"]).unlink(missing_ok=True)
        return path

    def cells(self) -> list[dict[str, Any]]:
        """Every finished cell, in order of creation.

        A cell whose metrics contradict its places is put right in its file, and `corrected` says so.
        """
        records = []
        for path in sorted(self.path.glob("cells/*.json")):
            record, wrong = read_cell(path)
            if wrong:
                write_record(path, record)
                self.corrected += wrong
            records.append(record)
        return sorted(records, key=lambda record: (record["created"], record["row"]["name"], record["seed"]))

    def failure_path(self, key: str) -> Path:
        """File of a failed cell."""
        return self.path / "failed" / f"{key[:16]}.json"

    def write_failure(self, key: str, record: dict[str, Any]) -> None:
        """Keep a failed cell's error; the next run tries it again."""
        write_record(self.failure_path(key), {"format": FORMAT, "key": key, **record})

    def failures(self) -> list[dict[str, Any]]:
        """Every cell that failed and has not succeeded since."""
        records = [read_record(path, FAILURE) for path in sorted(self.path.glob("failed/*.json"))]
        return [record for record in records if self.cell_path(record["key"]) is None]

    # --- commands ---

    def note_command(self, words: list[str], moment: str) -> None:
        """Keep a command that filled the folder; typed again, it moves to the end.

        A file each: of commands that end at the same time none overwrites another's.
        """
        path = self.path / "commands" / f"{fingerprint(words=words)[:16]}.json"
        write_record(path, {"format": FORMAT, "created": moment, "words": words})

    def commands(self) -> list[list[str]]:
        """The commands that filled the folder, in the order in which they ended."""
        found = [read_record(path, COMMAND) for path in self.path.glob("commands/*.json")]
        return [record["words"] for record in sorted(found, key=lambda record: record["created"])]

    # --- trainings ---

    def training(self, key: str) -> tuple[dict[str, Any], Path] | None:
        """(record, checkpoint) of a finished training, or None."""
        record, checkpoint = self.path / "trainings" / f"{key[:16]}.json", self.checkpoint_path(key)
        there = record.is_file() and checkpoint.is_file()
        return (read_record(record, TRAINING), checkpoint) if there else None

    def checkpoint_path(self, key: str) -> Path:
        """File of a training's weights."""
        return self.path / "checkpoints" / f"{key[:16]}.safetensors"

    def work_path(self, key: str) -> Path:
        """Where a training under way keeps its state; gone when it is finished."""
        return self.path / "checkpoints" / f"work-{key[:16]}"

    def write_training(self, key: str, record: dict[str, Any], checkpoint: str) -> None:
        """Keep a training: the checkpoint moves into the folder, then the record appears."""
        os.replace(checkpoint, self.checkpoint_path(key))
        write_record(self.path / "trainings" / f"{key[:16]}.json", {"format": FORMAT, "key": key, **record})
        shutil.rmtree(self.work_path(key), ignore_errors=True)

    def forget(self, training_key: str, cell_keys: list[str]) -> None:
        """Delete a training and its cells (``--force``)."""
        (self.path / "trainings" / f"{training_key[:16]}.json").unlink(missing_ok=True)
        shutil.rmtree(self.work_path(training_key), ignore_errors=True)
        for key in cell_keys:
            path = self.cell_path(key)
            if path is not None:
                path.unlink(missing_ok=True)

    # --- locks ---

    @contextlib.contextmanager
    def lock(self, key: str, note: str = "") -> Iterator[bool]:
        """Take a training for this process.

        The lock is the operating system's (``flock``), so that the lock of a killed process is free at once
        and none has to be judged by its age. The file only tells who holds it.

        Yields:
            False when another process has it.

        Raises:
            UserError: if the file system has no locks.
        """
        path = self.path / "locks" / f"{key[:16]}.lock"
        stream = try_lock(path)
        if stream is None:
            yield False
            return
        try:
            stream.truncate(0)
            stream.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "doing": note}))
            stream.flush()
            yield True
        finally:
            path.unlink(missing_ok=True)
            stream.close()

    def holder(self, key: str) -> str:
        """Who holds a lock, in words."""
        try:
            found = json.loads((self.path / "locks" / f"{key[:16]}.lock").read_text())
            return f"process {found['pid']} on {found['host']}"
        except (OSError, ValueError, KeyError):
            return "another process"


def decoding_of(record: dict[str, Any]) -> dict[str, Any]:
    """The settings of a cell that its weights were not trained under; the memory with the weight it took."""
    config = record["config"]
    found = {key: config[key] for key in record["weights"].get("trained_and_epoch_picked_with") or ()}
    found.update((key, value) for key, value in config.items() if key.split("_")[0] == "memory")
    if config.get("memory") == "validation":
        found.update(memory="fixed", memory_weight=record["memory_weight"])
    return found


def property_file(record: dict[str, Any]) -> str:
    """A cell's settings as a property file that runs the cell again."""
    known = declared_keys() - {"model", "dataset"}
    values = {key: value for key, value in record["config"].items() if key in known}
    shown = [(k, v) for k, v in record["test_result"].items() if "@10" in k or "rows" in record]
    head = [
        f"{record['row']['name']} on {record['dataset']}, seed {record['seed']}: all settings of one cell",
        f"Command: python run_recbole_sigma.py --model={record['model']} --dataset={record['dataset']} "
        "--config_files=<this file>",
        f"Result: {', '.join(f'{k} {v:.4f}' for k, v in shown)}",
        f"Seconds: {record['seconds']['cpu']:.0f} CPU; recbole-sigma "
        f"{record['versions'].get('recbole-sigma', '')}",
    ]
    if record["weights"]["shared"]:
        head.append("The table took the weights, and the epoch, of a training with other judging settings.")
    return "".join(f"# {line}\n" for line in head) + yaml.safe_dump(
        values, sort_keys=True, allow_unicode=True
    )


def try_lock(path: Path) -> IO[str] | None:
    """The lock file, open and locked, or None when another process has it.

    A holder deletes the file on leaving, so a lock on a deleted file counts for nothing: try the new one.
    """
    while True:
        stream = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.close()
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                return None
            raise UserError(
                f"the file system of {path.parent} has no file locks ({error.strerror}): set --output to a "
                "folder on a local disk"
            ) from error
        try:
            if os.stat(path).st_ino == os.fstat(stream.fileno()).st_ino:
                return stream
        except FileNotFoundError:
            pass
        stream.close()


def _file_name(record: dict[str, Any]) -> str:
    words = f"{record['row']['name']}-{record['seed']}{'' if record['filter_seen'] else '-unfiltered'}"
    plain = re.sub(r"[^\w.+-]+", "_", words)
    return plain.encode()[:100].decode(errors="ignore")  # file systems take 255 bytes
