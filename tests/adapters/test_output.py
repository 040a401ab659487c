"""What is written, and what is not when something goes wrong."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from dataset_adapters.atomic import staged_folder
from dataset_adapters.errors import AdapterError

ROOT = Path(__file__).resolve().parents[2]


def events_csv(path: Path, count: int = 400) -> Path:
    rows = "".join(
        f"u{n * 7 % 31},i{n * 11 % 53},{1_400_000_000 + n * 977 % 5000},T {n * 11 % 53}\n"
        for n in range(count)
    )
    path.write_text("u,i,t,title\n" + rows)
    return path


def tree(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


OPTIONS = ("--user", "u", "--item", "i", "--time", "t", "--title", "title", "--name", "x")


def test_same_input_same_bytes_wherever_it_lies(convert, tmp_path):
    for name in ("a", "b/deep"):
        (tmp_path / name).mkdir(parents=True)
        events_csv(tmp_path / name / "events.csv")
        convert(
            "table", "--input", tmp_path / name / "events.csv", *OPTIONS, output=tmp_path / name / "out"
        ).folder("x")
    assert tree(tmp_path / "a" / "out") == tree(tmp_path / "b/deep" / "out")
    text = "".join(p.read_text() for p in (tmp_path / "a" / "out" / "x").iterdir())
    assert str(tmp_path) not in text


def test_files_card_and_recipe(convert, tmp_path):
    source = events_csv(tmp_path / "events.csv")
    run = convert("table", "--input", source, *OPTIONS)
    folder, card = run.folder("x"), run.card("x")
    assert sorted(p.name for p in folder.iterdir()) == [
        "x.card.json",
        "x.card.md",
        "x.inter",
        "x.item",
        "x.yaml",
    ]
    assert card["sources"][0]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert card["sources"][0]["rows"] == 400
    for name, digest in card["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    settings = yaml.safe_load((folder / "x.yaml").read_text())
    assert settings["text_fields"] == ["title"] and settings["load_col"]["item"] == ["item_id", "title"]
    assert settings["eval_args"] == {
        "split": {"LS": "valid_and_test"},
        "order": "TO",
        "group_by": "user",
        "mode": "full",
    }
    assert settings["filter_seen"] is (card["statistics"]["repeated_last_events"] < 0.01)
    assert "# x" in (folder / "x.card.md").read_text() and "rows/s" in run.out


def test_protocols_in_the_recipe(convert, tmp_path):
    source = events_csv(tmp_path / "events.csv")
    run = convert("table", "--input", source, *OPTIONS, "--protocol", "global-time", "--filter-seen", "false")
    settings = yaml.safe_load((run.folder("x") / "x.yaml").read_text())
    assert (
        settings["eval_args"]["split"] == {"RS": [0.8, 0.1, 0.1]} and settings["eval_args"]["order"] == "TO"
    )
    assert settings["eval_args"]["group_by"] == "none" and settings["filter_seen"] is False
    assert run.card("x")["split"]["test"] == 40


def test_an_older_conversion_is_replaced_only_on_request_and_only_if_all_goes_well(convert, tmp_path):
    source = events_csv(tmp_path / "events.csv")
    run = convert("table", "--input", source, *OPTIONS)
    before = tree(run.output)
    again = convert("table", "--input", source, *OPTIONS)
    assert again.code == 2 and "--overwrite" in again.err and tree(run.output) == before
    source.write_text(source.read_text() + "broken\n")
    failed = convert("table", "--input", source, *OPTIONS, "--overwrite")
    assert failed.code == 2 and tree(run.output) == before
    events_csv(source, 300)
    assert (
        convert("table", "--input", source, *OPTIONS, "--overwrite").card("x")["statistics"]["interactions"]
        == 300
    )
    assert [p.name for p in run.output.iterdir()] == ["x"]


def test_what_is_not_ours_is_never_replaced(convert, tmp_path):
    source, output = events_csv(tmp_path / "events.csv"), tmp_path / "dataset"
    (output / "x").mkdir(parents=True)
    (output / "x" / "thesis.tex").write_text("years of work")
    run = convert("table", "--input", source, *OPTIONS, "--overwrite")
    assert run.code == 2 and "no adapter wrote" in run.err and (output / "x" / "thesis.tex").exists()
    (output / "x" / "thesis.tex").unlink()
    (output / "x").rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (output / "x").symlink_to(elsewhere)
    run = convert("table", "--input", source, *OPTIONS, "--overwrite")
    assert run.code == 2 and "in the way" in run.err and not list(elsewhere.iterdir())


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a\\b", "x\n", "..", "-x", "x" * 101])
def test_names_cannot_leave_the_output_folder(name, convert, tmp_path):
    source = events_csv(tmp_path / "events.csv")
    arguments = [option for option in OPTIONS if option not in ("--name", "x")]
    run = convert("table", "--input", source, *arguments, f"--name={name}")
    assert run.code == (0 if name == "" else 2)  # an empty name falls back to the one of the file
    assert {p.name for p in tmp_path.iterdir()} <= {"events.csv", "dataset"}


def test_ids_from_the_data_never_become_paths(convert, tmp_path):
    source = tmp_path / "..%2f..events.csv"
    source.write_text("u,i,t\n../../etc/passwd,/abs,1400000000\n../../etc/passwd,..,1400000001\n")
    run = convert("table", "--input", source, *OPTIONS[:6])
    (name,) = [p.name for p in run.output.iterdir()]
    assert name == "2f-events" and {p.name for p in tmp_path.iterdir()} == {source.name, "dataset"}


def test_failure_while_writing_leaves_nothing(convert, tmp_path, monkeypatch):
    source = events_csv(tmp_path / "events.csv")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dataset_adapters.atomic.write_features", full_disk)
    assert "No space left" in convert("table", "--input", source, *OPTIONS).sentence()


def test_left_over_of_a_killed_run_is_cleaned_and_a_running_one_is_respected(tmp_path):
    partial = tmp_path / ".x.partial"
    (partial / "sub").mkdir(parents=True)
    (partial / "x.inter").write_text("half")
    with staged_folder(tmp_path, "x", False) as folder:
        assert folder == partial and not list(folder.iterdir())
        (folder / "x.card.json").write_text("{}")
        with pytest.raises(AdapterError, match="another conversion"), staged_folder(tmp_path, "x", False):
            pass
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_killed_between_the_two_renames(tmp_path):
    (tmp_path / ".x.replaced").mkdir()
    (tmp_path / ".x.replaced" / "x.card.json").write_text("old")
    with pytest.raises(AdapterError, match="--overwrite"), staged_folder(tmp_path, "x", False):
        pass
    assert (tmp_path / "x" / "x.card.json").read_text() == "old"


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_killed_while_reading(sign, tmp_path):
    output = tmp_path / "dataset"
    command = [
        sys.executable,
        "-m",
        "dataset_adapters",
        "convert",
        "table",
        "--input",
        str(tmp_path / "copy.csv"),
    ]
    events_csv(tmp_path / "copy.csv", 300_000)
    process = subprocess.Popen(
        [*command, *OPTIONS, "--output", str(output)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    time.sleep(0.6)
    process.send_signal(sign)
    assert process.wait(20) != 0
    assert not (output / "x").exists()
    if sign == signal.SIGTERM:
        assert not output.exists() or not list(output.iterdir())
    again = subprocess.run(
        [*command[:-1], str(events_csv(tmp_path / "small.csv")), *OPTIONS, "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
    )
    assert again.returncode == 0 and [p.name for p in output.iterdir()] == ["x"]


def test_command_works_from_another_folder(tmp_path):
    events_csv(tmp_path / "events.csv")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "dataset_adapters",
        "convert",
        "table",
        "--input",
        "events.csv",
        *OPTIONS,
        "--output",
        "data",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "rows/s" in done.stdout and done.stderr == ""
    assert json.loads((tmp_path / "data/x/x.card.json").read_text())["command"].endswith(
        "--title title --name x"
    )


def test_package_is_light():
    """No torch, RecBole or pickle: the converters also run where the models cannot."""
    code = (
        "import sys, dataset_adapters.cli; "
        "print(sorted({'torch', 'recbole', 'pandas', 'pyarrow', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    assert not any("import pickle" in p.read_text() for p in (ROOT / "dataset_adapters").glob("*.py"))


def recipe_of(convert, path: Path, rows: list[str], *options: str) -> dict:
    path.write_text("u,i,t,dep\n" + "".join(f"{row}\n" for row in rows))
    columns = ("--user", "u", "--item", "i", "--time", "t", "--time-unit", "order", "--category", "dep")
    run = convert("table", "--input", path, *columns, "--name", "x", "--overwrite", *options)
    return yaml.safe_load((run.folder("x") / "x.yaml").read_text())


def test_a_category_must_tell_two_groups_apart(convert, tmp_path):
    rows = [f"u{n},i{n},{n},same" for n in range(6)]
    assert recipe_of(convert, tmp_path / "e.csv", rows)["category_field"] is None
    assert recipe_of(convert, tmp_path / "e.csv", [*rows, "u1,i9,9,other"])["category_field"] == "category"


def test_filter_seen_follows_the_repeats_unless_said_otherwise(convert, tmp_path):
    new = [f"u{n % 3},i{n},{n},d" for n in range(9)]
    again = [*new, "u0,i0,9,d"]  # one user of three ends on an item of its history
    lonely = [*again, *(f"v{n},i0,{n},d" for n in range(200))]  # one event each: these cannot repeat
    assert recipe_of(convert, tmp_path / "e.csv", new)["filter_seen"] is True
    assert recipe_of(convert, tmp_path / "e.csv", again)["filter_seen"] is False
    assert recipe_of(convert, tmp_path / "e.csv", lonely)["filter_seen"] is False
    assert recipe_of(convert, tmp_path / "e.csv", again, "--filter-seen", "true")["filter_seen"] is True


def test_progress_in_bytes_on_a_terminal_only(tmp_path):
    """A bar where a person watches; the test above sees that nothing is drawn into a pipe."""
    pty, fcntl, termios = (pytest.importorskip(name) for name in ("pty", "fcntl", "termios"))
    events_csv(tmp_path / "events.csv", 30_000)
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    command = [
        sys.executable,
        "-m",
        "dataset_adapters",
        "convert",
        "table",
        "--input",
        str(tmp_path / "events.csv"),
    ]
    with subprocess.Popen(
        [*command, *OPTIONS, "--output", str(tmp_path / "out")],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=child,
    ) as process:
        os.close(child)
        assert process.wait(60) == 0
    drawn = os.read(parent, 4096).decode()
    os.close(parent)
    assert "events:" in drawn and "B/s" in drawn
