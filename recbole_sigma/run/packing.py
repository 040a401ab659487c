"""The state of a model, an optimizer and the generators as tensors and plain JSON values, without pickle."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from recbole_sigma.values import UserError


def pack_values(values: dict[str, Any], group: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split a mapping into tensors and plain JSON values, without pickle.

    Tensors, numeric arrays and scipy sparse matrices become tensors under ``group/``, also inside lists and
    mappings; None, numbers and text stay plain. Layers are left out: the weights hold them.

    Raises:
        UserError: for anything else.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{group}/{name}"
        if isinstance(value, Tensor) and value.layout == torch.strided:
            tensors[key] = value
        elif isinstance(value, nn.Module):
            continue  # a layer of the model, whose weights are in its state_dict
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            tensors[key] = torch.from_numpy(np.ascontiguousarray(value))
            plain[name] = {"kind": "ndarray"}
        elif sparse.issparse(value):
            matrix = value.tocsr()
            for part in ("indptr", "indices", "data"):
                tensors[f"{key}#{part}"] = torch.from_numpy(np.ascontiguousarray(getattr(matrix, part)))
            plain[name] = {"kind": "sparse", "format": value.format, "shape": list(value.shape)}
        else:
            plain[name] = {"kind": "nested", "value": _pack_nested(value, key, tensors, name)}
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
        elif note["kind"] == "nested":
            values[name] = _unpack_nested(note["value"], tensors)
        else:
            values[name] = note["value"]
    return {name: value for name, value in values.items() if name in plain or "/" not in name}


_PLAIN = (str, int, float, bool, type(None))


def _pack_nested(value: Any, key: str, tensors: dict[str, Tensor], parameter: str) -> Any:
    """A value as JSON, in which each mapping, list, tuple, tensor or array is marked by its kind.

    Tensors and arrays go to ``tensors`` under ``key`` and their place in the value.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, _PLAIN):
        return value

    def inner(part: Any, place: int) -> Any:
        return _pack_nested(part, f"{key}/{place}", tensors, parameter)

    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        tensors[key] = torch.from_numpy(np.ascontiguousarray(value))
        return {"array": key.split("/", 1)[1]}
    if isinstance(value, Tensor) and value.layout == torch.strided:
        tensors[key] = value
        return {"tensor": key.split("/", 1)[1]}
    if isinstance(value, dict):
        return {
            "dict": [
                [_pack_nested(name, key, {}, parameter), inner(part, place)]
                for place, (name, part) in enumerate(value.items())
            ]
        }
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [inner(part, place) for place, part in enumerate(value)]}
    raise UserError(
        f"the model's other parameter {parameter!r} holds a {type(value).__name__}, which a safe "
        "checkpoint cannot hold: keep it as tensors, numbers, text, or lists and mappings of them"
    )


def _unpack_nested(note: Any, tensors: dict[str, Tensor]) -> Any:
    """Inverse of `_pack_nested`."""
    if not isinstance(note, dict):
        return note
    ((kind, value),) = note.items()
    if kind in ("array", "tensor"):
        return tensors[value].numpy() if kind == "array" else tensors[value]
    if kind == "dict":
        return {name: _unpack_nested(part, tensors) for name, part in value}
    parts = [_unpack_nested(part, tensors) for part in value]
    return tuple(parts) if kind == "tuple" else parts


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


def moved(value: Any, device: torch.device) -> Any:
    """A value with every tensor in it on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: moved(part, device) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(moved(part, device) for part in value)
    return value
