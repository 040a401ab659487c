"""Training for any RecBole trainer: our evaluator, safe checkpoints, exact resume, schedules, a record."""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import time
from collections.abc import Iterator
from functools import cache, partial, reduce
from typing import Any

import recbole.trainer.trainer as stock
import torch
from recbole.utils import calculate_valid_score
from torch import Tensor

from recbole_sigma.data.shares import epoch_batches, epoch_length
from recbole_sigma.evaluation.judge import Judgement
from recbole_sigma.evaluation.labels import LabelJudge, LabelJudgement, judge_of
from recbole_sigma.evaluation.tasks.report import add_task_rows
from recbole_sigma.machine import processes as distributed
from recbole_sigma.machine.clock import cpu_seconds
from recbole_sigma.machine.files import reading
from recbole_sigma.machine.progress import Counted, Progress
from recbole_sigma.models.contract import Contract, contract
from recbole_sigma.run import checkpoint as files
from recbole_sigma.run import state, tracking
from recbole_sigma.run.loaders import sampled
from recbole_sigma.run.logs import training_line
from recbole_sigma.run.optimizer import adamw, settle, take_step
from recbole_sigma.run.precision import (
    fast_products,
    loss_weight,
    memory_sentence,
    pieces,
    precision,
    wants_compile,
)
from recbole_sigma.run.refusals import no_number, refuse_ensemble, refuse_policy
from recbole_sigma.run.replay import Replay, Update
from recbole_sigma.run.schedule import learning_rate_factor
from recbole_sigma.run.shared_loss import joined
from recbole_sigma.run.state import StoredRun
from recbole_sigma.settings.keys import MemoryKeys, TrainKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RecBoleKeys
from recbole_sigma.values import UserError

LOOK = 100  # steps between two looks at the losses on an accelerator
_RUNS = itertools.count(1)  # numbers the trainers of this process


class RunTrainer(StoredRun):
    """Mixin before a RecBole trainer class; `make_trainer` builds the pair.

    What it asks of the model stands in `models.contract`.

    Attributes:
        history: one mapping per epoch: ``epoch``, ``train_loss``, ``valid``, seconds.
        judgement: what the last `evaluate` found, with the place of every target.
        scheduler_step: how often the learning-rate schedule has stepped.
    """

    goes_on = False  # `run.policy` does, and answers the questions before `_shared_loss` otherwise

    def __init__(self, config: Any, model: Any) -> None:
        self.keys = read(TrainKeys, config)
        if not self.goes_on:
            refuse_policy(config)
        refuse_ensemble(config, model)
        with tracking.no_event_file():
            super().__init__(config, model)  # type: ignore[call-arg]
        if contract(model).training_free:
            self.epochs = 1
        if self.keys.train_clip_norm and not self.clip_grad_norm:
            self.clip_grad_norm = {"max_norm": self.keys.train_clip_norm}
        stem = os.path.splitext(self.saved_model_file)[0]  # model and second: many runs may share both
        self.saved_model_file = f"{stem}-{os.getpid()}-{next(_RUNS)}.safetensors"
        self.judge = judge_of(config)
        self.eval_collector = self.judge.collector
        self.history: list[dict[str, Any]] = []
        self.judgement: Judgement | LabelJudgement | None = None
        self.best_epoch: int | None = None
        self.scheduler_step = 0
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=bool(self.enable_scaler))
        self.world = distributed.current()
        self.half = precision(self.keys.train_precision, self.device)
        self.accumulation = self.keys.train_accumulation
        if self.accumulation > 1 and self.world.several:
            raise UserError(
                "train_accumulation: several processes split a batch already; use train_accumulation: 1 with"
                " --nproc"
            )
        if wants_compile(self.keys.train_compile):
            for part in contract(model).compiled_parts():
                # rows differ in length from batch to batch, on an accelerator in a few steps
                part.compile(dynamic=True if self.device.type == "cpu" else None)
        plain = self.exact and self.accumulation == 1 and not (self.goes_on or self.enable_scaler)
        alone = plain and not self.world.several and self.device.type == "cuda"
        replayed = alone and self.keys.train_compile != "off"
        self._replay = Replay(model, enabled=replayed)
        self._update = Update(self.optimizer, enabled=replayed)
        self.tracker: tracking.Tracker | None = None
        self._keep_nothing()
        self._scheduler: torch.optim.lr_scheduler.LambdaLR | None = None
        self._best_state: dict[str, Any] | None = None
        self._keep_best_in_memory = False
        self._unread: list[tuple[int, Tensor]] = []  # losses that were not looked at yet
        self._train_data: Any = None
        self._progress: Progress | None = None
        self._distributed: Any = None
        if self.world.several and not self.exact:
            raise UserError(
                f"{config['model']} has a training loop of its own, which runs in one process: use --nproc=1"
            )

    @property
    def exact(self) -> bool:
        """Whether the training loop is ours: continued runs and several processes need that.

        RecBole's trainers with loops, optimizers or stages of their own (knowledge graphs, RecVAE, NCL,
        pre-training) keep theirs.
        """
        kinds = type(self).__mro__
        between = kinds[kinds.index(StoredRun) + 1 : kinds.index(stock.Trainer)]
        own = ("fit", "_train_epoch", "_build_optimizer", "_valid_epoch", "pretrain")
        return not any(name in vars(kind) for kind in between for name in own)

    # --- training ---

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        """RecBole's optimizers; AdamW is ours, and the model may group its parameters."""
        decay = kwargs.get("weight_decay", self.weight_decay)
        groups = contract(self.model).optimizer_groups(decay)
        if "params" not in kwargs and groups is not None:
            kwargs["params"] = groups
        learner = kwargs.get("learner", self.learner).lower()
        if learner != "adamw":
            return super()._build_optimizer(**kwargs)  # type: ignore[misc]
        params = kwargs.get("params", self.model.parameters())
        return adamw(self.model, params, kwargs.get("learning_rate", self.learning_rate), decay)

    def fit(
        self, train_data: Any, valid_data: Any = None, *args: Any, saved: bool = True, **kwargs: Any
    ) -> Any:
        """RecBole's fit; without a checkpoint file the best epoch is kept in memory instead."""
        self._train_data = train_data
        self._keep_best_in_memory = not saved
        if self.trained:  # a run that was cut off between its last epoch and its end
            self._choose_memory(valid_data)
            return self.best_valid_score, self.best_valid_result
        # RecBole's SINE switches autograd's anomaly mode on for the whole process when its package is
        # imported, as every sequential model does: each operation then formats a stack trace
        torch.autograd.set_detect_anomaly(False)
        longest = contract(self.model).longest_row()
        if longest is not None:
            rows = -(-read(RecBoleKeys, self.config).train_batch_size // self.accumulation)
            self.logger.info(memory_sentence(self.model, rows * longest, self.half is not None))
        if self.world.main and self.keys.log_to != "none":
            name = os.path.splitext(os.path.basename(self.saved_model_file))[0]
            self.tracker = tracking.open_tracker(self.keys.log_to, self.config, name)
        try:
            result = super().fit(train_data, valid_data, *args, saved=saved, **kwargs)  # type: ignore[misc]
        finally:
            if self._progress is not None:
                self._progress.close()
        if self._best_state is not None:
            self.model.load_state_dict(self._best_state["weights"])
            self.model.load_other_parameter(self._best_state["other"])
        self.trained = True
        self.store(self.history[-1]["epoch"] if self.history else -1)
        self._choose_memory(valid_data)
        return result

    def _choose_memory(self, valid_data: Any) -> None:
        """Let validation weigh the collaborative memory beside the best weights; the checkpoint keeps it."""
        if read(MemoryKeys, self.config).memory != "validation" or not valid_data:
            return
        if not self._keep_best_in_memory:
            self.load(self.saved_model_file)
        weight = self.judge.choose_memory_weight(self.model, valid_data)
        self.logger.info(f"Collaborative memory: weight {weight:g}, chosen on validation")
        if not self._keep_best_in_memory and self.world.main:
            files.amend_config(self.saved_model_file, {"memory": "fixed", "memory_weight": weight})

    def _train_epoch(
        self,
        train_data: Any,
        epoch_idx: int,
        loss_func: Any = None,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> Any:
        self._start_schedule(train_data)
        loss_of = self._shared_loss()  # before the generators are put back
        steps = self._epoch_steps(train_data)
        continued, self._continued = self._continued, None
        if continued is not None:
            state.restore_generators(continued)
            with reading(continued.path or "the stored state", files.AGAIN):
                if "loader" in continued.group("rng"):
                    train_data.generator.set_state(continued.group("rng")["loader"])
                place = continued.meta["place"]
                if place and place["batches"] > steps:
                    raise ValueError(f"it stands at batch {place['batches']} of {steps}")
        elif epoch_idx > self.start_epoch:
            self.store(epoch_idx - 1)
        self.order_state = self.current_order()
        contract(self.model).on_epoch_start(epoch_idx, train_data)
        if show_progress and self._progress is None:
            left = self.epochs - epoch_idx
            self._progress = Progress(f"Train {self.config['model']}", left * steps)
        place = (continued.meta["place"] if continued is not None else None) or {}
        wall, cpu = time.perf_counter(), cpu_seconds()
        if self.exact:
            if place:  # inside an epoch: what begins an epoch may draw numbers and move buffers
                files.load_weights(self.model, continued)
                state.restore_generators(continued)
            loss = self._train_batches(train_data, epoch_idx, place, loss_of)
        else:
            data = Counted(train_data, self._progress) if self._progress is not None else train_data
            loss = super()._train_epoch(data, epoch_idx, loss_func=loss_func, **kwargs)  # type: ignore[misc]
        parts = loss if isinstance(loss, tuple) else (loss,)
        self.history.append(
            {
                "epoch": epoch_idx,
                "train_loss": [float(part) / steps for part in parts if part is not None],
                "train_seconds": time.perf_counter() - wall + place.get("seconds", 0.0),
                "train_cpu_seconds": cpu_seconds() - cpu,
            }
        )
        if self.tracker is not None:
            self.tracker.log(epoch_idx, {"train/loss": sum(self.history[-1]["train_loss"])})
        return loss

    def _train_batches(self, train_data: Any, epoch: int, place: dict[str, Any], loss_of: Any) -> Any:
        """One pass over the data, or the rest of one.

        Args:
            train_data: RecBole's loader.
            epoch: its number.
            place: where a run that goes on had come to; empty at the start of an epoch.
            loss_of: what gives the loss of a batch.

        Returns:
            The sum over batches of the loss, or of each of its parts, as RecBole does.
        """
        self.model.train()
        done = int(place.get("batches", 0))
        totals = place.get("losses", [[]] * self.world.size)[self.world.rank]
        parts = bool(place.get("parts", False))
        sums = torch.tensor(totals, dtype=torch.float64, device=self.device) if totals else None
        started = time.perf_counter() - place.get("seconds", 0.0)
        for interaction, weight in self._epoch_batches(train_data, done):
            self.optimizer.zero_grad()
            values, replayed = None, False
            whole = self._loss_weight(interaction)
            if self.world.several and isinstance(self.model, Contract):
                weight = distributed.share(whole)  # rows are of unequal length
            for piece, _ in pieces(interaction, self.accumulation, self.config["ITEM_LIST_LENGTH_FIELD"]):
                share = weight * self._loss_weight(piece) / whole
                batch = contract(self.model).on_device(piece, self.device)
                found = self._replay(batch, partial(self._losses, loss_of)) if share == 1.0 else None
                if found is None:
                    found = self._take_back(loss_of, batch, share, epoch, done)
                else:  # its gradients are there too
                    replayed = True
                    self._check_finite(reduce(torch.add, found[0]), epoch, done)
                every, parts = found
                own = torch.stack([part.double() for part in every]) * share
                values = own if values is None else values + own
            if not (replayed and self._update(self._replay, self.clip_grad_norm)):
                take_step(self.model, self.optimizer, self.scaler, self.clip_grad_norm)
            sums = values if sums is None else sums + values
            done += 1
            if self._progress is not None:
                self._progress.advance()
            if self._due(done):
                self._look_at_losses(epoch)
                totals = [] if sums is None else sums.tolist()
                seconds = time.perf_counter() - started
                self.store(epoch - 1, {"batches": done, "losses": totals, "parts": parts, "seconds": seconds})
        self._look_at_losses(epoch)
        settle(self.optimizer)
        totals = [] if sums is None else sums.tolist()
        if self.world.several:
            totals = distributed.mean(totals)
            distributed.same_everywhere(dict(self.model.named_buffers()))
        return tuple(totals) if parts else (totals[0] if totals else None)

    def _take_back(
        self, loss_of: Any, batch: Any, share: float, epoch: int, done: int
    ) -> tuple[tuple[Tensor, ...], bool]:
        """Forward and backward pass: the losses [] without their graph, which no recording may meet alive,
        and whether the model gives several.
        """
        losses = self._losses(loss_of, batch)
        every = losses if isinstance(losses, tuple) else (losses,)
        loss = reduce(torch.add, every)
        self._check_finite(loss, epoch, done)
        self.scaler.scale(loss * share if share != 1.0 else loss).backward()
        return tuple(part.detach().reshape(()) for part in every), isinstance(losses, tuple)

    def _losses(self, loss_of: Any, batch: Any) -> Any:
        """What a loss function gives, under the precision of the training."""
        cast = torch.autocast(self.device.type, self.half, self.enable_amp or self.half is not None)
        with cast, fast_products(self.half):
            return loss_of(batch)

    def _epoch_steps(self, train_data: Any) -> int:
        """Optimizer steps of one epoch."""
        return epoch_length(train_data, self.world.size)

    def _epoch_batches(self, train_data: Any, done: int) -> Iterator[tuple[Any, float]]:
        """This process's batches of an epoch after the first ``done`` steps; see `data.shares`."""
        return epoch_batches(train_data, done, self.world.rank, self.world.size)

    def _loss(self, interaction: Any) -> Any:
        """The loss of a batch on the device of the model, or its parts."""
        return self.model.calculate_loss(interaction)

    def _loss_weight(self, interaction: Any) -> float:
        """How much of a batch's mean loss a piece makes."""
        return loss_weight(self.model, interaction)

    def _loss_names(self) -> list[str]:
        """What the parts of the loss are called in the log."""
        return list(contract(self.model).loss_names)

    def _shared_loss(self) -> Any:
        """The loss; with several processes inside DistributedDataParallel, which joins gradients."""
        learns = any(parameter.requires_grad for parameter in self.model.parameters())
        if not self.world.several or not learns:
            return self._loss
        if self._distributed is None:
            self._distributed = joined(self.model, self._loss, self.world)
        return self._distributed

    def _check_finite(self, loss: Tensor, epoch: int, batch: int) -> None:
        """Stop at a loss that is no number: at once on a CPU, every `LOOK` steps where reading would wait."""
        self._unread.append((batch, loss.detach().reshape(())))  # some models give a vector of one
        if self.device.type == "cpu" or len(self._unread) >= LOOK:
            self._look_at_losses(epoch)

    def _look_at_losses(self, epoch: int) -> None:
        """Read the losses that were not looked at yet; nothing is stored before this."""
        batches, self._unread = self._unread, []
        values = torch.stack([loss for _, loss in batches]).tolist() if batches else []
        for (batch, _), value in zip(batches, values, strict=True):
            if not math.isfinite(value):
                raise no_number(self.config, value, epoch, batch)

    def current_order(self) -> Tensor | None:
        """State of the generator that draws the order of the training data."""
        generator = None if self._train_data is None else vars(self._train_data).get("generator")
        return None if generator is None else generator.get_state()

    def _start_schedule(self, train_data: Any) -> None:
        schedule, warmup = self.keys.train_schedule, self.keys.train_warmup_epochs
        if self._scheduler is not None or (schedule == "constant" and not warmup):
            return
        batches = epoch_length(train_data, self.world.size)
        total, warm = self.epochs * batches, int(warmup * batches)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: learning_rate_factor(step, total, warm, schedule),
            last_epoch=self.scheduler_step - 1,  # -1 for a fresh run
        )

        def step(*_: Any) -> None:
            scheduler.step()
            self.scheduler_step = scheduler.last_epoch

        self._scheduler = scheduler
        self.optimizer.register_step_post_hook(step)

    def _generate_train_loss_output(self, epoch_idx: int, s_time: float, e_time: float, losses: Any) -> str:
        """RecBole's line, with the mean loss per batch and the model's names for its parts."""
        steps = 1 if self._train_data is None else self._epoch_steps(self._train_data)
        places = read(RecBoleKeys, self.config).loss_decimal_place
        return training_line(epoch_idx, e_time - s_time, losses, self._loss_names(), steps, places)

    # --- evaluation ---

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> tuple[float, dict[str, float]]:
        cpu = cpu_seconds()
        self.judge.choose(self.model, valid_data)
        found = self.evaluate(sampled(self.config, valid_data), load_best_model=False)
        # early stopping must come to the same end in every process
        result = json.loads(distributed.broadcast(json.dumps(found or {})))
        score = calculate_valid_score(result, self.valid_metric)
        better = (
            score >= self.best_valid_score if self.valid_metric_bigger else score <= self.best_valid_score
        )
        if self.history:
            self.history[-1]["valid"] = dict(result)
            self.history[-1]["valid_seconds"] = self.judgement.seconds if self.judgement else None
            self.history[-1]["valid_cpu_seconds"] = cpu_seconds() - cpu
            if self.tracker is not None:
                self.tracker.log(self.history[-1]["epoch"], {f"valid/{k}": v for k, v in result.items()})
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
        more = {"validation": True} if isinstance(self.judge, LabelJudge) else {}
        judgement = self.judge.judge(self.model, eval_data, progress=show_progress, **more)
        self.judgement = add_task_rows(judgement, self.model, eval_data, self.config)
        return self.judgement.metrics


@cache
def make_trainer(trainer_class: type) -> type:
    """`RunTrainer` on top of a RecBole trainer class."""
    if issubclass(trainer_class, RunTrainer):
        return trainer_class
    if not issubclass(trainer_class, stock.Trainer):
        raise UserError(
            f"{trainer_class.__name__} does not train by epochs over tensors (decision trees): run it "
            "with RecBole itself"
        )
    return type(f"Run{trainer_class.__name__}", (RunTrainer, trainer_class), {"__module__": __name__})
