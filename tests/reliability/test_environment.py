"""What the machine refuses, what the keyboard interrupts, and what scripts and logs get to see."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from recbole_sigma.commands.main import main
from recbole_sigma.run.trainer import RunTrainer
from tests.planted import write_chain

COLUMNS = "--load_col={inter: [user_id, item_id, timestamp], item: [item_id, title, genre]}"
GOOD = ["--dataset=planted", COLUMNS, "--epochs=3", "--embedding_size=64", "--model=BPR", "--quiet"]
SIGMA = ["--model=SIGMA", "--dataset=planted", COLUMNS, "--text_fields=[title]", "--quiet"]


@pytest.fixture(autouse=True)
def dataset(scratch: Path) -> None:
    """A good dataset in the working folder."""
    write_chain(scratch / "dataset" / "planted")


def in_child(act: Callable[[], int], scratch: Path) -> tuple[int, str]:
    """Exit code and stderr of the command line in a forked process."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            log = os.open(scratch / "stderr", os.O_CREAT | os.O_WRONLY, 0o644)
            os.dup2(log, 2)
            sys.stderr = os.fdopen(2, "w", encoding="utf-8")
            code = act()
            sys.stderr.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), (scratch / "stderr").read_text()


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in (".tmp", ".safetensors", ".json")]


def test_a_full_disk(scratch: Path) -> None:
    """A limit on file sizes stands for the disk: writing fails in the middle of the checkpoint."""

    def act() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        return main(GOOD)

    code, err = in_child(act, scratch)
    assert code == 2 and "Traceback" not in err, err
    assert re.search("error: cannot write saved/.*safetensors .*(free the space|checkpoint_dir)", err), err
    assert half_written(scratch / "saved") == []


@pytest.mark.slow
def test_a_full_disk_for_real(scratch: Path) -> None:
    (scratch / "small").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(scratch / "small")]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this account cannot mount a file system")
    try:
        code, err = in_child(lambda: main([*GOOD, "--checkpoint_dir=small"]), scratch)
        assert code == 2 and "Traceback" not in err and "No space left" in err, err
        assert half_written(scratch / "small") == []
    finally:
        subprocess.run(["umount", str(scratch / "small")], check=True)


def test_ctrl_c_in_the_middle(scratch: Path) -> None:
    def act() -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts us without it
        real, calls = RunTrainer._check_finite, [0]

        def interrupt(self, *args):
            calls[0] += 1
            if calls[0] == 20:
                os.kill(os.getpid(), signal.SIGINT)
            return real(self, *args)

        RunTrainer._check_finite = interrupt
        return main([*GOOD, "--train_batch_size=32"])

    code, err = in_child(act, scratch)
    assert code == 130 and "Traceback" not in err, err
    assert err.strip().splitlines()[-1].startswith("stopped (the same command with --resume")
    assert list(scratch.rglob("*.tmp")) == []
    assert main([*GOOD, "--train_batch_size=32", "--resume"]) == 0
    log = "".join(path.read_text() for path in (scratch / "log").rglob("*.log"))
    assert "Resume training from epoch 1" in log


def test_a_read_only_folder(scratch: Path, monkeypatch, capsys) -> None:
    """Root may write anywhere, so the refusal of the system is played."""
    real = os.replace

    def refuse(source, target):
        if "saved" in str(target):
            raise PermissionError(13, "Permission denied", str(target))
        return real(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    assert main(GOOD) == 2
    err = capsys.readouterr().err
    assert (
        re.search("error: cannot write saved/.*Permission denied.*checkpoint_dir", err) and "Trace" not in err
    )
    assert half_written(scratch / "saved") == []


def test_no_network(scratch: Path, monkeypatch, capsys) -> None:
    def unreachable(*args, **kwargs):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    assert main([*SIGMA, "--grounding_text_encoder=sentence-transformers:no-team/no-model"]) == 2
    err = capsys.readouterr().err
    assert "error: " in err and "Traceback" not in err and "sentence-transformers" in err


def test_json_for_scripts(capsys) -> None:
    assert main([*GOOD[:-1], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["test_result"]["ndcg@10"] > 0 and Path(found["results"]).is_file()
    assert main(["--model=BPRR", "--dataset=planted", "--json"]) == 2
    assert "unknown model" in json.loads(capsys.readouterr().out)["error"]


def test_quiet_says_the_table_only(capsys) -> None:
    assert main(GOOD) == 0
    out = capsys.readouterr()
    assert "HR@10" in out.out and out.err == ""


def test_one_log_per_run_with_the_resolved_config(scratch: Path) -> None:
    assert main([*GOOD, "--seed=77"]) == 0
    (log,) = (scratch / "log").rglob("*.log")
    text = log.read_text()
    assert re.search(r"seed.* = 77", text) and "epochs" in text and "test result" in text


def test_secrets_stay_out_of_logs_and_errors(scratch: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijkl")
    assert main([*GOOD[:-1], "--json", "--wandb_project=hf_abcdefghijkl"]) == 0
    assert main(["--model=hf_abcdefghijkl", "--dataset=x", "--ip=tcp://me:password@host"]) == 2
    out = capsys.readouterr()
    logs = "".join(path.read_text() for path in (scratch / "log").rglob("*.log"))
    assert "BPR" in logs and "hf_abcdefghijkl" not in logs + out.err + out.out
    assert "me:password" not in out.err


def test_a_fault_of_the_program_shows_places_not_values(scratch: Path, monkeypatch, capsys) -> None:
    def broken(self, loss, epoch, batch):
        raise RuntimeError(f"broken on purpose in batch {batch}")

    monkeypatch.setattr(RunTrainer, "_check_finite", broken)
    assert main(GOOD) == 1
    err = capsys.readouterr().err
    assert "error: RuntimeError: broken on purpose in batch 0 (a fault of this program" in err
    logs = "".join(path.read_text() for path in (scratch / "log").rglob("*.log"))
    assert "trainer.py" in logs
    assert not re.search(r"\bu\d+\b", err)  # the dataset's user names
