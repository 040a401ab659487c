"""Our own files are checked when read: any damage, also one whose checksums fit, ends in one sentence."""

from __future__ import annotations

import copy
import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from recbole_sigma.machine.files import ArtifactStore, _checksum, checked_json, reading
from recbole_sigma.quick_start import load_data_and_model, run
from recbole_sigma.run import checkpoint as files
from recbole_sigma.run import packing
from recbole_sigma.run.trainer import RunTrainer
from recbole_sigma.values import UserError
from tests.planted import tiny

bounded = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        yield (*path, name)
        yield from places(part, (*path, name))


def damaged(meta: dict[str, Any], data: st.DataObject) -> dict[str, Any]:
    """A header in which one value is replaced or taken away."""
    meta = copy.deepcopy(meta)
    way = data.draw(st.sampled_from(list(places(meta))))
    owner: Any = meta
    for step in way[:-1]:
        owner = owner[step]
    if data.draw(st.booleans()):
        owner[way[-1]] = data.draw(JUNK)
    else:
        del owner[way[-1]]
    return meta


@pytest.fixture(scope="module")
def trained(planted, tmp_path_factory) -> tuple[dict[str, Any], files.Checkpoint, Path]:
    """A small run that was stopped inside its second epoch: settings, best checkpoint, stored state."""
    folder = tmp_path_factory.mktemp("stopped")
    values = {
        **planted, **tiny("PackedSASRec"), "epochs": 2, "checkpoint_dir": str(folder), "log_dir": str(folder),
        "checkpoint_steps": 1,
    }  # fmt: skip
    real = RunTrainer._check_finite

    def stop(self: Any, loss: Any, epoch: int, batch: int) -> None:
        if epoch == 1 and batch == 1:
            raise KeyboardInterrupt
        real(self, loss, epoch, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunTrainer, "_check_finite", stop)
        with pytest.raises(KeyboardInterrupt):
            run("PackedSASRec", "planted", config_dict=values)
    gc.collect()  # the interrupted run holds a lock
    (state,) = folder.glob("runs/*/last.safetensors")
    (best,) = folder.glob("*.safetensors")
    return values, files.read(best), state


def plain(saved: files.Checkpoint) -> dict[str, Any]:
    """The header without what `files.write` adds."""
    return {
        k: v for k, v in saved.meta.items() if k not in ("format", "format_version", "versions", "sha256")
    }


@given(data=st.data())
@bounded
def test_any_value_in_the_header_of_a_checkpoint(data: st.DataObject, trained) -> None:
    _, best, _ = trained
    files.write("forged.safetensors", files.Checkpoint(damaged(plain(best), data), best.tensors))
    try:
        load_data_and_model("forged.safetensors")
    except UserError as error:
        assert "\n  File" not in str(error)


@given(data=st.data())
@settings(bounded, max_examples=4)  # each trains an epoch where the damage does no harm
def test_any_value_in_the_header_of_a_stored_state(data: st.DataObject, trained) -> None:
    values, _, state = trained
    before = state.read_bytes()
    saved = files.read(state)
    files.write(state, files.Checkpoint(damaged(plain(saved), data), saved.tensors))
    try:
        run("PackedSASRec", "planted", config_dict={**values, "resume": True, "epochs": 2})
    except UserError as error:
        assert "\n  File" not in str(error)
    finally:
        state.write_bytes(before)
        gc.collect()


@pytest.mark.parametrize("change", ["dtype", "nan", "shape", "missing"])
def test_weights_that_do_not_fit(change: str, trained) -> None:
    _, best, _ = trained
    tensors = dict(best.tensors)
    name = next(key for key, value in tensors.items() if key.startswith("model/") and value.dim() == 2)
    if change == "dtype":
        tensors[name] = tensors[name].double()
    elif change == "nan":
        tensors[name] = torch.full_like(tensors[name], torch.nan)
    elif change == "shape":
        tensors[name] = tensors[name][1:]
    else:
        del tensors[name]
    files.write("forged.safetensors", files.Checkpoint(plain(best), tensors))
    with pytest.raises(UserError, match=name.removeprefix("model/")):
        load_data_and_model("forged.safetensors")


def test_moments_of_another_shape_are_noticed_before_the_first_step(trained) -> None:
    values, _, state = trained
    before, saved = state.read_bytes(), files.read(state)
    name = next(key for key in saved.tensors if key.endswith("exp_avg"))
    files.write(state, files.Checkpoint(plain(saved), {**saved.tensors, name: torch.zeros(3, 3, 3)}))
    with pytest.raises(UserError, match=r"last.safetensors is damaged .*exp_avg"):
        run("PackedSASRec", "planted", config_dict={**values, "resume": True})
    state.write_bytes(before)


def forge_moment(change: Any) -> Any:
    """A change of the first moment of one parameter."""

    def forge(meta: dict[str, Any], tensors: dict[str, Any]) -> None:
        name = next(key for key in tensors if key.endswith("exp_avg"))
        changed = change(tensors.pop(name))
        if changed is not None:
            tensors[name] = changed

    return forge


@pytest.mark.parametrize(
    ("forge", "told"),
    [
        (forge_moment(lambda moment: None), "lacks a value"),
        (forge_moment(lambda moment: moment * torch.nan), "exp_avg holds NaN"),
        (lambda meta, tensors: tensors.update({"rng/loader": torch.zeros(3)}), "ByteTensor"),
        (
            lambda meta, tensors: tensors.update({"rng/loader": torch.zeros(3, dtype=torch.uint8)}),
            "RNG state",
        ),
        (lambda meta, tensors: meta.update(epoch=-5), "epoch -5 is none"),
        (lambda meta, tensors: meta["place"].update(batches=10**9), "stands at batch"),
        (lambda meta, tensors: meta["place"].update(losses=[]), "the losses of 0 processes"),
        (lambda meta, tensors: meta.update(best_valid_result={"ndcg@10": "x"}), "could not convert"),
    ],
)
def test_a_state_that_could_not_be_continued_is_damaged(forge: Any, told: str, trained) -> None:
    """Each was once noticed inside torch only, after the run had begun."""
    values, _, state = trained
    before, saved = state.read_bytes(), files.read(state)
    meta, tensors = copy.deepcopy(plain(saved)), dict(saved.tensors)
    forge(meta, tensors)
    files.write(state, files.Checkpoint(meta, tensors))
    try:
        with pytest.raises(UserError, match=rf"last.safetensors is damaged .*{told}"):
            run("PackedSASRec", "planted", config_dict={**values, "resume": True})
    finally:
        state.write_bytes(before)
        gc.collect()


def test_the_best_file_of_a_state_lies_beside_it(trained) -> None:
    _, _, state = trained
    saved = files.read(state)
    files.write("x.safetensors", files.Checkpoint({**plain(saved), "best_file": "../other.safetensors"}, {}))
    with pytest.raises(UserError, match="best_file is no plain name"):
        files.read("x.safetensors")


@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_value_of_another_parameter_survives_or_is_refused(data: st.DataObject) -> None:
    """What RecBole's models keep beside their weights: nested lists, mappings, arrays and tensors."""
    leaf = st.one_of(
        st.none(), st.integers(-9, 9), st.text(max_size=3), st.builds(lambda: torch.arange(3)),
        st.builds(lambda: torch.arange(3.0).numpy()),
    )  # fmt: skip
    nested = st.recursive(
        leaf,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.integers(0, 9), inner, max_size=3)
            | st.tuples(inner, inner)
        ),
        max_leaves=6,
    )
    value = data.draw(nested)
    tensors, notes = packing.pack_values({"x": value}, "other")
    kept = {name.removeprefix("other/"): tensor for name, tensor in tensors.items()}
    again = packing.unpack_values(kept, json.loads(json.dumps(notes)))
    assert repr(again.get("x")) == repr(value)


def test_a_deep_or_broken_header_is_a_sentence() -> None:
    for text in ('{"a": NaN}', "[" * 100_000, "{", b"\xff", '{"a": 1' + "0" * 5_000 + "}"):
        with (
            pytest.raises(UserError, match="note.json is damaged .*: remove it"),
            reading("note.json", "remove it"),
        ):
            checked_json(text)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("[1, 2]", "no mapping"),
        ('{"cpu_seconds": Infinity}', "cpu_seconds"),
        ('{"cpu_seconds": -1}', "cpu_seconds"),
        ('{"cpu_seconds": "much"}', "much"),
    ],
)
def test_an_artifact_with_a_forged_header(tmp_path: Path, header: str, told: str) -> None:
    store, tensors = ArtifactStore(tmp_path), {"x": torch.ones(1)}
    path = store.save("items", "k" * 64, tensors, {})
    with safe_open(str(path), framework="pt") as handle:
        meta = handle.metadata()
    forged = {**meta, "header": header, "checksum": _checksum(tensors, header)}
    save_file(tensors, path, metadata=forged)
    with pytest.raises(UserError, match=f"{told}.*delete the file"):
        store.load("items", "k" * 64)
    assert load_file(path)
