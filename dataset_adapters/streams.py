"""Bytes in: plain, gzip, bzip2, xz and zstandard files as numbered lines, hashed while they are read."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from dataset_adapters.errors import AdapterError

MAX_LINE = 64 << 20
_BLOCK = 1 << 20
# Four bytes of Zstandard can stand for 128 KiB: a block of this size unpacks to 32 MiB at most.
_ZSTD_BLOCK = 1 << 10
_MAX_WINDOW = 1 << 27
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"PAR1": "parquet",
    b"PK\x03\x04": "zip",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError, MemoryError)


@dataclass
class Source:
    """A raw file that went into a data set.

    Attributes:
        role: what the adapter took it for, such as ``reviews``.
        path: where it lies (the card keeps only the file's name).
        size: bytes on disk.
        sha256: digest of the bytes on disk, set once the file was read to its end.
        rows: lines, records or table rows read, header lines not counted.
    """

    role: str
    path: Path
    size: int = 0
    sha256: str = ""
    rows: int = 0


def kind_of(path: Path) -> str:
    """Tell by its first bytes, not by its name, how a file is packed.

    Returns:
        ``plain``, ``gzip``, ``bzip2``, ``xz``, ``zstandard`` or ``parquet``.

    Raises:
        AdapterError: the file is missing, empty, an archive or UTF-16.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(6)
    except OSError as error:
        raise AdapterError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if not head:
        raise AdapterError(f"{path}: the file is empty; fetch it again")
    kind = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "plain")
    if kind == "zip":
        raise AdapterError(f"{path}: is a zip archive; unpack it and give the folder or the files inside")
    if kind == "UTF-16":
        raise AdapterError(f"{path}: is UTF-16 text; convert it first: iconv -f UTF-16 -t UTF-8")
    return kind


class _Hashed(io.RawIOBase):
    """Raw file that hashes and counts what passes through it, so that no file is read twice."""

    def __init__(self, path: Path, bar: tqdm[Any]) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self._bar = bar
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer) or 0
        self.digest.update(memoryview(buffer)[:count])
        self._bar.update(count)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Zstandard(io.RawIOBase):
    """Zstandard frames one after another; unlike the library's reader it notices a frame that stops early."""

    def __init__(self, raw: IO[bytes], path: Path) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise AdapterError(
                f"{path}: needs the package zstandard; pip install 'recbole-sigma[adapters]'"
            ) from error
        self._raw, self._ready = raw, memoryview(b"")
        self._new = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompressobj
        self._frame, self._open, self._error = self._new(), False, zstandard.ZstdError

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            block = self._raw.read(_ZSTD_BLOCK)
            if not block:
                if self._open:
                    raise EOFError("the last frame is not complete")
                return 0
            parts = []
            try:
                while block:
                    parts.append(self._frame.decompress(block))
                    self._open = not self._frame.eof
                    block = self._frame.unused_data if self._frame.eof else b""
                    if self._frame.eof:
                        self._frame = self._new()
            except self._error as error:
                raise OSError(str(error)) from error
            self._ready = memoryview(b"".join(parts))
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


@contextmanager
def progress(source: Source, show: bool) -> Iterator[tqdm[Any]]:
    """Progress bar over the bytes of a file on disk; silent where nobody watches."""
    with tqdm(
        total=source.path.stat().st_size,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        desc=source.role,
        disable=None if show else True,
        leave=False,
    ) as bar:
        yield bar


def numbered_lines(source: Source, show: bool) -> Iterator[tuple[int, bytes]]:
    """Yield ``(line number from 1, line with its line end)`` and fill in size and digest of the source.

    Raises:
        AdapterError: the file is damaged or truncated, holds a line over 64 MiB, or is a Parquet file.
    """
    kind, number = kind_of(source.path), 0
    if kind == "parquet":
        raise AdapterError(
            f"{source.path}: is a Parquet file; this input is read as text (adapter 'table' reads Parquet)"
        )
    with progress(source, show) as bar, _Hashed(source.path, bar) as raw:
        try:
            stream: Any = io.BufferedReader(raw, _BLOCK // 16)  # small, so that the bar moves
            if kind == "gzip":
                stream = io.BufferedReader(gzip.GzipFile(fileobj=stream), _BLOCK)  # type: ignore[arg-type]
            elif kind == "bzip2":
                stream = io.BufferedReader(bz2.BZ2File(stream), _BLOCK)  # type: ignore[arg-type]
            elif kind == "xz":
                stream = io.BufferedReader(lzma.LZMAFile(stream), _BLOCK)  # type: ignore[arg-type]
            elif kind == "zstandard":
                stream = io.BufferedReader(_Zstandard(stream, source.path), _BLOCK)
            while line := stream.readline(MAX_LINE + 1):
                number += 1
                if number == 1 and line[257:262] == b"ustar":  # a header of 512 bytes, packed or not
                    raise AdapterError(
                        f"{source.path}: is a tar archive; unpack it and give the folder or the files inside"
                    )
                if len(line) > MAX_LINE:
                    raise AdapterError(
                        f"{source.path}:{number}: the line is longer than 64 MiB; is this the right file?"
                    )
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            while raw.read(_BLOCK):  # bytes after the last frame belong to the digest
                pass
        except _DAMAGE as error:
            raise AdapterError(
                f"{source.path}: is damaged or cut short after line {number} "
                f"({error or type(error).__name__}); fetch the file again"
            ) from error
        source.size, source.sha256 = source.path.stat().st_size, raw.digest.hexdigest()


def digest_of(path: Path) -> str:
    """SHA-256 of a file on disk, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
