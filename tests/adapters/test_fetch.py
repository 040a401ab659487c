"""``fetch`` against a server of this test: terms first, resumed downloads, no file but the publisher's."""

from __future__ import annotations

import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dataset_adapters import fetch as module
from dataset_adapters.cli import main
from dataset_adapters.sources import SOURCES, Publication


@dataclass
class Server:
    """A file at an address, and what was asked for.

    Attributes:
        content: the file.
        ranges: whether it answers a request for a part.
        cut: bytes after which the connection of the next answers breaks off.
        status: of the answer, where it is an error.
        asked: the Range header of every request, or None.
    """

    content: bytes = b""
    ranges: bool = True
    cut: list[int] = field(default_factory=list)
    status: int = 200
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            if state.status != 200:
                self.send_error(state.status)
                return
            begin = int(re.findall(r"\d+", wanted)[0]) if wanted and state.ranges else 0
            body = state.content[begin:]
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(body)))
            if begin:
                self.send_header(
                    "Content-Range", f"bytes {begin}-{len(state.content) - 1}/{len(state.content)}"
                )
            self.end_headers()
            self.wfile.write(body[: state.cut.pop(0)] if state.cut else body)

        def log_message(self, *_: object) -> None:
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{served.server_port}/ml-1m.zip"
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield state
    served.shutdown()
    thread.join()


def archive(**more: str) -> bytes:
    """A small ml-1m.zip: 6 users who rate the films 1 to 6 in turn."""
    lines = [
        f"{u + 1}::{(u + step) % 6 + 1}::5::{978300000 + 60 * step}" for u in range(6) for step in range(5)
    ]
    files = {
        "ml-1m/ratings.dat": "\n".join(lines),
        "ml-1m/movies.dat": "\n".join(f"{i}::Film {i} (19{90 + i})::Comedy|Drama" for i in range(1, 7)),
        "ml-1m/users.dat": "\n".join(f"{u}::F::25::4::5541{u}" for u in range(1, 7)),
        "ml-1m/README": "terms",
        "../outside.txt": "never unpacked",
        **more,
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, text in files.items():
            opened.writestr(name, text + "\n")
    return out.getvalue()


@pytest.fixture
def published(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Publication:
    """ml-1m as the test server publishes it; the working folder is empty."""
    server.content = archive()
    source = replace(
        SOURCES["ml-1m"],
        url=server.url,
        size=len(server.content),
        sha256=hashlib.sha256(server.content).hexdigest(),
    )
    monkeypatch.setitem(SOURCES, "ml-1m", source)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    monkeypatch.chdir(tmp_path)
    return source


YES = ["fetch", "ml-1m", "--accept-terms"]


def test_from_the_terms_to_the_data_set(published: Publication, server: Server, capsys) -> None:
    assert main(YES) == 0
    out = capsys.readouterr().out
    assert out.index("no commercial use") < out.index("train on it")
    assert f"{published.size / 1e6:.1f} MB" in out and "Harper and Konstan" in out
    rows = Path("dataset/ml-1m/ml-1m.inter").read_text().splitlines()
    assert len(rows) == 1 + 30
    assert "Film 3 (1993)" in Path("dataset/ml-1m/ml-1m.item").read_text()
    left = {str(path) for path in Path(".").rglob("*") if path.is_file()}
    assert not [name for name in left if "outside" in name or "unpacked" in name]
    assert server.asked == [None]
    assert main([*YES, "--overwrite", "--k-core", "5"]) == 0  # the kept archive serves again
    assert server.asked == [None]


def test_no_byte_without_a_yes(published: Publication, server: Server, capsys, monkeypatch) -> None:
    assert main(["fetch", "ml-1m"]) == 2
    told = capsys.readouterr()
    assert "no commercial use" in told.out and "fetch ml-1m --accept-terms" in told.err
    for answer, code in (("no\n", 2), ("\n", 2), ("yes\n", 0)):
        typed = io.StringIO(answer)
        typed.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr("sys.stdin", typed)
        assert main(["fetch", "ml-1m"]) == code
        assert len(server.asked) == (code == 0)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on(published: Publication, server: Server, ranges: bool, capsys) -> None:
    server.ranges, server.cut = ranges, [200, 300 if ranges else 100]
    assert main([*YES, "--quiet"]) == 0
    expected = [None, "bytes=200-", "bytes=500-"] if ranges else [None, "bytes=200-", "bytes=100-"]
    assert server.asked == expected
    assert Path("dataset/ml-1m/ml-1m.inter").is_file()


def test_the_next_command_goes_on_where_this_one_stopped(published, server: Server, capsys) -> None:
    server.cut = [10] * module.TRIES
    assert main(YES) == 2
    assert "the same command goes on where it stopped" in capsys.readouterr().err
    part = Path("dataset/.fetched/ml-1m.zip.part")
    assert part.read_bytes() == server.content[: 10 * module.TRIES]
    assert main(YES) == 0
    assert server.asked[-1] == f"bytes={10 * module.TRIES}-"


@pytest.mark.parametrize("change", ["other", "longer", "shorter"])
def test_another_file_is_refused_and_deleted(published, server: Server, change: str, capsys) -> None:
    good = server.content
    server.content = {
        "other": archive(**{"ml-1m/README": "terms, changed"}).ljust(len(good), b"x")[: len(good)],
        "longer": good + b"more",
        "shorter": good[:-9],
    }[change]
    assert main(YES) == 2
    err = capsys.readouterr().err
    assert ("ends after" if change == "shorter" else "is not the file of the publisher") in err
    assert not Path("dataset/ml-1m").exists() and not Path("dataset/.fetched/ml-1m.zip").exists()
    if change != "shorter":
        assert not Path("dataset/.fetched/ml-1m.zip.part").exists()
        server.content = good
        assert main(YES) == 0


def test_a_kept_archive_that_was_changed_is_fetched_anew(published, server: Server) -> None:
    assert main([*YES, "--quiet"]) == 0
    Path("dataset/.fetched/ml-1m.zip").write_bytes(b"rotten")
    assert main([*YES, "--quiet", "--overwrite"]) == 0
    assert len(server.asked) == 2


def test_an_option_that_convert_does_not_have_is_told_before_a_byte_is_fetched(published, capsys) -> None:
    assert main([*YES, "--k-cores=5"]) == 2
    assert "has no option --k-cores" in capsys.readouterr().err and not Path("dataset").exists()


def test_mistakes_are_sentences(published, server: Server, capsys) -> None:
    server.status = 404
    assert main(YES) == 2
    assert "answers 404 Not Found" in capsys.readouterr().err
    for words, sentence in (
        (["fetch", "ml1m", "--accept-terms"], "did you mean 'ml-1m'?"),
        ([*YES, "--mirror", "file:///etc/passwd"], "is no http or https address"),
        ([*YES, "--mirror", "http://127.0.0.1:9/x.zip"], "cannot be read"),
        (["fetch"], "required: name"),
    ):
        assert main(words) == 2
        err = capsys.readouterr().err
        assert sentence in err and err.count("\n") == 1


def test_the_publications_are_whole() -> None:
    assert {"ml-100k", "ml-1m", "ml-20m"} == SOURCES.keys()
    for source in SOURCES.values():
        assert source.url.startswith("https://") and re.fullmatch("[0-9a-f]{64}", source.sha256)


def test_a_set_that_is_not_there_names_the_command() -> None:
    checks = pytest.importorskip("recbole_sigma.data.checks", exc_type=ImportError)
    from recbole_sigma.values import UserError

    config = {"data_path": "dataset/ml-1m", "dataset": "ml-1m"}
    with pytest.raises(UserError, match="get it with: data fetch ml-1m --output dataset"):
        checks.check_files(config, False)
