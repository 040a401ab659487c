"""Everything that a run holds, as one `checkpoint.Checkpoint`, and back: what makes a continued run exact."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from recbole_sigma import checkpoint as files
from recbole_sigma import distributed
from recbole_sigma.config import requested_values
from recbole_sigma.values import UserError


def pack(trainer: Any, epoch: int, place: dict[str, Any] | None = None) -> files.Checkpoint:
    """Weights, optimizer, schedule, scaler, generators, position in the data and early stopping.

    With several processes this is collective: the generators of all of them are kept.

    Args:
        trainer: a `training.SigmaTrainer`.
        epoch: last epoch that is finished, -1 for none.
        place: where in the epoch after it the run is: ``batches`` taken, the sums of the ``losses`` of each
            process so far, ``seconds``; None at the end of an epoch.
    """
    tensors: dict[str, Tensor] = {
        f"model/{name}": value for name, value in trainer.model.state_dict().items()
    }
    other_tensors, other = files.pack_values(trainer.model.other_parameter() or {}, "other")
    optimizer_tensors, optimizer = files.pack_optimizer(trainer.optimizer.state_dict())
    random_tensors, generators = files.pack_random_state()
    tensors |= other_tensors | optimizer_tensors | random_tensors
    tensors |= _other_ranks(random_tensors, generators)
    order = trainer.order_state if place else trainer.current_order()
    if order is not None:
        tensors["rng/loader"] = order
    extra_tensors, extra = _extra(trainer.model)
    return files.Checkpoint(
        meta={
            "model": trainer.config["model"],
            "dataset": trainer.config["dataset"],
            "config": requested_values(trainer.config),
            "epoch": epoch,
            "place": place,
            "cur_step": trainer.cur_step,
            "best_valid_score": float(trainer.best_valid_score),
            "best_valid_result": _plain(trainer.best_valid_result),
            "best_epoch": trainer.best_epoch,
            "history": trainer.history,
            "other": other,
            "optimizer": optimizer,
            "scheduler_step": trainer.scheduler_step,
            "scaler": trainer.scaler.state_dict(),
            "rng": generators,
            "extra": extra,
        },
        tensors=tensors | extra_tensors,
    )


def _plain(result: Any) -> dict[str, float] | None:
    return None if result is None else {name: float(value) for name, value in result.items()}


def _extra(model: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors: dict[str, Tensor] = {}
    texts: dict[str, str] = {}
    for name, value in model.checkpoint_extra().items() if hasattr(model, "checkpoint_extra") else ():
        if isinstance(value, Tensor):
            tensors[f"extra/{name}"] = value
        elif isinstance(value, str):
            texts[name] = value
        else:
            raise TypeError(
                f"checkpoint_extra[{name!r}] must be text or a tensor, not {type(value).__name__}"
            )
    return tensors, texts


def _other_ranks(tensors: dict[str, Tensor], plain: dict[str, Any]) -> dict[str, Tensor]:
    """Generators of the processes other than rank 0: ``rng/rank1`` and so on, uint8 [bytes]."""
    if not distributed.current().several:
        return {}
    cuda_free = {name: value.cpu() for name, value in tensors.items() if not name.startswith("rng/cuda")}
    every = distributed.gather(save(cuda_free, metadata={"plain": json.dumps(plain)}))
    return {
        f"rng/rank{rank}": torch.frombuffer(bytearray(part), dtype=torch.uint8)
        for rank, part in enumerate(every)
        if rank
    }


def restore_generators(saved: files.Checkpoint) -> None:
    """Put back the generators of torch, numpy and python of this process."""
    rank = distributed.current().rank
    tensors, plain = saved.group("rng"), saved.meta["rng"]
    if rank:
        if f"rank{rank}" not in tensors:
            raise UserError(f"{saved.path} was written by fewer processes: continue with as many as then")
        content = tensors[f"rank{rank}"].numpy().tobytes()
        size = int.from_bytes(content[:8], "little")
        plain = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["plain"])
        tensors = {name.removeprefix("rng/"): value for name, value in load(content).items()}
    files.restore_random_state(tensors, plain)


def unpack(trainer: Any, saved: files.Checkpoint) -> None:
    """Put a packed run into a fresh trainer, all but the generators.

    They are restored where training goes on (`training.SigmaTrainer`), since what happens until then draws
    from them.
    """
    files.load_weights(trainer.model, saved)
    trainer.optimizer.load_state_dict(
        files.unpack_optimizer(saved.group("optimizer"), saved.meta["optimizer"])
    )
    trainer.scheduler_step = saved.meta["scheduler_step"]
    if saved.meta["scaler"]:
        trainer.scaler.load_state_dict(saved.meta["scaler"])
    trainer.start_epoch = saved.meta["epoch"] + 1
    trainer.cur_step = saved.meta["cur_step"]
    trainer.best_valid_score = saved.meta["best_valid_score"]
    trainer.best_valid_result = saved.meta["best_valid_result"]
    trainer.best_epoch = saved.meta["best_epoch"]
    trainer.history = list(saved.meta["history"])
