"""A finished cell is checked when it is read; a row's name is text wherever it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_sigma.benchmark import folder as folders
from recbole_sigma.benchmark.folder import FORMAT, read_cell, write_json
from recbole_sigma.benchmark.plots import _style
from recbole_sigma.benchmark.variants import read_variant
from recbole_sigma.machine.files import fingerprint
from recbole_sigma.values import UserError


def cell(**changes: Any) -> dict[str, Any]:
    """Four users whose targets stand at places 1, 2, 0 (not listed) and 4."""
    return {
        "format": FORMAT, "key": "k", "training": "t", "created": "now", "row": {"name": "Pop"},
        "model": "Pop", "seed": 1, "filter_seen": True, "config": {}, "history": [], "seconds": {},
        "test_result": {"hit@1": 0.25, "hit@5": 0.75, "mrr@5": 0.4375, "ndcg@5": 0.515402, "other": 9.0},
        "places": {"users": [1, 2, 3, 4], "targets": [5, 6, 7, 8], "places": [1, 2, 0, 4],
                   "train_counts": [1, 1, 1, 1]},
    } | changes  # fmt: skip


def test_a_good_cell_is_read() -> None:
    write_json(Path("c.json"), {**cell(), "sha256": fingerprint(cell=cell())})
    assert read_cell(Path("c.json")) == cell()
    write_json(Path("old.json"), cell())  # an earlier version wrote no checksum
    assert read_cell(Path("old.json")) == cell()


def test_anything_changed_is_noticed_by_the_checksum() -> None:
    for name in cell():
        if name != "format":
            write_json(Path("c.json"), {**cell(**{name: None}), "sha256": fingerprint(cell=cell())})
            with pytest.raises(UserError, match=r"c.json is damaged .*: delete the file"):
                read_cell(Path("c.json"))


@pytest.mark.parametrize("metric", ["hit@1", "hit@5", "mrr@5", "ndcg@5"])
def test_a_metric_that_its_places_contradict_is_not_believed(metric: str) -> None:
    forged = cell(test_result={**cell()["test_result"], metric: 0.99})
    write_json(Path("c.json"), {**forged, "sha256": fingerprint(cell=forged)})
    with pytest.raises(UserError, match=rf"c.json is damaged .*{metric} is 0.99, but its places say"):
        read_cell(Path("c.json"))


def test_a_cell_without_a_field_is_damaged() -> None:
    for name in ("key", "row", "places", "test_result", "config"):
        write_json(Path("c.json"), {key: value for key, value in cell().items() if key != name})
        with pytest.raises(UserError, match="c.json is damaged"):
            read_cell(Path("c.json"))


def test_a_failed_write_gives_a_reserved_name_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "write_atomically", full)
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
