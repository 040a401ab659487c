"""Bad data: one clear sentence each, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_sigma.quick_start import run
from recbole_sigma.values import UserError

EVENTS = [(u, f"i{k}", 10 * k) for u in "abcd" for k in range(6)]


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
