"""One safetensors file per checkpoint: tensors plus a JSON header, written atomically, checked on reading.

Nothing is unpickled. The header holds the format version, model, dataset, the config as asked for, epoch,
best score, library versions and a SHA-256 over all tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from recbole_sigma.language.loading import setting
from recbole_sigma.machine.files import atomic_file, checked_json, reading, write_atomically, writing
from recbole_sigma.run.packing import moved, unpack_values
from recbole_sigma.values import UserError

FORMAT = "recbole-sigma-checkpoint"
FORMAT_VERSION = 1
_KEY, _CHECK = "recbole_sigma", "recbole_sigma_sha256"
ROW = "recbole-sigma-row"  # format of the small file that names shared weights
AGAIN = "restore it from a copy or train again"
_MAX_HEADER = 100_000_000  # bytes; safetensors' own bound


@dataclass
class Checkpoint:
    """What one file holds.

    Attributes:
        meta: plain values: ``model``, ``dataset``, ``config``, ``epoch``, ``best_valid_score``,
            ``versions``...
        tensors: name -> tensor; groups ``model/``, ``other/``, ``optimizer/``, ``rng/``, ``extra/``.
        path: where it was read from.
    """

    meta: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    path: Path | None = None

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors of a group, without the group's name."""
        return {
            key[len(name) + 1 :]: value for key, value in self.tensors.items() if key.startswith(f"{name}/")
        }


def library_versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return dict(_library_versions())


@cache
def _library_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in (
        "recbole-sigma",
        "recbole",
        "torch",
        "numpy",
        "scipy",
        "pandas",
        "transformers",
        "faiss-cpu",
        "safetensors",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# --- files ---


def write(path: Path | str, checkpoint: Checkpoint) -> None:
    """Write a checkpoint: a temporary file, flushed to disk, put in place in one step."""
    path = Path(path)
    tensors, aliases = _storable(checkpoint.tensors)
    meta = {
        **checkpoint.meta,
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": library_versions(),
        "aliases": aliases,
        "sha256": digest(tensors),
    }
    text = json.dumps(meta, sort_keys=True)
    header = {_KEY: text, _CHECK: hashlib.sha256(text.encode()).hexdigest()}
    with writing(path, "free the space, or set checkpoint_dir to a folder that can be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            save_file(tensors, str(temporary), metadata=header)


def amend_config(path: Path | str, values: dict[str, Any]) -> None:
    """Change settings in a written checkpoint; the weights stay."""
    saved = read(path)
    kept = {k: v for k, v in saved.meta.items() if k not in ("aliases", "sha256")}
    tensors = dict(saved.tensors)
    for name, source in (saved.meta.get("aliases") or {}).items():
        tensors.setdefault(name, tensors[source])
    write(path, Checkpoint({**kept, "config": {**saved.meta["config"], **values}}, tensors))


def _storable(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Contiguous CPU copies; tensors that are the same memory (tied weights) are stored once."""
    seen: dict[tuple[Any, ...], str] = {}
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)
        if tensor.numel() and key in seen:
            aliases[name] = seen[key]
            continue
        seen[key] = name
        copy = tensor.detach().cpu().contiguous()
        stored[name] = copy.clone() if copy.data_ptr() == tensor.data_ptr() else copy
    return stored, aliases


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in order of name."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return total.hexdigest()


def is_checkpoint(path: Path | str) -> bool:
    """Whether a file looks like one of our checkpoints (its header is read, nothing else)."""
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= min(_MAX_HEADER, os.path.getsize(path)):
                return False
            head = json.loads(file.read(size))
        return isinstance(head, dict) and _KEY in (head.get("__metadata__") or {})
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def read_meta(path: Path | str) -> dict[str, Any]:
    """The checked JSON header of a checkpoint, without its tensors.

    Raises:
        UserError: naming what is wrong: the file, its format version, or its checksum.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"the checkpoint {path} does not exist")
    if not is_checkpoint(path):
        raise UserError(
            f"{path} is not a recbole-sigma checkpoint, or its header is damaged; RecBole's own .pth "
            f"files hold pickled code and are not read: train again with run_recbole_sigma.py"
        )
    with reading(path, AGAIN), safe_open(str(path), framework="pt") as file:
        header = file.metadata()
        meta = checked_json(header[_KEY])
        if not isinstance(meta, dict):
            raise TypeError("its header is no mapping")
        if meta.get("format") != FORMAT or meta.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"{path} has checkpoint format version {meta.get('format_version')!r}, this release "
                f"reads {FORMAT_VERSION}: use the release that wrote it "
                f"({str(meta.get('versions'))[:200]})"
            )
        if hashlib.sha256(header[_KEY].encode()).hexdigest() != header.get(_CHECK):
            raise ValueError("sha256 of its header differs from the stored one")
        _check_types(meta)
        return meta


_NUMBER, _NOTHING = (int, float), type(None)
TYPES: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "dataset": (str,),
    "config": (dict,),
    "aliases": (dict,),
    "sha256": (str,),
    "epoch": (int,),
    "place": (dict, _NOTHING),
    "cur_step": (int,),
    "best_valid_score": _NUMBER,
    "best_valid_result": (dict, _NOTHING),
    "best_epoch": (int, _NOTHING),
    "history": (list,),
    "other": (dict,),
    "optimizer": (dict, _NOTHING),
    "scheduler_step": (int,),
    "scaler": (dict,),
    "rng": (dict, _NOTHING),
    "extra": (dict,),
    "origin": (dict,),
    "best_file": (str,),
    "trained": (bool,),
    "finished": (bool,),
}
"""What the values of a header are; the first five must be there."""


def _check_types(meta: dict[str, Any]) -> None:
    missing = [name for name in list(TYPES)[:5] if name not in meta]
    if missing:
        raise KeyError(f"its header lacks {missing[0]}")
    for name, kinds in TYPES.items():
        if name in meta and not isinstance(meta[name], kinds):
            raise TypeError(f"{name} in its header is a {type(meta[name]).__name__}")
    for key in ("model", "dataset"):
        if meta["config"].get(key) != meta[key]:
            raise ValueError(f"its header names two different values of {key}")
    if Path(meta.get("best_file", "x")).name != meta.get("best_file", "x"):
        raise ValueError("best_file is no plain name")


def write_row(path: Path, weights: str, config: dict[str, Any]) -> None:
    """Write beside shared weights how one row of a table decodes them; `read` takes it as a checkpoint.

    Args:
        path: a name that ends in ``.json``, in the folder of the weights.
        weights: plain name of the checkpoint.
        config: the settings that differ from those of its training.
    """
    text = json.dumps({"format": ROW, "weights": weights, "config": config}, indent=1, sort_keys=True)
    write_atomically(path, f"{text}\n".encode())


def _read_row(path: Path) -> tuple[Path, dict[str, Any]]:
    """(the checkpoint that a row's file names, the settings of the row)."""
    if not path.is_file():
        raise UserError(f"the checkpoint {path} does not exist")
    with reading(path, AGAIN):
        row = checked_json(path.read_bytes())
        if not isinstance(row, dict) or row.get("format") != ROW:
            raise UserError(
                f"{path} does not say how a row decodes its weights: name a .safetensors file, or the .json "
                "of a row in the folder checkpoints/ of a benchmark"
            )
        weights, config = row["weights"], row["config"]
        if not isinstance(weights, str) or Path(weights).name != weights or not isinstance(config, dict):
            raise TypeError("it names no weights beside it")
    return path.parent / weights, config


def read(path: Path | str, model: str | None = None, dataset: str | None = None) -> Checkpoint:
    """Read and check a checkpoint.

    Args:
        path: the file; or the ``.json`` of a benchmark's row (`write_row`), whose settings go over those of
            the weights that it names.
        model: the model name it must hold, or None.
        dataset: the dataset name it must hold, or None.

    Raises:
        UserError: naming what differs: the file, its format version, model, dataset, or checksum.
    """
    path = Path(path)
    path, own = _read_row(path) if path.suffix == ".json" else (path, {})
    meta = read_meta(path)
    meta["config"] = {**meta["config"], **own}
    for name, want in (("model", model), ("dataset", dataset)):
        if want is not None and meta.get(name) != want:
            raise UserError(f"{path} was written for {name} {meta.get(name)!r}, not {want!r}")
    with reading(path, AGAIN), safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    if digest(tensors) != meta.get("sha256"):
        raise UserError(
            f"{path} is damaged (sha256 of its tensors differs from the one in its header): {AGAIN}"
        )
    with reading(path, AGAIN):
        tensors.update({name: tensors[source] for name, source in meta["aliases"].items()})
    return Checkpoint(meta=meta, tensors=tensors, path=path)


def weights_of(path: Path | str) -> dict[str, Any]:
    """A trained model's weights, from one of our checkpoints or a weights-only file of torch.

    RecBole's models with stages of pre-training ask for them; what torch cannot read as plain tensors is
    refused, never unpickled.

    Raises:
        UserError: the file is missing, damaged, or holds more than tensors.
    """
    if is_checkpoint(path):
        return {"state_dict": read(path).group("model")}
    if not Path(path).is_file():
        raise UserError(f"the file of trained weights {str(path)!r} does not exist: name a checkpoint")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a hostile pickle makes the restricted reader raise
        raise UserError(
            f"{path} does not hold plain weights ({type(error).__name__}) and is not unpickled: name a "
            "checkpoint of this program, or weights stored as tensors only"
        ) from None
    return loaded if "state_dict" in loaded else {"state_dict": loaded}


def load_weights(model: Any, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights and other parameters into a model.

    Raises:
        UserError: naming the first weights that are missing, unexpected, or of another shape.
    """
    weights = checkpoint.group("model")
    for name, part in model.named_modules():
        check = setting(part, "check_base")  # adapters: another base is what a wrong shape would mean
        if check is not None:
            check(weights, f"{name}." if name else "")
    own = model.state_dict()
    for name in [*own, *weights]:
        if name not in weights or name not in own:
            where = "the checkpoint" if name not in weights else "the model"
            raise UserError(
                f"{checkpoint.path}: {where} has no weights {name!r}: was it trained with another config?"
            )
        if own[name].shape != weights[name].shape:
            raise UserError(
                f"{checkpoint.path}: weights {name!r} have shape {tuple(weights[name].shape)}, the model "
                f"wants {tuple(own[name].shape)}: was it trained with another config or dataset?"
            )
        if own[name].dtype != weights[name].dtype:
            raise UserError(
                f"{checkpoint.path}: weights {name!r} are of type {weights[name].dtype}, the model wants "
                f"{own[name].dtype}: {AGAIN}"
            )
        if weights[name].is_floating_point() and bool(torch.isnan(weights[name]).any()):
            raise UserError(
                f"{checkpoint.path}: weights {name!r} hold NaN, so training had failed: train again with "
                "a lower learning_rate or train_clip_norm"
            )
    with reading(checkpoint.path or "the checkpoint", AGAIN):
        model.load_state_dict(weights)
        other = unpack_values(checkpoint.group("other"), checkpoint.meta.get("other", {}))
        unknown = next((name for name in other if name not in model.other_parameter()), None)
        if unknown is not None:
            raise KeyError(f"the model has no parameter {unknown!r}")
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        model.load_other_parameter({name: moved(value, device) for name, value in other.items()})


def extra_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the model's ``checkpoint_extra`` hook stored: text and tensors."""
    return {**checkpoint.meta.get("extra", {}), **checkpoint.group("extra")}
