"""The one evaluator: a loader and a model in, metrics and the place of every target out."""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.interaction import Interaction
from recbole.evaluator import Evaluator
from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor

from recbole_sigma.chronology import Chronology
from recbole_sigma.evaluation.collector import RankedCollector
from recbole_sigma.evaluation.metrics import without_beam
from recbole_sigma.evaluation.shards import Shard
from recbole_sigma.progress import Counted, Progress
from recbole_sigma.ranking import top_k
from recbole_sigma.values import RankedItems, UserError

Pairs = tuple[Tensor, Tensor]
_PAIRS = 1 << 18  # user-item pairs scored at once for a model that has only ``predict``


@dataclass(frozen=True)
class Judgement:
    """What one pass over an evaluation set found.

    Attributes:
        metrics: metric name -> value, plain floats.
        users: int64 [P], user of every judged target.
        targets: int64 [P], its item id.
        places: int64 [P], its 1-based place in the list, 0 when not among the first K.
        unreachable: number of targets that the seen-item filter forbids.
        seconds: wall seconds of the pass.
        lists: int64 [rows, K], what was recommended, 0 in slots that count for nothing.
    """

    metrics: OrderedDict[str, float]
    users: np.ndarray
    targets: np.ndarray
    places: np.ndarray
    unreachable: int
    seconds: float
    lists: np.ndarray


class Judge:
    """Evaluates any model on RecBole's full-ranking loaders, in one process or in several.

    Args:
        config: RecBole config; reads ``topk``, ``metrics``, ``filter_seen``, ``prefix_survival_users``, the
            seed and the device.
        filter_seen: overrides ``config['filter_seen']``.
    """

    def __init__(self, config: Any, filter_seen: bool | None = None) -> None:
        self.config = config
        self.filter_seen = bool(config["filter_seen"]) if filter_seen is None else filter_seen
        self.collector = RankedCollector(config)
        self.evaluator = Evaluator(config)
        self.k = max(config["topk"])

    @torch.no_grad()
    def judge(self, model: Any, loader: Any, progress: bool = False, label: str = "Evaluate") -> Judgement:
        """Rank for every row of the loader and compute all metrics.

        In a run of several processes every one of them must call this; all get the same answer, each row
        counted once.

        Args:
            model: a RecBole model, or a generative one with ``rank``.
            loader: `FullSortEvalDataLoader` over a dataset with a `Chronology`.
            progress: show a bar.
            label: the bar's text.
        """
        if not isinstance(loader, FullSortEvalDataLoader):
            raise UserError(
                "this evaluator ranks the full catalogue: set eval_args: {mode: full} (sampled metrics "
                "are refused)"
            )
        shard = Shard(loader)
        if not self.collector.has_data:
            self.collector.data_collect(loader)
        sampled = None
        if self.collector.register.need("rec.survival"):
            problem = without_beam(type(model))
            if problem:
                raise UserError(problem)
            sampled = shard.sample(int(self.config["prefix_survival_users"] or 0), int(self.config["seed"]))
        model.eval()
        started = time.perf_counter()
        device = self.config["device"]
        n_items = loader._dataset.item_num
        seen_of = _SeenItems(loader) if self.filter_seen else None
        found: dict[str, list[Tensor]] = defaultdict(list)
        begin = 0
        bar = Progress(label, len(loader), enabled=progress)
        for interaction, history, positive_u, positive_i in Counted(loader, bar):
            seen = seen_of(interaction, history) if seen_of else None
            closed = torch.zeros_like(positive_i, dtype=torch.bool)
            if seen is not None:
                closed = torch.isin(positive_u * n_items + positive_i, seen[0] * n_items + seen[1])
                seen = (seen[0].to(device), seen[1].to(device))
            row_users = interaction[loader._dataset.uid_field]
            rows = shard.rows[begin : begin + len(row_users)]
            begin += len(row_users)
            interaction = interaction.to(device)
            ranked = self.rank(model, interaction, n_items, seen, loader)
            survival = None if sampled is None else self._survival(model, interaction, seen, sampled[rows])
            place = self.collector.collect_ranked(
                ranked, positive_u.to(device), positive_i.to(device), n_items, seen, survival
            )
            found["rows"].append(rows[positive_u])
            found["users"].append(row_users[positive_u])
            found["targets"].append(positive_i)
            found["places"].append(place.cpu())
            found["closed"].append(closed)
        bar.close()
        if not found:
            raise UserError("the evaluation set is empty: no user has enough events for this split")
        collected = self.collector.get_data_struct(shard)
        result = self.evaluator.evaluate(collected)
        whole = {name: torch.cat(parts) for name, parts in found.items()}
        whole = shard.merge(whole["rows"], whole)
        return Judgement(
            metrics=OrderedDict((name, float(value)) for name, value in result.items()),
            users=whole["users"].numpy(),
            targets=whole["targets"].numpy(),
            places=whole["places"].numpy(),
            unreachable=int(whole["closed"].sum()),
            seconds=time.perf_counter() - started,
            lists=collected.get("rec.items").numpy(),
        )

    def _survival(self, model: Any, interaction: Interaction, seen: Pairs | None, sampled: Tensor) -> Tensor:
        """Share of the exact list that the beam kept, float [B]; NaN in rows that are not sampled."""
        share = torch.full((len(sampled),), torch.nan)
        chosen = sampled.nonzero().flatten()
        if len(chosen):
            own = None
            if seen is not None:
                place = torch.full((len(sampled),), -1, dtype=torch.int64)
                place[chosen] = torch.arange(len(chosen))
                row = place.to(seen[0].device)[seen[0]]
                own = (row[row >= 0], seen[1][row >= 0])
            share[chosen] = model.prefix_survival(interaction[chosen], self.k, own).float().cpu()
        return share

    def rank(
        self, model: Any, interaction: Interaction, n_items: int, seen: Pairs | None, loader: Any
    ) -> RankedItems:
        """Lists of one batch, from ``model.rank`` or from dense scores."""
        if getattr(model, "generative", False):
            return model.rank(interaction, self.k, seen)
        if type(model).full_sort_predict is AbstractRecommender.full_sort_predict:  # which only raises
            scores = self._predict_all(model, interaction, n_items, loader)
        else:
            scores = model.full_sort_predict(interaction)
        return top_k(scores.view(-1, n_items), self.k, seen)

    def _predict_all(self, model: Any, interaction: Interaction, n_items: int, loader: Any) -> Tensor:
        """Dense scores of a model that has only ``predict``, a slice of the catalogue at a time."""
        features = loader._dataset.get_item_feature().to(self.config["device"])
        rows = len(interaction)
        width = max(1, _PAIRS // rows)
        columns = []
        for start in range(0, n_items, width):
            part = features[slice(start, min(start + width, n_items))]
            size = len(part)
            pairs = interaction.repeat_interleave(size)
            pairs.update(part.repeat(rows))
            columns.append(model.predict(pairs).view(rows, size))
        return torch.cat(columns, dim=1)


class _SeenItems:
    """Items that a row's user met before the judged event, beyond the model's window too."""

    def __init__(self, loader: Any) -> None:
        dataset = loader._dataset
        chronology: Chronology | None = getattr(dataset, "chronology", None)
        if chronology is None:
            raise UserError(
                "filter_seen needs the events in order: build the dataset through "
                "recbole_sigma.chronology.exact"
            )
        self.chronology: Chronology = chronology
        self.user_field, self.time_field = dataset.uid_field, dataset.time_field
        self.random_order = loader.config["eval_args"]["order"] == "RO"
        self.moment: Tensor | None = None
        if not loader.is_sequential:
            # one row per user with all its targets: what came before the first of them
            self.moment = torch.full((dataset.user_num,), len(self.chronology), dtype=torch.int64)
            self.moment.scatter_reduce_(
                0, dataset.inter_feat[self.user_field], dataset.inter_feat[self.time_field], "amin"
            )

    def __call__(self, interaction: Interaction, history: Pairs | None) -> Pairs:
        if self.random_order and history is not None:
            return history  # a random split has no "before": RecBole's train and valid items of the user
        users = interaction[self.user_field]
        ranks = interaction[self.time_field] if self.moment is None else self.moment[users]
        return self.chronology.before(users, ranks)
