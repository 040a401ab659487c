"""Every name that one verb prints is a name that the others take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from recbole_sigma.benchmark.variants import shipped
from recbole_sigma.commands.lists import KINDS
from recbole_sigma.commands.main import main
from recbole_sigma.commands.train import row_called
from recbole_sigma.models import registry
from recbole_sigma.run.config import RunConfig
from recbole_sigma.settings.recipes import properties_dir, settings_of
from recbole_sigma.values import UserError
from tests.planted import tiny


def test_list_names_every_model_row_recipe_and_set(capsys) -> None:
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == set(KINDS)
    assert set(found["models"]) == set(registry.MODELS) and set(found["rows"]) == set(shipped())
    assert {"SASRec", "BPR"} <= set(found["recbole"]) and "ml-100k" in found["sets"]
    for name in found["recipes"]:
        assert settings_of(name)[0]
    assert main(["list", "rows"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in shipped()) and "LightGCN" not in shown


def test_an_unknown_kind_is_told(capsys) -> None:
    assert main(["list", "nothing"]) == 2
    assert "models" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*shipped(), "SASRec+memory", "SIGMA+no-KD+memory"])
def test_a_row_is_a_model_for_train(name) -> None:
    row = row_called(name)
    assert row is not None and row.name == name and row.values and registry.is_model(row.base)


def test_a_models_own_name_is_no_row() -> None:
    assert row_called("SIGMA") is None and row_called("SASRec") is None and row_called(None) is None


@pytest.mark.parametrize("name", ["SIGMA-*", "SIGMA-IDD", "SIGMA+nothing"])
def test_a_name_that_is_none_or_many_is_told(name) -> None:
    with pytest.raises(UserError, match=r"SIGMA"):
        row_called(name)


def test_a_row_trains_with_its_values_and_words_outrank_them(planted, capsys) -> None:
    settings = {**planted, **tiny("SIGMA"), "tokenizer_prefix_length": 1}
    Path("own.yaml").write_text(yaml.safe_dump(settings))
    run = ["train", "--model=SIGMA-ID", "--dataset=planted", "--json", "--config_files=own.yaml"]
    assert main(run) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "SIGMA-ID"
    record = json.loads(Path(found["results"]).read_text())
    assert record["cells"][0]["config"]["tokenizer_prefix_length"] == 0
    assert main([*run, "--tokenizer_prefix_length=1"]) == 0
    found = json.loads(capsys.readouterr().out)
    record = json.loads(Path(found["results"]).read_text())
    assert record["cells"][0]["config"]["tokenizer_prefix_length"] == 1


def test_shipped_files_go_by_their_names(planted) -> None:
    config = RunConfig("TIGER", "planted", ["tiger_paper"], planted)
    recipe, _ = settings_of(properties_dir() / "recipes/tiger_paper.yaml")
    assert (
        config["tiger_d_model"]
        == settings_of(properties_dir() / "recipes/tiger_paper.yaml")[0]["tiger_d_model"]
    )


@pytest.mark.parametrize("file", ["sigma_id", "SIGMA-ID", None])
def test_a_variant_as_config_file_is_applied(planted, file) -> None:
    """Its values, not its fields: the name, the base and the reason are no keys."""
    file = file or str(properties_dir() / "variants/sigma_id.yaml")
    assert RunConfig("SIGMA", "planted", [file], planted)["tokenizer_prefix_length"] == 0
    assert RunConfig(None, "planted", [file], planted)["model"] == "SIGMA"


def test_a_variant_of_another_model_is_refused(planted, capsys) -> None:
    with pytest.raises(UserError, match="variant of SIGMA, not of SASRec"):
        RunConfig("SASRec", "planted", ["sigma_id"], planted)
    assert main(["--model=SASRec", "--dataset=planted", "--config_files=sigma_id"]) == 2
    assert "variant of SIGMA, not of SASRec" in capsys.readouterr().err


def test_data_hands_on_to_the_adapters(capsys) -> None:
    assert main(["data", "list"]) == 0
    assert "movielens" in capsys.readouterr().out
    assert main(["data", "describe", "nothing"]) == 2
    assert "no adapter" in capsys.readouterr().err
