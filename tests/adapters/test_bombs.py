"""Raw files that are built to fill the memory or to overflow: bounded, one sentence, nothing written."""

from __future__ import annotations

import datetime as dt
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset_adapters.cli import main
from dataset_adapters.errors import AdapterError, BadRow
from dataset_adapters.streams import Source, numbered_lines
from dataset_adapters.values import Clock, TextCleaner, clean_id, number, shown, visible

TABLE = ("table", "--user", "u", "--item", "i", "--time", "t", "--name", "x", "--k-core", "0")
ROWS = [(f"u{k % 5}", f"i{k % 7}", 1_600_000_000 + k) for k in range(60)]


def zstandard_bomb(path: Path, blocks: int) -> None:
    """A frame of run-length blocks: four bytes each that stand for 128 KiB of ``a``."""
    out = bytearray(b"\x28\xb5\x2f\xfd\x00\x38")
    for place in range(blocks):
        last = place == blocks - 1
        out += (int(last) | (1 << 1) | ((128 * 1024) << 3)).to_bytes(3, "little") + b"a"
    path.write_bytes(out)


def test_a_zstandard_file_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    zstandard_bomb(tmp_path / "bomb.zst", 16_384)  # 64 KiB that stand for 2 GiB
    limit = 1 << 30
    done = subprocess.run(
        [sys.executable, "-m", "dataset_adapters", "convert", *TABLE, "--input", "bomb.zst", "--output", "o"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert "longer than 64 MiB" in done.stderr and "Traceback" not in done.stderr


def test_a_zstandard_file_of_many_lines_is_read_whole(tmp_path: Path) -> None:
    import zstandard

    lines = b"".join(b"%d,x\n" % k for k in range(200_000))
    (tmp_path / "good.zst").write_bytes(
        zstandard.compress(lines[:700_000]) + zstandard.compress(lines[700_000:])
    )
    read = b"".join(line for _, line in numbered_lines(Source("events", tmp_path / "good.zst"), False))
    assert read == lines


@pytest.mark.parametrize("unit", ["auto", "s", "ms", "us", "iso", "order"])
@given(
    value=st.one_of(
        st.integers(), st.floats(), st.text(max_size=30), st.none(), st.booleans(), st.lists(st.none())
    )
)
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_is_a_time_or_a_bad_row(unit: str, value: object) -> None:
    try:
        time = Clock(unit)(value)
    except BadRow:
        return
    assert 0 <= time < 2**63


@pytest.mark.parametrize("value", [10**400, -(10**400), "9" * 400, float("nan"), [[[]]], {"a": 1}])
def test_what_overflows_is_a_bad_row(value: object) -> None:
    for read in (Clock("order"), Clock("s"), Clock(), lambda value: number(value, "rating")):
        with pytest.raises(BadRow) as told:
            read(value)
        assert len(str(told.value)) < 300


def test_a_position_that_a_double_cannot_hold() -> None:
    with pytest.raises(BadRow, match="is larger than"):
        Clock("order")(2**53 + 1)


@pytest.mark.parametrize("pattern", ["%Y-%Y", "%", "%Q", "%Y %y %Y"])
def test_a_time_pattern_that_does_not_compile(pattern: str) -> None:
    with pytest.raises(AdapterError, match="is no pattern of strptime"):
        Clock("iso", pattern)


@pytest.mark.parametrize("pattern", ["%Y-%m-%d", "%d.%m.%Y %H:%M", "day %j of %Y"])
def test_a_good_time_pattern_passes(pattern: str) -> None:
    assert Clock("iso", pattern)(dt.datetime(2020, 2, 3).strftime(pattern)) > 0


def test_ids_and_texts_are_bounded() -> None:
    for value in ("x" * 2_000, 10**2_000):
        with pytest.raises(BadRow, match="characters long"):
            clean_id(value, "item")
    cleaner = TextCleaner(True)
    assert len(cleaner.text("é" * 1_000_000)) == 100_000
    assert cleaner.changes["cut_at_100000_characters"] == 1


def test_messages_show_a_short_printable_piece() -> None:
    deep: list = []
    for _ in range(900):
        deep = [deep]
    assert len(shown(deep)) < 200 and len(shown("y" * 10**6)) < 200
    assert visible("a\x1b]0;x\x07\u202eb") == r"a\x1b]0;x\x07\u202eb"


def test_deep_and_long_json(convert, tmp_path: Path) -> None:
    good = {"reviewerID": "A", "asin": "B", "unixReviewTime": 1318896000, "overall": 5}
    for name, line in {
        "deep": json.dumps(good)[:-1] + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "digits": json.dumps(good).replace("5}", "1" + "0" * 5_000 + "}"),
        "large": json.dumps(good).replace("5}", "1" + "0" * 400 + "}"),
        "infinite": json.dumps(good).replace("5}", "1e999}"),
        "time": json.dumps(good).replace("1318896000", "1" + "0" * 400),
    }.items():
        path = tmp_path / name
        path.write_text(line + "\n")
        said = convert("amazon2014", "--reviews", path, "--k-core", "0", "--name", "x").sentence()
        assert f"{path}:1" in said and len(said) < 700


# --- Parquet ---


def parquet(path: Path, **columns: object) -> Path:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    users, items, times = zip(*ROWS, strict=True)
    given = {"u": list(users), "i": list(items), "t": list(times)} | columns
    pq.write_table(pa.table(given), path)
    return path


def test_parquet_columns_that_python_cannot_hold(convert, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    far = pa.array([2**40] * len(ROWS), pa.int64())
    bad = pa.array([b"\xff\xfe"] * len(ROWS), pa.binary()).view(pa.string())
    cases = {
        "date": {"t": pa.array([2**30] * len(ROWS), pa.int32()).cast(pa.date32())},
        "seconds": {"t": far.cast(pa.timestamp("s"))},
        "struct": {"i": [{"a": 1}] * len(ROWS)},
        "list": {"u": [["a"]] * len(ROWS)},
        "binary": {"i": pa.array([b"\xff"] * len(ROWS), pa.binary())},
        "utf-8": {"i": bad},
        "duration": {"t": far.cast(pa.duration("us"))},
    }
    for name, columns in cases.items():
        path = parquet(tmp_path / f"{name}.parquet", **columns)
        said = convert(*TABLE, "--input", path).sentence()
        assert str(path) in said and len(said) < 600, name


def test_a_parquet_file_with_two_columns_of_one_name(convert, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    users, items, times = (pa.array(column) for column in zip(*ROWS, strict=True))
    pq.write_table(
        pa.Table.from_arrays([users, items, times, items], names=["u", "i", "t", "i"]), tmp_path / "two"
    )
    assert "has two columns 'i'" in convert(*TABLE, "--input", tmp_path / "two").sentence()


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_damage_to_a_parquet_file_is_a_sentence(data: st.DataObject, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("parquet")
    content = bytearray(parquet(folder / "p").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "p").write_bytes(content)
    assert main(["convert", *TABLE, "--input", str(folder / "p"), "--output", str(folder / "o")]) in (0, 2)
