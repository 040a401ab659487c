"""What every model must do, whatever it is: lists of unique real items, the policy, repeatability."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recbole_sigma import quick_start
from recbole_sigma.evaluation.histories import Histories
from recbole_sigma.evaluation.judge import Judge
from recbole_sigma.models import registry
from recbole_sigma.models.contract import contract
from recbole_sigma.quick_start import evaluate_checkpoint, run
from recbole_sigma.run.config import RunConfig
from recbole_sigma.values import RankedItems
from tests.arithmetic import SCORES
from tests.planted import tiny

# models of labelled rows keep their part of the contract in tests/ctr and tests/run/test_every_model.py
OF_LISTS = [name for name in registry.available_models() if ".ctr." not in registry.MODELS[name].module]
MODELS = ["Pop", "BPR", "SASRec", "GRU4Rec", "BERT4Rec", *OF_LISTS]


@pytest.fixture(scope="module", params=MODELS)
def trained(request, planted, tmp_path_factory) -> dict[str, Any]:
    """A model of each kind, trained for a moment, with its loaders."""
    folder = tmp_path_factory.mktemp(request.param)
    values = {
        **planted,
        **tiny(request.param),
        "checkpoint_dir": str(folder),
        "log_dir": str(folder / "log"),
        "topk": [1, 5, 10],
    }
    if request.param in ("SIGMA", "TIGER"):
        values["artifact_dir"] = str(folder / "artifacts")
    result = run(request.param, "planted", config_dict=values)
    config, model, dataset, train, valid, test = quick_start.load_data_and_model(result["checkpoint"])
    return {
        "name": request.param,
        "values": values,
        "result": result,
        "config": config,
        "model": model,
        "dataset": dataset,
        "test": test,
    }


def lists(
    trained: dict[str, Any], rows: slice | None = None, k: int | None = None, seen: bool = True
) -> RankedItems:
    judge = Judge(trained["config"])
    if k is not None:
        judge.k = k
    interaction, history, _, _ = next(iter(trained["test"]))
    pairs = Histories(trained["test"])
    if rows is not None:
        interaction = interaction[torch.arange(len(interaction))[rows]]
        history = None
    forbidden = pairs(interaction, history) if seen else None
    trained["model"].eval()
    with torch.no_grad():
        return judge.rank(
            trained["model"], interaction, trained["dataset"].item_num, forbidden, trained["test"]
        )


def test_lists_hold_k_unique_real_items(trained) -> None:
    ranked = lists(trained)
    assert ranked.items.shape[1] == 10
    for row in ranked.items.tolist():
        assert len(set(row)) == 10 and min(row) >= 1 and max(row) < trained["dataset"].item_num
    assert (ranked.scores.diff(dim=1) <= 0).all() and torch.isfinite(ranked.scores).all()


def test_seen_items_are_never_recommended(trained) -> None:
    interaction, *_ = next(iter(trained["test"]))
    row, item = Histories(trained["test"])(interaction, None)
    ranked = lists(trained)
    for r, i in zip(row.tolist(), item.tolist(), strict=True):
        assert i not in ranked.items[r].tolist()
    assert not torch.equal(lists(trained, seen=False).items, ranked.items)  # the filter did something


def test_a_row_alone_gives_what_it_gives_in_a_batch(trained) -> None:
    batch = lists(trained)
    for position in (0, 7, 31):
        single = lists(trained, slice(position, position + 1))
        torch.testing.assert_close(single.scores[0], batch.scores[position], **SCORES)
        same = (single.items[0] == batch.items[position]).float().mean()
        assert same >= 0.8  # near-ties may swap when the batch size changes the arithmetic


def test_a_list_longer_than_the_catalogue_ends_in_empty_slots(trained) -> None:
    n_items = trained["dataset"].item_num
    ranked = lists(trained, k=n_items + 5)
    interaction, *_ = next(iter(trained["test"]))
    row, item = Histories(trained["test"])(interaction, None)
    for r, got in enumerate(ranked.items.tolist()):
        filled = [i for i in got if i]
        seen = set(item[row == r].tolist())
        assert got == filled + [0] * (len(got) - len(filled))
        assert sorted(filled) == sorted(set(range(1, n_items)) - seen)


def test_a_saved_model_is_the_same_model(trained) -> None:
    again = evaluate_checkpoint(trained["result"]["checkpoint"])
    assert dict(again.metrics) == trained["result"]["test_result"]
    assert (again.places == trained["result"]["test"].places).all()


def test_the_same_seed_gives_the_same_numbers(trained) -> None:
    again = run(trained["name"], "planted", config_dict=trained["values"], saved=False)
    assert again["test_result"] == trained["result"]["test_result"]
    assert [h["train_loss"] for h in again["history"]] == [
        h["train_loss"] for h in trained["result"]["history"]
    ]


def test_another_seed_gives_other_weights(trained) -> None:
    if contract(trained["model"]).training_free:
        pytest.skip("nothing is drawn at random")
    other = run(trained["name"], "planted", config_dict={**trained["values"], "seed": 7}, saved=False)
    assert [h["train_loss"] for h in other["history"]] != [
        h["train_loss"] for h in trained["result"]["history"]
    ]


def test_the_config_is_the_one_asked_for(trained) -> None:
    config = RunConfig(trained["name"], "planted", config_dict=trained["values"])
    stored = trained["config"].requested
    assert stored.keys() == config.requested.keys()
    differing = {key for key in stored if stored[key] != config.requested[key]}
    assert all(config.requested[key] is None for key in differing), "left to the data, which settled it"
    assert not differing or trained["name"] == "SIGMA"
