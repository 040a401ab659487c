"""The published protocols, line by line, and the traps that make other sequences out of the same data."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from dataset_adapters.cli import main

SETS = {
    "amazon2014_beauty": ("Beauty.txt.gz", 22_363, 12_101, 198_502),
    "amazon2014_sports": ("Sports_and_Outdoors.txt.gz", 35_598, 18_357, 296_337),
    "yelp2020_s3rec": ("Yelp.txt.gz", 30_431, 20_033, 316_354),
}


def published(files, folder: Path, file: str) -> list[tuple[str, list[str]]]:
    """Sequences of the published file with real ids, in the order of its lines."""
    maps = json.loads("".join(files.raw_lines(folder / "datamaps.json.gz")))
    users, items = maps["id2user"], maps["id2item"]
    lines = (line.split() for line in files.raw_lines(folder / file))
    return [(users[user], [items[i] for i in rest]) for user, *rest in lines]


def raw_arguments(folder: Path) -> list[object]:
    if folder.name == "yelp2020_s3rec":
        window = ["--since", "2019-01-01", "--until", "2020-01-01"]
        return [
            "yelp",
            "--input",
            folder / "yelp_review.recon.json.xz",
            folder / "yelp_business.recon.json.gz",
            *window,
        ]
    return ["amazon2014", "--input", folder]


@pytest.fixture(scope="module")
def beauty(tmp_path_factory) -> Path:
    """Beauty, converted once from the reviews."""
    raw = Path(__file__).resolve().parents[3] / "shared" / "data" / "amazon2014_beauty"
    if not raw.is_dir():
        pytest.skip("no shared data amazon2014_beauty")
    output = tmp_path_factory.mktemp("beauty")
    assert main(["convert", "amazon2014", "--input", str(raw), "--output", str(output), "--quiet"]) == 0
    return output / "amazon-beauty"


def test_beauty_from_the_reviews_line_by_line(beauty, shared, files):
    written = files.sequences(beauty / "amazon-beauty.inter")
    assert list(written.items()) == published(files, shared("amazon2014_beauty"), "Beauty.txt.gz")


def test_beauty_card(beauty):
    card = json.loads((beauty / "amazon-beauty.card.json").read_text())
    assert [s["name"] for s in card["steps"]] == ["usable rows", "5-core"]
    for step in card["steps"]:
        assert (step["users"], step["items"], step["interactions"]) == SETS["amazon2014_beauty"][1:]
    facts = card["statistics"]
    assert facts["tied_consecutive_events"] == pytest.approx(0.439, abs=5e-4)
    assert facts["users_whose_last_event_is_tied"] == pytest.approx(0.4346, abs=1e-4)
    assert facts["repeated_last_events"] == 0 and facts["first_time"].startswith("2002-06")
    assert card["items"]["share_filled"]["title"] == 1
    assert card["items"]["share_filled"]["brand"] == pytest.approx(7_455 / 12_101, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        ("amazon2014_beauty", "s3rec"),
        pytest.param("amazon2014_sports", "raw", marks=pytest.mark.slow),
        pytest.param("amazon2014_sports", "s3rec"),
        pytest.param("yelp2020_s3rec", "raw", marks=pytest.mark.slow),
        pytest.param("yelp2020_s3rec", "s3rec"),
    ],
)
def test_published_sequences_line_by_line(name, adapter, convert, shared, files):
    folder = shared(name)
    file, *counts = SETS[name]
    if adapter == "raw":
        arguments = raw_arguments(folder)
    else:
        arguments = ["s3rec", "--sequences", folder / file, "--maps", folder / "datamaps.json.gz"]
    run = convert(*arguments, "--name", "set", "--quiet")
    facts = run.card("set")["statistics"]
    assert [facts["users"], facts["items"], facts["interactions"]] == counts
    written = files.sequences(run.folder("set") / "set.inter")
    assert list(written.items()) == published(files, folder, file)


def test_ties_of_the_published_order_and_what_another_rule_does(shared, files):
    """The published ties ascend by ASIN, as the raw file does; reversed ones move 4 of 10 test targets."""
    rows = [
        json.loads(line)
        for line in files.raw_lines(shared("amazon2014_beauty") / "reviews_Beauty_5.recon.json.gz")
    ]
    by_user: dict[str, list[tuple[int, str]]] = {}
    for row in rows:
        by_user.setdefault(row["reviewerID"], []).append((row["unixReviewTime"], row["asin"]))
    assert all(events == sorted(events) for events in by_user.values())
    kept = [sorted(events, key=lambda e: e[0])[-1] for events in by_user.values()]
    turned = [sorted(reversed(events), key=lambda e: e[0])[-1] for events in by_user.values()]
    moved = sum(a != b for a, b in zip(kept, turned, strict=True))
    assert moved / len(by_user) == pytest.approx(0.4346, abs=1e-3)


def test_file_order_decides_between_ties(convert, files, tmp_path):
    """Neither the item nor another sort may decide: a time-sorted user keeps the order of the file."""
    rng = random.Random(1)
    rows = [
        {
            "reviewerID": f"u{rng.randrange(40)}",
            "asin": f"i{rng.randrange(500)}",
            "unixReviewTime": 86_400 * rng.randint(1, 4),
        }
        for _ in range(3_000)
    ]
    file = tmp_path / "reviews_Ties_5.json"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = convert("amazon2014", "--reviews", file, "--k-core", 0, "--quiet")
    expected: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda r: r["unixReviewTime"]):  # Python's sort is stable
        expected.setdefault(row["reviewerID"], []).append(row["asin"])
    written = files.sequences(run.folder("amazon-ties") / "amazon-ties.inter")
    assert written == expected
    assert list(written) == list(dict.fromkeys(row["reviewerID"] for row in rows))


def test_file_sorted_by_asin_is_refused(convert, shared):
    file = shared("amazon2014_sports") / "idgenrec_user_sequence_asin.txt.gz"
    sentence = convert("s3rec", "--sequences", file).sentence()
    assert "sorted by item, not by time" in sentence and "100%" in sentence


def test_sorted_sequences_can_be_forced(convert, tmp_path):
    file = tmp_path / "S.txt"
    file.write_text("".join(f"{u} a{u} b{u} c{u}\n" for u in range(30)))
    assert "sorted by item" in convert("s3rec", "--sequences", file).sentence()
    assert convert("s3rec", "--sequences", file, "--allow-sorted", "--quiet").code == 0


def test_beauty_of_idgenrec_is_in_time_order(convert, shared, files):
    folder = shared("amazon2014_beauty")
    run = convert(
        "s3rec", "--sequences", folder / "idgenrec_user_sequence_asin.txt.gz", "--name", "asin", "--quiet"
    )
    expected = published(files, folder, "Beauty.txt.gz")
    assert list(files.sequences(run.folder("asin") / "asin.inter").items()) == expected
