"""The policy stage as a training: the trainer of every model, with rollouts for batches and their loss."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from logging import getLogger
from typing import Any

import recbole.data.utils as stock_data
import torch

from recbole_sigma.data.shares import epoch_batches, epoch_length
from recbole_sigma.evaluation.judge import Judgement
from recbole_sigma.machine import processes as distributed
from recbole_sigma.models.contract import contract
from recbole_sigma.policy.figures import ListFigures, sentence, shown
from recbole_sigma.policy.rollout import context_dataset
from recbole_sigma.policy.stage import PolicyStage
from recbole_sigma.run.checkpoint import Checkpoint
from recbole_sigma.run.trainer import RunTrainer, make_trainer
from recbole_sigma.settings.policy_keys import PolicyKeys
from recbole_sigma.settings.reader import read

START = -1
"""Epoch number of the judgement before the first step."""


class PolicyTrainer(RunTrainer):
    """A `RunTrainer` for the weights of a trained model; `make_policy_trainer` puts it before a RecBole
    trainer.

    The start is judged on validation as an epoch is, so the stage ends with the supervised weights where no
    epoch is better.

    Attributes:
        stage: what rolls out and takes the loss; None with ``policy: sft``, where the model's own loss goes
            on.
    """

    config: Any  # these are RecBole's
    model: Any
    stage: PolicyStage | None = None
    lists: ListFigures | None = None
    goes_on = True

    def __init__(self, config: Any, model: Any) -> None:
        self.policy = read(PolicyKeys, config)
        super().__init__(config, model)
        self.epochs, self.eval_step = self.policy.policy_epochs, 1
        self.keys = replace(self.keys, train_schedule="constant", train_warmup_epochs=0)

    def prepare(self, train: Any, start: Checkpoint) -> Any:
        """Take the start, and what the stage needs to know of the training data.

        Args:
            train: the loader of the supervised training.
            start: the checkpoint whose weights the model has.

        Returns:
            The loader of the stage.

        Raises:
            UserError: see `PolicyStage`.
        """
        self.starts_from = str(start.meta["sha256"])
        codes = contract(self.model).item_codes
        self.lists = ListFigures(train._dataset, None if codes is None else codes.codes)
        if self.policy.policy == "sft":
            return train
        self.stage = PolicyStage(self.config, train._dataset, type(self.model))
        self.stage.start(self.model)
        return context_loader(self.config, train._dataset, self.policy)

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        return super()._build_optimizer(**{"learning_rate": self.policy.policy_learning_rate, **kwargs})

    def fit(
        self, train_data: Any, valid_data: Any = None, *args: Any, saved: bool = True, **kwargs: Any
    ) -> Any:
        """Judge the start, then train; see `RunTrainer.fit`."""
        self._keep_best_in_memory = not saved
        if valid_data and not self.history and not self.trained:
            self.history.append(
                {"epoch": START, "train_loss": [], "train_seconds": 0.0, "train_cpu_seconds": 0.0}
            )
            self.best_valid_score, self.best_valid_result = self._valid_epoch(valid_data)
            if saved:
                self._save_checkpoint(START, verbose=False)
        return super().fit(train_data, valid_data, *args, saved=saved, **kwargs)

    # --- what differs from supervised training ---

    def _epoch_steps(self, train_data: Any) -> int:
        updates = 1 if self.stage is None else self.policy.policy_updates
        return epoch_length(train_data, self.world.size) * updates

    def _epoch_batches(self, train_data: Any, done: int) -> Iterator[tuple[Any, float]]:
        if self.stage is None:
            yield from super()._epoch_batches(train_data, done)
            return
        updates = self.policy.policy_updates
        batches = epoch_batches(train_data, done // updates, self.world.rank, self.world.size)
        for contexts, weight in batches:
            rolled = self.stage.roll_out(self.model, contexts)
            for _ in range(updates):
                yield rolled, weight

    def _due(self, done: int) -> bool:
        """Whether the state is stored here: between rollouts, which are not stored."""
        updates = 1 if self.stage is None else self.policy.policy_updates
        return done % updates == 0 and super()._due(done // updates)

    def _loss(self, interaction: Any) -> Any:
        if self.stage is None:
            return super()._loss(interaction)
        return self.stage.loss(self.model, interaction)

    def _loss_weight(self, interaction: Any) -> float:
        return super()._loss_weight(interaction) if self.stage is None else float(len(interaction))

    def _loss_names(self) -> list[str]:
        return super()._loss_names() if self.stage is None else [self.policy.policy]

    # --- figures ---

    def _train_batches(self, train_data: Any, epoch: int, place: dict[str, Any], loss_of: Any) -> Any:
        if self.stage is not None and place:
            self.stage.sums.restore(place["policy"][self.world.rank])
        return super()._train_batches(train_data, epoch, place, loss_of)

    def store(self, epoch: int, place: dict[str, Any] | None = None) -> None:
        """Store the state of this run, the figures of an unfinished epoch with it."""
        if place is not None and self.stage is not None:
            own = json.dumps(list(self.stage.sums.values.values())).encode()
            place = {**place, "policy": [json.loads(part) for part in distributed.gather(own)]}
        super().store(epoch, place)

    def _train_epoch(self, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        loss = super()._train_epoch(train_data, epoch_idx, *args, **kwargs)
        if self.stage is not None:
            self.stage.finish_epoch()
            size = self.world.size
            self.history[-1]["policy"] = shown(
                [value * size for value in distributed.mean(self.stage.sums.take())]
            )
        return loss

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> tuple[float, dict[str, float]]:
        found = super()._valid_epoch(valid_data, show_progress)
        if isinstance(self.judgement, Judgement) and self.lists is not None:
            known = self.history[-1].get("policy", {})
            self.history[-1]["policy"] = {**known, **self.lists(self.judgement.lists)}
            getLogger().info(sentence(self.history[-1]))
        return found


def make_policy_trainer(trainer_class: type) -> type:
    """`PolicyTrainer` on top of a RecBole trainer class."""
    whole = make_trainer(trainer_class)
    return type(f"Policy{trainer_class.__name__}", (PolicyTrainer, whole), {"__module__": __name__})


def context_loader(config: Any, train: Any, keys: PolicyKeys) -> Any:
    """RecBole's training loader over contexts."""
    rows = context_dataset(train, keys.policy_contexts)
    asked = config["train_batch_size"]
    config["train_batch_size"] = keys.policy_batch
    try:
        return stock_data.get_dataloader(config, "train")(config, rows, None, shuffle=config["shuffle"])
    finally:
        config["train_batch_size"] = asked
