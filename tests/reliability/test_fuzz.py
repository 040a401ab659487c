"""Readers of what users write: any bytes give a value or a sentence, and nothing else."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset_adapters.cli import main as convert
from recbole_sigma.data.atomic import Format, load_frame, read_header
from recbole_sigma.data.checks import line_problems
from recbole_sigma.machine.files import ArtifactStore
from recbole_sigma.run import checkpoint as files
from recbole_sigma.settings.reading import load_yaml, parse_arguments
from recbole_sigma.tokenization.trie import build_trie
from recbole_sigma.values import UserError

fuzz = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(st.text(max_size=60), st.text(max_size=60))
@fuzz
def test_any_words_on_the_command_line(key: str, value: str) -> None:
    problems: list[str] = []
    parse_arguments([f"--{key}={value}", key], problems)
    assert all(isinstance(problem, str) for problem in problems)


@given(st.binary(max_size=200))
@fuzz
def test_any_bytes_in_a_property_file(content: bytes) -> None:
    path = Path("fuzz.yaml")
    path.write_bytes(content)
    problems: list[str] = []
    assert isinstance(load_yaml(path, problems), dict)


@given(st.text(alphabet="ab: -[]{}!&*|>'\"\n#%@`,?", max_size=80))
@fuzz
def test_any_yaml_syntax_in_a_property_file(content: str) -> None:
    Path("fuzz.yaml").write_text(content, encoding="utf-8")
    assert isinstance(load_yaml("fuzz.yaml", []), dict)


@given(st.binary(max_size=300))
@fuzz
def test_any_bytes_in_an_atomic_file(content: bytes) -> None:
    path = Path("fuzz.inter")
    path.write_bytes(b"user_id:token\titem_id:token\ttimestamp:float\n" + content)
    found = line_problems(path, read_header(path, Format()), Format(), ["user_id"], ["timestamp"])
    assert all("fuzz.inter:" in problem for problem in found)
    try:
        frame, _ = load_frame(path, None, Format())
    except UserError as error:
        assert found and "fuzz.inter:" in str(error)  # the pre-flight had named a line too
    else:
        lines = [line.removesuffix(b"\r") for line in content.split(b"\n")]
        assert len(frame) == sum(map(bool, lines))  # as many rows as lines


@given(st.binary(max_size=400))
@fuzz
def test_any_bytes_as_a_checkpoint_or_artifact(content: bytes) -> None:
    store = ArtifactStore(".")
    for path, read in (
        (Path("fuzz.safetensors"), lambda: files.read("fuzz.safetensors")),
        (store.path("items", "k" * 64), lambda: store.load("items", "k" * 64)),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError):
            read()


# --- the trie ---

code = st.one_of(st.integers(-2, 5), st.sampled_from([2**31 - 1, -(2**31), 2**62]))


@given(
    st.lists(st.lists(code, min_size=3, max_size=3), max_size=12), st.lists(st.integers(-1, 6), max_size=4)
)
@fuzz
def test_any_table_of_codes(rows: list[list[int]], sizes: list[int]) -> None:
    """Refused, or a trie that knows exactly the rows of the table."""
    table = torch.tensor([[0, 0, 0], *rows], dtype=torch.int64)
    for wanted in (None, sizes):
        try:
            trie = build_trie(table, wanted) if wanted is not None else build_trie(table)
        except UserError:
            continue
        found = trie.codes_of(3, trie.leaf_of_item[1:].long()).tolist()
        ends = [size if end is None else end for size, end in zip(trie.sizes, trie.ends, strict=True)]
        assert found == [[c if c >= 0 else ends[j] for j, c in enumerate(row)] for row in rows]
        assert sorted(trie.item_of_leaf.tolist()) == list(range(1, len(rows) + 1))


# --- raw data of the adapters ---

HEAD = "user_id,history_item_title,item_title,history_item_id,item_id,history_item_sid,item_sid\n"
RAW: dict[str, tuple[list[str], str]] = {
    "movielens": (["--input=raw"], "1::1::5::978300760\n2::1::4::978300761\n"),
    "amazon2014": (
        ["--reviews=raw"],
        '{"reviewerID": "A1", "asin": "B1", "unixReviewTime": 1318896000, "overall": 5.0}\n',
    ),
    "amazon2014 metadata": (
        ["--reviews=reviews", "--meta=raw"],
        "{'asin': 'B1', 'categories': [['a', 'b']]}\n",
    ),
    "amazon2018": (
        ["--reviews=raw"],
        '{"reviewerID": "A1", "asin": "B1", "unixReviewTime": 1318896000, "overall": 5.0}\n',
    ),
    "amazon2023": (["--reviews=raw"], "user_id,parent_asin,rating,timestamp\nu1,p1,5.0,1600000000000\n"),
    "yelp": (
        ["--reviews=raw"],
        '{"user_id": "u", "business_id": "b", "stars": 5.0, "date": "2019-01-02 03:04:05"}\n',
    ),
    "lastfm": (["--input=raw"], "userID\tartistID\tweight\n2\t51\t13883\n"),
    "bestbuy": (
        ["--clicks=raw"],
        "user,sku,category,query,click_time,query_time\n"
        'a,2032,abcat,"x, y",2011-09-05 12:25:37.42,2011-09-05 12:25:01.187\n',
    ),
    "s3rec": (["--sequences=raw"], "1 5 6\n2 7 8\n"),
    "minionerec": (
        ["--test=raw", "--items=items.json", "--protocol=leave-one-out"],
        HEAD + 'A,[],t,"[1, 2]",3,[],s\n',
    ),
    "table": (["--input=raw", "--user=u", "--item=i", "--time=t"], "u,i,t\na,b,1600000000\n"),
}
pieces = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [b"\n", b"\t", b",", b'"', b"::", b"{", b"[" * 300, b"\x00", b"\xff\xfe", b"nan", b"1e999", b"-1"]
    ),
)


@pytest.mark.parametrize("name", RAW)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 6), pieces), max_size=4))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_to_raw_data(name: str, damage: list[tuple[int, int, bytes]]) -> None:
    """Bytes cut out and put in anywhere: a converted data set or one sentence."""
    words, text = RAW[name]
    Path("reviews").write_text(RAW["amazon2014"][1])
    Path("items.json").write_text(json.dumps({str(n): {"title": f"t{n}"} for n in range(9)}))
    content = text.encode()
    for place, cut, piece in damage:
        place %= len(content) + 1
        content = content[:place] + piece + content[place + cut :]
    Path("raw").write_bytes(content)
    given_words = [
        "convert",
        name.split()[0],
        *words,
        "--k-core=0",
        "--name=x",
        "--output=out",
        "--overwrite",
    ]
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        status = convert(given_words)
    assert status in (0, 2), error.getvalue()
    assert status == 0 or (error.getvalue().startswith("error: ") and error.getvalue().count("\n") == 1)
