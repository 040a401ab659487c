"""How a trainer keeps the state of its run on disk, and goes on from it."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from recbole.utils import set_color
from safetensors.torch import load, save
from torch import Tensor

from recbole_sigma.machine import processes as distributed
from recbole_sigma.machine.files import reading
from recbole_sigma.models.contract import contract
from recbole_sigma.run import checkpoint as files
from recbole_sigma.run import packing
from recbole_sigma.run.config import requested_values
from recbole_sigma.run.folder import RunFolder
from recbole_sigma.settings.keys import FileKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.values import UserError

STORE_EVERY = 600.0  # seconds between stored states inside a long epoch, where `checkpoint_steps` is 0
_OF_THE_FILE = ("format", "format_version", "versions", "aliases", "sha256")


class StoredRun:
    """Mixin of `trainer.RunTrainer`: checkpoints of the best epoch, and the state of an unfinished run.

    Attributes:
        run: where the state of an unfinished run is kept; None keeps none.
        origin: digests of the data that the run learns from.
        starts_from: digest of the weights that the run goes on from; None where it starts anew.
        order_state: the generator of the data's order, as it was when the current epoch began.
        trained: training is over (tests may still be due).
    """

    def _keep_nothing(self) -> None:
        self.run: RunFolder | None = None
        self.origin: dict[str, str] = {}
        self.starts_from: str | None = None
        self.order_state: Tensor | None = None
        self.trained = False
        self._continued: files.Checkpoint | None = None
        self._last_store = time.monotonic()
        self._last_meta: dict[str, Any] = {}

    # --- checkpoints ---

    def load(self, path: str) -> None:
        """Put the weights of a checkpoint file into the model; rank 0 reads it for all processes."""
        if self.world.main:
            files.load_weights(
                self.model, files.read(path, model=self.config["model"], dataset=self.config["dataset"])
            )
        distributed.same_everywhere(self.model.state_dict())
        self.logger.info(f"Loading model structure and parameters from {path}")

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Write one safetensors file; see `checkpoint`."""
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        state = self.state(epoch)
        if not self.world.main:
            return
        files.write(path, state)
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {path}")

    def save_pretrained_model(self, epoch: int, saved_model_file: str) -> None:
        """A stage of pre-training (S3Rec, RaCT) ends in a checkpoint as any other training does.

        The stage after it reads the file that ``pre_model_path`` names.
        """
        self.saved_model_file = f"{Path(saved_model_file).with_suffix('')}.safetensors"
        self._save_checkpoint(epoch, verbose=False)

    def pretrain(self, *args: Any, **kwargs: Any) -> Any:
        """RecBole's pre-training; its end is stored also where ``save_step`` does not divide the epochs."""
        result = super().pretrain(*args, **kwargs)  # type: ignore[misc]
        last = int(self.pretrain_epochs) - 1
        if (last + 1) % int(self.save_step):
            self.save_pretrained_model(last, self.saved_model_file)
        self.logger.info(
            f"Pre-training is over; go on with --train_stage=... --pre_model_path={self.saved_model_file}"
        )
        return result

    def state(self, epoch: int, place: dict[str, Any] | None = None) -> files.Checkpoint:
        """Everything that the run holds; see `state.pack`."""
        return pack(self, epoch, place)

    def resume_checkpoint(self, resume_file: str) -> None:
        """Continue from a checkpoint: weights, optimizer, schedule, generators and early stopping."""
        saved = files.read(resume_file, model=self.config["model"], dataset=self.config["dataset"])
        self.saved_model_file = str(resume_file)
        self.continue_from(saved)

    def continue_from(self, saved: files.Checkpoint) -> None:
        """Go on where a stored state ends, exactly."""
        unpack(self, saved)
        self._continued = saved
        place = saved.meta.get("place")
        with reading(saved.path or "the stored state", files.AGAIN):
            where = f", batch {int(place['batches'])}" if place else ""
            if place and (place["batches"] < 0 or not all(map(math.isfinite, sum(place["losses"], [])))):
                raise ValueError("the place inside the epoch is none")
            if place and len(place["losses"]) != self.world.size:
                raise ValueError(f"it holds the losses of {len(place['losses'])} processes")
            if self.start_epoch < 0:
                raise ValueError(f"epoch {saved.meta['epoch']} is none")
        self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}{where}")

    # --- the state of an unfinished run ---

    def _due(self, done: int) -> bool:
        """Whether the state is stored after this step of an epoch."""
        if self.run is None:
            return False
        steps = read(FileKeys, self.config).checkpoint_steps
        if steps:
            return done % steps == 0
        # by the clock only in a process of its own: storing is collective, and clocks differ
        return not self.world.several and time.monotonic() - self._last_store > STORE_EVERY

    def store(self, epoch: int, place: dict[str, Any] | None = None) -> None:
        """Store the state of this run, if it is kept.

        Args:
            epoch: last finished epoch.
            place: see `state.pack`.
        """
        if self.run is None or not self.exact:
            return
        if place is not None:  # each process has sums of its own
            every = distributed.gather(json.dumps(place["losses"]).encode())
            place = {**place, "losses": [json.loads(part) for part in every]}
        state = self.state(epoch, place)
        self._last_store = time.monotonic()
        if not self.world.main:
            return
        for name in [name for name in state.tensors if name.startswith("extra/")]:
            del state.tensors[name]  # item preparation is cached on its own
        state.meta |= {
            "extra": {},
            "origin": self.origin,
            "best_file": Path(self.saved_model_file).name,
            "trained": self.trained,
        }
        files.write(self.run.state_path, state)
        self._last_meta = {**state.meta, "optimizer": None, "rng": None, "aliases": {}}

    def finish(self) -> None:
        """Replace the stored state by a note of where the result is, for the same command asked again."""
        if self.run is None or not self.world.main or not self._last_meta:
            return
        files.write(self.run.state_path, files.Checkpoint(meta={**self._last_meta, "finished": True}))

    def accept_finished(self, saved: files.Checkpoint) -> None:
        """Take what a finished run found; its best weights are in `saved_model_file`."""
        with reading(saved.path or "the stored state", files.AGAIN):
            self.history = list(saved.meta["history"])
            self.best_valid_score = saved.meta["best_valid_score"]
            self.best_valid_result = saved.meta["best_valid_result"]
            self.best_epoch = saved.meta["best_epoch"]
        self.trained = True
        self._last_meta = {key: value for key, value in saved.meta.items() if key not in _OF_THE_FILE}


def pack(trainer: Any, epoch: int, place: dict[str, Any] | None = None) -> files.Checkpoint:
    """Weights, optimizer, schedule, scaler, generators, position in the data and early stopping.

    With several processes this is collective: the generators of all of them are kept.

    Args:
        trainer: a `trainer.RunTrainer`.
        epoch: last epoch that is finished, -1 for none.
        place: where in the epoch after it the run is: ``batches`` taken, the sums of the ``losses`` of each
            process so far, ``seconds``; None at the end of an epoch.
    """
    tensors: dict[str, Tensor] = {
        f"model/{name}": value for name, value in trainer.model.state_dict().items()
    }
    other_tensors, other = packing.pack_values(trainer.model.other_parameter() or {}, "other")
    optimizer_tensors, optimizer = packing.pack_optimizer(trainer.optimizer.state_dict())
    random_tensors, generators = packing.pack_random_state()
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
    for name, value in contract(model).checkpoint_extra().items():
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
    with reading(saved.path or "the stored state", files.AGAIN):
        _restore_generators(saved)


def _restore_generators(saved: files.Checkpoint) -> None:
    rank = distributed.current().rank
    tensors, plain = saved.group("rng"), saved.meta["rng"]
    if rank:
        if f"rank{rank}" not in tensors:
            raise UserError(f"{saved.path} was written by fewer processes: continue with as many as then")
        content = tensors[f"rank{rank}"].numpy().tobytes()
        size = int.from_bytes(content[:8], "little")
        plain = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["plain"])
        tensors = {name.removeprefix("rng/"): value for name, value in load(content).items()}
    packing.restore_random_state(tensors, plain)


def unpack(trainer: Any, saved: files.Checkpoint) -> None:
    """Put a packed run into a fresh trainer, all but the generators.

    They are restored where training goes on (`trainer.RunTrainer`), since what happens until then draws
    from them.
    """
    files.load_weights(trainer.model, saved)
    with reading(saved.path or "the stored state", files.AGAIN):
        fresh = [dict(group) for group in trainer.optimizer.param_groups]
        trainer.optimizer.load_state_dict(
            packing.unpack_optimizer(saved.group("optimizer"), saved.meta["optimizer"])
        )
        _check_optimizer(trainer.optimizer, fresh)
        trainer.scheduler_step = saved.meta["scheduler_step"]
        if saved.meta["scaler"]:
            trainer.scaler.load_state_dict(saved.meta["scaler"])
        trainer.start_epoch = saved.meta["epoch"] + 1
        trainer.cur_step = saved.meta["cur_step"]
        trainer.best_valid_score = saved.meta["best_valid_score"]
        trainer.best_valid_result = _plain(saved.meta["best_valid_result"])
        trainer.best_epoch = saved.meta["best_epoch"]
        trainer.history = list(saved.meta["history"])


def _check_optimizer(optimizer: Any, fresh: list[dict[str, Any]]) -> None:
    """An optimizer takes stored options and moments of any kind, and fails at its next step only.

    Args:
        optimizer: with the stored state in it.
        fresh: its groups as they were before.
    """
    kept = [set(state) for state in optimizer.state.values() if state]
    if any(names != kept[0] for names in kept):
        raise KeyError("the optimizer lacks a value of one of its parameters")
    for group, own in zip(optimizer.param_groups, fresh, strict=True):
        for name, value in group.items():
            if name != "params" and _kind(value) != _kind(own.get(name, 0.0)):
                raise TypeError(f"the optimizer's {name} is {value!r}")
        for parameter in group["params"]:
            for name, value in optimizer.state.get(parameter, {}).items():
                if not isinstance(value, Tensor):
                    if value is not None and _kind(value) != "number":
                        raise TypeError(f"the optimizer's {name} is a {type(value).__name__}")
                elif value.numel() != 1 and value.shape not in (parameter.shape, parameter.shape[:1]):
                    raise ValueError(f"the optimizer's {name} has shape {tuple(value.shape)}")
                elif not torch.isfinite(value).all():
                    raise ValueError(f"the optimizer's {name} holds NaN or infinite numbers")


def _kind(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_kind(part) for part in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number" if math.isfinite(value) else "no number"
    return type(value)
