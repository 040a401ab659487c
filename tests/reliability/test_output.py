"""What reaches a terminal or a log: nothing that steers it, no secret, and a clean end."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_sigma.machine.terminal import safe_output, visible
from recbole_sigma.run.logs import _FileHandler, _Formatter, _StreamHandler

ROOT = Path(__file__).resolve().parents[2]
STEERING = "\x1b\x07\x9b\x00\x7f\r\u202e\u2066\u200f\u2028\ud800"


@given(st.text(max_size=30) | st.text(alphabet=STEERING + "ab", max_size=10))
def test_nothing_printed_steers_a_terminal(text: str) -> None:
    shown = visible(text)
    assert not set(STEERING) & set(shown)
    assert visible(shown) == shown


@pytest.mark.parametrize(
    "text", ["Amélie", "你好", "Д·и", "tab\tand\nline", "👩\u200d🚀", "no\xa0break", "नमस्ते"]
)
def test_ordinary_text_of_any_language_stays(text: str) -> None:
    assert visible(text) == text


def test_escapes_are_json(capsys) -> None:
    with safe_output():
        print(json.dumps({"title": "a\u202eb\x9b"}, ensure_ascii=False))
    assert json.loads(capsys.readouterr().out) == {"title": "a\u202eb\x9b"}


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_log_that_cannot_be_written_prints_no_record(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    console = io.StringIO()
    monkeypatch.setattr(sys, "stderr", console)
    handler = _StreamHandler(Full())
    log = logging.Logger("full")
    log.addHandler(handler)
    for _ in range(3):
        log.error("the secret value")
    assert console.getvalue().count("\n") == 1 and "secret" not in console.getvalue()


def test_a_record_that_is_no_unicode_is_written_with_its_secrets_hidden(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijkl")
    handler = _FileHandler(tmp_path / "x.log", encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_Formatter("%(message)s", plain=True))
    log = logging.Logger("broken")
    log.addHandler(handler)
    log.error("project hf_abcdefghijkl\udcff and \x1b]0;title\x07")
    handler.close()
    assert (tmp_path / "x.log").read_text() == "project <HF_TOKEN>\\udcff and \\u001b]0;title\\u0007\n"


def run(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    names = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, env=names, timeout=120
    )


@pytest.mark.parametrize(
    "program",
    ["-m recbole_sigma benchmark --help", "-m dataset_adapters describe table", "-m dataset_adapters list"],
)
def test_a_closed_pipe_a_closed_stream_and_an_ascii_locale_end_cleanly(program: str) -> None:
    python = f"{sys.executable} {program}"
    for command in (f"{python} | head -c 10 >/dev/null", f"{python} >&-", f"{python}"):
        done = run(command, LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii:strict")
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, (
            command,
            done.stderr,
        )


@pytest.mark.parametrize("closed", ["0", "1", "2"])
def test_a_file_that_is_opened_later_never_takes_the_number_of_a_closed_stream(closed: str) -> None:
    """Else what the libraries below print to that number would be written into the file."""
    code = (
        "from recbole_sigma.machine.terminal import safe_output; import os, sys\n"
        "with safe_output(): opened = os.open('x.bin', os.O_CREAT | os.O_WRONLY)\n"
        "sys.exit(0 if opened > 2 else 3)"
    )
    assert run(f'{sys.executable} -c "{code}" {closed}>&-').returncode == 0


RECBOLE_SIGMA, ADAPTERS = "-m recbole_sigma", "-m dataset_adapters"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is full")
@pytest.mark.parametrize(
    ("command", "sentences"),
    [
        (f"{RECBOLE_SIGMA} --help >/dev/full", 1),
        (f"{RECBOLE_SIGMA} --version >/dev/full", 1),
        (f"{RECBOLE_SIGMA} benchmark --models=list >/dev/full", 1),
        (f"{RECBOLE_SIGMA} --model=Popp --dataset=d --json >/dev/full", 1),
        (f"{RECBOLE_SIGMA} --model=Popp --dataset=d 2>/dev/full", 0),
        (f"{RECBOLE_SIGMA} --model=Popp --dataset=d >/dev/full 2>&1", 0),
        (f"{RECBOLE_SIGMA} --model=Popp --dataset=d >&- 2>&- <&-", 0),
        (f"{ADAPTERS} list >/dev/full", 1),
        (f"{ADAPTERS} describe table >/dev/full", 1),
        (f"{ADAPTERS} describe tabel 2>/dev/full", 0),
        (f"{ADAPTERS} convert table --input x --user u --item i --output o 2>/dev/full", 0),
        (f"{ADAPTERS} convert table --input x --user u --item i --output o >/dev/full 2>&1", 0),
    ],
)
def test_output_on_a_full_disk_is_one_sentence_and_exit_code_2(command: str, sentences: int) -> None:
    done = run(f"{sys.executable} {command}")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == sentences and done.stderr.startswith("error: " if sentences else "")
    assert not done.stdout or json.loads(done.stdout)["exit_code"] == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is full")
def test_a_log_on_a_full_disk_costs_one_line(planted, scratch: Path) -> None:
    """The log file itself is the full device; the run goes on, and nothing is said at its end either."""
    program = (
        "import sys; from recbole_sigma.run import logs; from recbole_sigma.commands.main import main; "
        "logs._FileHandler._open = lambda self: open('/dev/full', 'w', encoding='utf-8'); sys.exit(main())"
    )
    words = f"--model=Pop --dataset=planted --data_path={planted['data_path']} --quiet"
    columns = "'--load_col={inter: [user_id, item_id, timestamp]}'"
    done = run(f'{sys.executable} -c "{program}" {words} {columns}')
    assert done.returncode == 0 and "Pop" in done.stdout
    assert done.stderr == "the log cannot be written (OSError): free the disk\n"
