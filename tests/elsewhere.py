"""A device that is none: tensors that say they are elsewhere, compute on the CPU, and refuse to be mixed.

With no accelerator at hand, this finds what would stop a model on one: a table that stays behind when the
model moves, a tensor that is made on the wrong side. Numbers are the CPU's. Weights that are tied before
a model moves are two afterwards, which on a real device they are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

DEVICE = torch.device("lazy:0")  # a type that no build computes on, and whose backward needs no device thread
_READING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_consecutive"}
_READING |= {"_unique2", "unique_dim", "bincount", "repeat_interleave"}
_MIXING = ("_to_copy", "copy_", "index", "index_put", "index_put_", "_index_put_impl_", "_local_scalar_dense")


class Elsewhere(torch.Tensor):
    """A tensor whose numbers are in ``inner``, on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Elsewhere:
        out = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        out.inner = inner
        return out

    def tolist(self) -> Any:
        _READS.append("tolist")
        return self.inner.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("a tensor of another device has no numpy array: call .cpu() first")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


_READS: list[str] = []
_SENDS: list[str] = []


@contextmanager
def reads() -> Iterator[list[str]]:
    """What makes the host wait for the device inside: names of operators that need a value of a tensor."""
    _READS.clear()
    yield _READS


@contextmanager
def sends() -> Iterator[list[str]]:
    """What goes from the host to the device inside, which no recorded step may do."""
    _SENDS.clear()
    yield _SENDS


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def pretend() -> Iterator[None]:
    """Inside, ``device=DEVICE`` works. Inference mode, which knows no wrapped tensors, is no_grad there."""

    def enter(self: Any) -> None:
        self._inference_mode_context = torch.no_grad()
        self._inference_mode_context.__enter__()

    def tensor(*args: Any, device: Any = None, **more: Any) -> torch.Tensor:
        made = make(*args, **more)  # it fills memory where no mode sees it
        return made if device is None else made.to(device)

    def autocast(kind: str, *args: Any, **more: Any) -> Any:
        return nullcontext() if kind == DEVICE.type else cast(kind, *args, **more)

    before, make, cast = torch.inference_mode.__enter__, torch.tensor, torch.autocast
    torch.inference_mode.__enter__, torch.tensor, torch.autocast = enter, tensor, autocast
    try:
        with _Mode():
            yield
    finally:
        torch.inference_mode.__enter__, torch.tensor, torch.autocast = before, make, cast


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat, shape = tree_flatten((args, kwargs))
    name = func.overloadpacket.__name__
    if name == "_fused_sdp_choice":
        return 0  # the plain formula
    moved = [value for value in flat if isinstance(value, Elsewhere)]
    plain = [value for value in flat if isinstance(value, torch.Tensor) and not isinstance(value, Elsewhere)]
    if moved and name not in _MIXING and any(value.dim() for value in plain):
        raise RuntimeError(f"{func}: tensors of two devices")
    if (
        name in ("index", "index_put", "index_put_", "_index_put_impl_")
        and moved
        and not isinstance(args[0], Elsewhere)
    ):
        raise RuntimeError(f"{func}: a table on the CPU is read at places of another device")
    asked = kwargs.get("device")
    masks = name.startswith(("index", "_index")) and isinstance(args[1], (list, tuple))
    masks = masks and any(part is not None and part.dtype == torch.bool for part in args[1])
    away = name == "_to_copy" and moved and asked is not None and asked.type == "cpu"
    if moved and (name in _READING or masks or away):
        _READS.append(name)
    if name in ("_to_copy", "copy_") and plain and (asked or args[0].device).type == DEVICE.type:
        _SENDS.append(f"{name} {tuple(plain[0].shape)}")
    inside = [value.inner if isinstance(value, Elsewhere) else value for value in flat]
    new_args, new_kwargs = tree_unflatten(inside, shape)
    if asked is not None:
        new_kwargs["device"] = torch.device("cpu")
    with torch.no_grad():
        out = func(*new_args, **new_kwargs)
    goes = asked.type == DEVICE.type if asked is not None else bool(moved)
    if name == "copy_" or name == "_index_put_impl_":
        goes = isinstance(args[0], Elsewhere)
    if not goes:
        return out
    out = tree_map(lambda value: Elsewhere(value) if isinstance(value, torch.Tensor) else value, out)
    if moved:
        return return_and_correct_aliasing(func, args, kwargs, out)
    return out
