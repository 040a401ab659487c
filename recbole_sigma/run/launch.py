"""Several processes on this machine for one run: started, watched, and ended together.

Each process is `recbole_sigma.worker` with the environment that torchrun would give it. What they are told
and what rank 0 answers is JSON; nothing is pickled.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sigma.evaluation.judge import Judgement
from recbole_sigma.evaluation.labels import LabelJudgement
from recbole_sigma.models import registry
from recbole_sigma.settings.keys import ProcessKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.values import UserError

_PER_CORE = 4  # processes of a run for each core of the machine; more only wait for each other
_GRACE = 5.0  # seconds in which the others may say why they ended, and then in which they may end
_SIGNALS = {9: "killed (out of memory?)", 11: "segmentation fault", 15: "terminated"}


def wanted_processes(config: Any) -> tuple[int, int]:
    """Processes on this machine and on all machines, as RecBole's ``nproc`` and ``world_size`` say.

    Raises:
        UserError: numbers that do not fit together.
    """
    keys = read(ProcessKeys, config)
    here, offset = keys.nproc, keys.group_offset
    all_ = here if keys.world_size <= 0 else keys.world_size
    most = _PER_CORE * (os.cpu_count() or 1)
    if here > most:
        raise UserError(
            f"nproc {here} is more than this machine can run: give at most {most}, {_PER_CORE} for each core"
        )
    if offset + here > all_:
        raise UserError(
            f"group_offset {offset} + nproc {here} exceeds world_size {all_}: world_size counts the "
            "processes of all machines, group_offset those of the machines before this one"
        )
    if all_ > here and not keys.port:
        raise UserError("port: several machines need one port that all of them name, such as --port=5678")
    return here, all_


def launch(config: Any, call: dict[str, Any]) -> dict[str, Any] | None:
    """Run `quick_start.run` in ``nproc`` processes and wait for them.

    Args:
        config: the resolved config; reads ``nproc``, ``world_size``, ``ip``, ``port``, ``group_offset``.
        call: keyword arguments of `quick_start.run` as plain JSON values.

    Returns:
        Rank 0's result without ``loaders``; None on a machine without rank 0.

    Raises:
        UserError: what a process raised as such, in its words.
        RuntimeError: a process ended otherwise; the others have been ended.
    """
    here, all_ = wanted_processes(config)
    keys = read(ProcessKeys, config)
    offset, port = keys.group_offset, keys.port or _free_port()
    path = registry.file_of(config["model"])
    if path is not None:  # each process runs the user's file itself
        call = {**call, "model": f"{path}:{config['model']}"}
    try:
        spec = json.dumps(call)
    except TypeError as error:
        raise UserError(
            f"nproc: the settings must be plain values to reach {here} processes ({error}): name the model "
            "instead of passing its class"
        ) from None
    with tempfile.TemporaryDirectory(prefix="recbole-sigma-") as answers:
        processes = []
        try:
            for local in range(here):
                processes.append(_start(spec, answers, offset + local, local, all_, keys.ip, port))
            _watch(processes, Path(answers), offset)
        finally:
            _end(processes)
        result = Path(answers) / "result.json"
        return read_result(json.loads(result.read_text())) if result.is_file() else None


def _start(
    spec: str, answers: str, rank: int, local: int, size: int, ip: str, port: int
) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": ip,
        "MASTER_PORT": str(port),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    environment.setdefault("OMP_NUM_THREADS", "1")
    # a warning of DistributedDataParallel at every start, about a search that some models need and others not
    environment.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    process = subprocess.Popen(
        [sys.executable, "-m", "recbole_sigma.worker", answers], env=environment, stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    try:
        process.stdin.write(spec.encode() + b"\n")
        process.stdin.flush()  # it stays open: a worker whose launcher is gone reads the end and stops
    except BrokenPipeError:
        pass  # it ended at once; `_watch` says why
    return process


def _watch(processes: list[subprocess.Popen[bytes]], answers: Path, offset: int) -> None:
    """Wait for all; on the first that fails, find out why and raise."""
    while True:
        codes = [process.poll() for process in processes]
        if any(codes):
            break
        if all(code == 0 for code in codes):
            return
        time.sleep(0.05)
    deadline = time.monotonic() + _GRACE
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(0.05)
    reasons = []
    for rank, process in enumerate(processes, start=offset):
        code, note = process.poll(), answers / f"error-{rank}.json"
        if note.is_file():
            told = json.loads(note.read_text())
            reasons.append((told["weight"], told["time"], rank, told))
        elif code is not None and code < 0:
            told = {"kind": "signal", "text": _SIGNALS.get(-code, f"ended by signal {-code}")}
            reasons.append((0, 0.0, rank, told))
        elif code:
            reasons.append((1, 0.0, rank, {"kind": "exit", "text": f"exit code {code}"}))
    _, _, rank, told = min(reasons, key=lambda reason: reason[:3])
    if told["kind"] == "UserError":
        raise UserError(told["text"])
    if told["kind"] == "KeyboardInterrupt":
        raise KeyboardInterrupt
    raise RuntimeError(f"process {rank} of {len(processes)} ended: {told['kind']}: {told['text']}")


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + _GRACE
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


# --- results as JSON ---

_KINDS = {"lists": Judgement, "labels": LabelJudgement}
_ARRAYS = {kind: {f.name for f in fields(made) if f.type == "np.ndarray"} for kind, made in _KINDS.items()}
_TYPES = {"scores": np.float32, "labels": np.int8}
"""Arrays of a judgement that are not of whole numbers of 64 bits."""


def write_result(result: dict[str, Any]) -> dict[str, Any]:
    """A result of `quick_start.run` as plain JSON; `read_result` inverts it, but for the data's loaders."""
    test = asdict(result["test"])
    arrays = _ARRAYS[result["protocol"]["judged_by"]]
    plain = {name: value.tolist() if name in arrays else value for name, value in test.items()}
    return {**{key: value for key, value in result.items() if key != "loaders"}, "test": plain}


def read_result(plain: dict[str, Any]) -> dict[str, Any]:
    """Inverse of `write_result`."""
    test, kind = dict(plain["test"]), plain["protocol"]["judged_by"]
    for name in _ARRAYS[kind]:
        test[name] = np.asarray(test[name], dtype=_TYPES.get(name, np.int64))
    test["metrics"] = OrderedDict(test["metrics"])
    return {**plain, "test": _KINDS[kind](**test)}
