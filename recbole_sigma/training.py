"""Training for any RecBole trainer: our evaluator, safe checkpoints, schedules, a record."""

from __future__ import annotations

import contextlib
import copy
import math
import os
import time
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import recbole.trainer.trainer as stock
import torch
from recbole.utils import set_color
from torch import Tensor

from recbole_sigma import checkpoint as files
from recbole_sigma.config import requested_values
from recbole_sigma.evaluation.judge import Judge, Judgement
from recbole_sigma.evaluation.task_report import add_task_rows
from recbole_sigma.progress import Counted, Progress
from recbole_sigma.values import UserError

FLOOR = 0.05  # the cosine schedule ends at this share of the learning rate


def learning_rate_factor(step: int, total: int, warmup: int, schedule: str) -> float:
    """Share of the base learning rate at an optimizer step.

    Args:
        step: 0-based step.
        total: steps of the whole training.
        warmup: steps of linear warm-up.
        schedule: ``constant`` or ``cosine`` (down to `FLOOR`).
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + math.cos(math.pi * progress))


class SigmaTrainer:
    """Mixin before a RecBole trainer class; `make_trainer` builds the pair.

    A model may define ``on_epoch_start(epoch, train_data)``, ``optimizer_groups(weight_decay)``,
    ``loss_names``, ``checkpoint_extra()`` / ``load_checkpoint_extra(extra)`` and ``training_free``.

    Attributes:
        history: one mapping per epoch: ``epoch``, ``train_loss``, ``valid``, seconds.
        judgement: what the last `evaluate` found, with the place of every target.
    """

    def __init__(self, config: Any, model: Any) -> None:
        with _no_tensorboard(enabled=not config["train_tensorboard"]):
            super().__init__(config, model)  # type: ignore[call-arg]
        if getattr(model, "training_free", False):
            self.epochs = 1
        if config["train_clip_norm"] and not self.clip_grad_norm:
            self.clip_grad_norm = {"max_norm": float(config["train_clip_norm"])}
        self.saved_model_file = os.path.splitext(self.saved_model_file)[0] + f"-{os.getpid()}.safetensors"
        self.judge = Judge(config)
        self.eval_collector = self.judge.collector
        self.history: list[dict[str, Any]] = []
        self.judgement: Judgement | None = None
        self.best_epoch: int | None = None
        self._scheduler: torch.optim.lr_scheduler.LambdaLR | None = None
        self._best_state: dict[str, Any] | None = None
        self._keep_best_in_memory = False
        self._train_data: Any = None
        self._progress: Progress | None = None

    # --- training ---

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        """RecBole's optimizers; AdamW is fused, and the model may group its parameters."""
        decay = kwargs.get("weight_decay", self.weight_decay)
        if "params" not in kwargs and hasattr(self.model, "optimizer_groups"):
            kwargs["params"] = self.model.optimizer_groups(decay)
        learner = kwargs.get("learner", self.learner).lower()
        if learner != "adamw":
            return super()._build_optimizer(**kwargs)  # type: ignore[misc]
        params = kwargs.get("params", self.model.parameters())
        rate = kwargs.get("learning_rate", self.learning_rate)
        return torch.optim.AdamW(params, lr=rate, weight_decay=decay, fused=True)

    def fit(
        self, train_data: Any, valid_data: Any = None, *args: Any, saved: bool = True, **kwargs: Any
    ) -> Any:
        """RecBole's fit; without a checkpoint file the best epoch is kept in memory instead."""
        self._train_data = train_data
        self._keep_best_in_memory = not saved
        try:
            result = super().fit(train_data, valid_data, *args, saved=saved, **kwargs)  # type: ignore[misc]
        finally:
            if self._progress is not None:
                self._progress.close()
        if self._best_state is not None:
            self.model.load_state_dict(self._best_state["weights"])
            self.model.load_other_parameter(self._best_state["other"])
        return result

    def _train_epoch(
        self,
        train_data: Any,
        epoch_idx: int,
        loss_func: Any = None,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> Any:
        self._start_schedule(train_data)
        if hasattr(self.model, "on_epoch_start"):
            self.model.on_epoch_start(epoch_idx, train_data)
        data = train_data
        if show_progress:
            if self._progress is None:
                self._progress = Progress(f"Train {self.config['model']}", self.epochs * len(train_data))
            data = Counted(train_data, self._progress)
        wall, cpu = time.perf_counter(), time.process_time()
        loss = super()._train_epoch(data, epoch_idx, loss_func=loss_func, **kwargs)  # type: ignore[misc]
        batches = max(1, len(train_data))
        parts = loss if isinstance(loss, tuple) else (loss,)
        self.history.append(
            {
                "epoch": epoch_idx,
                "train_loss": [float(part) / batches for part in parts if part is not None],
                "train_seconds": time.perf_counter() - wall,
                "train_cpu_seconds": time.process_time() - cpu,
            }
        )
        return loss

    def _start_schedule(self, train_data: Any) -> None:
        schedule, warmup = (
            self.config["train_schedule"] or "constant",
            self.config["train_warmup_epochs"] or 0,
        )
        if self._scheduler is not None or (schedule == "constant" and not warmup):
            return
        batches = max(1, len(train_data))
        total, warm = self.epochs * batches, int(warmup * batches)
        self._scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, total, warm, schedule)
        )
        scheduler = self._scheduler
        self.optimizer.register_step_post_hook(lambda *_: scheduler.step())

    def _generate_train_loss_output(self, epoch_idx: int, s_time: float, e_time: float, losses: Any) -> str:
        """RecBole's line, with the mean loss per batch and the model's names for its parts."""
        parts = losses if isinstance(losses, tuple) else (losses,)
        names = getattr(self.model, "loss_names", ()) or [f"train_loss{i + 1}" for i in range(len(parts))]
        if len(parts) == 1 and not getattr(self.model, "loss_names", ()):
            names = ["train loss"]
        places = self.config["loss_decimal_place"] or 4
        batches = max(1, len(self._train_data)) if self._train_data is not None else 1
        shown = ", ".join(
            f"{set_color(name, 'blue')}: {part / batches:.{places}f}"
            for name, part in zip(names, parts, strict=False)
        )
        head = set_color(f"epoch {epoch_idx} training", "green")
        return f"{head} [{set_color('time', 'blue')}: {e_time - s_time:.2f}s, {shown}]"

    # --- evaluation ---

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> tuple[float, dict[str, float]]:
        score, result = super()._valid_epoch(valid_data)  # type: ignore[misc]
        better = (
            score >= self.best_valid_score if self.valid_metric_bigger else score <= self.best_valid_score
        )
        if self.history:
            self.history[-1]["valid"] = dict(result)
            self.history[-1]["valid_seconds"] = self.judgement.seconds if self.judgement else None
        if self._progress is not None:
            best = score if better else self.best_valid_score
            epoch = self.history[-1]["epoch"] + 1
            self._progress.say(
                f"epoch {epoch}/{self.epochs}, valid {self.valid_metric} {score:.4f}, best {best:.4f}"
            )
        if better:
            self.best_epoch = self.history[-1]["epoch"] if self.history else None
            if self._keep_best_in_memory:
                self._best_state = {
                    "weights": {
                        name: value.detach().clone() for name, value in self.model.state_dict().items()
                    },
                    "other": copy.deepcopy(self.model.other_parameter()),
                }
        return score, result

    @torch.no_grad()
    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: str | None = None,
        show_progress: bool = False,
    ) -> dict[str, float] | None:
        """Judge the model; see `evaluation.judge`. `judgement` keeps the place of every target."""
        if not eval_data:
            return None
        if load_best_model:
            self.load(model_file or self.saved_model_file)
        judgement = self.judge.judge(self.model, eval_data, progress=show_progress)
        self.judgement = add_task_rows(judgement, self.model, eval_data, self.config)
        return self.judgement.metrics

    # --- checkpoints ---

    def load(self, path: str) -> None:
        """Put the weights of a checkpoint file into the model."""
        files.load_weights(
            self.model, files.read(path, model=self.config["model"], dataset=self.config["dataset"])
        )
        self.logger.info(f"Loading model structure and parameters from {path}")

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Write one safetensors file; see `checkpoint`."""
        if not self.config["single_spec"] and self.config["local_rank"] != 0:
            return
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        files.write(path, self.state(epoch))
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {path}")

    def state(self, epoch: int) -> files.Checkpoint:
        """Everything that the run holds: weights, optimizer, schedule, generators, early stopping."""
        tensors: dict[str, Tensor] = {
            f"model/{name}": value for name, value in self.model.state_dict().items()
        }
        other_tensors, other = files.pack_values(self.model.other_parameter() or {}, "other")
        optimizer_tensors, optimizer = files.pack_optimizer(self.optimizer.state_dict())
        random_tensors, generators = files.pack_random_state()
        tensors |= other_tensors | optimizer_tensors | random_tensors
        if self._train_data is not None and getattr(self._train_data, "generator", None) is not None:
            tensors["rng/loader"] = self._train_data.generator.get_state()
        extra: dict[str, str] = {}
        if hasattr(self.model, "checkpoint_extra"):
            for name, value in self.model.checkpoint_extra().items():
                if isinstance(value, Tensor):
                    tensors[f"extra/{name}"] = value
                elif isinstance(value, str):
                    extra[name] = value
                else:
                    raise TypeError(
                        f"checkpoint_extra[{name!r}] must be text or a tensor, not {type(value).__name__}"
                    )
        return files.Checkpoint(
            meta={
                "model": self.config["model"],
                "dataset": self.config["dataset"],
                "config": requested_values(self.config),
                "epoch": epoch,
                "cur_step": self.cur_step,
                "best_valid_score": float(self.best_valid_score),
                "best_epoch": self.best_epoch,
                "history": self.history,
                "other": other,
                "optimizer": optimizer,
                "scheduler_step": self._scheduler.last_epoch if self._scheduler else 0,
                "rng": generators,
                "extra": extra,
            },
            tensors=tensors,
        )

    def resume_checkpoint(self, resume_file: str) -> None:
        """Continue from a checkpoint: weights, optimizer, schedule, generators and early stopping."""
        saved = files.read(resume_file, model=self.config["model"], dataset=self.config["dataset"])
        files.load_weights(self.model, saved)
        self.optimizer.load_state_dict(
            files.unpack_optimizer(saved.group("optimizer"), saved.meta["optimizer"])
        )
        self.saved_model_file = str(resume_file)
        self.start_epoch = saved.meta["epoch"] + 1
        self.cur_step = saved.meta["cur_step"]
        self.best_valid_score = saved.meta["best_valid_score"]
        self.best_epoch = saved.meta["best_epoch"]
        self.history = list(saved.meta["history"])
        files.restore_random_state(saved.group("rng"), saved.meta["rng"])
        self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}")


@contextlib.contextmanager
def _no_tensorboard(enabled: bool = True) -> Iterator[None]:
    """Give RecBole's trainers a writer that writes nothing: they always open an event file."""
    original = stock.get_tensorboard
    if enabled:
        nothing = SimpleNamespace(add_scalar=_ignore, add_hparams=_ignore)
        stock.get_tensorboard = lambda logger: nothing
    try:
        yield
    finally:
        stock.get_tensorboard = original


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Take anything, do nothing."""


@cache
def make_trainer(trainer_class: type) -> type:
    """`SigmaTrainer` on top of a RecBole trainer class."""
    if issubclass(trainer_class, SigmaTrainer):
        return trainer_class
    if not issubclass(trainer_class, stock.Trainer):
        raise UserError(
            f"{trainer_class.__name__} does not train by epochs over tensors (decision trees): run it "
            "with RecBole itself"
        )
    return type(f"Sigma{trainer_class.__name__}", (SigmaTrainer, trainer_class), {"__module__": __name__})
