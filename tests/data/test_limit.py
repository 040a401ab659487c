"""``limit``: the first users of the file and nobody else, whatever the model reads."""

from __future__ import annotations

import pytest

from recbole_sigma.quick_start import run
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.loaders import load_data
from recbole_sigma.values import UserError
from tests.planted import tiny

EVENTS = [(f"u{9 - u}", f"i{(u + step) % 8}", 10 * step + u) for u in range(9) for step in range(6)]


def users_of(model: str, values: dict) -> set[str]:
    config = RunConfig(model, "small", config_dict=values)
    data = load_data(config, config.model_class)
    events = data.dataset.chronology
    return {str(data.dataset.id2token(data.dataset.uid_field, u)) for u in events.users.tolist()}


@pytest.mark.parametrize("model", ["BPR", "SASRec", "PackedSASRec", "WindowItemKNN"])
def test_every_model_keeps_the_same_first_users(model: str, write_dataset) -> None:
    values = write_dataset(EVENTS)
    assert users_of(model, {**values, "limit": 3}) == {"u9", "u8", "u7"}
    assert len(users_of(model, values)) == 9
    assert users_of(model, {**values, "limit": 50}) == users_of(model, values)


def test_the_filters_ask_the_whole_data_set(write_dataset) -> None:
    """A user whose items are frequent in the whole set stays, though among the few they are rare."""
    values = {**write_dataset(EVENTS), "item_inter_num_interval": "[5,inf)", "limit": 2}
    assert users_of("SASRec", values) == {"u9", "u8"}


def test_the_result_says_it_and_judges_only_them(write_dataset) -> None:
    values = {**write_dataset(EVENTS), **tiny("SASRec"), "limit": 4, "topk": [1], "valid_metric": "NDCG@1"}
    result = run("SASRec", "small", config_dict=values, saved=False)
    assert len(result["test"].targets) == 4 and result["protocol"]["limit"] == 4


def test_a_published_split_is_not_cut(write_dataset) -> None:
    values = {**write_dataset(EVENTS), "limit": 4, "benchmark_filename": ["train", "valid", "test"]}
    with pytest.raises(UserError, match="limit cannot shorten a published split"):
        RunConfig("SASRec", "small", config_dict=values)
