from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import sparse

from recbole_sigma.quick_start import evaluate_checkpoint, run
from recbole_sigma.run import checkpoint as files
from recbole_sigma.run import packing
from recbole_sigma.values import UserError
from tests.planted import tiny


def test_reloaded_in_a_new_process_to_the_same_places(planted, scratch: Path) -> None:
    results = [
        run(name, "planted", config_dict={**planted, **tiny(name)})
        for name in ("Pop", "BPR", "SASRec", "WindowItemKNN", "PackedSASRec", "SIGMA")
    ]
    code = (
        "import sys, json, torch; torch.set_num_threads(1)\n"
        "import recbole_sigma\n"
        "from recbole_sigma.quick_start import evaluate_checkpoint\n"
        "found = [evaluate_checkpoint(path) for path in sys.argv[1:]]\n"
        "print(json.dumps([[dict(f.metrics), f.places.tolist()] for f in found]))"
    )
    paths = [result["checkpoint"] for result in results]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for result, (metrics, places) in zip(results, json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert metrics == result["test_result"], result["model"]
        assert places == result["test"].places.tolist(), result["model"]


def small() -> files.Checkpoint:
    weight = torch.arange(6.0).reshape(2, 3)
    return files.Checkpoint(
        meta={"model": "BPR", "dataset": "d", "config": {"model": "BPR", "dataset": "d"}},
        tensors={
            "model/a": weight,
            "model/tied": weight,
            "model/view": weight.T,
            "model/b": torch.tensor(True),
            "model/e": torch.empty(0),
        },
    )


def test_round_trip_with_tied_strided_and_empty_tensors(scratch: Path) -> None:
    files.write("x.safetensors", small())
    again = files.read("x.safetensors", model="BPR", dataset="d")
    for name, tensor in small().tensors.items():
        assert torch.equal(again.tensors[name], tensor) and again.tensors[name].dtype == tensor.dtype
    assert "model/tied" not in load_file("x.safetensors")  # stored once
    assert again.meta["versions"]["recbole"] == "1.2.1"
    assert [p.name for p in scratch.iterdir()] == ["x.safetensors"]  # no temporary file is left


def test_every_flipped_byte_is_noticed(scratch: Path) -> None:
    files.write("x.safetensors", small())
    good = Path("x.safetensors").read_bytes()
    rng = np.random.default_rng(0)
    start = 8 + int.from_bytes(good[:8], "little")
    for position in [*range(start, len(good)), *rng.integers(0, start, 60).tolist()]:
        bad = bytearray(good)
        bad[position] ^= 1 << int(rng.integers(8))
        Path("bad.safetensors").write_bytes(bad)
        try:
            found = files.read("bad.safetensors")
        except UserError as error:
            assert "bad.safetensors" in str(error)
        else:  # a bit of the outer JSON that changes nothing, such as its padding
            assert position < start and all(
                torch.equal(found.tensors[n], t) for n, t in small().tensors.items()
            )


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -1])
def test_truncated_files_are_refused(keep: int, scratch: Path) -> None:
    files.write("x.safetensors", small())
    data = Path("x.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(data[:keep])
    with pytest.raises(UserError, match="cut.safetensors"):
        files.read("cut.safetensors")


def test_what_differs_is_named(scratch: Path) -> None:
    files.write("x.safetensors", small())
    with pytest.raises(UserError, match="written for model 'BPR', not 'SIGMA'"):
        files.read("x.safetensors", model="SIGMA")
    with pytest.raises(UserError, match="written for dataset 'd', not 'other'"):
        files.read("x.safetensors", dataset="other")
    with pytest.raises(UserError, match="does not exist"):
        files.read("none.safetensors")
    meta = {"recbole_sigma": json.dumps({"format": files.FORMAT, "format_version": 99})}
    save_file({"a": torch.zeros(1)}, "new.safetensors", metadata=meta)
    with pytest.raises(UserError, match="format version 99"):
        files.read("new.safetensors")


class Evil:
    def __reduce__(self):
        return os.system, ("touch owned",)


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_is_refused_and_not_executed(kind: str, scratch: Path) -> None:
    if kind == "pickle":
        Path("evil.safetensors").write_bytes(pickle.dumps(Evil()))
    else:
        torch.save(Evil(), "evil.safetensors")
    with pytest.raises(UserError, match="not a recbole-sigma checkpoint"):
        files.read("evil.safetensors")
    assert not Path("owned").exists()


def test_a_pickled_dataset_cache_is_not_loaded(planted, scratch: Path) -> None:
    """RecBole's create_dataset and data_preparation unpickle such files when they lie there."""
    Path("saved").mkdir()
    for name in ("planted-Dataset.pth", "planted-for-BPR-dataloader.pth", "planted-SequentialDataset.pth"):
        Path("saved", name).write_bytes(pickle.dumps(Evil()))
    run("BPR", "planted", config_dict={**planted, "epochs": 1}, saved=False)
    assert not Path("owned").exists()


def test_a_failed_write_leaves_the_old_file(scratch: Path, monkeypatch) -> None:
    files.write("x.safetensors", small())
    before = Path("x.safetensors").read_bytes()
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(UserError, match="cannot write x.safetensors .disk full"):
        files.write("x.safetensors", small())
    assert Path("x.safetensors").read_bytes() == before
    assert len(list(scratch.iterdir())) == 1


def test_other_parameters_round_trip() -> None:
    matrix = sparse.random(5, 4, 0.4, format="csc", random_state=0)
    values = {"t": torch.ones(2), "n": np.arange(3), "s": matrix, "none": None, "x": 1.5, "l": [1, "a"]}
    tensors, plain = packing.pack_values(values, "other")
    again = packing.unpack_values(
        {k.removeprefix("other/"): v for k, v in tensors.items()}, json.loads(json.dumps(plain))
    )
    assert torch.equal(again["t"], values["t"]) and (again["n"] == values["n"]).all()
    assert (again["s"] != matrix).nnz == 0 and again["s"].format == "csc"
    assert again["none"] is None and again["x"] == 1.5 and again["l"] == [1, "a"]
    with pytest.raises(UserError, match="other parameter 'f'"):
        packing.pack_values({"f": test_other_parameters_round_trip}, "other")


def test_weights_of_another_shape_are_named(planted, scratch: Path) -> None:
    result = run("BPR", "planted", config_dict={**planted, **tiny("BPR")})
    with pytest.raises(
        UserError, match=r"weights 'user_embedding.weight' have shape \(61, 8\), the model wants \(61, 16\)"
    ):
        evaluate_checkpoint(result["checkpoint"], {"embedding_size": 16})


def test_a_checkpoint_can_be_judged_with_other_metrics(planted) -> None:
    result = run("BPR", "planted", config_dict={**planted, **tiny("BPR")})
    found = evaluate_checkpoint(
        result["checkpoint"], {"metrics": ["ItemCoverage", "NDCG"]}, filter_seen=False
    )
    assert "itemcoverage@10" in found.metrics
    assert evaluate_checkpoint(result["checkpoint"], phase="valid").metrics == pytest.approx(
        result["best_valid_result"]
    )


def test_optimizer_and_generators_round_trip(scratch: Path) -> None:
    def steps(model, optimizer, n):
        for _ in range(n):
            optimizer.zero_grad()
            (model(torch.randn(4, 3)).square().sum() + np.random.rand()).backward()
            optimizer.step()

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    steps(model, optimizer, 3)
    tensors, plain = packing.pack_optimizer(optimizer.state_dict())
    random_tensors, generators = packing.pack_random_state()
    files.write(
        "o.safetensors",
        files.Checkpoint(
            meta={**small().meta, "optimizer": plain, "rng": generators},
            tensors={**tensors, **random_tensors, **{f"model/{k}": v for k, v in model.state_dict().items()}},
        ),
    )
    steps(model, optimizer, 3)

    saved = files.read("o.safetensors")
    other = torch.nn.Linear(3, 2)
    other.load_state_dict(saved.group("model"))
    second = torch.optim.AdamW(other.parameters(), lr=0.1, fused=True)
    second.load_state_dict(packing.unpack_optimizer(saved.group("optimizer"), saved.meta["optimizer"]))
    packing.restore_random_state(saved.group("rng"), saved.meta["rng"])
    steps(other, second, 3)
    assert torch.equal(model.weight, other.weight)
