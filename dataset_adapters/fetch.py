"""``fetch NAME``: terms first, the publisher's archive, checked by size and SHA-256, then the conversion."""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from dataset_adapters.errors import AdapterError, nearest
from dataset_adapters.sources import SOURCES, Publication

KEPT = ".fetched"
"""Folder below the output that holds the archives, finished and unfinished."""
TRIES = 5
_CHUNK, _TIMEOUT = 1 << 18, 30.0
_LARGEST = 1 << 33  # bytes of a member of an archive
_UNFINISHED = (OSError, http.client.HTTPException)  # what a connection that breaks off raises


def find_source(name: str) -> Publication:
    """Look a publication up.

    Raises:
        AdapterError: there is none of that name.
    """
    if name not in SOURCES:
        raise AdapterError(
            f"fetch knows no {name!r}{nearest(name, SOURCES)}; it knows {', '.join(SOURCES)}. For others, "
            "`data describe` says where an adapter's raw files come from"
        )
    return SOURCES[name]


def terms(source: Publication) -> str:
    """What a person should know before the download."""
    return (
        f"{source.about}\n"
        f"  from     {source.url}, {source.size / 1e6:.1f} MB\n"
        f"  terms    {source.terms}\n"
        f"           in full: {source.terms_at}\n"
        f"  cite     {source.cite}\n"
    )


def accepted(source: Publication, told: bool) -> None:
    """Show the terms, and ask for a yes where none was typed.

    Raises:
        AdapterError: no yes.
    """
    sys.stdout.write(terms(source))
    sys.stdout.flush()
    if told:
        return
    if not sys.stdin or not sys.stdin.isatty():
        raise AdapterError(f"say that you accept the terms: fetch {source.name} --accept-terms")
    sys.stdout.write("Type yes to accept them: ")
    sys.stdout.flush()
    if sys.stdin.readline().strip().lower() not in ("yes", "y"):
        raise AdapterError("the terms were not accepted, so nothing was downloaded")


def download(source: Publication, folder: Path, url: str | None = None, quiet: bool = False) -> Path:
    """The archive of a publication, from its finished copy, or from where an earlier download stopped.

    Args:
        source: what to fetch.
        folder: where archives are kept.
        url: another address of the very same file.
        quiet: no bar.

    Returns:
        The checked archive.

    Raises:
        AdapterError: an address that does not answer, or another file than the publisher's.
    """
    url = url or source.url
    if urlsplit(url).scheme not in ("http", "https"):
        raise AdapterError(f"{url} is no http or https address")
    folder.mkdir(parents=True, exist_ok=True)
    done, part = folder / f"{source.name}.zip", folder / f"{source.name}.zip.part"
    if done.is_file():
        if _sha256(done) == source.sha256:
            return done
        done.unlink()
    for attempt in range(1, TRIES + 1):
        try:
            _append(source, url, part, quiet)
        except urllib.error.HTTPError as error:
            raise AdapterError(
                f"{url} answers {error.code} {error.reason}: try again later, or name a copy with --mirror"
            ) from error
        except _UNFINISHED as error:
            reason = getattr(error, "reason", None) or error
            if attempt == TRIES:
                raise AdapterError(
                    f"{url} cannot be read ({reason}): the same command goes on where it stopped"
                ) from error
            time.sleep(0.2 * 2**attempt)
            continue
        if part.stat().st_size >= source.size:
            break
    size = part.stat().st_size
    if size < source.size:
        raise AdapterError(
            f"{url} ends after {size:,} of {source.size:,} bytes: the same command goes on where it stopped"
        )
    found = _sha256(part)
    if size != source.size or found != source.sha256:
        part.unlink()
        raise AdapterError(
            f"{url} is not the file of the publisher: {size:,} bytes with SHA-256 {found}, not "
            f"{source.size:,} with {source.sha256}; it was deleted"
        )
    os.replace(part, done)
    return done


def _append(source: Publication, url: str, part: Path, quiet: bool) -> None:
    """Read on from where the unfinished file ends; a server that cannot do that begins anew."""
    have = part.stat().st_size if part.is_file() else 0
    if have >= source.size:
        return
    headers = {"User-Agent": "recbole-sigma", **({"Range": f"bytes={have}-"} if have else {})}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # http or https, see above
        goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(
            f"bytes {have}-"
        )
        bar = tqdm(
            total=source.size,
            initial=have if goes_on else 0,
            desc=source.name,
            unit="B",
            unit_scale=True,
            disable=quiet or not sys.stderr.isatty(),
        )
        with bar, part.open("ab" if goes_on else "wb") as file:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > source.size:  # another file: no need to see its end
                    return


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(source: Publication, archive: Path, folder: Path) -> Path:
    """The members that the adapter reads, and nothing else of the archive.

    Returns:
        The folder that holds them.
    """
    target = folder / source.name
    target.mkdir()
    with zipfile.ZipFile(archive) as opened:
        for member in source.members:
            try:
                info = opened.getinfo(member)
            except KeyError:
                raise AdapterError(f"{archive} holds no {member}: delete it and fetch again") from None
            if info.file_size > _LARGEST:
                raise AdapterError(f"{archive}: {member} would unpack to {info.file_size:,} bytes")
            with opened.open(info) as raw, (target / Path(member).name).open("wb") as file:
                shutil.copyfileobj(raw, file)
    return target


def parser_of(kind: type[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Options of ``fetch``; what it does not know goes to ``convert``."""
    parser = kind(
        prog="python -m dataset_adapters fetch",
        description="Download a data set from its publisher, check size and SHA-256, and convert it. "
        "Options of convert (--k-core, --protocol, ...) may follow.",
        allow_abbrev=False,
    )
    parser.add_argument("name", help=f"one of {', '.join(SOURCES)}")
    parser.add_argument(
        "--output", default="dataset", metavar="DIR", help="RecBole's data_path; default: %(default)s"
    )
    parser.add_argument("--accept-terms", action="store_true", help="accept the terms, which are shown first")
    parser.add_argument("--mirror", metavar="URL", help="another address of the very same archive")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no report")
    return parser


def fetch(
    given: Sequence[str],
    kind: type[argparse.ArgumentParser],
    convert: Callable[[list[str]], int],
    check: Callable[[str, Sequence[str]], None],
) -> int:
    """The verb.

    Args:
        given: its words.
        kind: the command line's parser class.
        convert: the verb of that name.
        check: refuses an option that an adapter does not have.
    """
    options, rest = parser_of(kind).parse_known_args(given)
    source, output = find_source(options.name), Path(options.output)
    check(source.adapter, rest)  # before the download
    accepted(source, options.accept_terms)
    output.mkdir(parents=True, exist_ok=True)
    archive = download(source, output / KEPT, options.mirror, options.quiet)
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=output) as place:
        raw = unpack(source, archive, Path(place))
        quiet = ["--quiet"] if options.quiet else []
        return convert([source.adapter, "--input", str(raw), "--output", str(output), *rest, *quiet])
