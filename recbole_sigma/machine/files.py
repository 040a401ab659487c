"""Files that this program writes and reads back: checked, replaced in one step, named by what went in.

`reading` is what every reader of such a file stands in: whatever a damaged or forged file makes Python raise
comes out as one sentence. `ArtifactStore` keeps prepared item data: tensors in safetensors, the rest in a
JSON header.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recbole_sigma.machine import clock
from recbole_sigma.values import UserError

FORMAT = "recbole-sigma-artifact-1"
DELETE = "delete the file and run again"
OTHER_ARTIFACTS = "free the space or set artifact_dir to another folder"
_TOOK = "cpu_seconds"

_DAMAGE = (
    SafetensorError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
)


@contextlib.contextmanager
def reading(path: Path | str, remedy: str) -> Iterator[None]:
    """Turn what reading a damaged file of ours raises into a sentence; a `UserError` passes unchanged.

    Args:
        path: the file.
        remedy: what to do about it.

    Raises:
        UserError: naming the file, what is wrong with it, and the remedy.
    """
    try:
        yield
    except UserError:
        raise
    except _DAMAGE as error:
        what = " ".join(str(error).split())[:160]
        kind = type(error).__name__
        raise UserError(f"{path} is damaged ({f'{kind}: {what}' if what else kind}): {remedy}") from error


@contextlib.contextmanager
def writing(path: Path | str, remedy: str) -> Iterator[None]:
    """Turn what writing a file raises, safetensors' error too, into a sentence.

    Args:
        path: the file.
        remedy: what to do about it.

    Raises:
        UserError: naming the file, what the system says, and the remedy.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise UserError(f"cannot write {path} ({why}): {remedy}") from error


def checked_json(text: str | bytes) -> Any:
    """A JSON value without NaN, which nothing of ours writes.

    Raises:
        ValueError: not JSON, or NaN in it.
        RecursionError: nested too deep.
    """

    def constant(name: str) -> float:
        if name == "NaN":
            raise ValueError("it holds NaN")
        return float(name.replace("Infinity", "inf"))

    return json.loads(text, parse_constant=constant)


def fingerprint(**parts: Any) -> str:
    """SHA-256 over named parts (arrays, strings, numbers, lists, dicts); equal parts give equal
    fingerprints.
    """
    digest = hashlib.sha256()
    for name in sorted(parts):
        value = parts[name]
        digest.update(name.encode() + b"\0")
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)  # not copied: it may be gigabytes
        else:
            digest.update(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())
        digest.update(b"\0")
    return digest.hexdigest()


class ArtifactStore:
    """A folder of artifacts named ``<kind>-<fingerprint>.safetensors``.

    An artifact knows the CPU seconds that it took, and whoever reads it has them counted (`machine.clock`).

    Args:
        folder: created on the first write.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def path(self, kind: str, key: str) -> Path:
        """File of an artifact."""
        return self.folder / f"{kind}-{key[:24]}.safetensors"

    def load(self, kind: str, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Read an artifact.

        Returns:
            (tensors, header) or None when it is not stored.

        Raises:
            UserError: the file is damaged or belongs to another fingerprint.
        """
        path = self.path(kind, key)
        if not path.exists():
            return None
        with reading(f"the stored item data {path}", DELETE):
            with safe_open(str(path), framework="pt") as handle:
                meta = handle.metadata() or {}
                tensors = {name: handle.get_tensor(name) for name in handle.keys()}
            if meta.get("format") != FORMAT or meta.get("fingerprint") != key:
                raise UserError(f"the stored item data {path} belongs to another preparation: {DELETE}")
            if meta.get("checksum") != _checksum(tensors, meta.get("header", "")):
                raise ValueError("its checksum differs")
            header = checked_json(meta["header"])
            if not isinstance(header, dict):
                raise TypeError("its header is no mapping")
            took = float(header.pop(_TOOK, 0.0))  # artifacts of earlier versions did not say it
            if not 0.0 <= took < math.inf:
                raise ValueError(f"its {_TOOK} is {took}")
            clock.spare(took)
            return tensors, header

    def save(
        self, kind: str, key: str, tensors: dict[str, Tensor], header: dict[str, Any], took: float = 0.0
    ) -> Path:
        """Write an artifact atomically; an existing file of the same name is replaced whole.

        Args:
            kind: first part of its name.
            key: fingerprint of everything that it depends on.
            tensors: what it holds.
            header: what else it holds, as JSON.
            took: CPU seconds that making it took.

        Raises:
            UserError: the folder cannot be written.
        """
        path = self.path(kind, key)
        text = json.dumps({**header, _TOOK: round(took, 3)}, ensure_ascii=False, sort_keys=True)
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        meta = {"format": FORMAT, "fingerprint": key, "header": text, "checksum": _checksum(whole, text)}
        with writing(path, OTHER_ARTIFACTS):
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as temporary:
                save_file(whole, str(temporary), metadata=meta)
        return path

    def thin(self, kind: str, newest: int) -> None:
        """Remove all artifacts of a kind but those written or touched last.

        Args:
            kind: first part of their names.
            newest: how many stay.
        """
        ages = []
        for path in self.folder.glob(f"{kind}-*.safetensors"):
            with contextlib.suppress(FileNotFoundError):  # another process thins too
                ages.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(ages, reverse=True)[newest:]:
            path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary name in the same folder, flush to disk, rename: readers see the old file or the
    new one.
    """
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` for the caller to write; afterwards it takes the place of ``path``.

    Its name holds the machine and the process, so two writers never share one, and `clear_leftovers` can tell
    a file that is being written from one whose writer was killed. Whoever the umask lets read new files may
    read it; safetensors would write for the owner alone.

    Raises:
        UserError: ``path`` is no plain file; a device such as /dev/null would be gone for the whole machine.
    """
    refuse_device(path)
    if path.parent.absolute() not in _CLEARED:
        _CLEARED.add(path.parent.absolute())
        clear_leftovers(path.parent)
    temporary = path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        mode = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        with contextlib.suppress(OSError):  # not every file system has modes
            temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def refuse_device(path: Path) -> None:
    """Refuse a name that a file must not take the place of: a device, a pipe, a link to an open stream.

    Raises:
        UserError: it is one.
    """
    stream = path.is_symlink() and os.readlink(path).startswith("/proc/")  # /dev/stdout
    if stream or (path.exists() and not path.is_file() and not path.is_dir()):
        raise UserError(f"{path} is a device or a pipe, which no file can replace: name a file")


_CLEARED: set[Path] = set()  # folders that this process has rid of leftovers
_HOST = re.sub(r"[^A-Za-z0-9]", "-", platform.node())[:40] or "host"
_LEFTOVER = re.compile(rf"^\..+\.{re.escape(_HOST)}\.(\d+)\.[0-9a-f]{{8}}\.tmp$")


def clear_leftovers(folder: Path) -> None:
    """Remove temporary files whose writer on this machine was killed."""
    for path in folder.iterdir() if folder.is_dir() else ():
        found = _LEFTOVER.match(path.name)
        if found and not _alive(int(found[1])):
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _checksum(tensors: dict[str, Tensor], header: str) -> str:
    return fingerprint(
        header=header,
        **{
            f"t_{name}": tensor.to(torch.float32) if tensor.dtype == torch.bfloat16 else tensor
            for name, tensor in tensors.items()
        },
    )
