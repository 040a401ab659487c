"""A file of requests: a value of another kind is named by file and line, never taken for what it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recbole_sigma.commands import recommend as commands
from recbole_sigma.commands.recommend import read_requests
from recbole_sigma.recommend.answers import Request
from recbole_sigma.recommend.titles import Titles
from recbole_sigma.values import UserError


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"keep_seen": "false"}, "keep_seen must be true or false"),
        ({"keep_seen": 0}, "keep_seen must be true or false"),
        ({"history": "Toy Story"}, "history must be a list"),
        ({"history": [["a"]]}, "history must be a list"),
        ({"user": {"id": 1}}, "user must be text"),
        ({"instruction": ["a"]}, "instruction must be text"),
        ({"slot": True}, "slot must be text"),
    ],
)
def test_a_value_of_another_kind(values: dict[str, Any], sentence: str) -> None:
    Path("r.txt").write_text(f"u1\n{json.dumps(values)}\n")
    with pytest.raises(UserError, match=rf"r.txt:2: {sentence}"):
        read_requests(Path("r.txt"), Request())


def test_deep_json_is_a_sentence() -> None:
    Path("r.txt").write_text('{"user": ' + "[" * 100_000 + "\n")
    with pytest.raises(UserError, match=r"r.txt:1 is no JSON object"):
        read_requests(Path("r.txt"), Request())


def test_a_key_that_stands_twice_and_a_file_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("r.txt").write_text('{"user": "a", "user": "b"}\n')
    with pytest.raises(UserError, match=r"r.txt:1 is no JSON object: a key stands in it twice"):
        read_requests(Path("r.txt"), Request())
    monkeypatch.setattr(commands, "MAX_BYTES", 1 << 20)
    with pytest.raises(UserError, match="/dev/zero cannot be read: it is longer than 1048576 bytes"):
        read_requests(Path("/dev/zero"), Request())


def test_a_byte_order_mark_is_no_part_of_the_first_id() -> None:
    Path("r.txt").write_text("u1\n", encoding="utf-8-sig")
    assert read_requests(Path("r.txt"), Request())[0][1].user == "u1"


def test_values_of_the_right_kind() -> None:
    Path("r.txt").write_text('u1\n{"user": 7, "history": ["a", 3], "keep_seen": false}\n')
    first, second = (request for _, request in read_requests(Path("r.txt"), Request()))
    assert (first.user, second.user, second.history, second.keep_seen) == ("u1", "7", ["a", 3], False)


TITLES = Titles(["[PAD]", "21", "7", "300"], ["", "Quiz Evening (1994)", "21 (2008)", "300"])


def test_what_a_number_names_is_said() -> None:
    assert TITLES.find("21") == 1
    (note,) = TITLES.readings(["21", "Quiz Evening"])
    assert "is read as the id of Quiz Evening (1994) [21]" in note and "21 (2008) [7]" in note
    assert TITLES.readings(["300", "7"]) == []  # nothing else is called so


@pytest.mark.parametrize("text", ["[7]", "21 (2008) [7]"])
def test_the_id_in_brackets_names_the_item(text: str) -> None:
    assert TITLES.find(text) == 2
