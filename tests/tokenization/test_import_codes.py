from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from recbole_sigma.tokenization import published_ids
from recbole_sigma.tokenization.published_ids import items_fingerprint, read_codes, write_codes
from recbole_sigma.tokenization.trie import build_trie, deduplicate
from recbole_sigma.values import UserError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
LETTER = SHARED / "amazon2014_beauty" / "letter_sid_index_by_asin.json.gz"
OFFICE = SHARED / "amazon2018_minionerec" / "index__Office_Products.index.json.gz"
INDUSTRIAL = SHARED / "amazon2018_minionerec" / "index__Industrial_and_Scientific.index.json.gz"


def keys(path):
    return list(json.loads(gzip.decompress(path.read_bytes())))


@pytest.mark.skipif(not LETTER.is_file(), reason="shared data is not there")
def test_letters_beauty_file_builds_a_trie_after_deduplication():
    tokens = ["[PAD]", *reversed(keys(LETTER))]
    codes = read_codes(LETTER, tokens)
    assert codes.shape == (12102, 4)
    assert codes[tokens.index("B004756YJA")].tolist() == [183, 70, 232, 6]
    assert len(torch.unique(codes[1:], dim=0)) == 12088
    with pytest.raises(UserError, match="13 such surplus"):
        build_trie(codes)
    unique, digits = deduplicate(codes)
    assert digits == 3 and build_trie(unique).n_items == 12101


@pytest.mark.skipif(not OFFICE.is_file(), reason="shared data is not there")
def test_minionerec_files_fit_their_own_dataset_only():
    office = ["[PAD]", *keys(OFFICE)]
    with pytest.raises(UserError, match="3459 items and does not say which .* set tokenizer_codes_numbering"):
        read_codes(OFFICE, office)
    codes = read_codes(OFFICE, office, "same")
    assert codes.shape == (3460, 3) and len(torch.unique(codes[1:], dim=0)) == 3444
    with pytest.raises(UserError, match="numbers 3686 items but the dataset has 3459"):
        read_codes(INDUSTRIAL, office, "same")
    with pytest.raises(UserError, match="3459 of the dataset's 3686 items"):
        read_codes(OFFICE, ["[PAD]", *keys(INDUSTRIAL)], "same")


@pytest.mark.skipif(not OFFICE.is_file(), reason="shared data is not there")
def test_titles_tell_another_dataset_of_the_same_size():
    office = json.loads(gzip.decompress((OFFICE.parent / "index__Office_Products.item.json.gz").read_bytes()))
    titles = str(OFFICE.parent / "index__Office_Products.item.json.gz")
    tokens = ["[PAD]", *keys(OFFICE)]
    texts = ["", *(f"{office[token]['title']}. {office[token]['brand']}" for token in tokens[1:])]
    assert read_codes(OFFICE, tokens, titles, lambda: texts).shape == (3460, 3)
    shifted = ["", *texts[2:], texts[1]]
    with pytest.raises(
        UserError, match="agree with the dataset's for .* of 3459 items; item '0' is the first"
    ):
        read_codes(OFFICE, tokens, titles, lambda: shifted)
    with pytest.raises(UserError, match="names no text_fields"):
        read_codes(OFFICE, tokens, titles)


@pytest.mark.parametrize("table", ["item2id", "item2id.json", "maps.json"])
def test_a_table_says_what_the_numbers_mean(tmp_path, table):
    content = {"0": ["<a_5>"], "1": ["<a_6>"], "2": ["<a_7>"]}
    path = put(tmp_path / "codes.json", content)
    numbers = {"z": 1, "x": 0, "y": 2}
    text = "\n".join(f"{token}\t{number}" for token, number in numbers.items())
    put(tmp_path / "item2id", text)
    put(tmp_path / "item2id.json", numbers)
    put(tmp_path / "maps.json", {"item2id": {t: str(n) for t, n in numbers.items()}, "user2id": {}})
    where = str(tmp_path / table)
    assert read_codes(path, ["[PAD]", "x", "y", "z"], where).tolist() == [[0], [5], [7], [6]]
    assert read_codes(path, ["[PAD]", "y"], where).tolist() == [[0], [7]]  # a filtered dataset
    with pytest.raises(UserError, match="numbers 1 of the dataset's 2 items .item 'w' is missing"):
        read_codes(path, ["[PAD]", "x", "w"], where)
    for other in ({"0": ["<a_5>"], "1": ["<a_6>"]}, {**content, "3": ["<a_1>"]}):
        with pytest.raises(UserError, match="they do not belong together"):
            read_codes(put(tmp_path / "codes.json", other), ["[PAD]", "x", "y", "z"], where)


def test_broken_tables_are_refused(tmp_path):
    path = put(tmp_path / "codes.json", {"0": ["<a_5>"]})
    with pytest.raises(UserError, match="tokenizer_codes_numbering names .*nowhere, which cannot be read"):
        read_codes(path, ["[PAD]", "x"], str(tmp_path / "nowhere"))
    with pytest.raises(
        UserError, match="tokenizer_codes_numbering names the file .*nowhere.json, which does"
    ):
        read_codes(path, ["[PAD]", "x"], str(tmp_path / "nowhere.json"))
    put(tmp_path / "table", "x 0\ny 0\n")
    with pytest.raises(UserError, match="one number to several items"):
        read_codes(path, ["[PAD]", "x"], str(tmp_path / "table"))
    put(tmp_path / "table", "x 0\ny\n")
    with pytest.raises(UserError, match="table:2 has 1 columns"):
        read_codes(path, ["[PAD]", "x"], str(tmp_path / "table"))


def put(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_own_files_round_trip_and_know_their_items(tmp_path):
    codes = torch.tensor([[0, 0], [3, 1], [2, 2]])
    path = tmp_path / "codes.json"
    write_codes(path, codes, ["[PAD]", "x", "y"], "shop")
    assert torch.equal(read_codes(path, ["[PAD]", "x", "y"]), codes)
    assert read_codes(path, ["[PAD]", "y", "x"]).tolist() == [[0, 0], [2, 2], [3, 1]]
    with pytest.raises(UserError, match="codes of dataset 'shop' with 2 items, not of these 1"):
        read_codes(path, ["[PAD]", "x"])
    assert [p.name for p in tmp_path.iterdir()] == ["codes.json"]


def test_fingerprint_is_of_the_set():
    assert items_fingerprint(["a", "b"]) == items_fingerprint(["b", "a"]) != items_fingerprint(["a", "c"])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "codes.json:1 is not JSON"),
        ("[" * 100_000, "codes.json is not JSON"),
        ('{"x": [' + "1" * 5_000 + "]}", "codes.json is not JSON"),
        ([], "holds a list"),
        ({}, "holds a dict"),
        ({"x": ["<a_1>"]}, "codes for 1 of the dataset's 2 items .item 'y' is missing"),
        ({"x": ["<a_1>"], "y": ["<a_1>", "<b_1>"]}, "mixes codes of 1 and 2 levels"),
        ({"x": ["<a_1>"], "y": "<a_1>"}, "item 'y' has code '<a_1>'"),
        ({"x": ["<a_1>", "<b_2>"], "y": ["<b_1>", "<a_2>"]}, "item 'y'"),
        ({"x": ["<a_1>"], "y": ["<a_-1>"]}, "item 'y'"),
        ({"x": [], "y": ["<a_1>"]}, "item 'x'"),
        (
            {
                "format": "recbole-sigma-codes-1",
                "items_sha256": items_fingerprint(["x", "y"]),
                "codes": {"x": [1], "y": [-1]},
            },
            "item 'y' has code .-1.",
        ),
    ],
)
def test_hostile_files_are_refused(tmp_path, content, sentence):
    with pytest.raises(UserError, match=sentence):
        read_codes(put(tmp_path / "codes.json", content), ["[PAD]", "x", "y"])


def test_broken_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist; nearest: codes.json"):
        put(tmp_path / "codes.json", {})
        read_codes(tmp_path / "code.json", ["[PAD]", "x"])
    whole = gzip.compress(json.dumps({"x": ["<a_1>"] * 100}).encode())
    (tmp_path / "cut.json.gz").write_bytes(whole[:-9])
    with pytest.raises(UserError, match="cut.json.gz cannot be read"):
        read_codes(tmp_path / "cut.json.gz", ["[PAD]", "x"])
    (tmp_path / "no.json.gz").write_bytes(b"not gzip")
    with pytest.raises(UserError, match="no.json.gz cannot be read"):
        read_codes(tmp_path / "no.json.gz", ["[PAD]", "x"])


def test_tables_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(published_ids, "_MAX_BYTES", 1 << 20)
    (tmp_path / "bomb.json.gz").write_bytes(gzip.compress(b" " * (1 << 22)))
    for path in (tmp_path / "bomb.json.gz", Path("/dev/zero")):
        with pytest.raises(UserError, match="cannot be read .it holds more than 1048576 bytes"):
            read_codes(path, ["[PAD]", "x"])
