"""A finished cell is checked when it is read; a row's name is text wherever it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_sigma.benchmark import plots, rebuild_report, records
from recbole_sigma.benchmark.folder import RunFolder
from recbole_sigma.benchmark.plots import _style
from recbole_sigma.benchmark.records import AGAIN, CELL, FORMAT, read_cell, write_json, write_record
from recbole_sigma.benchmark.variants import read_variant
from recbole_sigma.commands.main import main
from recbole_sigma.machine.files import fingerprint
from recbole_sigma.values import UserError

FOLLOWING = {
    "hit@1": 0.25, "hit@5": 0.75, "mrr@1": 0.25, "mrr@5": 0.4375, "ndcg@1": 0.25, "ndcg@5": 0.515402,
}  # fmt: skip


def cell(**changes: Any) -> dict[str, Any]:
    """Four users whose targets stand at places 1, 2, 0 (not listed) and 4."""
    return {
        "format": FORMAT, "key": "k", "training": "t", "created": "now", "dataset": "d", "model": "Pop",
        "row": {"name": "Pop", "base": "Pop", "values": {}, "why": "", "source": ""},
        "seed": 1, "filter_seen": True, "config": {"metric_decimal_place": 6}, "history": [],
        "seconds": {"total": 1.0, "cpu": 1.0}, "best_epoch": 0, "parameters": 1, "versions": {},
        "peak_memory": None, "machine": {"gpu": None, "cpus": 2, "threads": 1, "platform": ""},
        "weights": {"shared": None, "trained_and_epoch_picked_with": {}},
        "commit": None, "intra_list_distance@10": None, "judging_seconds": None,
        "protocol": {
            "metrics": ["Hit", "MRR", "NDCG", "ItemCoverage"], "topk": [1, 5], "history": 50,
            "candidates": "all", "ties": "", "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO"},
        },
        "test_result": {**FOLLOWING, "itemcoverage@5": 9.0},
        "places": {"users": [1, 2, 3, 4], "targets": [5, 6, 7, 8], "places": [1, 2, 0, 4], "lists": 4,
                   "train_counts": [1, 1, 1, 1]},
    } | changes  # fmt: skip


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_good_cell_is_read() -> None:
    write_record(Path("c.json"), cell())
    assert read_cell(Path("c.json")) == (cell(), [])
    write_json(Path("old.json"), cell())  # earlier versions wrote no checksum, or one over everything
    assert read_cell(Path("old.json")) == (cell(), [])
    write_json(Path("older.json"), {**cell(), "sha256": fingerprint(cell=cell())})
    assert read_cell(Path("older.json")) == (cell(), [])


def test_what_does_not_follow_from_the_places_is_guarded_by_the_checksum() -> None:
    for name in cell():
        if name not in ("format", "test_result"):
            write_record(Path("c.json"), cell())
            kept = records.checked_json(Path("c.json").read_text())
            write_json(Path("c.json"), {**kept, name: "changed"})
            with pytest.raises(UserError, match=r"c.json is damaged .*: delete the file"):
                read_cell(Path("c.json"))
    for old, new in (('"itemcoverage@5": 9.0', '"itemcoverage@5": 8.0'), ("   4\n", "   3\n")):
        write_record(Path("c.json"), cell())
        change(Path("c.json"), old, new)
        with pytest.raises(UserError, match="checksum differs"):
            read_cell(Path("c.json"))


@pytest.mark.parametrize("metric", FOLLOWING)
def test_a_metric_that_its_places_contradict_is_computed_from_them(metric: str) -> None:
    write_record(Path("c.json"), cell())
    change(Path("c.json"), f'"{metric}": {FOLLOWING[metric]}', f'"{metric}": 0.99')
    told = f"c.json: {metric} was 0.99, but its places say {FOLLOWING[metric]}"
    assert read_cell(Path("c.json")) == (cell(), [told])


def test_a_metric_that_is_gone_comes_back_from_the_places() -> None:
    write_record(Path("c.json"), cell())
    change(Path("c.json"), '"hit@1": 0.25,', "")
    assert read_cell(Path("c.json"))[0] == cell()


def test_several_targets_are_judged_as_the_evaluator_judged_them() -> None:
    """Two lists of one user each, or one list with both targets: the cell says how many lists there were."""
    two = {"users": [1, 1], "targets": [5, 6], "places": [1, 0], "train_counts": [1, 1]}
    protocol = {**cell()["protocol"], "metrics": ["Hit", "Recall"], "topk": [5]}
    for lists, hit in ((2, 0.5), (1, 1.0)):
        result = {"hit@5": 0.0, "recall@5": 0.5}
        changed = cell(places={**two, "lists": lists}, protocol=protocol, test_result=result)
        write_record(Path("c.json"), changed)
        assert read_cell(Path("c.json"))[0]["test_result"] == {"hit@5": hit, "recall@5": 0.5}


def test_a_command_that_met_a_changed_cell_has_the_right_table_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = RunFolder("o").path / "cells" / "Pop-1-k.json"
    write_record(path, cell())
    change(path, '"hit@5": 0.75', '"hit@5": 0.99')
    assert main(["report", "--output=o"]) == 2
    shown = capsys.readouterr()
    assert "0.7500" in shown.out and "0.9900" not in shown.out
    assert shown.err.count("\n") == 1 and "Pop-1-k.json: hit@5 was 0.99, but its places say" in shown.err
    assert main(["report", "--output=o"]) == 0  # put right in the file too


def test_results_that_were_changed_are_not_published() -> None:
    write_record(RunFolder("o").path / "cells" / "Pop-1-k.json", cell())
    rebuild_report("o")
    change(Path("o/results.json"), '"hit@1": 0.25', '"hit@1": 0.75')
    with pytest.raises(UserError, match=f"results.json is damaged .*{AGAIN}"):
        rebuild_report("o/results.json", publish="p")


WRONG: tuple[Any, ...] = (None, True, "x", -1, [[]], {"x": None})


def test_any_value_in_a_cell_with_a_checksum_that_fits_is_read_or_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A value of another type anywhere, two levels down: a report, or one sentence that names the file."""
    monkeypatch.setattr(plots, "available", lambda: False)
    path = RunFolder("o").path / "cells" / "Pop-1-k.json"
    refused = 0
    for name in CELL:
        inner = cell()[name] if isinstance(cell()[name], dict) else {}
        for value in WRONG:
            for wrong in [cell(**{name: value}), *(cell(**{name: {**inner, key: value}}) for key in inner)]:
                write_json(path, wrong)
                try:
                    rebuild_report("o")
                except UserError as error:
                    refused += 1
                    assert "Pop-1-k.json is damaged" in str(error)
    assert refused > 100


EPOCHS: tuple[Any, ...] = (
    "x", {"train_cpu_seconds": "x"}, {"train_cpu_seconds": 10**400}, {"train_cpu_seconds": float("inf")},
    {"valid": "ndcg@10"}, {"valid": {"ndcg@10": "x"}}, {"valid": {"ndcg@10": [1]}},
)  # fmt: skip
PLACES: tuple[Any, ...] = (
    {"lengths": "x"},
    {"lengths": [1]},
    {"pair_counts": [None] * 4},
    {"lengths": [[1]] * 4},
)


@pytest.mark.parametrize(
    "changes", [*({"history": [e, e]} for e in EPOCHS), *({"places": cell()["places"] | p} for p in PLACES)]
)
def test_what_the_pictures_and_parts_read_is_checked_as_well(changes: dict[str, Any]) -> None:
    path = Path("Pop-1-k.json")
    path.write_text(records.json.dumps(cell(**changes)))
    with pytest.raises(UserError, match="Pop-1-k.json is damaged"):
        read_cell(path)


def test_a_cell_without_a_field_is_damaged() -> None:
    for name in CELL:
        write_json(Path("c.json"), {key: value for key, value in cell().items() if key != name})
        with pytest.raises(UserError, match="c.json is damaged"):
            read_cell(Path("c.json"))


@pytest.mark.parametrize("name", ["x" * 4000, "漢" * 400, "../../x", "a/b\\c"])
def test_a_cell_of_any_name_finds_a_file(name: str) -> None:
    made = cell(row={**cell()["row"], "name": name}, versions={})
    path = RunFolder("o").write_cell(made)
    assert path.parent == Path("o/cells") and RunFolder("o").cells() == [made]


def test_a_failed_write_gives_a_reserved_name_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records, "write_atomically", full)
    Path("reserved.json").touch()
    with pytest.raises(OSError, match="No space"):
        write_json(Path("reserved.json"), {})
    assert not Path("reserved.json").exists()


@pytest.mark.parametrize("name", [r"cost $\foo{$ 5", "$x$", "100 % <b>"])
def test_any_name_of_a_row_is_drawn_as_it_is(name: str) -> None:
    from matplotlib.figure import Figure

    with _style(False):
        figure = Figure()
        figure.add_subplot().set_title(name)
        figure.savefig("x.png")
    assert Path("x.png").stat().st_size


@pytest.mark.parametrize("name", ['"a\\nb"', '"a\\tb"', '"a\\eb"', '"a\\u202Eb"'])
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    Path("v.yaml").write_text(f"name: {name}\nbase: Pop\nvalues: {{eval_batch_size: 5}}\n")
    with pytest.raises(UserError, match="v.yaml: name holds a character that cannot be shown"):
        read_variant(Path("v.yaml"))
