"""Archives as raw data: nothing in them can name a place to write to or to read from."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dataset_adapters.cli import main

ROWS = "".join(f"u{n % 5},i{n % 7},{1_600_000_000 + n}\n" for n in range(60))
TABLE = ["--user=u", "--item=i", "--time=t", "--k-core=0", "--name=x"]
CONTENT = ("u,i,t\n" + ROWS).encode()
CLIMBS = ["../evil.tsv", "{absolute}/evil.tsv", "a/../../evil.tsv"]


def tar(path: Path, name: str, mode: str) -> None:
    with tarfile.open(path, mode) as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        member = tarfile.TarInfo(name)
        member.size = len(CONTENT)
        archive.addfile(member, io.BytesIO(CONTENT))
        archive.addfile(link)


def archive_zip(path: Path, name: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, CONTENT)


ARCHIVES: dict[str, Callable[[Path, str], None]] = {
    "zip": archive_zip,
    "tar": lambda path, name: tar(path, name, "w:"),
    "tar.gz": lambda path, name: tar(path, name, "w:gz"),
    "tar.xz": lambda path, name: tar(path, name, "w:xz"),
}


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", CLIMBS)
@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_is_refused_and_nothing_is_unpacked(kind, name, scratch: Path, capsys) -> None:
    inside = scratch / "inside"
    inside.mkdir()
    ARCHIVES[kind](inside / f"events.{kind}", name.format(absolute=scratch))
    before = everything(scratch)
    code = main(["convert", "table", "--input", str(inside / f"events.{kind}"), *TABLE, "--output", "out"])
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1
    assert f"is a {kind.partition('.')[0]} archive; unpack it" in error
    assert everything(scratch) - before <= {"out"}


@pytest.mark.parametrize("name", CLIMBS)
def test_the_name_inside_a_gzip_file_is_not_used(name, scratch: Path) -> None:
    """A gzip header may hold the name of the file that was packed."""
    (scratch / "inside").mkdir()
    path = scratch / "inside" / "events.gz"
    with path.open("wb") as file, gzip.GzipFile(name, "wb", fileobj=file) as packed:
        packed.write(CONTENT)
    content = bytearray(path.read_bytes())
    assert content[3] & 8  # the header holds a name; Python would write its last part only
    end = content.index(0, 10)
    path.write_bytes(bytes(content[:10]) + name.format(absolute=scratch).encode() + bytes(content[end:]))
    assert main(["convert", "table", "--input", str(path), *TABLE, "--output", "out"]) == 0
    found = everything(scratch) - {"inside", "inside/events.gz"}
    assert all(path == "out" or path.startswith("out/x") for path in found)


def test_paths_in_the_data_stay_text(scratch: Path) -> None:
    """Ids and titles that look like paths are never opened; the files that are written have fixed names."""
    rows = "".join(f"../../u{n % 5},/etc/i{n % 7},{1_600_000_000 + n}\n" for n in range(60))
    (scratch / "events.csv").write_text("u,i,t\n" + rows)
    assert main(["convert", "table", "--input", "events.csv", *TABLE, "--output", "out"]) == 0
    found = everything(scratch) - {"out", "out/x", "events.csv"}
    assert found and all(path.startswith("out/x/x.") for path in found)
    assert "../../u0\t/etc/i0" in (scratch / "out/x/x.inter").read_text()


def test_an_output_folder_that_is_a_link_elsewhere_is_not_replaced(scratch: Path, capsys) -> None:
    """--overwrite replaces a folder that a conversion wrote, not what a link of that name points to."""
    (scratch / "events.csv").write_bytes(CONTENT)
    (scratch / "mine").mkdir()
    (scratch / "mine" / "letter").write_text("keep")
    (scratch / "out").mkdir()
    (scratch / "out" / "x").symlink_to(scratch / "mine")
    words = ["convert", "table", "--input", "events.csv", *TABLE, "--output", "out", "--overwrite"]
    code = main(words)
    assert (scratch / "mine" / "letter").read_text() == "keep"
    assert everything(scratch / "mine") == {"letter"}
    assert code in (0, 2)
