"""Damaged and hostile raw files: one sentence with file and line, or skipped and counted."""

from __future__ import annotations

import gzip
import json

import pytest

REVIEW = {"reviewerID": "A1", "asin": "B1", "unixReviewTime": 1318896000, "overall": 5.0}
ML_USERS = "1::F::1::10::48067\n2::M::56::16::70072\n"


def review(n: int, **changes) -> dict:
    return (
        REVIEW
        | {"reviewerID": f"A{n % 3}", "asin": f"B{n % 4}", "unixReviewTime": 1318896000 + 86_400 * n}
        | changes
    )


def jsonl(path, rows) -> object:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def amazon(convert, tmp_path, rows, meta=None, *options):
    arguments = [
        "amazon2014",
        "--reviews",
        jsonl(tmp_path / "reviews_X_5.json", rows),
        "--k-core",
        0,
        "--name",
        "x",
    ]
    if meta is not None:
        arguments += ["--meta", jsonl(tmp_path / "meta_X.json", meta)]
    return convert(*arguments, *options)


BAD_REVIEWS = {
    "truncated line": ('{"reviewerID": "A1", "asin": "B', "neither JSON"),
    "a list": ("[1, 2]", "holds a list"),
    "no time": ({"reviewerID": "A", "asin": "B"}, "no 'unixReviewTime'"),
    "zero time": (review(1, unixReviewTime=0), "zero or negative"),
    "negative time": (review(1, unixReviewTime=-1), "zero or negative"),
    "milliseconds": (review(1, unixReviewTime=1318896000000), "milliseconds"),
    "iso time": (review(1, unixReviewTime="2014-01-01"), "a number expected"),
    "null user": (review(1, reviewerID=None), "user id is missing"),
    "tab in item": (review(1, asin="B\t1"), "tab"),
    "rating": (review(1, overall="five"), "rating is 'five'"),
    "a call": ('{\'asin\': __import__("os").system("true")}', "nor a Python literal"),
    "deep nesting": ("[" * 100_000, "neither JSON"),
    "deep literal": ("{'a': " + "(" * 100_000, "nor a Python literal"),
}


@pytest.mark.parametrize("case", BAD_REVIEWS)
def test_bad_review_stops_with_file_and_line(case, convert, tmp_path):
    row, reason = BAD_REVIEWS[case]
    sentence = amazon(convert, tmp_path, [*map(review, range(6)), row]).sentence()
    assert "reviews_X_5.json:7: " in sentence and reason in sentence and "--on-bad-row=skip" in sentence


@pytest.mark.parametrize("case", BAD_REVIEWS)
def test_bad_review_is_skipped_and_counted(case, convert, tmp_path, files):
    row, reason = BAD_REVIEWS[case]
    rows = [review(0), row, *map(review, range(1, 6))]
    run = amazon(convert, tmp_path, rows, None, "--on-bad-row", "skip")
    card = run.card("x")
    assert card["rows"]["bad_rows_skipped"] == {"reviews_X_5.json": 1}
    assert (
        reason in card["rows"]["bad_row_examples"][0]
        and "reviews_X_5.json:2" in card["rows"]["bad_row_examples"][0]
    )
    assert "skipped 1 bad rows" in run.out and card["statistics"]["interactions"] == 6
    clean = amazon(convert, tmp_path, list(map(review, range(6))), None, "--overwrite")
    assert files.sequences(clean.folder("x") / "x.inter") == files.sequences(run.folder("x") / "x.inter")


def test_mostly_bad_rows_stop_even_when_skipping(convert, tmp_path):
    rows = [review(0), "x", "y", "z"]
    sentence = amazon(convert, tmp_path, rows, None, "--on-bad-row", "skip").sentence()
    assert "3 of 4 rows cannot be used" in sentence


def test_truncated_gzip(convert, tmp_path):
    packed = gzip.compress("".join(json.dumps(review(n)) + "\n" for n in range(5_000)).encode())
    path = tmp_path / "reviews_X_5.json.gz"
    path.write_bytes(packed[: len(packed) // 2])
    for policy in ("stop", "skip"):  # a broken file is no bad row
        assert (
            "cut short after line"
            in convert("amazon2014", "--reviews", path, "--on-bad-row", policy).sentence()
        )


@pytest.mark.parametrize("content", [b"", b"\n\n", gzip.compress(b"")])
def test_empty_file(content, convert, tmp_path):
    path = tmp_path / "reviews_X_5.json"
    path.write_bytes(content)
    sentence = convert("amazon2014", "--reviews", path).sentence()
    assert "empty" in sentence or "no rows" in sentence


def test_duplicates_are_kept_unless_asked(convert, tmp_path):
    rows = [review(0), review(0), review(0, unixReviewTime=1400000000), review(1), review(2)]
    run = amazon(convert, tmp_path, rows)
    assert run.card("x")["statistics"]["interactions"] == 5
    assert "1 rows repeat" in run.out and run.card("x")["statistics"]["exact_duplicates"] == 1
    for how, left in (("exact", 4), ("first", 3)):
        card = amazon(convert, tmp_path, rows, None, "--duplicates", how, "--overwrite").card("x")
        assert card["steps"][-1]["interactions"] == card["statistics"]["interactions"] == left


def test_metadata_texts_and_gaps(convert, tmp_path, files):
    meta = [
        str(
            {
                "asin": "B0",
                "title": 'Rock &amp; "Roll"\t1\n2',
                "brand": "O'Neil",
                "categories": [["A", "B | C"], ["A", "D"]],
            }
        ),
        str(
            {
                "asin": "B1",
                "title": '"Quoted"  twice',
                "categories": [["A"]],
                "salesRank": {"A": 5},
                "price": 3.5,
            }
        ),
        str({"asin": "B1", "title": "second record"}),
        str({"asin": "UNUSED", "title": "x"}),
        str({"asin": "B2", "title": "N/A", "description": "a\\d"}),
    ]
    run = amazon(convert, tmp_path, list(map(review, range(12))), meta)
    header, rows = files.atomic(run.folder("x") / "x.item")
    assert header == [
        "item_id:token",
        "title:token",
        "brand:token",
        "categories:token_seq",
        "description:token",
    ]
    assert sorted(rows) == [
        ["B0", 'Rock & "Roll" 1 2', "O'Neil", "A|B / C|D", ""],
        ["B1", '"Quoted"  twice', "", "A", ""],
        ["B2", "", "", "", "a\\d"],
        ["B3", "", "", "", ""],
    ]
    card = run.card("x")
    assert card["items"]["without_record"] == 1 and card["rows"]["repeated_item_records_ignored"] == 1
    assert card["items"]["share_filled"]["any_text"] == 0.5
    assert "1 of 4 items have no record" in run.out
    assert card["rows"]["text_changes"]["separator_in_token_to_slash"] == 1
    assert "price" not in " ".join(header) and any(
        "salesRank" in entry["fields"] for entry in card["left_out"]
    )


def test_all_items_on_request(convert, tmp_path, files):
    meta = [str({"asin": key, "title": key}) for key in ("B0", "NEW", "B1")]
    run = amazon(convert, tmp_path, list(map(review, range(12))), meta, "--catalogue", "all")
    rows = files.atomic(run.folder("x") / "x.item")[1]
    assert sorted(row[0] for row in rows) == ["B0", "B1", "B2", "B3", "NEW"]


def test_bad_metadata_line(convert, tmp_path):
    meta = [str({"asin": "B0", "title": "ok"}), "{'asin': 'B1', 'title': "]
    assert (
        "meta_X.json:2: neither JSON"
        in amazon(convert, tmp_path, list(map(review, range(6))), meta).sentence()
    )
    meta[1] = str({"asin": "B1", "title": ["a", "b"]})
    assert (
        "meta_X.json:2: title is a list"
        in amazon(convert, tmp_path, list(map(review, range(6))), meta).sentence()
    )


def test_key_filter_never_loses_an_item(convert, tmp_path, files):
    """A text that looks like another item's key must not hide the record that it stands in."""
    tricky = {"title": "has 'asin': 'ZZ' inside", "asin": "B0"}
    run = amazon(
        convert,
        tmp_path,
        list(map(review, range(6))),
        [json.dumps(tricky), str({"asin": "B1", "title": "b"})],
    )
    assert files.atomic(run.folder("x") / "x.item")[1][0][:2] == ["B0", "has 'asin': 'ZZ' inside"]


def test_mixed_encodings(convert, tmp_path, files):
    lines = [json.dumps(review(n), ensure_ascii=False).encode() for n in range(6)]
    lines.insert(3, json.dumps(review(9, reviewerID="é"), ensure_ascii=False).encode("latin-1"))
    path = tmp_path / "reviews_X_5.json"
    path.write_bytes(b"\n".join(lines))
    base = ("amazon2014", "--reviews", path, "--k-core", 0, "--name", "x")
    sentence = convert(*base).sentence()
    assert "reviews_X_5.json:4: byte" in sentence and "--encoding" in sentence
    card = convert(*base, "--encoding", "auto").card("x")
    assert card["rows"]["lines_read_as_latin_1"] == 1 and card["statistics"]["users"] == 4


TABLE = ("--user", "u", "--item", "i", "--time", "t")


def table(convert, tmp_path, text: str, *options, name="events.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return convert("table", "--input", path, "--name", "x", *options)


def test_wrong_delimiter_and_wrong_column(convert, tmp_path):
    assert "separated by a semicolon" in table(convert, tmp_path, "u;i;t\n1;2;3\n", *TABLE).sentence()
    assert "separated by a tab" in table(convert, tmp_path, "u\ti\tt\n1\t2\t3\n", *TABLE).sentence()
    sentence = table(convert, tmp_path, "user,item,t\n1,2,3\n", "--user", "usr", "--item", "item").sentence()
    assert "events.csv:1: no column 'usr' (did you mean 'user'?)" in sentence
    assert "--delimiter" in table(convert, tmp_path, "u,i\n", *TABLE, "--delimiter", "ab").sentence()


def test_quotes_newlines_and_leading_zeros_in_csv(convert, tmp_path, files):
    text = 'u,i,t,title\n007,01,5,"a, ""b""\nc"\n007,1,6,"x\ty"\n7,1,7,z\n'
    run = table(convert, tmp_path, text, *TABLE, "--time-unit", "order", "--title", "title")
    assert files.sequences(run.folder("x") / "x.inter") == {"007": ["01", "1"], "7": ["1"]}
    assert files.atomic(run.folder("x") / "x.item")[1] == [["01", 'a, "b" c'], ["1", "x y"]]


def test_ragged_row_and_open_quote(convert, tmp_path):
    good = "".join(f"u{n},i{n},{1_400_000_000 + n}\n" for n in range(20))
    sentence = table(convert, tmp_path, "u,i,t\n" + good + "a,b\n" + good, *TABLE).sentence()
    assert "events.csv:22: 2 cells where the first line has 3" in sentence
    text = "u,i,t\n" + good * 3 + 'a,"b,1400000000\n' + good
    assert "events.csv:62: " in table(convert, tmp_path, text, *TABLE).sentence()
    run = table(convert, tmp_path, text, *TABLE, "--on-bad-row", "skip")
    card = run.card("x")
    assert card["rows"]["bad_rows_skipped"] == {"events.csv": 21}  # every line that the quote swallowed
    assert (
        card["statistics"]["interactions"] == 60
        and "one quote spans lines 62-82" in card["rows"]["bad_row_examples"][0]
    )


@pytest.mark.parametrize(
    ("times", "unit", "expected"),
    [
        (["1400000000", "1400000001"], "auto", ["1400000000", "1400000001"]),
        (["1400000000123", "1400000001000"], "auto", ["1400000000.123", "1400000001"]),
        (["2014-05-13 16:53:20", "2014-05-13T16:53:21"], "auto", ["1400000000", "1400000001"]),
        (["3", "7"], "order", ["3", "7"]),
    ],
)
def test_times_in_tables(times, unit, expected, convert, tmp_path, files):
    text = "u,i,t\n" + "".join(f"a,{n},{t}\n" for n, t in enumerate(times))
    run = table(convert, tmp_path, text, *TABLE, "--time-unit", unit)
    assert [row[2] for row in files.atomic(run.folder("x") / "x.inter")[1]] == expected


def test_parquet(convert, tmp_path, files):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "events.parquet"
    columns = {
        "u": ["01", "1", "1"],
        "i": [5, 5, 6],
        "t": pa.array([1_400_000_000_500, 1_400_000_001_000, 1_400_000_002_000], pa.timestamp("ms")),
    }
    pq.write_table(pa.table(columns), path)
    run = convert("table", "--input", path, *TABLE, "--name", "x")
    assert files.atomic(run.folder("x") / "x.inter")[1] == [
        ["01", "5", "1400000000.5"],
        ["1", "5", "1400000001"],
        ["1", "6", "1400000002"],
    ]
    pq.write_table(pa.table(columns | {"i": [5, None, 6]}), path)
    bad = convert("table", "--input", path, *TABLE, "--name", "y")
    assert bad.code == 2 and "events.parquet:2: item id is missing" in bad.err
    path.write_bytes(path.read_bytes()[:-20])
    assert "damaged" in convert("table", "--input", path, *TABLE, "--name", "y").err


def test_movielens_damage(convert, tmp_path):
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    (folder / "movies.dat").write_bytes("1::Caf\xe9: A::B (1999)::Drama|Sci-Fi\n".encode("latin-1"))
    (folder / "users.dat").write_text(ML_USERS)
    ratings = folder / "ratings.dat"
    ratings.write_text("1::1::5::978300760\n2::1::4\n")
    assert "ratings.dat:2: 3 fields separated by '::'" in convert("movielens", "--input", folder).sentence()
    ratings.write_text("hello\n")
    assert "no line of a MovieLens file" in convert("movielens", "--input", folder).sentence()
    ratings.write_text("1::1::5::978300760\r\n2::1::4::978300761\r\n")
    (folder / "users.dat").write_text(ML_USERS.replace("::16::", "::99::"))
    assert "users.dat:2: age code" in convert("movielens", "--input", folder).sentence()


def test_s3rec_damage(convert, tmp_path):
    file, maps = tmp_path / "X.txt", tmp_path / "datamaps.json"
    file.write_text("1 5 6\n1 7\n")
    assert "X.txt:2: user '1' has a line of its own above" in convert("s3rec", "--sequences", file).sentence()
    file.write_text("1 5 6\n2\n")
    assert "X.txt:2: a user without items" in convert("s3rec", "--sequences", file).sentence()
    file.write_text("1 5 6\n")
    maps.write_text(json.dumps({"id2user": {"1": "U"}, "id2item": {"5": "A"}}))
    assert "item '6' is not in the id map" in convert("s3rec", "--sequences", file, "--maps", maps).sentence()
    maps.write_text(json.dumps({"id2user": {"1": "U"}, "id2item": {"5": "A", "6": "A"}}))
    assert "same name" in convert("s3rec", "--sequences", file, "--maps", maps).sentence()
    maps.write_text("{}")
    assert "has none of id2user" in convert("s3rec", "--sequences", file, "--maps", maps).sentence()
    maps.write_text('{"id2user": ')
    assert "is not JSON" in convert("s3rec", "--sequences", file, "--maps", maps).sentence()


def test_minionerec_rows_must_continue_each_other(convert, tmp_path):
    head = "user_id,history_item_title,item_title,history_item_id,item_id,history_item_sid,item_sid\n"
    items = tmp_path / "X.item.json"
    items.write_text(json.dumps({str(n): {"title": f"t{n}"} for n in range(9)}))
    test = tmp_path / "test.csv"
    base = ("minionerec", "--test", test, "--items", items, "--protocol", "leave-one-out", "--name", "x")
    test.write_text(head + 'A,[],t,"[1, 2]",3,[],s\nA,[],t,"[1, 2, 4]",5,[],s\n')
    assert "test.csv:3: the history of user 'A' does not continue" in convert(*base).sentence()
    test.write_text(head + "A,[],t,[],3,[],s\n")
    assert "a non-empty list" in convert(*base).sentence()
    test.write_text(head + 'A,[],t,"[1, 2]",3,[],s\nA,[],t,"[1, 2, 3]",3,[],s\n')
    assert convert(*base).card("x")["items"]["rows"] == 9
    published = convert("minionerec", "--test", test, "--items", items, "--name", "y")
    assert published.code == 2 and "--protocol published needs --train" in published.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--protocol", "published"], "supports leave-one-out, global-time"),
        (["--since", "yesterday"], "--since yesterday"),
        (["--k-core", "-1"], "not a whole number"),
        (["--min-rating", "6"], "no interaction is left after the step 'rating >= 6'"),
        (["--until", "2001-01-01"], "after the step 'time window'"),
        (["--name", "../up"], "use letters, digits"),
        (["--name", "ml-100k"], "its own copy"),
        (["--nmae", "x"], "did you mean '--name'?"),
    ],
)
def test_bad_options(arguments, reason, convert, tmp_path):
    path = jsonl(tmp_path / "reviews_X_5.json", map(review, range(6)))
    assert reason in convert("amazon2014", "--reviews", path, "--k-core", 0, *arguments).sentence()


def test_no_clock_no_global_time(convert, tmp_path):
    text = "u,i,t\na,1,5\na,2,6\nb,1,7\n"
    options = (*TABLE, "--time-unit", "order", "--protocol", "global-time")
    assert "no common clock" in table(convert, tmp_path, text, *options).sentence()
    assert (
        "no order; use --protocol random"
        in table(convert, tmp_path, text, "--user", "u", "--item", "i").sentence()
    )
