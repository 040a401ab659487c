"""A model as a folder: the same lists elsewhere, from a path and from the hub's cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from recbole_sigma.commands.main import main
from recbole_sigma.quick_start import run
from recbole_sigma.recommend.recommender import Recommender
from recbole_sigma.sharing.pretrained import from_pretrained, push_to_hub, save_pretrained
from recbole_sigma.values import UserError
from tests.ctr.planted_clicks import clicks_config

HISTORY = ["i1_3", "i1_4"]


def lists(recommender: Recommender) -> list[tuple[str, float]]:
    return [(row.item, row.score) for row in recommender.recommend(history=HISTORY, k=5)]


def test_the_folder_recommends_as_the_checkpoint_does(trained, tmp_path: Path) -> None:
    checkpoint, values = trained("SIGMA")
    folder = save_pretrained(checkpoint, tmp_path / "model", with_data=True)
    expected = lists(Recommender.load(checkpoint))
    assert sorted(path.name for path in (folder / "data" / "cycle").iterdir()) == [
        "cycle.inter",
        "cycle.item",
        "cycle.user",
    ]
    moved = Path(values["data_path"]).rename(tmp_path / "elsewhere")
    try:
        assert lists(from_pretrained(folder)) == expected
        # the commands take the data in the folder too
        assert main(["recommend", f"--checkpoint={folder}", "--history=i1_3; i1_4"]) == 0
        shutil.rmtree(folder / "data")
        assert lists(from_pretrained(folder, data_path=moved)) == expected
        with pytest.raises(UserError, match="cycle"):
            from_pretrained(folder)
    finally:
        moved.rename(values["data_path"])
    assert not [path for path in folder.rglob("*") if path.suffix in (".py", ".pkl", ".pt", ".bin")]


def test_a_folder_is_there_whole_or_not_at_all(trained, tmp_path: Path) -> None:
    checkpoint, _ = trained("SIGMA")
    empty, new = tmp_path / "empty", tmp_path / "new"
    empty.mkdir()
    for target in (empty, new):
        with pytest.raises(UserError, match="holds no files of cycle"):
            save_pretrained(checkpoint, target, with_data=True, overrides={"data_path": str(tmp_path)})
    assert sorted(tmp_path.rglob("*")) == [empty]
    assert sorted(path.name for path in save_pretrained(checkpoint, empty).iterdir())


def test_a_model_of_labels_is_not_written_as_a_model_of_lists(tmp_path: Path) -> None:
    """Its card would speak of ranked lists, and from_pretrained refuses it."""
    values = clicks_config(tmp_path, rows=200, epochs=1, checkpoint_dir=str(tmp_path / "saved"))
    checkpoint = run("FM", "clicks", config_dict=values)["checkpoint"]
    with pytest.raises(UserError, match="FM, which was trained on labelled rows and makes no lists"):
        save_pretrained(checkpoint, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_card_holds_the_figures_of_the_record(trained, tmp_path: Path, capsys) -> None:
    _, values = trained("SIGMA")
    words = [f"--data_path={values['data_path']}", "--dataset=cycle", "--quiet", "--epochs=1"]
    (tmp_path / "cycle.yaml").write_text(
        yaml.safe_dump(
            {k: v for k, v in values.items() if k not in ("epochs", "data_path", "checkpoint_dir")}
        )
    )
    words += ["--config_files=cycle.yaml"]
    assert main(["benchmark", "--models=Pop,PackedSASRec+memory", *words]) == 0
    record = json.loads(Path("saved/benchmark/cycle/results.json").read_text())
    (row,) = Path("saved/benchmark/cycle/checkpoints").glob("PackedSASRec+memory-*.json")
    assert main(["export", "--what=model", f"--checkpoint={row}", "--output=model"]) == 0
    assert "load it: recommend --checkpoint=model" in capsys.readouterr().out
    text = Path("model/README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    (cell,) = (cell for cell in record["cells"] if cell["row"]["name"] == "PackedSASRec+memory")
    metrics = {m["type"]: m["value"] for m in head["model-index"][0]["results"][0]["metrics"]}
    assert metrics == {key: cell["test_result"][key] for key in metrics} and len(metrics) == 3
    for line in record["table"]:
        assert f"| {line['model']} | {line['hit@10']:.4f} | {line['ndcg@10']:.4f} |" in text
    assert "/__main__" not in text and str(tmp_path) not in text.split("## Repeat it")[0]
    assert main(["recommend", "--checkpoint=model", "--history=i1_3", "--k=2", "--json"]) == 0


def test_a_record_of_another_run_is_refused(trained, tmp_path: Path) -> None:
    checkpoint, _ = trained("SIGMA")
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"format": 1, "cells": [], "table": []}))
    with pytest.raises(UserError, match="holds no run that wrote"):
        save_pretrained(checkpoint, tmp_path / "model", results=path)
    assert not (tmp_path / "model").exists()
    save_pretrained(checkpoint, tmp_path / "model")
    assert "No record of a test" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize("name", ["nothing-here", "./a/b", "a/b/c", "~/model"])
def test_what_is_neither_folder_nor_name_is_one_sentence(name: str) -> None:
    with pytest.raises(UserError, match="no such folder; a model on the hub is named OWNER/NAME"):
        from_pretrained(name)


def test_from_the_hubs_own_cache_without_a_network(trained, tmp_path: Path, monkeypatch) -> None:
    """The hub's client finds what it fetched before; what it never fetched is one sentence."""
    from huggingface_hub import constants

    checkpoint, _ = trained("SIGMA")
    cache, commit = tmp_path / "hub", "a" * 40
    place = cache / "models--me--model"
    save_pretrained(checkpoint, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert lists(from_pretrained("me/model")) == lists(Recommender.load(checkpoint))
    with pytest.raises(UserError, match="the hub does not give it"):
        from_pretrained("me/other")


def test_push_hands_the_folder_to_the_hubs_client(trained, tmp_path: Path, monkeypatch) -> None:
    import huggingface_hub

    folder, calls = save_pretrained(trained("SIGMA")[0], tmp_path / "model"), []

    def upload(self, **given) -> None:
        calls.append(
            ("upload", given["repo_id"], sorted(p.name for p in Path(given["folder_path"]).iterdir()))
        )

    monkeypatch.setattr(
        huggingface_hub.HfApi, "create_repo", lambda self, name, **given: calls.append(("make", name, given))
    )
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    assert push_to_hub(folder, "me/model") == "https://huggingface.co/me/model"
    assert calls == [
        ("make", "me/model", {"private": True, "exist_ok": True}),
        ("upload", "me/model", ["README.md", "config.json", "model.safetensors"]),
    ]
    with pytest.raises(UserError, match="no folder of save_pretrained"):
        push_to_hub(tmp_path, "me/model")


def test_push_without_a_network_is_one_sentence(trained, tmp_path: Path, monkeypatch) -> None:
    from huggingface_hub import constants

    folder = save_pretrained(trained("SIGMA")[0], tmp_path / "model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the hub did not take the model"):
        push_to_hub(folder, "me/model")
