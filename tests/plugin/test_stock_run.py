"""RecBole's own run_recbole with our names, as a user's script calls it."""

from __future__ import annotations

import inspect
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml

from recbole_sigma.values import UserError
from tests.planted import tiny


def stock(model, planted, **more):
    from recbole.quick_start import run_recbole

    return run_recbole(model=model, dataset="planted", config_dict={**planted, **more})


@pytest.mark.parametrize(
    "name", ["WindowItemKNN", "ClosedForm", "PackedSASRec", "HSTU", "BSARec", "SIGMA", "TIGER"]
)
def test_run_recbole_and_reload(name, planted, scratch: Path) -> None:
    from recbole.quick_start import load_data_and_model
    from recbole.trainer import Trainer

    from recbole_sigma.run.trainer import make_trainer

    result = stock(name, planted, **tiny(name))
    assert set(result["test_result"]) >= {"hit@10", "ndcg@10"}
    (file,) = (scratch / "saved").glob("*.safetensors")
    config, model, dataset, train, valid, test = load_data_and_model(str(file))
    assert type(model).__name__ == name
    again = make_trainer(Trainer)(config, model).evaluate(test, load_best_model=False)
    assert dict(again) == dict(result["test_result"])
    check_recboles_functions(model, dataset, test, config["device"])


def check_recboles_functions(model, dataset, test, device) -> None:
    """Every public function of RecBole's that takes a model, but for training itself."""
    from recbole.utils import case_study, get_flops
    from recbole.utils.case_study import full_sort_scores, full_sort_topk

    users = dataset.token2id(dataset.uid_field, ["u0", "u7", "u14"])
    scores = full_sort_scores(users, model, test, device=device)
    assert scores.shape == (3, dataset.item_num) and (scores[:, 0] == -torch.inf).all()
    best, items = full_sort_topk(users, model, test, k=5, device=device)
    assert torch.equal(scores.gather(1, items), best) and (items > 0).all()
    assert scores.add_(1.0) is scores  # nothing of it is read-only
    assert get_flops(model, dataset, device, None, None) == 1
    known = {"full_sort_scores", "full_sort_topk", "get_flops"}
    assert takes_a_model(case_study) | takes_a_model(sys.modules["recbole.utils.utils"]) == known


def takes_a_model(module) -> set[str]:
    """Names of a module's own functions with a parameter ``model`` that is a model, not a name."""
    functions = inspect.getmembers(module, inspect.isfunction)
    return {
        name
        for name, function in functions
        if function.__module__.startswith("recbole.") and "model" in inspect.signature(function).parameters
    }


def test_a_class_in_place_of_the_name(planted) -> None:
    from recbole_sigma.models.packed_sasrec import PackedSASRec

    class MyPackedSASRec(PackedSASRec):
        """A user's model; inherits dataset, trainer and defaults."""

    named = stock("PackedSASRec", planted, **tiny("PackedSASRec"))
    passed = stock(MyPackedSASRec, planted, **tiny("PackedSASRec"))
    assert passed["test_result"] == named["test_result"]


def test_a_stock_model_keeps_recboles_defaults(planted) -> None:
    from recbole.config import Config

    config = Config("BPR", "planted", config_dict=dict(planted))
    assert config["filter_seen"] is None and config["topk"] == [10]
    assert config["eval_args"]["order"] == "RO"


def test_an_old_pickle_still_goes_to_recboles_loader(scratch: Path) -> None:
    from recbole.quick_start import load_data_and_model

    torch.save({"weights": torch.zeros(1)}, scratch / "old.pth")
    with pytest.raises(KeyError):  # RecBole looks for its config in it
        load_data_and_model(str(scratch / "old.pth"))


def test_recboles_own_trainer_stores_what_todays_torch_reads(planted, scratch: Path) -> None:
    """RecBole pickles its Config, which torch 2.6 refuses: every training ended before the test."""
    from recbole.quick_start import load_data_and_model
    from recbole.trainer import Trainer

    result = stock("BPR", planted, epochs=1, topk=[10], metrics=["Hit"], valid_metric="Hit@10")
    (file,) = (scratch / "saved").glob("*.pth")
    config, model, _, _, _, test = load_data_and_model(str(file))
    again = Trainer(config, model).evaluate(test, load_best_model=False)
    assert dict(again) == dict(result["test_result"])
    assert not torch.serialization.get_unsafe_globals_in_checkpoint(file)


@pytest.mark.parametrize("algorithm", ["exhaustive", "bayes"])
def test_recboles_search_draws_with_todays_hyperopt(algorithm, planted, scratch: Path) -> None:
    pytest.importorskip("hyperopt")
    from recbole.quick_start import objective_function
    from recbole.trainer import HyperTuning

    Path("space").write_text("learning_rate choice [0.01,0.001]\n")
    values = {
        **planted,
        "model": "BPR",
        "dataset": "planted",
        "epochs": 1,
        "topk": [10],
        "valid_metric": "Hit@10",
    }
    Path("fixed.yaml").write_text(yaml.safe_dump(values))
    search = HyperTuning(
        objective_function,
        algo=algorithm,
        max_evals=2,
        params_file="space",
        fixed_config_file_list=["fixed.yaml"],
    )
    search.run()
    assert search.best_params["learning_rate"] in (0.01, 0.001)


def test_a_key_that_nothing_reads_is_told(planted) -> None:
    """RecBole takes any key in silence and trains the default."""
    with pytest.warns(UserWarning, match="no effect") as caught:
        stock("BPR", planted, **tiny("BPR"), lerning_rate=0.5, memory="validation")
    told = [str(found.message) for found in caught if "no effect" in str(found.message)]
    assert len(told) == 2 and "learning_rate" in told[0]
    assert told[1].startswith("memory has no effect on BPR under RecBole's own runner")


def test_declared_keys_are_told_nothing(planted) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*no effect")
        stock("PackedSASRec", planted, **tiny("PackedSASRec"), limit=0, train_clip_norm=1.0)


def test_a_row_of_a_table_as_config_file_is_applied_or_refused(planted, scratch: Path) -> None:
    from recbole.config import Config

    row = {"name": "Short", "base": "SASRec", "why": "a test", "values": {"n_layers": 1, "hidden_size": 24}}
    (scratch / "short.yaml").write_text(yaml.safe_dump(row))
    (scratch / "plain.yaml").write_text("inner_size: 17\n")
    files = ["plain.yaml", "short.yaml"]
    values = {**planted, "train_neg_sample_args": None}
    config = Config("SASRec", "planted", config_file_list=files, config_dict=values)
    assert (config["n_layers"], config["hidden_size"], config["inner_size"]) == (1, 24, 17)
    with pytest.raises(UserError, match="variant of SASRec, not of BPR"):
        Config("BPR", "planted", config_file_list=files, config_dict=planted)
