"""Items with vectors and semantic IDs leave a checkpoint with their names, and new ones come beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from recbole_sigma.commands.main import main
from recbole_sigma.quick_start import load_data_and_model
from recbole_sigma.sharing.items import append_items, export_items, read_items
from recbole_sigma.tokenization.published_ids import read_codes
from recbole_sigma.values import UserError


@pytest.mark.parametrize("form", ["npy", "parquet"])
@pytest.mark.parametrize("model", ["SIGMA", "TIGER"])
def test_what_is_written_is_what_the_model_has(model, form, trained, tmp_path: Path) -> None:
    checkpoint, _ = trained(model)
    export_items(checkpoint, tmp_path / "items", form)
    rows, manifest = read_items(tmp_path / "items")
    _, network, dataset, *_ = load_data_and_model(checkpoint)
    assert rows.names == [str(name) for name in dataset.field2id_token["item_id"][1:]]
    assert np.array_equal(rows.codes, network.semantic_ids().codes[1:].numpy())
    if model == "SIGMA":
        assert np.array_equal(rows.vectors, network.item_vectors()[1:].numpy())
    assert set(rows.generation) == {1} and manifest["generation"] == 1
    assert rows.texts[rows.names.index("i1_3")] == "blue thing number 3. kind blue"


def test_a_model_without_codes_has_vectors(trained, tmp_path: Path) -> None:
    checkpoint, _ = trained("PackedSASRec")
    export_items(checkpoint, tmp_path / "items")
    rows, _ = read_items(tmp_path / "items")
    network = load_data_and_model(checkpoint)[1]
    assert np.array_equal(rows.vectors, network.item_embedding.weight[1:].detach().numpy())
    assert rows.codes.shape == (len(rows.names), 0) and not (tmp_path / "items" / "codes.json").exists()


def test_a_model_with_neither_is_told(trained, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither item vectors nor semantic IDs"):
        export_items(trained("WindowItemKNN")[0], tmp_path / "items")


@pytest.mark.parametrize("form", ["npy", "parquet"])
@pytest.mark.parametrize("model", ["SIGMA", "TIGER"])
def test_new_items_move_no_old_code(model, form, trained, tmp_path: Path, new_items: Path) -> None:
    folder = tmp_path / "items"
    export_items(trained(model)[0], folder, form)
    old, _ = read_items(folder)
    manifest = append_items(folder, new_items)
    rows, again = read_items(folder)
    assert manifest == again and manifest["generation"] == 2
    assert [entry["items"] for entry in manifest["generations"]] == [len(old.names), 2]
    for name in ("names", "texts", "generation", "codes", "vectors", "sources"):
        assert np.array_equal(getattr(rows, name)[: len(old.names)], getattr(old, name)), name
    assert rows.names[-2:] == ["n1", "n2"] and rows.generation[-2:].tolist() == [2, 2]
    levels = manifest["quantized_levels"]
    for level in range(levels):  # no code word that the model has no weight for
        assert set(rows.codes[-2:, level]) <= set(old.codes[:, level])
    if model == "TIGER":
        assert len({tuple(row) for row in rows.codes.tolist()}) == len(rows.names)
    third = tmp_path / "third.item"
    third.write_text("item_id\ttitle\tcategory\nn3\tred thing number 9\tkind red\n")
    assert append_items(folder, third)["generation"] == 3
    assert np.array_equal(read_items(folder)[0].codes[: len(rows.names)], rows.codes)


def test_an_item_with_a_known_text_goes_where_that_text_is(trained, tmp_path: Path, new_items: Path) -> None:
    """Codes of text alone: the twin of i1_3 gets its codes on every level."""
    checkpoint, _ = trained("SIGMA", tokenizer_vectors=["text"], tokenizer_levels=2)
    export_items(checkpoint, tmp_path / "items")
    append_items(tmp_path / "items", new_items)
    rows, _ = read_items(tmp_path / "items")
    kinds = [name.split("_")[0] for name in rows.names[:-2]]
    prefix = {
        kind: {c for k, c in zip(kinds, rows.codes[:-2, 0], strict=True) if k == kind} for kind in kinds
    }
    assert rows.codes[-2, 0] in prefix["i1"]


def test_codes_can_be_trained_on_again(trained, tmp_path: Path, new_items: Path) -> None:
    """codes.json is what tokenizer_quantizer: file:... reads, for the grown catalogue too."""
    folder = tmp_path / "items"
    export_items(trained("TIGER")[0], folder)
    append_items(folder, new_items)
    rows, _ = read_items(folder)
    found = read_codes(folder / "codes.json", ["[PAD]", *rows.names])
    assert np.array_equal(found[1:].numpy(), rows.codes)


def test_mistakes_are_sentences_and_change_nothing(trained, tmp_path: Path, new_items: Path) -> None:
    folder = tmp_path / "items"
    export_items(trained("SIGMA")[0], folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def refused(match: str, text: str) -> None:
        path = tmp_path / "bad.item"
        path.write_text(text)
        with pytest.raises(UserError, match=match):
            append_items(folder, path)

    refused("no column 'title'; nearest: titel", "item_id\ttitel\tcategory\nx\ta\tb\n")
    refused("'i1_3' is in the folder already", "item_id\ttitle\tcategory\ni1_3\ta\tb\n")
    refused("'x' stands twice", "item_id\ttitle\tcategory\nx\ta\tb\nx\ta\tb\n")
    refused("holds no item", "item_id\ttitle\tcategory\n")
    refused("no column 'item_id'", "")
    # a line that has more or fewer cells than the header is never shifted or filled in
    refused("bad.item:2 has 4 columns, the header has 3", "item_id\ttitle\tcategory\nx\ta\tb\tc\n")
    refused("bad.item:3 has 2 columns, the header has 3", "item_id\ttitle\tcategory\nx\ta\tb\ny\ta\n")
    refused("bad.item:2 has '' in the place of the item's name", "item_id\ttitle\tcategory\n \ta\tb\n")
    refused(r"\[PAD\].* in the place of", "item_id\ttitle\tcategory\n[PAD]\ta\tb\n")
    refused("has two columns 'title'", "item_id\ttitle\ttitle\tcategory\nx\ta\tb\tc\n")
    with pytest.raises(UserError, match="no.item cannot be read .No such file"):
        append_items(folder, tmp_path / "no.item")
    with pytest.raises(UserError, match="not empty"):
        export_items(trained("SIGMA")[0], folder)
    with pytest.raises(UserError, match="no exported items"):
        append_items(tmp_path, new_items)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["semantic_ids", "vectors", "code_sources", "items"])
def test_a_changed_row_is_noticed(name: str, trained, tmp_path: Path, new_items: Path) -> None:
    """Whatever new codes are made from: a changed value is told, and a lost row."""
    folder = tmp_path / "items"
    export_items(trained("SIGMA")[0], folder)
    path = folder / f"{name}{'.tsv' if name == 'items' else '.npy'}"
    if name == "items":
        path.write_text(path.read_text().replace("thing", "think", 1))
    else:
        values = np.load(path)
        np.save(path, values[:-1])
        with pytest.raises(UserError, match="is damaged .*: export the items again"):
            append_items(folder, new_items)
        values[3, 0] += 1
        np.save(path, values)
    with pytest.raises(UserError, match="is damaged .*: export the items again"):
        append_items(folder, new_items)


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_append_can_be_cut_off_between_any_two_files(
    form: str, trained, tmp_path: Path, new_items: Path
) -> None:
    """The folder is then that of the generation before, and the same command does what it was asked for."""
    old, new = tmp_path / "old", tmp_path / "new"
    export_items(trained("TIGER")[0], old, form)
    shutil.copytree(old, new)
    append_items(new, new_items)
    names = sorted({path.name for path in new.iterdir()} - {"manifest.json"})
    for done in range(len(names) + 1):
        folder = tmp_path / f"cut-{done}"
        shutil.copytree(old, folder)
        for name in names[:done]:
            shutil.copyfile(new / name, folder / name)
        assert read_items(folder)[0].names == read_items(old)[0].names
        append_items(folder, new_items)
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
            p.name: p.read_bytes() for p in new.iterdir()
        }


def test_codes_that_no_text_makes_are_refused(trained, tmp_path: Path, new_items: Path) -> None:
    export_items(trained("TIGER", tokenizer_quantizer="rq-vae", rqvae_epochs=1)[0], tmp_path / "items")
    with pytest.raises(UserError, match="came from a file or from rq-vae"):
        append_items(tmp_path / "items", new_items)


def test_typed(trained, tmp_path: Path, new_items: Path, capsys) -> None:
    checkpoint, _ = trained("SIGMA")
    assert main(["export", f"--checkpoint={checkpoint}", "--output=items"]) == 0
    assert "generation: 1, with 24 items" in capsys.readouterr().out
    assert main(["export", "--output=items", f"--append={new_items}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["generation"] == "2, with 2 items"
    for words, sentence in (
        (["--what=item"], "nearest: items"),
        (["--what=model", "--append=x", "--output=y"], "--append belongs to export --what=items"),
        (["--append=x"], "--append=FILE needs --output"),
        (
            ["--format=csv", f"--checkpoint={checkpoint}", "--output=z"],
            "--format must be one of npy, parquet",
        ),
    ):
        assert main(["export", *words]) == 2
        assert sentence in capsys.readouterr().err
    shutil.rmtree("items")
