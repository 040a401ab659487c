"""Readers of what users write: any bytes give a value or a sentence, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_sigma import checkpoint as files
from recbole_sigma.artifacts import ArtifactStore
from recbole_sigma.atomic_lines import line_problems
from recbole_sigma.settings import load_yaml, parse_arguments
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
    found = line_problems(path, ["user_id", "item_id", "timestamp"], "\t", ["user_id"], ["timestamp"])
    assert all("fuzz.inter:" in problem for problem in found)


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
