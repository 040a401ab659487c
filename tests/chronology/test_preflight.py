"""Bad data: one clear sentence each, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_sigma.quick_start import run
from recbole_sigma.values import UserError

EVENTS = [(u, f"i{k}", 10 * k) for u in "abcd" for k in range(6)]


def test_missing_folder_names_the_nearest(write_dataset) -> None:
    values = write_dataset(EVENTS, "my-movies")
    with pytest.raises(UserError, match="my-movie does not exist; nearest: my-movies"):
        run("BPR", "my-movie", config_dict=values)


def test_missing_inter_file(write_dataset) -> None:
    values = write_dataset(EVENTS)
    path = Path(values["data_path"]) / "small" / "small.inter"
    path.rename(path.with_name("other.inter"))
    with pytest.raises(UserError, match=r"small.inter does not exist"):
        run("BPR", "small", config_dict=values)


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (
            "user_id:token\titem_id:token\ttime:float",
            r"has no column 'timestamp'.*it has user_id, item_id, time",
        ),
        ("user_id:token\titem:token\ttimestamp:float", r"has no column 'item_id'"),
        ("user_id:token,item_id:token,timestamp:float", r"is not `name:type`"),
        ("user_id\titem_id\ttimestamp", r"is not `name:type`"),
    ],
)
def test_wrong_columns(header, sentence, write_dataset) -> None:
    values = write_dataset(EVENTS, header=header)
    with pytest.raises(UserError, match=sentence):
        run("BPR", "small", config_dict=values)


def test_empty_file(write_dataset) -> None:
    with pytest.raises(UserError, match="holds no interaction"):
        run("BPR", "small", config_dict=write_dataset([]))


def test_list_longer_than_the_catalogue(write_dataset) -> None:
    values = write_dataset(EVENTS) | {"topk": [1, 7], "valid_metric": "NDCG@7"}
    with pytest.raises(UserError, match=r"topk 7 is larger than the catalogue of small \(6 items\)"):
        run("BPR", "small", config_dict=values)


def needs_text():
    from recbole_sigma.models.packed_sasrec import PackedSASRec

    class ReadsText(PackedSASRec):
        needs_item_text = True

    return ReadsText


@pytest.mark.parametrize(
    ("item_file", "more", "sentence"),
    [
        (None, {"text_fields": ["title"]}, r"reads item text, but .*small.item does not exist"),
        (
            "item_id:token\ttitel:token",
            {"text_fields": ["title"]},
            r"small.item:1 has no text field 'title'; nearest: titel",
        ),
        ("item_id:token\ttitle:token", {"text_fields": ["title"]}, "load_col does not load it"),
        ("item_id:token\ttitle:token", {"text_fields": []}, "set text_fields"),
    ],
)
def test_item_text(item_file, more, sentence, write_dataset) -> None:
    values = write_dataset(EVENTS) | more
    if item_file:
        (Path(values["data_path"]) / "small" / "small.item").write_text(f"{item_file}\ni1\tone\n")
    with pytest.raises(UserError, match=sentence):
        run(needs_text(), "small", config_dict=values)


def test_beam_smaller_than_the_list(write_dataset) -> None:
    with pytest.raises(UserError, match="decode_beam 1 is smaller than the longest list, topk 2"):
        run("BPR", "small", config_dict=write_dataset(EVENTS) | {"decode_beam": 1})


def test_nothing_was_written(write_dataset, scratch: Path) -> None:
    with pytest.raises(UserError):
        run("BPR", "small", config_dict=write_dataset(EVENTS) | {"topk": [9]})
    assert not (scratch / "saved").exists()
