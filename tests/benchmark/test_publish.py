"""The lean record: what it holds, that it follows from the heavy one alone, and its two pictures."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from recbole_sigma.benchmark import plots, svg
from recbole_sigma.benchmark.folder import FORMAT
from recbole_sigma.benchmark.publish import commands_sh, publish
from recbole_sigma.benchmark.report import add_significance
from recbole_sigma.benchmark.results import summarize
from recbole_sigma.commands.main import main
from recbole_sigma.values import UserError
from tests.benchmark.test_report import NASTY, make_record

FILES = {"table.md", "cells.csv", "commands.sh", "accuracy.svg", "cost.svg"}


@pytest.fixture
def record() -> dict:
    made = make_record()
    add_significance(made)
    return {**made, "format": FORMAT, "commands": [["run_recbole_sigma.py", "benchmark", "--models=A,B"]]}


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def shapes(picture: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(picture).iter())


def test_the_same_record_gives_the_same_few_small_files(record, scratch: Path) -> None:
    publish(record, "one")
    publish(json.loads(json.dumps(record)), "two")
    assert read(Path("one")) == read(Path("two")) and read(Path("one")).keys() == FILES
    assert all(len(content) < 60_000 for content in read(Path("one")).values())


def test_seconds_of_two_machines_share_no_picture(record, scratch: Path) -> None:
    publish(record, "p")
    machine = record["cells"][0]["machine"]
    record["cells"][0]["machine"] = {**machine, "gpu": "another"}
    publish(record, "p")  # the picture of before goes
    assert read(Path("p")).keys() == FILES - {"cost.svg"}
    assert "cost.svg" not in Path("p/table.md").read_text()
    assert plots.cost(record, True) is None


def test_every_cell_has_its_line(record, scratch: Path) -> None:
    record["cells"][0]["config"] = {"note": "another"}
    for cell, shared in zip(record["cells"], (None, "only the memory differs"), strict=False):
        cell.update(weights={"shared": shared}, judging_seconds={"total": 4.0, "cpu": 2.5})
    publish(record, "p")
    with open("p/cells.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [(line["row"], int(line["seed"])) for line in lines] == [
        (cell["row"]["name"], cell["seed"]) for cell in record["cells"]
    ]
    assert (lines[1]["cpu_seconds"], lines[1]["wall_seconds"]) == ("10.5", "13.0")
    for line, cell in zip(lines[:1] + lines[2:], record["cells"][:1] + record["cells"][2:], strict=True):
        assert float(line["ndcg@10"]) == pytest.approx(cell["test_result"]["ndcg@10"], rel=1e-5)
        assert (line["device"], line["peak_memory_mb"], line["cpu_seconds"]) == ("CPU", "300", "8.0")
    marks = [line["settings_sha256"] for line in lines]
    assert marks[0] != marks[1] and len(set(marks[1:])) == 1, "equal settings and only they share a mark"


def test_the_table_page_compares_each_row_with_the_reference(record, scratch: Path) -> None:
    publish(record, "p")
    text = Path("p/table.md").read_text()
    (test,) = [test for test in record["significance"] if test["metric"] == "ndcg@10"]
    compared = {name: row["against"] for name, row in test["rows"].items() if row["against"]}
    assert len(compared) == 3 and all(f"| {row['ratio']:.3f} | " in text for row in compared.values())
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2, "a name with a bar in it breaks no table"
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_commands_run_as_they_were_typed(record, scratch: Path) -> None:
    typed = [
        ["run_recbole_sigma.py", "benchmark", "--models=SIGMA-*,a b.py:M", "--load_col={inter: [u, 'i']}"],
        ["run_recbole_sigma.py", "report", "--output=$HOME"],
    ]
    text = commands_sh(typed, record["cells"])
    (scratch / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (scratch / "python").chmod(0o755)
    environment = {**os.environ, "PATH": f"{scratch}:{os.environ['PATH']}"}
    done = subprocess.run(["sh"], input=text, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [word for command in typed for word in command]
    assert all(str(cell["commit"]) in text for cell in record["cells"])


def test_the_pictures_name_the_rows_and_run_nothing(record, scratch: Path) -> None:
    publish(record, "p")
    names = {row["model"] for row in record["table"]}
    for stem in ("accuracy", "cost"):
        found = shapes(Path(f"p/{stem}.svg").read_text())
        assert names <= {element.text for element in found}, "few rows: each has its name"
        kinds = {element.tag.rpartition("}")[2] for element in found}
        assert kinds <= {"svg", "style", "rect", "line", "text", "circle"}
    assert NASTY in names, "or no name needs escaping here"


def test_names_in_the_cost_picture_never_cover_each_other(record) -> None:
    rng = np.random.default_rng(0)
    record["table"] = [
        {**record["table"][0], "model": f"SIGMA-{i}+memory", "cpu seconds": 10 ** rng.uniform(1, 1.6),
         "ndcg@10": rng.uniform(0.05, 0.08)}
        for i in range(40)
    ]  # fmt: skip
    caption, picture = svg.cost(record, True) or ("", "")
    boxes = []
    for element in shapes(picture):
        if element.tag.endswith("text") and (element.text or "").startswith("SIGMA-"):
            wide = svg._LETTER * len(element.text or "")
            x = float(element.attrib["x"]) - (wide if element.attrib.get("text-anchor") == "end" else 0.0)
            boxes.append((x, float(element.attrib["y"]), wide))
    assert 5 < len(boxes) < 40, "some names find room, and some do not"
    for i, (x, y, wide) in enumerate(boxes):
        assert 0 <= x and x + wide <= 760
        assert all(abs(y - v) >= 13.9 or x >= u + w - 0.2 or u >= x + wide - 0.2 for u, v, w in boxes[:i])


def test_the_commits_to_check_out_exist(record, scratch: Path) -> None:
    """Uncommitted changes, or no checkout at all, are told in words; git knows neither as a commit."""
    for cell, commit in zip(record["cells"], ["abc1", "abc1+changes", None, *["def2"] * 99], strict=False):
        cell["commit"] = commit
    publish(record, "p")
    lines = Path("p/commands.sh").read_text().splitlines()
    assert [line for line in lines if "git checkout" in line] == [
        "#   git checkout abc1",
        "#   git checkout def2",
    ]
    assert sum("not committed" in line or "not known" in line for line in lines) == 2


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.001), (0.05, 0.05), (0.013, 0.07), (0.1, 0.9), (0.0, 1.0)])
def test_ticks_hold_the_values(low: float, high: float) -> None:
    ticks = svg._ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high - 1e-12 and 2 <= len(ticks) <= 12
    assert len({f"{tick:.2f}" for tick in ticks}) == len(ticks), "as they are printed"


def test_the_verb_publishes_a_folder_or_its_results(planted, scratch: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(plots, "available", lambda: False)  # the heavy record's pictures take seconds
    assert main(["benchmark", "--models=Pop,WindowItemKNN", "--dataset=planted", "--quiet", "--output=heavy",
                 f"--data_path={planted['data_path']}",
                 "--load_col={inter: [user_id, item_id, timestamp]}"]) == 0  # fmt: skip
    assert main(["report", "--output=heavy", "--publish=lean"]) == 0
    assert main(["report", "--output=heavy/results.json", "--publish=again"]) == 0
    lean, again = read(Path("lean")), read(Path("again"))
    assert lean.keys() == FILES
    last = lean.pop("commands.sh").splitlines()[-1], again.pop("commands.sh").splitlines()[-1]
    assert last[0] == b"python run_recbole_sigma.py report --output=heavy --publish=lean"
    assert last[1] == b"python run_recbole_sigma.py report --output=heavy/results.json --publish=again"
    assert lean == again
    capsys.readouterr()
    assert main(["report", "--output=heavy", "--publish=heavy"]) == 2
    assert "name another" in capsys.readouterr().err


def test_nothing_is_published_of_nothing(record, scratch: Path) -> None:
    with pytest.raises(UserError, match="no finished cell"):
        publish({**record, "cells": [], "table": summarize([])}, "p")
    assert not Path("p").exists()


def test_the_repository_holds_lean_records_alone() -> None:
    root = Path(__file__).resolve().parents[2]
    results = root / "results"
    folders = [path.parent for path in results.rglob("table.md")]
    for folder in folders:
        names, table = set(read(folder)), (folder / "table.md").read_text()
        if "judged by labels" in table:  # no picture is drawn of these rows
            assert names - {"second_test.md"} == {name for name in FILES if not name.endswith(".svg")}
        elif "so that seconds do not compare" in table:
            assert names == FILES - {"cost.svg"}
        else:
            assert names == FILES
    assert folders
    assert sum(path.stat().st_size for path in results.rglob("*") if path.is_file()) < 1_000_000
    assert len((root / "README.md").read_text(encoding="utf-8").splitlines()) <= 130
