"""Cells, trainings and their folder: kept, skipped, redone, failed, and shared by rows."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from recbole_sigma import quick_start
from recbole_sigma.benchmark import Row, RunFolder, collect, make_plan, rows_of, run_plan
from recbole_sigma.models import registry
from recbole_sigma.values import UserError
from tests.planted import tiny
from tests.small_benchmark import bench, plan_of


def labels(record, kind):
    return record["outcome"][kind]


# --- the plan ---


def test_a_fingerprint_follows_settings_data_and_nothing_else(planted, tmp_path: Path) -> None:
    (cell,) = plan_of(planted, ["BPR"]).cells
    (same,) = plan_of(planted, ["BPR"], log_dir="elsewhere", show_progress=True, state="INFO").cells
    (other,) = plan_of(planted, ["BPR"], embedding_size=8).cells
    (seeded,) = plan_of(planted, ["BPR"], seeds=(2,)).cells
    assert cell.key == same.key and len({cell.key, other.key, seeded.key}) == 3
    shutil.copytree(Path(planted["data_path"]) / "planted", tmp_path / "d/planted")
    moved = {**planted, "data_path": str(tmp_path / "d")}
    assert plan_of(moved, ["BPR"]).cells[0].key == cell.key
    with (tmp_path / "d/planted/planted.inter").open("a") as stream:
        stream.write("u0\tg0i9\t2000000000\n")
    assert plan_of(moved, ["BPR"]).cells[0].key != cell.key


def test_which_cells_share_a_training(planted) -> None:
    both = (True, False)
    plan = plan_of(planted, ["Pop", "BPR", "PackedSASRec", "SASRec-BCE", "SIGMA", "SIGMA-top1"], (1, 2), both)
    shared = {
        (t.cells[0].row.name, t.seed): [(c.row.name, c.filter_seen) for c in t.cells] for t in plan.trainings
    }
    assert shared[("Pop", 1)] == [("Pop", True), ("Pop", False)] and ("Pop", 2) not in shared
    assert shared[("BPR", 2)] == [("BPR", True), ("BPR", False)]
    assert shared[("SASRec-BCE", 1)] == [("SASRec-BCE", True), ("SASRec-BCE", False)]
    # its softmax leaves seen items out where they are filtered: two trainings
    packed = [t for t in plan.trainings if t.cells[0].row.name == "PackedSASRec" and t.seed == 1]
    assert [[c.filter_seen for c in t.cells] for t in packed] == [[True], [False]]
    sigma = [t for t in plan.trainings if t.cells[0].row.name == "SIGMA" and t.seed == 1]
    assert [[(c.row.name, c.filter_seen) for c in t.cells] for t in sigma] == [
        [("SIGMA", True), ("SIGMA-top1", True)],
        [("SIGMA", False), ("SIGMA-top1", False)],
    ]
    assert all(t.values.get("decode_mode") is None for t in sigma), "trained with the base's decoding"
    assert len({c.key for c in plan.cells}) == len(plan.cells)


def test_a_variant_alone_trains_what_its_base_trains(planted) -> None:
    alone = plan_of(planted, ["SIGMA-top1"]).trainings[0]
    assert alone.key == plan_of(planted, ["SIGMA"]).trainings[0].key


def test_every_model_that_reads_the_policy_answers_for_it() -> None:
    """A model that reads filter_seen must tell the benchmark, or cells would share wrong weights."""
    root = Path(quick_start.__file__).parent
    reading, answering = set(), set()
    for name, entry in registry.MODELS.items():
        path = root.parent / f"{entry.module.replace('.', '/')}.py"
        files = [path] if path.parent == root / "models" else path.parent.glob("*.py")
        if any(re.search(r"\)\.filter_seen", file.read_text()) for file in files):
            reading.add(name)
        if "follows_filter" in vars(registry.find_model(name)):
            answering.add(name)
    assert reading == answering and reading


def test_a_word_outranks_a_row_and_stands_in_its_name(planted) -> None:
    rows = [Row("Slow", "BPR", {"learning_rate": 1e-4}), *rows_of(["SIGMA-top1", "BPR"])]
    words = ["--decode_mode=apf", "--learning_rate=0.01"]
    cells = {c.row.name: c for c in make_plan(rows, "planted", (1,), values=planted, words=words).cells}
    assert cells.keys() == {"Slow (learning_rate=0.01)", "SIGMA-top1 (decode_mode=apf)", "BPR"}
    assert {cell.config["learning_rate"] for cell in cells.values()} == {0.01}
    assert cells["SIGMA-top1 (decode_mode=apf)"].config["decode_mode"] == "apf"
    assert len({cell.key for cell in cells.values()}) == 3, "equal settings, but rows of their own"
    (same,) = make_plan(rows[:1], "planted", (1,), values=planted, words=["--learning_rate=1e-4"]).cells
    assert same.row.name == "Slow", "the word says what the row says"


def test_a_renamed_row_can_be_the_reference(planted) -> None:
    Path("slow.yaml").write_text("name: Slow\nbase: BPR\nvalues: {learning_rate: 0.1}\n")
    record = bench(planted, ["Pop", "slow.yaml"], reference="Slow", arguments=["--learning_rate=0.01"])
    assert {t["reference"] for t in record["significance"]} == {"Slow (learning_rate=0.01)"}


def test_one_history_for_every_model_unless_asked(planted) -> None:
    plan = plan_of(planted, ["TIGER", "PackedSASRec", "SASRec"])
    assert {c.config["MAX_ITEM_LIST_LENGTH"] for c in plan.cells} == {50}
    plan = plan_of(planted, ["TIGER", "SASRec"], MAX_ITEM_LIST_LENGTH=7)
    assert {c.config["MAX_ITEM_LIST_LENGTH"] for c in plan.cells} == {7}


@pytest.mark.parametrize(
    ("models", "words", "sentence"),
    [
        (["Pop", "BPR"], ["--epoch=1"], "unknown key 'epoch'"),
        (["BPR"], ["--filter_seen=false"], "--filter_seen and --filter"),
    ],
)
def test_everything_is_checked_before_the_first_training(
    planted, models, words, sentence, monkeypatch
) -> None:
    monkeypatch.setattr(quick_start, "run", None)
    with pytest.raises(UserError, match=sentence):
        bench(planted, models, arguments=words, policies="both")
    assert not Path("o").exists()


# --- the run ---


def test_finished_cells_are_kept_and_force_redoes_them(planted, monkeypatch) -> None:
    first = bench(planted, ["Pop", "BPR"], seeds=(1, 2))
    assert labels(first, "done") == ["Pop, seed 1", "BPR, seed 1", "BPR, seed 2"]
    trained = []
    real = quick_start.run
    monkeypatch.setattr(quick_start, "run", lambda m, *a, **k: (trained.append(m), real(m, *a, **k))[1])
    again = bench(planted, ["Pop", "BPR"], seeds=(1, 2))
    assert not trained and len(labels(again, "kept")) == 3
    assert [c["test_result"] for c in again["cells"]] == [c["test_result"] for c in first["cells"]]
    more = bench(planted, ["Pop", "BPR"], seeds=(1, 2, 3))
    assert trained == ["BPR"] and labels(more, "done") == ["BPR, seed 3"]
    forced = bench(planted, ["BPR"], seeds=(2,), force=True)
    assert trained == ["BPR", "BPR"] and labels(forced, "done") == ["BPR, seed 2"]
    assert len(forced["cells"]) == 4, "cells of earlier plans stay in the table"


def test_a_failed_cell_is_recorded_and_tried_again(planted, monkeypatch) -> None:
    real = quick_start.run

    def sometimes(model, *args, **kwargs):
        if model == "Pop":
            raise RuntimeError("broken on purpose")
        return real(model, *args, **kwargs)

    monkeypatch.setattr(quick_start, "run", sometimes)
    record = bench(planted, ["Pop", "WindowItemKNN"], policies="both")
    assert len(labels(record, "failed")) == 2 and len(labels(record, "done")) == 2
    assert [f["error"] for f in record["failed"]] == ["broken on purpose"] * 2
    assert any("test_run.py" in place for place in record["failed"][0]["where"])
    monkeypatch.setattr(quick_start, "run", real)
    record = bench(planted, ["Pop", "WindowItemKNN"], policies="both")
    assert not record["failed"] and len(record["cells"]) == 4


def test_both_policies_from_one_training_equal_two_trainings(planted) -> None:
    both = bench(planted, ["BPR", "SASRec-BCE"], policies="both", output="both")
    apart = bench(planted, ["BPR", "SASRec-BCE"], policies="unfiltered", output="apart")
    assert len(list(Path("both/trainings").glob("*.json"))) == 2
    for c in apart["cells"]:
        (twin,) = [d for d in both["cells"] if d["row"] == c["row"] and not d["filter_seen"]]
        assert twin["test_result"] == c["test_result"] and twin["places"] == c["places"]
        assert twin["weights"]["shared"] == "policy" and c["weights"]["shared"] is None
        assert twin["valid_result"] == c["valid_result"]


def test_decoding_variants_reuse_the_weights_and_give_the_numbers_of_training_again(planted) -> None:
    values = {**tiny("SIGMA"), "tokenizer_codebook_size": 8, "epochs": 1}
    shared = bench(planted, ["SIGMA", "SIGMA-top1", "SIGMA-APF"], values=values, output="shared")
    assert len(list(Path("shared/checkpoints").glob("*.safetensors"))) == 1
    base, top1, head = shared["cells"]
    assert [c["weights"]["shared"] for c in shared["cells"]] == [None, "decoding", "decoding"]
    assert top1["weights"]["trained_and_epoch_picked_with"] == {"decode_mode": None}
    for reused, mode in ((top1, "top1_prefix"), (head, "apf")):
        alone = quick_start.run(
            "SIGMA", "planted", config_dict={**planted, **values, "decode_mode": mode, "seed": 2020}
        )
        assert reused["test_result"] == dict(alone["test_result"])
        assert reused["places"]["places"] == alone["test"].places.tolist()
    assert base["places"] != top1["places"], "the variant changes something here, or the test shows nothing"


def test_the_memory_joins_the_weights_of_the_row_without_it(planted) -> None:
    small = tiny("PackedSASRec")
    rows = ["PackedSASRec", "PackedSASRec+memory"]
    shared = bench(planted, rows, values=small, policies="both")
    assert len(list(Path("o/trainings").glob("*.json"))) == 2, "one per policy: its losses follow the filter"
    for cell in shared["cells"][1::2]:
        assert cell["row"]["name"] == "PackedSASRec+memory" and cell["weights"]["shared"] == "decoding"
        alone = quick_start.run(
            "PackedSASRec",
            "planted",
            config_dict={
                **planted,
                **small,
                "memory": "validation",
                "seed": 2020,
                "filter_seen": cell["filter_seen"],
            },
        )
        assert cell["test_result"] == dict(alone["test_result"])
        assert cell["memory_weight"] == alone["memory_weight"]
    assert shared["cells"][1]["memory_weight"] > 0, "or the test shows nothing"


def test_recboles_sasrec_runs_with_both_of_its_losses(planted) -> None:
    small = {"n_layers": 1, "hidden_size": 8, "inner_size": 8}
    record = bench(planted, ["SASRec-BPR", "SASRec-CE"], values=small)
    assert [c["config"]["loss_type"] for c in record["cells"]] == ["BPR", "CE"] and not record["failed"]
    losses = [c["history"][0]["train_loss"][0] for c in record["cells"]]
    assert 0.6 < losses[0] < 0.8 < losses[1], "-log sigmoid near log 2, a softmax over 48 items above it"


def test_a_row_runs_again_from_its_own_settings(planted) -> None:
    record = bench(planted, ["PackedSASRec"], values={"n_layers": 1, "hidden_size": 8, "inner_size": 8})
    (path,) = Path("o/settings").glob("*.yaml")
    text = path.read_text()
    assert text.startswith("# PackedSASRec") and "--config_files" in text
    assert planted["data_path"] not in text
    again = quick_start.run(
        "PackedSASRec",
        "planted",
        config_file_list=[str(path)],
        config_dict={"data_path": planted["data_path"]},
    )
    assert dict(again["test_result"]) == record["cells"][0]["test_result"]


@pytest.mark.slow
def test_a_row_of_two_processes_has_the_shape_of_one(planted) -> None:
    def shape(value):
        if isinstance(value, dict):
            return {key: shape(each) for key, each in value.items()}
        return [shape(value[0]) if value else None] if isinstance(value, list) else type(value).__name__

    rows, values = ["Pop", "BPR", "BPR+memory"], tiny("BPR")
    one = bench(planted, rows, values=values, output="one")
    two = bench(planted, rows, values=values, output="two", arguments=["--nproc=2"])
    assert not two["failed"] and len(two["cells"]) == 3
    for alone, shared in zip(one["cells"], two["cells"], strict=True):
        assert shared["machine"].pop("processes") == 2 and "processes" not in alone["machine"]
        assert shape(shared) == shape(alone)
        assert shared["intra_list_distance@10"] is not None and shared["places"]["judged"] == 0
    pop = [record["cells"][0] for record in (one, two)]
    assert pop[0]["test_result"] == pop[1]["test_result"] and pop[0]["places"] == pop[1]["places"]
    assert two["judged"] == one["judged"], "the same users, targets and train counts"


def test_damaged_records_are_named(planted) -> None:
    bench(planted, ["Pop"])
    (path,) = Path("o/cells").glob("*.json")
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match=path.name):
        collect(RunFolder("o"))
    path.write_text('{"format": 1}')
    with pytest.raises(UserError, match="no record of this version"):
        collect(RunFolder("o"))
    Path("file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        run_plan(plan_of(planted, ["Pop"]), "file")


def test_cells_of_other_settings_are_set_aside_and_said(planted) -> None:
    bench(planted, ["BPR"], values={"embedding_size": 8})
    record = bench(planted, ["BPR"])
    assert len(record["cells"]) == 1 and record["set_aside"] == 1
    assert record["cells"][0]["config"]["embedding_size"] == 64
    assert any("set aside" in note for note in record["notes"])


def test_what_the_system_refuses_is_a_sentence_in_a_table_too(planted, caplog) -> None:
    """A file stands where the log folder should be: no name of an exception, no places in the code."""
    Path("log").write_text("")
    record = bench(planted, ["Pop"], values={"log_dir": "log"})
    (failed,) = record["outcome"]["failed"]
    assert "a file stands where a folder is needed" in failed and "Errno" not in failed
    assert "NotADirectoryError" not in caplog.text and "run.py" not in caplog.text
