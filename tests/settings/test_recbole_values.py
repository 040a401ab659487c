"""Values of RecBole's own keys: intervals mean what their brackets say, wrong kinds are told by key."""

from __future__ import annotations

import importlib.util
import re
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_sigma.run.config import RunConfig as Config
from recbole_sigma.run.loaders import load_data
from recbole_sigma.settings import recipes
from recbole_sigma.settings.reading import parse_value
from recbole_sigma.settings.recbole_values import INTERVAL_KEYS, interval_problem, value_problems
from recbole_sigma.values import UserError

# users with 6, 7, ... 15 events of 20 items
EVENTS = [(f"u{n}", f"i{(n + k) % 20}", k) for n in range(6, 16) for k in range(n)]


@pytest.mark.parametrize(
    ("given_", "low", "high"),
    [("(6,15)", 7, 14), ("[6,15]", 6, 15), ("(6,15]", 7, 15), ("[6,15)", 6, 14), ("[8,inf)", 8, 15)],
)
@pytest.mark.parametrize("way", ["word", "value"])
def test_brackets_keep_their_meaning(given_: str, low: int, high: int, way: str, write_dataset) -> None:
    values = write_dataset(EVENTS)
    if way == "word":
        config = Config("Pop", "small", config_dict=values, arguments=[f"--user_inter_num_interval={given_}"])
    else:
        config = Config("Pop", "small", config_dict={**values, "user_inter_num_interval": given_})
    counts = torch.bincount(load_data(config, config.model_class).dataset.chronology.users)[1:]
    assert (int(counts.min()), int(counts.max())) == (low, high)


def test_a_tuple_is_open_and_a_list_is_closed(write_dataset) -> None:
    for value, kept in (((6, 15), "(6, 15)"), ([6, 15], "[6, 15]")):
        config = Config(
            "Pop", "small", config_dict={**write_dataset(EVENTS), "user_inter_num_interval": value}
        )
        assert config.requested["user_inter_num_interval"] == kept  # as a checkpoint will hold it


@given(st.text(alphabet="[]()0123456789,;.-+einf ", max_size=14))
def test_an_interval_is_read_by_recbole_or_refused(text: str) -> None:
    from recbole.data.dataset import Dataset

    if interval_problem(INTERVAL_KEYS[0], text) is None:
        found = Dataset._parse_intervals_str(None, text)  # logs through self where it cannot read
        assert len(found) == text.count(";") + 1
        assert all(low <= high for _, low, high, _ in found)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("user_inter_num_interval", "banana"), ("item_inter_num_interval", "[9,2]"),
        ("user_inter_num_interval", "(5,5)"), ("val_interval", {"rating": "banana"}), ("val_interval", 5),
        ("load_col", 5), ("load_col", {"inter": 5}), ("load_col", ["inter"]), ("unload_col", "inter"),
        ("embedding_size", -5), ("embedding_size", "big"), ("hidden_size", 0), ("n_layers", 1.5),
        ("n_heads", 7), ("encoding", 5), ("data_path", ["x"]), ("field_separator", ""), ("threshold", 3),
        ("selected_features", [5]), ("benchmark_filename", {"a": 1}), ("USER_ID_FIELD", 3),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_sentence_with_its_key(key: str, value: Any, write_dataset) -> None:
    with pytest.raises(UserError, match=key):
        Config("SASRec", "small", config_dict={**write_dataset(EVENTS), key: value})


@pytest.mark.parametrize("key", [*INTERVAL_KEYS, "val_interval", "load_col", "seq_len", "selected_features"])
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    )
)
def test_any_value_is_good_or_a_sentence(key: str, value: Any) -> None:
    assert all(isinstance(problem, str) for problem in value_problems({key: value}))


@pytest.mark.parametrize(
    ("model", "key", "value"),
    [
        ("Pop", "save_dataset", True), ("Pop", "save_dataloaders", True),
        ("SASRec", "dataset_save_path", "x.pth"),
    ],
)  # fmt: skip
def test_a_key_without_effect_says_so(model: str, key: str, value: Any, write_dataset) -> None:
    with pytest.raises(UserError, match=f"{key} has no effect"):
        Config(model, "small", config_dict={**write_dataset(EVENTS), key: value})


@pytest.mark.parametrize("model", ["SIGMA", "BPR"])
def test_a_key_of_other_models_is_told_but_not_refused(model: str, write_dataset, caplog) -> None:
    """A table gives its words to every row."""
    caplog.set_level("WARNING")
    Config(model, "small", config_dict=write_dataset(EVENTS), arguments=["--loss_type=CE"])
    assert f"loss_type has no effect on {model}" in caplog.text


@pytest.mark.parametrize("text", ["0x" + "f" * 5_000, "9" * 5_000, "[0x" + "f" * 5_000 + "]"])
def test_a_number_that_python_cannot_show_stays_text(text: str) -> None:
    assert parse_value(text) == text


@pytest.mark.parametrize(
    "values",
    [
        {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}},
        {"repeatable": False},
        {"seed": None},
    ],
)
def test_what_recbole_refuses_is_no_fault_of_this_program(values: dict[str, Any], write_dataset) -> None:
    from recbole_sigma.quick_start import run

    small = {"epochs": 1, "n_layers": 1, "hidden_size": 8, "inner_size": 8}
    with pytest.raises(UserError):
        run("SASRec", "small", config_dict={**write_dataset(EVENTS), **small, **values}, saved=False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rm_dup_inter", "foo"), ("rm_dup_inter", True), ("clip_grad_norm", "banana"), ("clip_grad_norm", 5),
        ("clip_grad_norm", {"max_norm": float("nan")}), ("clip_grad_norm", {"max_norm": 1, "foo": 2}),
        ("clip_grad_norm", {"norm_type": 2}),
    ],
)  # fmt: skip
def test_what_a_library_would_refuse_late_is_refused_early(key: str, value: object) -> None:
    assert any(problem.startswith(f"{key} must be") for problem in value_problems({key: value}))
    assert not value_problems({"rm_dup_inter": "first", "clip_grad_norm": {"max_norm": 5, "norm_type": 2}})


def test_the_wrong_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"{re.escape(sys.executable)}: use the Python of .venv"):
        recipes.recbole_folder()
