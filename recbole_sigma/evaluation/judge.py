"""The one evaluator: a loader and a model in, metrics and the place of every target out."""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.interaction import Interaction
from recbole.evaluator import Evaluator
from recbole.model.abstract_recommender import AbstractRecommender
from torch import Tensor

from recbole_sigma.decoding.memory import WEIGHTS, Bonus, CollaborativeMemory, add_bonus
from recbole_sigma.decoding.top_k import pairs_of_rows, top_k
from recbole_sigma.evaluation.collector import RankedCollector
from recbole_sigma.evaluation.histories import Histories
from recbole_sigma.evaluation.shards import Shard
from recbole_sigma.machine.progress import Counted, Progress
from recbole_sigma.models.contract import contract, without_beam
from recbole_sigma.settings.keys import ProtocolKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RecBoleKeys
from recbole_sigma.values import RankedItems, SeenPairs, UserError

_PAIRS = 1 << 18  # user-item pairs scored at once for a model that has only ``predict``


@dataclass(frozen=True)
class Judgement:
    """What one pass over an evaluation set found.

    Attributes:
        metrics: metric name -> value, plain floats.
        users: int64 [P], user of every judged target.
        targets: int64 [P], its item id.
        places: int64 [P], its 1-based place in the list, 0 when not among the first K.
        lengths: int64 [P], events of the user before it.
        last: int64 [P], the item of the newest of these, 0 where there is none.
        unreachable: number of targets that the seen-item filter forbids.
        seconds: wall seconds of the pass.
        lists: int64 [rows, K], what was recommended, 0 in slots that count for nothing.
        gates: float32 [P], `Contract.target_gates` of every target; None where the model has none.
    """

    metrics: OrderedDict[str, float]
    users: np.ndarray
    targets: np.ndarray
    places: np.ndarray
    lengths: np.ndarray
    last: np.ndarray
    unreachable: int
    seconds: float
    lists: np.ndarray
    gates: np.ndarray | None = None


class Judge:
    """Evaluates any model on RecBole's full-ranking loaders, in one process or in several.

    Args:
        config: RecBole config; reads ``topk``, ``metrics``, ``filter_seen``, ``prefix_survival_users``, the
            ``memory`` keys, the seed and the device.
        filter_seen: overrides ``config['filter_seen']``.
    """

    def __init__(self, config: Any, filter_seen: bool | None = None) -> None:
        self.config = config
        self.filter_seen = read(ProtocolKeys, config).filter_seen if filter_seen is None else filter_seen
        self.collector = RankedCollector(config)
        self.evaluator = Evaluator(config)
        self.k = max(config["topk"])
        self.memory = CollaborativeMemory(config)

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
        _check_loader(loader)
        shard = Shard(loader)
        if not self.collector.has_data:
            self.collector.data_collect(loader)
        sampled = None
        if self.collector.register.need("rec.survival"):
            problem = without_beam(type(model))
            if problem:
                raise UserError(problem)
            users, seed = (
                read(ProtocolKeys, self.config).prefix_survival_users,
                read(RecBoleKeys, self.config).seed,
            )
            sampled = shard.sample(users, seed)
        model.eval()
        started = time.perf_counter()
        device = self.config["device"]
        n_items = loader._dataset.item_num
        batches = _Batches(loader, self.filter_seen, self.memory if self.memory.active else None, device)
        found: dict[str, list[Tensor]] = defaultdict(list)
        begin = 0
        bar = Progress(label, len(loader), enabled=progress)
        for interaction, history, positive_u, positive_i in Counted(loader, bar):
            seen, bonus, closed, met = batches(interaction, history, positive_u, positive_i)
            row_users = interaction[loader._dataset.uid_field]
            rows = shard.rows[begin : begin + len(row_users)]
            begin += len(row_users)
            interaction = contract(model).on_device(interaction, device)
            if bonus is None:
                ranked = self.rank(model, interaction, n_items, seen, loader)
            else:
                weights = (float(self.memory.weight or 0.0),)
                (ranked,) = self.rank_fused(model, interaction, n_items, seen, loader, bonus, weights)
            survival = None if sampled is None else self._survival(model, interaction, seen, sampled[rows])
            row, target = positive_u.to(device), positive_i.to(device)
            place = self.collector.collect_ranked(ranked, row, target, n_items, seen, survival)
            found["rows"].append(rows[positive_u])
            found["users"].append(row_users[positive_u])
            found["targets"].append(positive_i)
            found["places"].append(place)
            found["closed"].append(closed)
            length = torch.bincount(met[0], minlength=len(row_users))
            newest = torch.zeros_like(length)
            newest[length > 0] = met[1][length.cumsum(0)[length > 0] - 1]
            found["lengths"].append(length[positive_u])
            found["last"].append(newest[positive_u])
            gates = contract(model).target_gates(interaction, row, target)
            if gates is not None:
                found["gates"].append(gates.float().cpu())
        bar.close()
        if not found:
            raise UserError("the evaluation set is empty: no user has enough events for this split")
        collected = self.collector.get_data_struct(shard)
        result = self.evaluator.evaluate(collected)
        whole = {name: torch.cat(parts).cpu() for name, parts in found.items()}
        whole = shard.merge(whole["rows"], whole)
        return Judgement(
            metrics=OrderedDict((name, float(value)) for name, value in result.items()),
            users=whole["users"].numpy(),
            targets=whole["targets"].numpy(),
            places=whole["places"].numpy(),
            lengths=whole["lengths"].numpy(),
            last=whole["last"].numpy(),
            unreachable=int(whole["closed"].sum()),
            seconds=time.perf_counter() - started,
            lists=collected.get("rec.items").numpy(),
            gates=whole["gates"].numpy() if "gates" in whole else None,
        )

    def _survival(
        self, model: Any, interaction: Interaction, seen: SeenPairs | None, sampled: Tensor
    ) -> Tensor:
        """Share of the exact list that the beam kept, float [B]; NaN in rows that are not sampled."""
        share = torch.full((len(sampled),), torch.nan)
        chosen = sampled.nonzero().flatten()
        if len(chosen):
            own = pairs_of_rows(seen, chosen, len(sampled))
            share[chosen] = model.prefix_survival(interaction[chosen], self.k, own).float().cpu()
        return share

    def rank(
        self, model: Any, interaction: Interaction, n_items: int, seen: SeenPairs | None, loader: Any
    ) -> RankedItems:
        """Lists of one batch, from ``model.rank`` or from dense scores."""
        if contract(model).generative:
            return model.rank(interaction, self.k, seen)
        return top_k(self.dense(model, interaction, n_items, loader), self.k, seen)

    def rank_fused(
        self,
        model: Any,
        interaction: Interaction,
        n_items: int,
        seen: SeenPairs | None,
        loader: Any,
        bonus: Bonus,
        weights: tuple[float, ...],
    ) -> list[RankedItems]:
        """Lists of one batch by score + weight * bonus, one per weight."""
        if contract(model).generative:
            return model.rank_fused(interaction, self.k, seen, bonus, weights)
        scores = self.dense(model, interaction, n_items, loader)
        return [top_k(add_bonus(scores, bonus, weight), self.k, seen) for weight in weights]

    @torch.no_grad()
    def choose_memory_weight(self, model: Any, loader: Any) -> float:
        """Set the weight of the collaborative memory to the best of `WEIGHTS` on a loader.

        Args:
            model: see `judge`.
            loader: the validation part.
        """
        n_items = loader._dataset.item_num

        def lists(interaction: Interaction, seen: SeenPairs | None, bonus: Bonus | None) -> list[RankedItems]:
            assert bonus is not None
            return self.rank_fused(model, interaction, n_items, seen, loader, bonus, WEIGHTS)

        self.memory.weight = WEIGHTS[self._best(model, loader, self.memory, lists)]
        return self.memory.weight

    @torch.no_grad()
    def choose(self, model: Any, loader: Any) -> None:
        """Let a loader choose what a model leaves to validation (`Contract.choices`).

        Args:
            model: see `judge`.
            loader: the validation part.
        """
        answers = contract(model)
        if answers.choices:
            answers.choose(
                self._best(model, loader, None, lambda batch, seen, _: answers.rank_choices(batch, 10, seen))
            )

    def _best(
        self,
        model: Any,
        loader: Any,
        memory: CollaborativeMemory | None,
        lists: Callable[[Interaction, SeenPairs | None, Bonus | None], list[RankedItems]],
    ) -> int:
        """Which of several lists is best: the highest mean of 1 / log2(1 + place) over the targets among the
        first ten (NDCG@10 for one target per row), the first among equals.

        Args:
            model: see `judge`.
            loader: the validation part.
            memory: the collaborative memory where the lists need it.
            lists: (batch, seen pairs, bonus) -> a list per candidate.
        """
        _check_loader(loader)
        model.eval()
        batches = _Batches(loader, self.filter_seen, memory, self.config["device"])
        shard, begin = Shard(loader), 0
        rows, gains = [], []
        for interaction, history, positive_u, positive_i in loader:
            seen, bonus, *_ = batches(interaction, history, positive_u, positive_i)
            rows.append(shard.rows[begin : begin + len(interaction)][positive_u])
            begin += len(interaction)
            batch = contract(model).on_device(interaction, self.config["device"])
            found = lists(batch, seen, bonus)
            hits = torch.stack([ranked.items[:, :10] for ranked in found], dim=1).cpu()[positive_u]
            match = hits == positive_i[:, None, None]
            discount = 1.0 / torch.log2(torch.arange(match.shape[2], dtype=torch.float64) + 2.0)
            gains.append((match * discount).sum(dim=2))
        each = shard.merge(torch.cat(rows), {"gain": torch.cat(gains)})["gain"].mean(dim=0)
        return int(each.argmax())

    def dense(self, model: Any, interaction: Interaction, n_items: int, loader: Any) -> Tensor:
        """Scores [B, N] of a model that is not generative."""
        if type(model).full_sort_predict is AbstractRecommender.full_sort_predict:  # which only raises
            return self._predict_all(model, interaction, n_items, loader)
        return model.full_sort_predict(interaction).view(-1, n_items)

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


class _Batches:
    """What the filter and the memory need to know about each batch.

    Args:
        loader: the evaluation loader.
        filter_seen: whether seen items are taken out.
        memory: the collaborative memory, or None for none.
        device: where the model is.
    """

    def __init__(
        self, loader: Any, filter_seen: bool, memory: CollaborativeMemory | None, device: Any
    ) -> None:
        self.dataset, self.filter_seen, self.memory, self.device = (
            loader._dataset,
            filter_seen,
            memory,
            device,
        )
        self.histories = Histories(loader)

    def __call__(
        self, interaction: Interaction, history: SeenPairs | None, positive_u: Tensor, positive_i: Tensor
    ) -> tuple[SeenPairs | None, Bonus | None, Tensor, SeenPairs]:
        """(seen pairs or None, bonus or None, which targets the filter forbids: bool [P], histories)."""
        closed = torch.zeros_like(positive_i, dtype=torch.bool)
        met, bonus = self.histories(interaction, history), None
        if self.memory is not None:
            bonus = self.memory.bonus(self.dataset, met, len(interaction))
        if not self.filter_seen:
            return None, bonus, closed, met
        n_items = self.dataset.item_num
        closed = torch.isin(positive_u * n_items + positive_i, met[0] * n_items + met[1])
        return (met[0].to(self.device), met[1].to(self.device)), bonus, closed, met


def _check_loader(loader: Any) -> None:
    if not isinstance(loader, FullSortEvalDataLoader):
        raise UserError(
            "this evaluator ranks the full catalogue: set eval_args: {mode: full} (sampled metrics "
            "are refused)"
        )
