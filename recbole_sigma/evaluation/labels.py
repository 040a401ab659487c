"""The judge of models that are scored by labels: a loader of labelled rows in, metrics and all scores out."""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import NegSampleEvalDataLoader
from recbole.evaluator import Evaluator
from recbole.evaluator.collector import DataStruct
from recbole.utils import EvaluatorType
from torch import Tensor

from recbole_sigma.evaluation.judge import Judge
from recbole_sigma.evaluation.shards import Shard
from recbole_sigma.machine.progress import Counted, Progress
from recbole_sigma.models.contract import Contract, contract
from recbole_sigma.settings.label_keys import LabelKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RecBoleKeys
from recbole_sigma.values import UserError


@dataclass(frozen=True)
class LabelJudgement:
    """What one pass over labelled rows found.

    Attributes:
        metrics: metric name -> value, plain floats.
        users: int64 [P], user of every row.
        groups: int64 [P], what GAUC groups the rows by: the user, or ``gauc_group``.
        labels: int8 [P].
        scores: float32 [P], the model's probability of the label 1.
        seconds: wall seconds of the pass.
        unreachable: 0; every row is scored.
    """

    metrics: OrderedDict[str, float]
    users: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    seconds: float
    unreachable: int = 0

    def rows(self) -> dict[str, Any]:
        """The scored rows as plain values; nine digits give a float32 back."""
        return {
            "users": self.users.tolist(),
            "groups": self.groups.tolist(),
            "labels": self.labels.tolist(),
            "scores": [float(f"{score:.9g}") for score in self.scores.tolist()],
        }


class LabelJudge:
    """Scores every labelled row with the model's ``predict``; asked for in place of `judge.Judge`.

    Args:
        config: RecBole config; reads ``metrics``, ``LABEL_FIELD``, ``gauc_group`` and the device.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.evaluator = Evaluator(config)
        self.group = read(LabelKeys, config).gauc_group
        # what the trainer asks of a judge of lists
        self.collector = SimpleNamespace(data_collect=lambda train: None)
        self.memory = SimpleNamespace(active=False, weight=None)

    def choose(self, model: Any, loader: Any) -> None:
        """Nothing is left to validation here."""

    @torch.no_grad()
    def judge(
        self,
        model: Any,
        loader: Any,
        progress: bool = False,
        label: str = "Evaluate",
        validation: bool = False,
    ) -> LabelJudgement:
        """Score every row and compute all metrics.

        In a run of several processes every one of them must call this; all get the same answer, each row
        counted once.

        Args:
            model: a RecBole model with ``predict``.
            loader: RecBole's loader of labelled rows.
            progress: show a bar.
            label: the bar's text.
            validation: score by `Contract.validation_scores`, to pick an epoch.
        """
        if not isinstance(loader, NegSampleEvalDataLoader):
            raise UserError("models judged by labels need eval_args: {mode: labeled}")
        dataset, shard = loader._dataset, Shard(loader)
        model.eval()
        started, device = time.perf_counter(), self.config["device"]
        found: dict[str, list[Tensor]] = defaultdict(list)
        bar = Progress(label, len(loader), enabled=progress)
        for interaction, *_ in Counted(loader, bar):
            batch = contract(model).on_device(interaction, device)
            predict = model.predict
            if validation and isinstance(model, Contract):
                predict = model.validation_scores
            scores = predict(batch).reshape(-1).float()
            found["scores"].append(scores)
            found["labels"].append(interaction[self.config["LABEL_FIELD"]].reshape(-1).to(torch.int8))
            found["users"].append(self._column(interaction, dataset.uid_field))
            found["groups"].append(self._column(interaction, self.group or dataset.uid_field))
        bar.close()
        if not found:
            raise UserError("the evaluation set is empty: no row is left for it by this split")
        whole = shard.merge(shard.rows, {name: torch.cat(parts).cpu() for name, parts in found.items()})
        if bool(whole["scores"].isnan().any()):
            raise UserError(
                f"{self.config['model']} scores {int(whole['scores'].isnan().sum())} of "
                f"{len(whole['scores'])} rows as no number: lower learning_rate, or look for extreme "
                "values in the data"
            )
        struct = DataStruct()
        struct.set("rec.score", whole["scores"])
        struct.set("data.label", whole["labels"].float())
        struct.set("data.group", whole["groups"])
        metrics = OrderedDict((name, float(value)) for name, value in self.evaluator.evaluate(struct).items())
        if (wanted := read(RecBoleKeys, self.config).valid_metric.lower()) not in metrics:
            raise UserError(
                f"valid_metric {wanted} is not known: no user has rows of both labels here; set "
                "valid_metric: AUC"
            )
        return LabelJudgement(
            metrics=metrics,
            users=whole["users"].numpy(),
            groups=whole["groups"].numpy(),
            labels=whole["labels"].numpy(),
            scores=whole["scores"].numpy(),
            seconds=time.perf_counter() - started,
        )

    def _column(self, interaction: Any, field: str) -> Tensor:
        if field not in interaction:
            raise UserError(
                f"gauc_group names {field!r}, which is no column of the rows; they have "
                f"{', '.join(interaction.columns)}"
            )
        values = interaction[field]
        if values.dim() != 1 or values.is_floating_point():
            raise UserError(
                f"gauc_group names {field!r}, which holds no single value per row: name a token column"
            )
        return values.to(torch.int64)


def judge_of(config: Any) -> Any:
    """The judge that the metrics ask for: `LabelJudge` or `judge.Judge`.

    RecBole's own Config, which does not know ``judged_by``, tells value metrics from ranking metrics too.
    """
    return LabelJudge(config) if config["eval_type"] == EvaluatorType.VALUE else Judge(config)
