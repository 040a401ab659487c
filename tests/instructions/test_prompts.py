import itertools

import pytest

from recbole_sigma.instructions.tasks import load_task, load_tasks
from recbole_sigma.language.vocabulary import (
    END,
    PAD,
    START,
    code_offsets,
    code_token,
    encode_left_padded,
    profile_text,
    thinned,
    train_bpe,
)
from recbole_sigma.settings.recipes import properties_dir
from recbole_sigma.values import UserError

TEXTS = ["red running shoe", "blue running shoe", "Café crème", "predict the next item."] * 5


def test_large_catalogues_are_thinned_evenly_and_small_ones_are_read_whole() -> None:
    assert thinned(["a", "b", "c"], 3) == ["a", "b", "c"]
    assert thinned([], 3) == []
    for count in range(1, 40):
        left = thinned(list(map(str, range(count))), 7)
        steps = {int(b) - int(a) for a, b in itertools.pairwise(left)}
        assert 1 <= len(left) <= 7 and left[0] == "0" and len(steps) <= 1
        assert count - int(left[-1]) <= max(steps, default=count)


def test_codes_are_single_tokens_with_consecutive_ids_per_level():
    tokenizer = train_bpe(TEXTS, 300, (5, 3))
    first, second = code_offsets(tokenizer, (5, 3))
    assert [tokenizer.token_to_id(code_token(0, c)) for c in range(5)] == list(range(first, first + 5))
    assert [tokenizer.token_to_id(code_token(1, c)) for c in range(3)] == list(range(second, second + 3))
    assert tokenizer.encode("<a_3>").ids == [first + 3]
    with pytest.raises(ValueError, match="codebook of 6"):
        code_offsets(tokenizer, (6,))


def test_any_text_survives_the_tokenizer():
    tokenizer = train_bpe(TEXTS, 300, ())
    for text in ("red shoe", "日本語 🙂", "tab\tand quote \" '", ""):
        assert tokenizer.decode(tokenizer.encode(text).ids).strip() == text.lower().strip()


def test_training_twice_gives_one_tokenizer():
    assert train_bpe(TEXTS, 300, (4,)).to_str() == train_bpe(TEXTS, 300, (4,)).to_str()


def test_rows_end_in_one_column():
    tokenizer = train_bpe(TEXTS, 300, ())
    pad, start, end = (tokenizer.token_to_id(name) for name in (PAD, START, END))
    rows = encode_left_padded(tokenizer, ["red", "red running shoe"], start=True, end=True)
    assert (rows[:, -1] == end).all()
    for row in rows:
        real = row[row != pad]
        assert real[0] == start and (row[: len(row) - len(real)] == pad).all()


def test_texts_that_come_again_are_the_rows_that_they_are_alone():
    tokenizer = train_bpe(TEXTS, 300, ())
    texts = ["red", "red running shoe", "red", "", "red running shoe"]
    rows = encode_left_padded(tokenizer, texts, start=True, end=False)
    for row, text in zip(rows, texts, strict=True):
        alone = encode_left_padded(tokenizer, [text], start=True, end=False, width=rows.shape[1])
        assert row.tolist() == alone[0].tolist()


def test_unknown_profile_values_are_left_out():
    assert profile_text({"age": "[PAD]", "gender": "F"}) == "user profile: gender F. recent items:"
    assert profile_text({"age": ""}) == "recent items:"


def test_the_shipped_task():
    task = load_tasks(properties_dir() / "tasks")["JustForYou"]
    assert len(task.templates) >= 5 and task.slots == () and task.version >= 1


GOOD = (
    "name: A\nversion: 1\nweight: 1\nslots: [x]\nminimum_support: 1\nminimum_test_rows: 1\nrule: category\n"
    "options: {least_items: 1}\nheld_out: 'get {x}'\ntemplates: ['find {x}']\n"
)


@pytest.mark.parametrize(
    "change, message",
    [
        (("templates: ['find {x}']", "templates: []"), "at least one"),
        (("{x}", "{y}"), "slot"),
        (("{x}", "{"), "brace without its partner"),
        (("weight: 1\n", ""), "weight"),
        (("weight: 1\n", "weight: 1\ncolour: 2\n"), "colour"),
        (("name: A", "name: [A"), "is not valid YAML"),
        (("name: A", "name: " + "[" * 20_000), "nests its values too deep"),
        (("name: A", "name: A\nname: B"), "stands there twice"),
        (("find {x}", "find {x.__class__}"), "outside slots"),
        (("find {x}", "find {x:>999999999}"), "outside slots"),
        (("find {x}", "find {x!r}"), "outside slots"),
        (("find {x}", "find {}"), "outside slots"),
        (("'find {x}'", "'find it'"), "lacks the slot"),
        (("'get {x}'", "'find {x}'"), "held_out"),
        (("'get {x}'", "''"), "lacks the slot"),
        (("slots: [x]", "slots: [x, y]"), "at most one slot"),
        (("rule: category", "rule: categories"), "rule: 'categories' is unknown"),
        (("least_items: 1", "least: 1"), "takes exactly"),
        (("least_items: 1", "least_items: many"), "least_items: give a number"),
        (("weight: 1", "weight: -1"), "weight: give a number"),
    ],
)
def test_bad_task_files_are_refused_with_their_path(tmp_path, change, message):
    path = tmp_path / "task.yaml"
    path.write_text(GOOD)
    assert load_task(path).templates == ("find {x}",)
    path.write_text(GOOD.replace(*change))
    with pytest.raises(UserError, match=message) as error:
        load_task(path)
    assert str(path) in str(error.value)


def test_two_files_of_one_name_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="no task files"):
        load_tasks(tmp_path)
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text(GOOD)
    with pytest.raises(UserError, match="already taken"):
        load_tasks(tmp_path)
