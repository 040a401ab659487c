"""A line of an atomic file is a row, a cell is its text: nothing is swallowed or dropped in silence."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset_adapters.atomic import cell
from recbole_sigma.data.atomic import Format, load_frame, read_header
from recbole_sigma.data.checks import line_problems
from recbole_sigma.data.events import unit_of
from recbole_sigma.models import registry
from recbole_sigma.quick_start import run
from recbole_sigma.run.config import RunConfig as Config
from recbole_sigma.run.loaders import load_data
from recbole_sigma.values import UserError

# every user meets six of the eight items: RecBole's samplers refuse a user who met all
EVENTS = [(u, f"i{(k + n) % 8}", 10 * k) for n, u in enumerate("abcd") for k in range(6)]
TOKENS = Format(ids=frozenset({"item_id"}))
bounded = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def titles(lines: list[str], form: Format = TOKENS) -> list[object]:
    """The title column of a file with these lines below its header."""
    Path("x.item").write_bytes("\n".join(["item_id:token\ttitle:token", *lines, ""]).encode(form.encoding))
    frame, _ = load_frame(Path("x.item"), None, form)
    return frame["title"].tolist()


# what no cell can hold: the separators of columns and lines, and the zero byte, which marks damage
text = st.text(
    st.characters(exclude_characters="\t\n\r\0", exclude_categories=["Cs"]), min_size=1, max_size=20
)


@given(st.lists(text, min_size=1, max_size=8))
@bounded
def test_every_cell_is_its_text_and_every_line_a_row(values: list[str]) -> None:
    """However the adapters quote it, a title comes back as it was."""
    found = titles([f"i{place}\t{cell(value)}" for place, value in enumerate(values)])
    plain = [value for value in values if value != "[PAD]"]
    assert [title for title in found if isinstance(title, str)] == plain
    assert len(found) == len(values)


@given(st.lists(text, min_size=1, max_size=8))
@bounded
def test_what_a_csv_writer_quotes_is_read_back(values: list[str]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([f"i{place}", value] for place, value in enumerate(values))
    found = titles(stream.getvalue().split("\n")[:-1])
    assert [title for title in found if isinstance(title, str)] == [v for v in values if v != "[PAD]"]


@pytest.mark.parametrize(
    "title", ['"Heroes', '"12 inch" ruler', 'The Best"', '"', '""" x', "NA", "null", "nan", "-"]
)
def test_a_title_stands_as_it_is(title: str) -> None:
    assert titles(["i0\tfirst", f"i1\t{title}", 'i2\tthe "end']) == ["first", title, 'the "end']


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("i1\tFilm\rX", r"x.item:3 holds a carriage return"),
        ("i1\tFilm\0", r"x.item:3 holds a zero byte"),
        ("i1\ta\tb", r"x.item:3 has 3 columns, the header has 2"),
        ('i1\t"a\tb', r"x.item:3 has 3 columns, the header has 2"),
    ],
)
def test_what_is_no_row_is_named_by_file_and_line(line: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        titles(["i0\tfirst", line, "i2\tlast"])
    columns = read_header(Path("x.item"), TOKENS)
    assert [
        p for p in line_problems(Path("x.item"), columns, TOKENS) if "x.item:3" in p
    ]  # the pre-flight says so too


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "cp1252"])
def test_the_encoding_is_honoured(encoding: str) -> None:
    assert titles(["i0\tMisérables"], Format(encoding=encoding)) == ["Misérables"]


def test_text_of_another_encoding_is_named_by_file_and_line() -> None:
    titles(["i0\tx", "i1\tMisérables"], Format(encoding="latin-1"))
    with pytest.raises(UserError, match=r"x.item:3 is not UTF-8 text.*encoding: latin-1"):
        load_frame(Path("x.item"), None, TOKENS)


def test_a_byte_order_mark_is_no_part_of_the_header() -> None:
    Path("x.item").write_bytes("item_id:token\ttitle:token\ni0\tx\n".encode("utf-8-sig"))
    assert [column.name for column in read_header(Path("x.item"), TOKENS)] == ["item_id", "title"]


@pytest.mark.parametrize("encoding", ["utf-16", "base64", "nothing", "idna\0"])
def test_an_encoding_that_cannot_be_read_is_refused(encoding: str, write_dataset) -> None:
    with pytest.raises(UserError, match="encoding"):
        run("Pop", "small", config_dict={**write_dataset(EVENTS), "encoding": encoding})


@pytest.mark.parametrize("value", ["—", "1_000", "9" * 400, "inf", "0x10"])
def test_a_number_that_is_none_is_named_by_file_and_line(value: str) -> None:
    Path("x.item").write_text(f"item_id:token\tprice:float\ni0\t9.9\ni1\t{value}\n")
    with pytest.raises(UserError, match=r"x.item:3 has .* in column 'price', which is no finite number"):
        load_frame(Path("x.item"), None, TOKENS)
    frame, _ = load_frame(Path("x.item"), {"item_id"}, TOKENS)  # a column that is not loaded is not read
    assert len(frame) == 2


@pytest.mark.parametrize("value", ["", "NA", "nan", "null"])
def test_a_missing_number_is_missing(value: str) -> None:
    Path("x.item").write_text(f"item_id:token\tprice:float\ni0\t9.9\ni1\t{value}\n")
    frame, _ = load_frame(Path("x.item"), None, TOKENS)
    assert frame["price"].isna().tolist() == [False, True]


# --- a dataset as a whole ---


def load(values: dict, model: str = "Pop"):
    config = Config(model, "small", config_dict=values)
    return load_data(config, config.model_class).dataset


@pytest.mark.parametrize("name", ["NA", "null", "nan", "None", "N/A", " i3", "i3 ", '"i3"', "-1", "0"])
def test_an_id_is_an_id_whatever_it_looks_like(name: str, write_dataset) -> None:
    events = [(u, name if i == "i3" else i, t) for u, i, t in EVENTS]
    values = write_dataset(events)
    folder = Path(values["data_path"]) / "small"
    rows = "".join(f"{i}\ttitle\n" for i in ["i0", "i1", "i2", name.strip(), *(f"i{k}" for k in range(4, 8))])
    (folder / "small.item").write_text(f"item_id:token\ttitle:token\n{rows}")
    values["load_col"] = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]}
    found = load(values)
    assert len(found.chronology) == len(EVENTS)
    assert found.item_num == 8 + 1
    assert name.strip().strip('"') in found.field2token_id["item_id"]


def test_the_name_of_the_padding_is_refused(write_dataset) -> None:
    with pytest.raises(UserError, match=r"small.inter:2 has \[PAD\] in column 'item_id'"):
        load(write_dataset([("a", "[PAD]", 1), *EVENTS]))


@pytest.mark.parametrize("model", ["Pop", "BPR", "PackedSASRec"])
def test_events_of_items_without_a_row_stay_and_are_counted(model: str, write_dataset, caplog) -> None:
    values = write_dataset(EVENTS)
    (Path(values["data_path"]) / "small" / "small.item").write_text(
        "item_id:token\ttitle:token\n" + "".join(f"i{k}\tx{k}\n" for k in range(7))
    )
    values["load_col"] = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]}
    with caplog.at_level(logging.WARNING):
        found = load(values, model)
    kept = len(found.chronology)
    alone = len(
        load({**values, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}, model).chronology
    )
    assert kept == alone
    assert any("have no row in the .item file" in record.getMessage() for record in caplog.records)
    with caplog.at_level(logging.INFO):
        fewer = load({**values, "filter_inter_by_user_or_item": True}, model)
    gone = kept - len(fewer.chronology)
    assert gone > 0
    assert any(f"{gone} of {kept} events are left out" in record.getMessage() for record in caplog.records)


def test_what_a_filter_takes_away_is_counted(write_dataset, caplog) -> None:
    values = write_dataset([*EVENTS, ("e", "i0", 1), ("e", "i1", 2)])
    with caplog.at_level(logging.INFO):
        found = load({**values, "user_inter_num_interval": "[3,inf)"})
    assert len(found.chronology) == len(EVENTS)
    said = [record.getMessage() for record in caplog.records]
    assert any(
        f"2 of {len(EVENTS) + 2} events are left out by user_inter_num_interval" in line for line in said
    )


@pytest.mark.parametrize(
    ("header", "role"),
    [
        ("user_id:token\titem_id:token\ttimestamp:token", "TIME_FIELD"),
        ("user_id:float\titem_id:token\ttimestamp:float", "USER_ID_FIELD"),
        ("user_id:token\titem_id:token_seq\ttimestamp:float", "ITEM_ID_FIELD"),
    ],
)
def test_a_declared_type_that_does_not_fit_its_role(header: str, role: str, write_dataset) -> None:
    with pytest.raises(UserError, match=rf"small.inter:1 declares .* but {role} names it, which needs"):
        load(write_dataset(EVENTS, header=header))


def test_times_that_a_double_cannot_hold_are_refused(write_dataset) -> None:
    with pytest.raises(UserError, match="too large to be kept exactly"):
        load(write_dataset([(u, i, 1_600_000_000_000_000_000 + t) for u, i, t in EVENTS]))


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
def test_the_unit_of_a_time_follows_from_its_size(scale: float) -> None:
    times = torch.tensor([1.0e9, 1.3e9, 1.7e9], dtype=torch.float64)
    assert unit_of(times * scale) == scale
    assert unit_of(torch.tensor([1.0, 2.0, 3.0]) * scale) is None  # positions
    assert unit_of(torch.tensor([1.3e9, 1.3e9 * 1000], dtype=torch.float64) * scale) is None  # two units


def test_headers_are_read_as_cells_are_and_blank_lines_hide_no_row(tmp_path) -> None:
    """A CSV writer that quotes everything quotes the header; blank lines may stand anywhere."""
    folder = tmp_path / "q"
    folder.mkdir()
    events = [f'"u{u}"\t"i{(u + k) % 9}"\t"{1_300_000_000 + k}"' for u in range(20) for k in range(5)]
    head = '"user_id:token"\t"item_id:token"\t"timestamp:float"'
    (folder / "q.inter").write_text("\n".join([head, "", "", *events, ""]) + "\n")
    values = {"data_path": str(tmp_path), "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    values |= {"topk": [5], "valid_metric": "NDCG@5"}
    config, pop = Config("Pop", "q", config_dict=values), registry.find_model("Pop")
    assert len(load_data(config, pop).dataset.inter_feat) == 100
    (folder / "q.item").write_text("item_id:token\ttitle:token_seq\n\n")
    values["load_col"] = {**values["load_col"], "item": ["item_id", "title"]}
    with pytest.raises(UserError, match="q.item holds no item below its header"):
        load_data(Config("Pop", "q", config_dict=values), pop)
