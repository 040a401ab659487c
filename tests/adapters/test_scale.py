"""Memory and speed, measured in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def peak_mb(*arguments: object) -> tuple[float, str]:
    """Peak memory as the command prints it (VmHWM on Linux), and all that it prints."""
    command = [sys.executable, "-m", "dataset_adapters", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    match = re.search(r"peak memory ([\d,]+) MB", done.stdout)
    assert match
    return float(match[1].replace(",", "")), done.stdout


def write_reviews(path: Path, count: int) -> Path:
    """Reviews with about three events a user, as in the raw categories, and a text behind each."""
    text = "would buy it again " * 5
    with open(path, "w") as file:
        for n in range(count):
            user, item = n * 7919 % (count // 3), n * 104729 % (count // 15)
            file.write(
                f'{{"reviewerID": "A{user:013d}", "asin": "B{item:09d}", "reviewText": "{text}", '
                '"overall": 5.0, '
                f'"unixReviewTime": {1_300_000_000 + n * 613 % 10**8}}}\n'
            )
    return path


def test_beauty_under_20_seconds_and_500_mb(shared, tmp_path):
    raw = shared("amazon2014_beauty")
    peak, printed = peak_mb("convert", "amazon2014", "--input", raw, "--output", tmp_path)
    seconds = float(re.search(r"rows in ([\d.]+) s", printed)[1])
    assert 20 < peak < 500 and seconds < 20


@pytest.mark.slow
@pytest.mark.parametrize(("count", "limit"), [(1_000_000, 400), (5_000_000, 2048)])
def test_peak_memory_of_large_logs(count, limit, tmp_path):
    reviews = write_reviews(tmp_path / "reviews_Big.json", count)
    peak, printed = peak_mb(
        "convert", "amazon2014", "--reviews", reviews, "--k-core", 2, "--output", tmp_path / "out"
    )
    reviews.unlink()
    assert f"{count:,} rows" in printed and peak < limit, printed
