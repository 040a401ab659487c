"""Item-to-item weights that are kept on disk: the same digits, counted cost, no failure that costs a run."""

import logging
import os
import pathlib
import shutil
from collections import namedtuple

import numpy as np
import pytest

from recbole_sigma.decoding.memory import CollaborativeMemory
from recbole_sigma.grounding import solver as module
from recbole_sigma.grounding.regression import ease, next_item_ridge
from recbole_sigma.grounding.solver import Solver
from recbole_sigma.machine import clock
from recbole_sigma.machine.files import ArtifactStore
from recbole_sigma.preparation import items as preparation
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.loaders import load_data
from tests.planted import cycle_config, write_cycle

N = 40


def events(seed=0):
    rng = np.random.default_rng(seed)
    return np.repeat(np.arange(1, 31), 8), rng.integers(1, N, 240)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "STORED", N)
    return ArtifactStore(tmp_path / "artifacts")


@pytest.fixture
def solved(monkeypatch):
    """Which regressions were solved."""
    calls = []
    for function in (ease, next_item_ridge):

        def counted(*values, function=function):
            calls.append(function.__name__)
            return function(*values)

        monkeypatch.setattr(module, function.__name__, counted)
    return calls


def both(store, seed=0, ridge=5.0, last=3, decay=0.7):
    solver = Solver(*events(seed), N, store=store)
    return solver.ease(ridge), solver.next_item_ridge(ridge, last, decay)


def test_weights_are_solved_once_and_read_digit_by_digit(store, solved):
    first, again = both(store), both(store)
    assert solved == ["ease", "next_item_ridge"]
    want = ease(*events(), N, 5.0), next_item_ridge(*events(), N, 5.0, 3, 0.7)
    for own, read, plain in zip(first, again, want, strict=True):
        assert np.array_equal(own, plain) and np.array_equal(read, plain) and read.dtype == plain.dtype


@pytest.mark.parametrize("change", [{"seed": 1}, {"ridge": 6.0}, {"last": 2}, {"decay": 0.8}])
def test_other_events_and_settings_are_other_weights(store, solved, change):
    both(store)
    found = both(store, **change)
    want = both(None, **change)
    assert all(np.array_equal(*pair) for pair in zip(found, want, strict=True))
    of_next = set(change) <= {"last", "decay"}  # EASE reads neither
    assert solved[2:-2] == (["next_item_ridge"] if of_next else ["ease", "next_item_ridge"])


def test_small_catalogues_leave_no_file(store, monkeypatch):
    monkeypatch.setattr(module, "STORED", N + 1)
    both(store)
    assert not store.folder.exists()


def test_reading_counts_what_solving_took(store, monkeypatch):
    def slow(*values):
        clock.spare(50.0)  # as if it had worked so long
        return ease(*values)

    monkeypatch.setattr(module, "ease", slow)
    spent = []
    for _ in range(3):
        before = clock.cpu_seconds()
        Solver(*events(), N, store=store).ease(5.0)
        spent.append(clock.cpu_seconds() - before)
    assert all(seconds == pytest.approx(50.0, abs=5.0) for seconds in spent)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "folder"])
def test_a_damaged_file_is_solved_anew_and_replaced(store, solved, caplog, damage):
    both(store)
    for path in list(store.folder.iterdir()):
        content = bytearray(path.read_bytes())
        content[-3] ^= 4
        if damage == "folder":
            path.unlink()
            path.mkdir()
        else:
            path.write_bytes({"flip": bytes(content), "cut": content[:-9], "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        found = both(store)
    assert all(np.array_equal(*pair) for pair in zip(found, both(None), strict=True))
    assert caplog.text.count("It is solved anew now") == 2
    if damage != "folder":  # nothing takes the place of one
        calls = len(solved)
        both(store)
        assert len(solved) == calls


def test_a_file_of_another_owner_is_read(store, solved, monkeypatch, caplog):
    def refuse(path):
        raise PermissionError(1, "Operation not permitted")

    both(store)
    monkeypatch.setattr(pathlib.Path, "touch", refuse)
    both(store)
    assert len(solved) == 2
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_full_disk_costs_no_run(store, monkeypatch, caplog):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "free")(N * N))
    with caplog.at_level(logging.WARNING):
        both(store)
    assert caplog.text.count("is not kept") == 2 and not list(store.folder.iterdir())


def test_a_folder_that_cannot_be_written_costs_no_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "STORED", N)
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        both(ArtifactStore(tmp_path / "file" / "artifacts"))
    assert caplog.text.count("is not kept") == 2


def test_the_newest_stay(store, solved, monkeypatch):
    monkeypatch.setattr(module, "NEWEST", 2)
    store.folder.mkdir()
    (other := store.folder / "items-1.safetensors").write_text("")
    solver = Solver(*events(), N, store=store)

    def ask(ridge):
        """How often it was solved; every file grows older, since the clocks of file systems are coarse."""
        for path in store.folder.iterdir():
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**9))
        before = len(solved)
        solver.ease(ridge)
        return len(solved) - before

    assert [ask(ridge) for ridge in (1.0, 2.0, 1.0, 3.0, 1.0, 3.0, 2.0)] == [1, 1, 0, 1, 0, 0, 1]
    assert other.exists() and len(list(store.folder.iterdir())) == 3


def test_memory_and_baselines_share_them_and_none_holds_held_out_events(tmp_path, solved, monkeypatch):
    monkeypatch.setattr(module, "STORED", 1)

    def held_out(user, step, item):
        return f"i{(user + 1) % 4}_{(user + step) % 6}" if step >= 14 else item

    for name, change in (("a", None), ("b", held_out)):
        write_cycle(tmp_path / name / "cycle", change=change)
        for model in ("ClosedForm", "HistoryEASE", "NextItemRidge"):
            config = RunConfig(model, "cycle", None, cycle_config(tmp_path / name, tmp_path))
            data = load_data(config, config.model_class)
            config.model_class(config, data.train._dataset)
            CollaborativeMemory(config)._build(data.test._dataset)
    assert solved == ["ease", "next_item_ridge"]


def test_prepared_items_count_what_they_took_as_well(tmp_path, monkeypatch):
    def slow(*values):
        clock.spare(50.0)
        return ground(*values)

    ground = preparation.ground
    monkeypatch.setattr(preparation, "ground", slow)
    write_cycle(tmp_path / "cycle")
    config = RunConfig(
        "SIGMA", "cycle", None, cycle_config(tmp_path, tmp_path, artifact_dir=str(tmp_path / "a"))
    )
    train = load_data(config, config.model_class).train._dataset
    spent = []
    for _ in range(3):
        before = clock.cpu_seconds()
        preparation.prepare(train, config)
        spent.append(clock.cpu_seconds() - before)
    assert len(list((tmp_path / "a").glob("items-*"))) == 1
    assert all(50.0 <= seconds < 60.0 for seconds in spent)
