"""Rows out of raw files, with one policy for unusable rows: stop at file:line, or skip and count."""

from __future__ import annotations

import ast
import csv
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dataset_adapters.errors import AdapterError, BadRow, nearest
from dataset_adapters.streams import Source, digest_of, kind_of, numbered_lines, progress

ENCODINGS = ("auto", "utf-8", "latin-1", "cp1252")
_EXAMPLES = 5
_MAX_DOCUMENT = 1 << 30
_DELIMITER_NAMES = {"\t": "a tab", ",": "a comma", ";": "a semicolon", "|": "a bar"}


def parse_object(line: str) -> dict[str, Any]:
    """Read one line that is a JSON object or, as in the 2014 Amazon metadata, a Python literal.

    Raises:
        BadRow: it is neither, or not an object.
    """
    value: Any = None
    reason = ""
    if not line.startswith("{'"):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = str(error)
    if value is None:
        try:
            value = ast.literal_eval(line)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
            literal = error.msg if isinstance(error, SyntaxError) else type(error).__name__
            raise BadRow(
                f"neither JSON ({reason or 'single quotes'}) nor a Python literal ({literal})"
            ) from None
    if not isinstance(value, dict):
        raise BadRow(f"holds a {type(value).__name__}, an object {{...}} expected")
    return value


def _handled(handle: Callable[[Any], None], row: Any) -> None:
    """Hand a row over; a value that overflows what holds it makes a bad row, not a fault.

    Raises:
        BadRow: also in place of an overflow.
    """
    try:
        handle(row)
    except (OverflowError, RecursionError) as error:
        raise BadRow(f"holds a value that is too large or too deep ({error})") from None


class RowReader:
    """Reads files row by row and hands each row to a function that may raise :class:`BadRow`.

    Args:
        on_bad_row: ``stop`` (raise at the first one) or ``skip`` (count it and go on).
        encoding: one of ``ENCODINGS``; ``auto`` takes UTF-8 and, where a line is not UTF-8, Latin-1 for it.
        show_progress: draw a bar over the bytes where a person watches.
    """

    def __init__(
        self, on_bad_row: str = "stop", encoding: str = "utf-8", show_progress: bool = False
    ) -> None:
        self.on_bad_row, self.encoding, self.show = on_bad_row, encoding, show_progress
        self.sources: list[Source] = []
        self.bad_rows: Counter[str] = Counter()
        self.bad_examples: list[str] = []
        self.latin1_lines = 0

    def bad(self, source: Source, line: int, reason: object, rows: int = 1) -> None:
        """Apply the policy to one unusable row (or to ``rows`` lines swallowed by one open quote)."""
        if self.on_bad_row == "stop":
            raise AdapterError(
                f"{source.path}:{line}: {reason}; mend the file, or pass --on-bad-row=skip to leave "
                f"such rows out and count them"
            )
        self.bad_rows[source.path.name] += rows
        if len(self.bad_examples) < _EXAMPLES:
            self.bad_examples.append(f"{source.path.name}:{line}: {reason}")

    def open(self, role: str, path: Path) -> Source:
        """Enter a file into the list of sources."""
        self.sources.append(Source(role, path))
        return self.sources[-1]

    def lines(self, role: str, path: Path, handle: Callable[[str], None], skip_first: bool = False) -> None:
        """Give each non-blank line, decoded and without its line end, to ``handle``."""
        source = self.open(role, path)
        for number, raw in numbered_lines(source, self.show):
            if number == 1 and skip_first or not raw.strip():
                continue
            source.rows += 1
            try:
                _handled(handle, self._decode(raw).rstrip("\r\n"))
            except BadRow as reason:
                self.bad(source, number, reason)
        self._close(source)

    def objects(
        self, role: str, path: Path, handle: Callable[[dict[str, Any]], None], only: _KeyFilter | None = None
    ) -> None:
        """Give each line, read as a JSON object or Python literal, to ``handle``.

        Args:
            role: name of the input.
            path: the file.
            handle: called with one object.
            only: lines whose key is certainly not wanted are passed over without being parsed.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # literals with stray backslashes make Python warn once a line
            self.lines(
                role,
                path,
                lambda line: None if only and not only.may_want(line) else handle(parse_object(line)),
            )

    def table(
        self,
        role: str,
        path: Path,
        columns: Sequence[str],
        handle: Callable[[list[Any]], None],
        delimiter: str = ",",
        quoted: bool = True,
        header: bool = True,
    ) -> None:
        """Give the cells of the named columns of each row to ``handle``, in the order of ``columns``.

        Args:
            role: name of the input.
            path: text or Parquet file.
            columns: column names, or numbers from 1 where there is no header.
            handle: called with one list of cells: texts, or Python values from a Parquet file.
            delimiter: one character, text files only.
            quoted: whether ``"`` quotes cells as in CSV; False takes it for a plain character.
            header: whether the first line names the columns.
        """
        source = self.open(role, path)
        if kind_of(path) == "parquet":
            self._parquet(source, columns, handle)
        else:
            self._delimited(source, columns, handle, delimiter, quoted, header)
        self._close(source)

    def _delimited(
        self,
        source: Source,
        columns: Sequence[str],
        handle: Callable[[list[Any]], None],
        delimiter: str,
        quoted: bool,
        header: bool,
    ) -> None:
        lines = _Lines(self, source)
        records = (
            csv.reader(lines, delimiter=delimiter, strict=True)
            if quoted
            else csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        )
        at: list[int] = []
        width = 0
        while True:
            start = lines.number + 1
            try:
                record = next(records)
                if not record:
                    continue
                if not width:
                    names = record if header else [str(n) for n in range(1, len(record) + 1)]
                    at, width = column_positions(source.path, names, columns, delimiter), len(names)
                    if header:
                        continue
                source.rows += 1
                if len(record) != width:
                    raise BadRow(f"{len(record)} cells where the first line has {width}")
                _handled(handle, [record[i] for i in at])
            except StopIteration:
                break
            except (BadRow, csv.Error) as reason:
                swallowed = max(lines.number - start + 1, 1)
                if not isinstance(reason, BadRow):
                    source.rows += swallowed
                note = f" (one quote spans lines {start}-{lines.number})" if swallowed > 1 else ""
                self.bad(source, start, f"{reason}{note}", swallowed)

    def _parquet(self, source: Source, columns: Sequence[str], handle: Callable[[list[Any]], None]) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise AdapterError(
                f"{source.path}: needs the package pyarrow; pip install 'recbole-sigma[adapters]'"
            ) from error
        try:
            with pq.ParquetFile(source.path) as file, progress(source, self.show) as bar:
                names = file.schema_arrow.names
                column_positions(source.path, names, columns, None)
                twice = next((name for name in columns if names.count(name) > 1), None)
                if twice is not None:
                    raise AdapterError(f"{source.path}: has two columns {twice!r}; rename one of them")
                share = bar.total / max(file.metadata.num_rows, 1)
                for batch in file.iter_batches(batch_size=1 << 15, columns=list(dict.fromkeys(columns))):
                    cells = [_python_values(batch.column(name), pa) for name in columns]
                    for row in zip(*cells, strict=True):
                        source.rows += 1
                        try:
                            _handled(handle, list(row))
                        except BadRow as reason:
                            self.bad(source, source.rows, reason)
                    bar.update(share * batch.num_rows)
        except AdapterError:
            raise
        # damaged pages, dates past the year 9999, bad UTF-8, columns of a type that Python lacks
        except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError, MemoryError) as error:
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise AdapterError(
                f"{source.path}: is damaged, or holds what Python cannot, after row {source.rows} "
                f"({why}); fetch it again, or write its columns as text, numbers and times before the "
                "year 9999"
            ) from error
        source.size, source.sha256 = source.path.stat().st_size, digest_of(source.path)

    def document(self, role: str, path: Path) -> dict[str, Any]:
        """Read a whole JSON file that is one object.

        Raises:
            AdapterError: the file is not JSON, or not an object.
        """
        source = self.open(role, path)
        text = bytearray()
        for _, line in numbered_lines(source, self.show):
            text += line
            if len(text) > _MAX_DOCUMENT:
                raise AdapterError(f"{path}: is over 1 GiB unpacked; is this the right file?")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise AdapterError(f"{path}: is not JSON ({error}); fetch the file again") from None
        if not isinstance(value, dict):
            raise AdapterError(f"{path}: holds a {type(value).__name__}, a JSON object expected")
        source.rows = len(value)
        return value

    def _decode(self, raw: bytes) -> str:
        if self.encoding in ("auto", "utf-8"):
            try:
                return raw.decode()
            except UnicodeDecodeError as error:
                if self.encoding == "utf-8":
                    raise BadRow(
                        f"byte {error.start + 1} of the line is not UTF-8 (--encoding latin-1, cp1252 "
                        f"or auto reads other files)"
                    ) from None
                self.latin1_lines += 1
                return raw.decode("latin-1")
        try:
            return raw.decode(self.encoding)
        except UnicodeDecodeError as error:
            raise BadRow(f"byte {error.start + 1} of the line is not {self.encoding}") from None

    def _close(self, source: Source) -> None:
        if not source.rows:
            raise AdapterError(f"{source.path}: holds no rows; is this the right file?")
        if 2 * self.bad_rows[source.path.name] > source.rows:
            raise AdapterError(
                f"{source.path}: {self.bad_rows[source.path.name]:,} of {source.rows:,} rows cannot be used, "
                f"the first because of: {self.bad_examples[0]}; is this the right file and adapter?"
            )


class _Lines:
    """Text lines for ``csv.reader``; an object, not a generator, so that it survives a line's error."""

    def __init__(self, reader: RowReader, source: Source) -> None:
        self._reader, self._raw, self.number = reader, numbered_lines(source, reader.show), 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.number, raw = next(self._raw)
        return self._reader._decode(raw)


class _KeyFilter:
    """Passes over lines of a large metadata file by their key alone.

    A line is parsed unless every ``"key": "value"`` in it names an item that is not kept, so a text that
    happens to contain such a pair costs time, never an item.
    """

    def __init__(self, names: Iterable[str], wants: Callable[[str], bool]) -> None:
        # a pattern that begins with plain letters is searched for many times faster than one with a choice
        self._find = [
            re.compile(rf"""{re.escape(name)}['"]\s*:\s*['"]([^'"\\]+)['"]""").findall for name in names
        ]
        self._wants = wants

    def may_want(self, line: str) -> bool:
        keys = [key for find in self._find for key in find(line)]
        return not keys or any(map(self._wants, keys))


key_filter = _KeyFilter


def column_positions(
    path: Path, names: Sequence[str], wanted: Sequence[str], delimiter: str | None
) -> list[int]:
    """Find the wanted columns in a header.

    Raises:
        AdapterError: one is missing; says what is there, the nearest name and a likelier delimiter.
    """
    found = [name.strip() for name in names]
    missing = [name for name in wanted if name not in found]
    if not missing:
        return [found.index(name) for name in wanted]
    hint = nearest(missing[0], found)
    for other in _DELIMITER_NAMES:
        if delimiter and other != delimiter and len(found) == 1 and other in found[0]:
            hint = f"; the line looks separated by {_DELIMITER_NAMES[other]} (pass the right delimiter)"
    shown = ", ".join(repr(name[:40]) for name in found[:12]) + (", ..." if len(found) > 12 else "")
    raise AdapterError(f"{path}:1: no column {missing[0]!r}{hint}; the file has {shown}")


def _python_values(column: Any, pa: Any) -> list[Any]:
    """Arrow column to Python values; timestamps become ISO texts in UTC."""
    if pa.types.is_timestamp(column.type):
        # only nanoseconds lose digits in microseconds; other units must not wrap round
        loses = column.type.unit == "ns"
        zone = column.type.tz
        return [
            None if v is None else v.isoformat()
            for v in column.cast(pa.timestamp("us", zone), safe=not loses).to_pylist()
        ]
    if pa.types.is_date(column.type):
        return [None if v is None else v.isoformat() for v in column.to_pylist()]
    return column.to_pylist()
