"""One safetensors file per checkpoint: tensors plus a JSON header, written atomically, checked on reading.

Nothing is unpickled. The header holds the format version, model, dataset, the config as asked for, epoch,
best score, library versions and a SHA-256 over all tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy import sparse
from torch import Tensor

from recbole_sigma.machine.files import atomic_file
from recbole_sigma.values import UserError

FORMAT = "recbole-sigma-checkpoint"
FORMAT_VERSION = 1
_KEY, _CHECK = "recbole_sigma", "recbole_sigma_sha256"
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            save_file(tensors, str(temporary), metadata=header)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot write {path} ({getattr(error, 'strerror', None) or error}): free the space, or set "
            "checkpoint_dir to a folder that can be written"
        ) from error


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
    except (OSError, ValueError, RecursionError):
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
            "files hold pickled code "
            f"and are not read: train again with run_recbole_sigma.py"
        )
    with _damage(path), safe_open(str(path), framework="pt") as file:
        header = file.metadata()
        meta = json.loads(header[_KEY])
        if meta.get("format") != FORMAT or meta.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"{path} has checkpoint format version {meta.get('format_version')!r}, this release "
                f"reads {FORMAT_VERSION}: use the release that wrote it "
                f"({(meta.get('versions') or {}).get('recbole-sigma')})"
            )
        if hashlib.sha256(header[_KEY].encode()).hexdigest() != header.get(_CHECK):
            raise UserError(
                f"{path} is damaged: sha256 of its header differs from the stored one; train again"
            )
        return meta


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What a damaged file makes its readers raise, as a sentence."""
    try:
        yield
    except UserError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it from a copy or train again") from error


def read(path: Path | str, model: str | None = None, dataset: str | None = None) -> Checkpoint:
    """Read and check a checkpoint.

    Args:
        path: the file.
        model: the model name it must hold, or None.
        dataset: the dataset name it must hold, or None.

    Raises:
        UserError: naming what differs: the file, its format version, model, dataset, or checksum.
    """
    path = Path(path)
    meta = read_meta(path)
    for name, want in (("model", model), ("dataset", dataset)):
        if want is not None and meta.get(name) != want:
            raise UserError(f"{path} was written for {name} {meta.get(name)!r}, not {want!r}")
    with _damage(path), safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    if digest(tensors) != meta.get("sha256"):
        raise UserError(
            f"{path} is damaged: sha256 of its tensors differs from the one in its header; train again"
        )
    with _damage(path):
        tensors.update({name: tensors[source] for name, source in meta["aliases"].items()})
    return Checkpoint(meta=meta, tensors=tensors, path=path)


# --- state of a run ---


def pack_values(values: dict[str, Any], group: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split a mapping into tensors and plain JSON values, without pickle.

    Tensors, numeric arrays and scipy sparse matrices become tensors under ``group/``; None, numbers, text
    and lists or mappings of them stay plain.

    Raises:
        UserError: for anything else.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{group}/{name}"
        if isinstance(value, Tensor) and value.layout == torch.strided:
            tensors[key] = value
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            tensors[key] = torch.from_numpy(np.ascontiguousarray(value))
            plain[name] = {"kind": "ndarray"}
        elif sparse.issparse(value):
            matrix = value.tocsr()
            for part in ("indptr", "indices", "data"):
                tensors[f"{key}#{part}"] = torch.from_numpy(np.ascontiguousarray(getattr(matrix, part)))
            plain[name] = {"kind": "sparse", "format": value.format, "shape": list(value.shape)}
        else:
            try:
                plain[name] = {"kind": "plain", "value": json.loads(json.dumps(value))}
            except (TypeError, ValueError):
                raise UserError(
                    f"the model's other parameter {name!r} is a {type(value).__name__}, which a safe "
                    "checkpoint cannot hold: "
                    f"keep it as a tensor"
                ) from None
    return tensors, plain


def unpack_values(tensors: dict[str, Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    """Inverse of `pack_values`, given the group's tensors."""
    values: dict[str, Any] = {name: tensor for name, tensor in tensors.items() if "#" not in name}
    for name, note in plain.items():
        if note["kind"] == "ndarray":
            values[name] = tensors[name].numpy()
        elif note["kind"] == "sparse":
            parts = tuple(tensors[f"{name}#{part}"].numpy() for part in ("data", "indices", "indptr"))
            values[name] = sparse.csr_matrix(parts, shape=tuple(note["shape"])).asformat(note["format"])
        else:
            values[name] = note["value"]
    return values


def pack_optimizer(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's ``state_dict`` as tensors under ``optimizer/`` and plain values."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {"param_groups": state["param_groups"], "state": {}}
    for index, slots in state["state"].items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            else:
                plain["state"].setdefault(str(index), {})[name] = value
    return tensors, json.loads(json.dumps(plain, default=float))


def unpack_optimizer(tensors: dict[str, Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    """Inverse of `pack_optimizer`, given the group's tensors."""
    state: dict[int, dict[str, Any]] = {int(index): dict(slots) for index, slots in plain["state"].items()}
    for key, tensor in tensors.items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = tensor
    return {"state": state, "param_groups": plain["param_groups"]}


def pack_random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State of the generators of torch, numpy and python."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # type: ignore[misc]
    tensors = {
        "rng/torch": torch.get_rng_state(),
        "rng/numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
    }
    if torch.cuda.is_available():
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"rng/cuda{index}"] = state
    return tensors, {
        "numpy": [kind, int(position), int(has_gauss), float(gauss)],
        "python": random.getstate(),
    }


def restore_random_state(tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Inverse of `pack_random_state`, given the group's tensors."""
    torch.set_rng_state(tensors["torch"])
    kind, position, has_gauss, gauss = plain["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, gauss))
    major, internal, gauss_next = plain["python"]
    random.setstate((major, tuple(internal), gauss_next))
    if torch.cuda.is_available():
        states = [tensors[f"cuda{i}"] for i in range(torch.cuda.device_count()) if f"cuda{i}" in tensors]
        if len(states) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(states)


def load_weights(model: Any, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights and other parameters into a model.

    Raises:
        UserError: naming the first weights that are missing, unexpected, or of another shape.
    """
    weights = checkpoint.group("model")
    for name, part in model.named_modules():
        if hasattr(part, "check_base"):  # adapters: another base is what a wrong shape would mean
            part.check_base(weights, f"{name}." if name else "")
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
                "wants "
                f"{tuple(own[name].shape)}: was it trained with another config or dataset?"
            )
    model.load_state_dict(weights)
    other = unpack_values(checkpoint.group("other"), checkpoint.meta.get("other", {}))
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    model.load_other_parameter({k: v.to(device) if isinstance(v, Tensor) else v for k, v in other.items()})


def extra_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the model's ``checkpoint_extra`` hook stored: text and tensors."""
    return {**checkpoint.meta.get("extra", {}), **checkpoint.group("extra")}
