"""Labelled sources: what is written, the same bytes every time, damaged rows told by file and line."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dataset_adapters.clicks import log_square
from dataset_adapters.registry import LABELLED

RANDOM = np.random.default_rng(0)


def yahoo(folder: Path, change: str = "") -> list[Any]:
    """Two files of ratings; ``change`` is one more line of the first."""
    folder.mkdir(exist_ok=True)
    pairs = [(u, i) for u in range(40) for i in range(60) if (u * 7 + i * 3) % 5 < 2]
    lines = [f"{u},{i},{1 + (u + i) % 5}" for u, i in pairs]
    (folder / "user.txt").write_text("\n".join([*lines, *([change] if change else [])]) + "\n")
    shown = [f"{u},{(u * 11 + k) % 60},{1 + (u + k) % 5}" for u in range(20) for k in range(6)]
    (folder / "random.txt").write_text("\n".join(shown) + "\n")
    return ["yahoo-r3", "--input", folder]


def coat(folder: Path, change: str = "") -> list[Any]:
    folder.mkdir(exist_ok=True)
    for name, seed in (("train", 1), ("test", 2)):
        draw = np.random.default_rng(seed)
        rows = draw.integers(0, 6, size=(20, 30)) * (draw.random((20, 30)) < 0.5)
        lines = [" ".join(map(str, row)) for row in rows]
        (folder / f"{name}.ascii").write_text(
            "\n".join([*lines, *([change] if change and name == "train" else [])]) + "\n"
        )
    for kind, count in (("user", 20), ("item", 30)):
        (folder / f"{kind}_features_map.txt").write_text("gender:men\ngender:women\nage:young\nage:over 60")
        rows = [f"{n % 2} {1 - n % 2} {int(n % 3 == 0)} {int(n % 3 > 0)}" for n in range(count)]
        (folder / f"{kind}_features.ascii").write_text("\n".join(rows) + "\n")
    return ["coat", "--input", folder]


def criteo(folder: Path, change: str = "") -> list[Any]:
    folder.mkdir(exist_ok=True)
    rows = []
    for n in range(60):
        counts = [str((n * (k + 1)) % 40) if (n + k) % 7 else "" for k in range(13)]
        rows.append(
            "\t".join(
                [str(n % 3 % 2), *counts, *(f"c{(n + k) % 4}" if (n + k) % 9 else "" for k in range(26))]
            )
        )
    path = folder / "train.txt.gz"
    path.write_bytes(gzip.compress(("\n".join([*rows, *([change] if change else [])]) + "\n").encode()))
    return ["criteo", "--log", path]


AVAZU_HEAD = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,"
    "device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)


def avazu(folder: Path, change: str = "") -> list[Any]:
    folder.mkdir(exist_ok=True)
    rows = [
        f"{n},{n % 2},1410{21 + n % 8}{n % 24:02d},{','.join(f'v{(n + k) % 5}' for k in range(21))}"
        for n in range(50)
    ]
    path = folder / "train.csv"
    path.write_text("\n".join([AVAZU_HEAD, *rows, *([change] if change else [])]) + "\n")
    return ["avazu", "--log", path]


def frappe(folder: Path, change: str = "") -> list[Any]:
    folder.mkdir(exist_ok=True)
    for part, count in (("validation", 60), ("test", 30)):
        rows = [
            f"{1 if n % 3 == 0 else -1} " + " ".join(f"{k * 10 + (n + k) % 5}:1" for k in range(10))
            for n in range(count)
        ]
        (folder / f"frappe.{part}.libfm").write_text(
            "\n".join([*rows, *([change] if change and part == "validation" else [])]) + "\n"
        )
    return ["frappe", "--input", folder]


def obd(folder: Path, change: str = "") -> list[Any]:
    folder.mkdir(exist_ok=True)
    people = ",".join(f"user_feature_{k}" for k in range(4))
    head = f",timestamp,item_id,position,click,propensity_score,{people}"
    rows = [f"{n},2019-11-24,{n % 8},{1 + n % 3},{n % 2},0.0125,a{n % 2},b{n % 3},c,d" for n in range(100)]
    (folder / "all.csv").write_text("\n".join([head, *rows, *([change] if change else [])]) + "\n")
    items = [",item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3"]
    (folder / "item_context.csv").write_text(
        "\n".join(items + [f"{n},{n},-0.5,x{n % 2},y,z" for n in range(8)]) + "\n"
    )
    return ["obd", "--input", folder]


MAKE = {"yahoo-r3": yahoo, "coat": coat, "criteo": criteo, "avazu": avazu, "frappe": frappe, "obd": obd}


def rows_of(path: Path) -> list[dict[str, str]]:
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    names = [cell.split(":")[0] for cell in head.split("\t")]
    return [dict(zip(names, line.split("\t"), strict=True)) for line in lines]


@pytest.mark.parametrize("name", LABELLED)
def test_a_source_becomes_checked_files_and_the_same_bytes_again(name, convert, tmp_path):
    arguments = MAKE[name](tmp_path / "raw")
    run = convert(*arguments, "--name", "x")
    card, folder = run.card("x"), run.folder("x")
    assert "train on it: python -m recbole_sigma --model=DeepFM" in run.out
    for part, facts in card["parts"].items():
        rows = rows_of(folder / ("x.inter" if part == "all" else f"x.{part}.inter"))
        assert len(rows) == facts["rows"] and sum(int(row["label"]) for row in rows) == facts["positive"]
    settings = yaml.safe_load((folder / "x.yaml").read_text())
    assert settings["eval_args"]["mode"] == "labeled" and settings["LABEL_FIELD"] == "label"
    assert set(settings["load_col"]["inter"]) <= rows[0].keys()
    assert {settings["USER_ID_FIELD"], settings["ITEM_ID_FIELD"]} <= rows[0].keys()
    assert all(source["sha256"] for source in card["sources"])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    convert(*arguments, "--name", "x", "--overwrite")
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


NUMBERS, VALUES = "\t1" * 38, "v," * 20 + "v"
CASES = [
    ("yahoo-r3", "1,2", "2 fields where user"),
    ("yahoo-r3", "1,2,9", "1 to 5 expected"),
    ("yahoo-r3", "1,2,x", "rating is 'x'"),
    ("yahoo-r3", ",2,3", "user id"),
    ("coat", "1 2 3", "3 numbers where the first line has 30"),
    ("criteo", "1\t2", "2 fields separated by tabs where 40"),
    ("criteo", f"7\t1{NUMBERS}", "label is '7'"),
    ("criteo", f"1\tx{NUMBERS}", "count is 'x'"),
    ("avazu", "1,2", "2 cells where the first line has 24"),
    ("avazu", f"1,5,14102100,{VALUES}", "label is '5'"),
    ("avazu", f"1,1,2014,{VALUES}", "YYMMDDHH"),
    ("frappe", "1 2:1", "1 columns where 10"),
    ("frappe", "0 " + "1:1 " * 10, "label is '0'"),
    ("frappe", "1 " + "x:1 " * 10, "NUMBER:1"),
    ("obd", "1,t,1,1,0,2.5,a,b,c,d", "propensity_score is '2.5'"),
    ("obd", "1,t,1,1,2,0.5,a,b,c,d", "label is '2'"),
    ("obd", "1,2", "2 cells"),
]


@pytest.mark.parametrize(("name", "change", "reason"), CASES)
def test_a_damaged_row_is_told_or_skipped_and_counted(name, change, reason, convert, tmp_path):
    arguments = MAKE[name](tmp_path / "raw", change)
    sentence = convert(*arguments, "--name", "x").sentence()
    assert reason in sentence and "--on-bad-row=skip" in sentence
    run = convert(*arguments, "--name", "x", "--on-bad-row", "skip")
    assert sum(run.card("x")["rows"]["bad_rows_skipped"].values()) == 1 and "skipped 1 bad rows" in run.out


@pytest.mark.parametrize("name", LABELLED)
def test_cut_and_wrong_files_write_nothing(name, convert, tmp_path):
    arguments = MAKE[name](tmp_path / "raw")
    (path, *_) = [
        path
        for path in sorted((tmp_path / "raw").iterdir())
        if "item" not in path.name and "map" not in path.name
    ]
    whole = path.read_bytes()
    plain = gzip.decompress(whole) if path.suffix == ".gz" else whole
    path.write_bytes(gzip.compress(plain)[:-20])
    assert "damaged or cut short" in convert(*arguments, "--name", "x").sentence()
    path.write_bytes(b"")
    assert "the file is empty" in convert(*arguments, "--name", "x").sentence()


def test_rows_of_one_label_are_no_data(convert, tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "train.txt").write_text("\n".join("1" + "\t1" * 39 for _ in range(9)) + "\n")
    assert "all of one label" in convert("criteo", "--log", folder / "train.txt").sentence()


@pytest.mark.parametrize("value", ["", "0", "1", "2", "3", "100", "-1"])
def test_counts_become_tokens_by_the_published_transform(value):
    expected = (
        ""
        if not value
        else f"S{value}"
        if float(value) <= 2
        else str(math.floor(math.log(float(value)) ** 2))
    )
    assert log_square(value) == expected


@pytest.mark.parametrize("reading", ["ratings", "clicks"])
def test_self_selected_rows_are_split_once_and_random_ones_are_the_test(reading, convert, tmp_path):
    run = convert(*yahoo(tmp_path / "raw"), "--name", "x", "--reading", reading, "--negatives", 1)
    parts = {
        p: {(r["user_id"], r["item_id"]): r["label"] for r in rows_of(run.folder("x") / f"x.{p}.inter")}
        for p in ("train", "valid", "selected", "test")
    }
    raw = {
        tuple(line.split(",")[:2]): int(line.split(",")[2])
        for line in (tmp_path / "raw" / "user.txt").read_text().splitlines()
    }
    clicks = [
        {pair for pair, label in parts[p].items() if label == "1"} for p in ("train", "valid", "selected")
    ]
    assert not clicks[0] & clicks[1] and not clicks[0] & clicks[2] and not clicks[1] & clicks[2]
    assert set.union(*clicks) == {pair for pair, stars in raw.items() if stars >= 4}
    shown = {
        tuple(line.split(",")[:2]): int(line.split(",")[2])
        for line in (tmp_path / "raw" / "random.txt").read_text().splitlines()
    }
    assert parts["test"] == {pair: str(int(stars >= 4)) for pair, stars in shown.items()}
    if reading == "ratings":
        rated = [set(parts[p]) for p in ("train", "valid", "selected")]
        assert set.union(*rated) == set(raw) and sum(map(len, rated)) == len(raw)
    other = convert(
        *yahoo(tmp_path / "raw"), "--name", "y", "--reading", reading, "--negatives", 1, "--seed", 7
    )
    assert (other.folder("y") / "y.train.inter").read_text() != (
        run.folder("x") / "x.train.inter"
    ).read_text()


def test_one_hot_columns_become_text_of_their_own_per_table(convert, tmp_path):
    folder = convert(*coat(tmp_path / "raw"), "--name", "x").folder("x")
    assert rows_of(folder / "x.user")[0] == {"user_id": "u0", "user_gender": "women", "user_age": "young"}
    assert rows_of(folder / "x.item")[1] == {"item_id": "i1", "item_gender": "men", "item_age": "over 60"}


def test_hours_become_hour_weekday_and_weekend(convert, tmp_path):
    folder = convert(*avazu(tmp_path / "raw"), "--name", "x").folder("x")
    row = rows_of(folder / "x.inter")[0]  # 21 October 2014, 0 o'clock, was a Tuesday
    assert (row["hour"], row["weekday"], row["weekend"], row["timestamp"]) == ("0", "1", "0", "1413849600")
    assert "id" not in row


def test_a_converted_set_trains(convert, tmp_path):
    run = pytest.importorskip("recbole_sigma.quick_start", exc_type=ImportError).run
    for name, make in MAKE.items():
        convert(*make(tmp_path / f"raw-{name}"), "--name", name)
        values = {
            "data_path": str(tmp_path / "dataset"),
            "epochs": 1,
            "show_progress": False,
            "state": "ERROR",
        }
        result = run("FM", name, config_dict=values, saved=False)
        assert 0 <= result["test_result"]["auc"] <= 1
    card = json.loads((tmp_path / "dataset" / "coat" / "coat.card.json").read_text())
    assert len(result["test"].labels) and card["parts"]["test"]["rows"] > 0
