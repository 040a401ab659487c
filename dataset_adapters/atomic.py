"""RecBole atomic files, written beside their final place and moved there in one step."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dataset_adapters.errors import AdapterError
from dataset_adapters.events import Events, FeatureTable, Field, PublishedSplit
from dataset_adapters.values import SEPARATOR

TIME_FIELD = Field("timestamp", "float")
_CHUNK = 1 << 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def check_name(name: str) -> str:
    """Return a data set name that is safe as a folder and file name.

    Raises:
        AdapterError: it is not, or RecBole would not read the folder of that name.
    """
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise AdapterError(
            f"--name {name!r}: use letters, digits, '-', '_' and '.', beginning with a letter or digit"
        )
    if name == "ml-100k":
        raise AdapterError(
            "--name ml-100k: RecBole always reads its own copy under this name, never yours; take "
            "another, such as movielens-100k"
        )
    return name


@contextmanager
def staged_folder(output: Path, name: str, overwrite: bool) -> Iterator[Path]:
    """Give a private folder to write into; it becomes ``output/name`` only if the block ends well.

    A killed run leaves at most the hidden folder ``output/.name.partial``, which the next run removes.

    Args:
        output: the data path, created where missing.
        name: the data set, already checked.
        overwrite: replace an older conversion of that name.

    Raises:
        AdapterError: something that is not an older conversion is in the way, or another run is writing it.
    """
    final, partial, retired = output / name, output / f".{name}.partial", output / f".{name}.replaced"
    try:
        output.mkdir(parents=True, exist_ok=True)
        if retired.is_dir() and not final.exists():  # a run was killed between the two renames below
            os.replace(retired, final)
        check_free(final, overwrite)
        with _exclusive(partial):
            for child in partial.iterdir():
                shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
            try:
                yield partial
                for child in partial.iterdir():
                    _flush_to_disk(child)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            if final.exists():
                shutil.rmtree(retired, ignore_errors=True)
                os.replace(final, retired)
            os.replace(partial, final)
            shutil.rmtree(retired, ignore_errors=True)
    except OSError as error:
        raise AdapterError(
            f"{error.filename or output}: cannot be written ({error.strerror or error})"
        ) from error


def check_free(final: Path, overwrite: bool) -> None:
    """Refuse to replace anything but an older conversion of the same name.

    Raises:
        AdapterError: something is in the way.
    """
    if final.is_symlink() or (final.exists() and not final.is_dir()):
        raise AdapterError(f"{final}: is in the way and is not a folder; remove it or choose another --name")
    if not final.exists() or not any(final.iterdir()):
        return
    if not (final / f"{final.name}.card.json").is_file():
        raise AdapterError(f"{final}: holds files that no adapter wrote; choose another --output or --name")
    if not overwrite:
        raise AdapterError(f"{final}: was converted before; pass --overwrite to replace it")


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Create the folder and hold a lock on it, so that a left-over can be told from a run under way."""
    if folder.is_symlink():
        raise AdapterError(f"{folder}: is a symbolic link; remove it")
    folder.mkdir(exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not a POSIX system: no lock, two runs at once are the user's to avoid
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise AdapterError(
            f"{folder}: another conversion of this name is running; wait for it to end"
        ) from None
    try:
        yield
    finally:
        os.close(handle)


def _flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    with contextlib.suppress(OSError):  # some file systems cannot; the rename is then as safe as they allow
        os.fsync(handle)
    os.close(handle)


def cell(value: str) -> str:
    """Quote a cell that begins with a double quote, which RecBole's reader would otherwise misread."""
    return '"' + value.replace('"', '""') + '"' if value.startswith('"') else value


def _write(path: Path, fields: Sequence[Field], rows: Iterable[str]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join(f"{f.name}:{f.type}" for f in fields) + "\n")
        file.writelines(rows)


def event_fields(events: Events) -> list[Field]:
    """Columns of the ``.inter`` file of a log."""
    fields = [Field("user_id"), Field("item_id")]
    fields += [Field(name, "float") for name in events.numbers]
    fields += [TIME_FIELD] if events.timed else []
    return fields + [Field(name) for name in events.texts]


def write_events(path: Path, events: Events) -> None:
    """Write a ``.inter`` file in the order of the log."""
    users, items = ([cell(n) for n in names] for names in (events.user_names, events.item_names))
    texts = {name: [cell(v) for v in values] for name, values in events.text_values.items()}

    def rows() -> Iterator[str]:
        for start in range(0, len(events), _CHUNK):
            part = slice(start, start + _CHUNK)
            columns: list[list[str]] = [
                [users[u] for u in events.user[part].tolist()],
                [items[i] for i in events.item[part].tolist()],
            ]
            columns += [[number_text(v) for v in values[part].tolist()] for values in events.numbers.values()]
            if events.timed:
                columns.append(time_texts(events.time[part], events.scale))
            columns += [
                [texts[name][c] for c in codes[part].tolist()] for name, codes in events.texts.items()
            ]
            yield "\n".join(map("\t".join, zip(*columns, strict=True))) + "\n"

    _write(path, event_fields(events), rows())


def time_texts(times: Any, scale: int) -> list[str]:
    """Times as decimal text: whole units where they are whole, else exact to the microsecond."""
    whole, rest = np.divmod(times, scale)
    if not rest.any():
        return [str(t) for t in whole.tolist()]
    return [
        f"{w}.{r:06d}".rstrip("0") if r else str(w)
        for w, r in zip(whole.tolist(), rest.tolist(), strict=True)
    ]


def number_text(value: float) -> str:
    """Shortest text of a number, blank for NaN."""
    if value != value:
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def write_features(path: Path, id_field: str, table: FeatureTable) -> None:
    """Write a ``.item`` or ``.user`` file; a token without a record gets blank cells."""
    blank = ("",) * len(table.fields)

    def rows() -> Iterator[str]:
        for key, values in table.rows.items():
            cells = (SEPARATOR.join(v) if isinstance(v, list) else v for v in values or blank)
            yield "\t".join(map(cell, (key, *cells))) + "\n"

    _write(path, [Field(id_field), *table.fields], rows())


def write_split(path: Path, split: PublishedSplit) -> None:
    """Write one pre-split ``.inter`` file in RecBole's sequential form: a history and a target per row."""
    fields = [Field("user_id"), Field("item_id_list", "token_seq"), Field("item_id"), TIME_FIELD]
    rows = zip(split.users, split.histories, split.targets, split.times, strict=True)
    _write(
        path,
        fields,
        (
            f"{cell(u)}\t{cell(SEPARATOR.join(history))}\t{cell(target)}\t{time}\n"
            for u, history, target, time in rows
        ),
    )


def write_text(path: Path, text: str) -> None:
    """Write a small text file with plain line feeds."""
    path.write_text(text, encoding="utf-8", newline="\n")
