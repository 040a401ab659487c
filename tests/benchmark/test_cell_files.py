"""What a finished cell keeps beside its metrics: what came before each target, and how its row decodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_sigma import quick_start
from recbole_sigma.benchmark import RunFolder, run_benchmark
from recbole_sigma.values import UserError


def test_a_cell_says_of_every_target_what_came_before_it(write_dataset) -> None:
    """History lengths and train steps against a count by hand; held-out events make no step of train."""
    rows = [(u, f"i{(u % 3 * s + s) % 7}", s) for u in range(1, 7) for s in range(4 + u)]
    record = run_benchmark(
        ["Pop"], "small", config_dict=write_dataset(rows, spare=2), output="out", policies="both"
    )
    (judged,) = record["judged"]
    train = {}
    for u in range(1, 7):
        own = [item for user, item, _ in rows if user == u][:-2]
        for step in zip(own, own[1:], strict=False):
            train[step] = train.get(step, 0) + 1
    assert sorted(judged["lengths"]) == [3 + u for u in range(1, 7)]
    steps = [[item for user, item, _ in rows if user == u][-2:] for u in range(1, 7)]
    by_length = dict(zip(judged["lengths"], judged["pair_counts"], strict=True))
    assert by_length == {3 + u: train.get(tuple(step), 0) for u, step in enumerate(steps, 1)}
    assert 0 in by_length.values() and any(by_length.values())
    text = Path("out/report.html").read_text()
    assert "memorisation" in text or "generalisation" in text


def test_every_row_of_shared_weights_decodes_its_own_way(planted) -> None:
    """One training, four cells: the file of a cell gives the lists of that cell, whoever reads it."""
    from recbole_sigma.quick_start import evaluate_checkpoint, load_data_and_model
    from recbole_sigma.recommend.recommender import Recommender

    rows = ["WindowItemKNN", "WindowItemKNN+memory"]
    values = {**planted, "memory_window": 1, "memory_last": 1, "knn_window": 9}
    run_benchmark(rows, "planted", config_dict={**values, "epochs": 1}, output="o", policies="both")
    cells = RunFolder("o").cells()
    assert len(cells) == 4 and len({cell["training"] for cell in cells}) == 1
    lists = set()
    for cell in cells:
        (file,) = Path("o/checkpoints").glob(f"*-{cell['key'][:16]}.json")
        assert dict(evaluate_checkpoint(str(file)).metrics) == cell["test_result"]
        config, *_ = load_data_and_model(str(file))
        assert config["filter_seen"] == cell["filter_seen"]
        found = Recommender.load(str(file)).recommend(user="u3", k=5)
        lists.add(tuple((place.item, round(place.score, 5)) for place in found))
    assert len({tuple(cell["places"]["places"]) for cell in cells}) > 1 and len(lists) > 1


def test_other_memory_settings_judge_the_same_weights(planted) -> None:
    """A row without the memory is then still the row that was trained."""
    values = {**planted, "epochs": 1}
    for decay in (0.8, 0.5):
        rows = ["PackedSASRec", "PackedSASRec+memory"]
        done = run_benchmark(rows, "planted", config_dict={**values, "memory_decay": decay}, output="again")
        assert [cell["weights"]["shared"] for cell in done["cells"]] == [None, "decoding"]
    assert len(list(Path("again/trainings").iterdir())) == 1


@pytest.mark.parametrize(("memory", "shared"), [("none", True), ("fixed", False)])
def test_a_training_without_the_memory_depends_on_none_of_its_keys(planted, memory, shared) -> None:
    """With a fixed weight the epoch is picked by fused lists."""
    from recbole_sigma.benchmark.plan import make_plan
    from recbole_sigma.benchmark.variants import rows_of

    changes = [{}, {"memory_last": 7}, {"memory_ridge": 3.0}, {"memory_parts": ["next"]}]
    plans = [
        make_plan(rows_of(["PackedSASRec"]), "planted", [1], values={**planted, "memory": memory, **change})
        for change in changes
    ]
    assert len({plan.trainings[0].key for plan in plans}) == (1 if shared else len(plans))
    assert len({plan.cells[0].key for plan in plans}) == len(plans)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "damaged"),
        ('{"format": "other"}', "name a .safetensors file"),
        ('{"format": "recbole-sigma-row", "weights": "../x", "config": {}}', "no weights beside it"),
        ('{"format": "recbole-sigma-row", "weights": "none.safetensors", "config": {}}', "does not exist"),
    ],
)
def test_a_row_file_that_names_nothing_is_told(text, told) -> None:
    Path("row.json").write_text(text)
    with pytest.raises(UserError, match=told):
        quick_start.evaluate_checkpoint("row.json")
