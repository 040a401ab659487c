"""RecBole's own run_recbole with our names, as a user's script calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


def stock(model, planted, **more):
    from recbole.quick_start import run_recbole

    return run_recbole(model=model, dataset="planted", config_dict={**planted, **more})


@pytest.mark.parametrize("name", ["WindowItemKNN", "PackedSASRec", "SIGMA"])
def test_run_recbole_and_reload(name, planted, tiny, scratch: Path) -> None:
    from recbole.quick_start import load_data_and_model
    from recbole.trainer import Trainer

    from recbole_sigma.run.trainer import make_trainer

    result = stock(name, planted, **tiny[name])
    assert set(result["test_result"]) >= {"hit@10", "ndcg@10"}
    (file,) = (scratch / "saved").glob("*.safetensors")
    config, model, dataset, train, valid, test = load_data_and_model(str(file))
    assert type(model).__name__ == name
    again = make_trainer(Trainer)(config, model).evaluate(test, load_best_model=False)
    assert dict(again) == dict(result["test_result"])


def test_a_class_in_place_of_the_name(planted, tiny) -> None:
    from recbole_sigma.models.packed_sasrec import PackedSASRec

    class MyPackedSASRec(PackedSASRec):
        """A user's model; inherits dataset, trainer and defaults."""

    named = stock("PackedSASRec", planted, **tiny["PackedSASRec"])
    passed = stock(MyPackedSASRec, planted, **tiny["PackedSASRec"])
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
