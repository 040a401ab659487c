"""Evaluation by several processes gives what one process gives, and prefix_survival is the share it says."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from recbole_sigma.decoding.top_k import top_k
from recbole_sigma.evaluation.judge import Judge
from recbole_sigma.evaluation.shards import Shard
from recbole_sigma.models.contract import Contract
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.loaders import load_data
from recbole_sigma.values import UserError

METRICS = [
    "Hit", "NDCG", "MRR", "MAP", "Recall", "Precision", "ItemCoverage", "GiniIndex", "ShannonEntropy",
    "AveragePopularity", "TailPercentage", "Validity", "Duplicate", "Shortlist_Rate",
]  # fmt: skip


class Lists(Contract, torch.nn.Module):
    """A generative model whose lists and survival depend on the user only."""

    generative = True

    @classmethod
    def has_beam(cls) -> bool:
        return True

    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.scores = torch.from_numpy(rng.normal(size=(users, items)).astype(np.float32))
        self.asked: list[int] = []

    def rank(self, interaction, k, seen):
        return top_k(self.scores[interaction["user_id"]], k, seen)

    def prefix_survival(self, interaction, k, seen):
        users = interaction["user_id"]
        self.asked += users.tolist()
        kept = torch.zeros(len(users), dtype=torch.int64)
        if seen is not None:  # the rows of what was seen must be those of the sampled rows
            kept.index_add_(0, seen[0], torch.ones_like(seen[0]))
        return users.float() / 100 + kept.float()


def events(users: int = 25) -> list[tuple[str, str, int]]:
    rng = np.random.default_rng(1)
    return [
        (f"u{u}", f"i{i}", t) for u in range(users) for t, i in enumerate(rng.permutation(40)[: 6 + u % 5])
    ]


def judged(name, values, processes=1, **changes):
    merged = {**values, "metrics": METRICS, "topk": [1, 3, 7], "valid_metric": "NDCG@7", **changes}
    config = RunConfig(name, "small", config_dict=merged)
    data = load_data(config, config.model_class)
    judge = Judge(config)
    judge.collector.data_collect(data.train)
    model = Lists(data.dataset.user_num, data.dataset.item_num)
    return judge.judge(model, data.test), model, data


def _process(rank, processes, folder, cases):
    torch.set_num_threads(1)
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": 0}  # as torchrun does
    os.environ.update({key: str(value) for key, value in here.items()}, MASTER_ADDR="localhost")
    store = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    answers = []
    for name, values, changes in cases:
        found, model, _ = judged(name, values, processes, **changes)
        answers.append((dict(found.metrics), found.users, found.targets, found.places, found.unreachable))
    torch.save((answers, model.asked), f"{folder}/answer{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_judge_like_one(processes, write_dataset, tmp_path) -> None:
    """25 users: an even share for nobody, so the sampler repeats rows."""
    values = write_dataset(events())
    ratio = {"eval_args": {"split": {"RS": [6, 2, 2]}, "group_by": "user"}, "valid_metric": "Hit@7"}
    cases = [
        ("SASRec", values, {"eval_batch_size": 4}),
        ("BPR", values, ratio),  # several targets per user
        ("TIGER", values, {"prefix_survival_users": 11, "metrics": [*METRICS, "Prefix_Survival"]}),
    ]
    cases = cases if processes == 2 else cases[2:]
    alone = [judged(name, values, **changes) for name, values, changes in cases]
    mp.start_processes(
        _process, (processes, str(tmp_path), cases), nprocs=processes, join=True, start_method="fork"
    )
    answers = [
        torch.load(tmp_path / f"answer{rank}.pt", weights_only=False)  # written by this very test
        for rank in range(processes)
    ]
    model = alone[-1][1]
    for at, (one, _, _) in enumerate(alone):
        assert len(one.users) == 25 or cases[at][2] is ratio
        for found, _ in answers:
            metrics, users, targets, places, unreachable = found[at]
            assert metrics == dict(one.metrics)  # the very same bits
            assert np.array_equal(users, one.users) and np.array_equal(targets, one.targets)
            assert np.array_equal(places, one.places) and unreachable == one.unreachable
    asked = [user for _, users in answers for user in users]
    assert set(asked) == set(model.asked) and len(model.asked) == 11 <= len(asked) <= 11 + processes - 1


def test_a_row_counts_where_the_lowest_process_judged_it() -> None:
    shard = object.__new__(Shard)
    shard.shared = True
    ranks = [torch.tensor([0, 2, 4, 4]), torch.tensor([1, 3, 0])]
    values = [torch.tensor([10, 12, 14, 15]), torch.tensor([11, 13, 99])]
    turn = iter([ranks, values])
    from recbole_sigma.evaluation import shards

    original, shards._gather = shards._gather, lambda value: next(turn)
    try:
        got = shard.merge(ranks[0], {"x": values[0]})
    finally:
        shards._gather = original
    assert got["x"].tolist() == [10, 11, 12, 13, 14, 15]  # row 4 has two entries of one process


def test_survival_is_the_mean_over_a_seeded_sample(write_dataset) -> None:
    values = write_dataset(events())
    own = {"metrics": ["NDCG", "prefix_survival"], "eval_batch_size": 6}
    every, model, data = judged("TIGER", values, **own, prefix_survival_users=0)
    assert len(model.asked) == 25
    history = [6 + u % 5 - 1 for u in range(25)]
    ids = [data.dataset.token2id("user_id", f"u{u}") for u in range(25)]
    want = np.mean([i / 100 + n for i, n in zip(ids, history)])
    assert every.metrics["prefix_survival@7"] == pytest.approx(want, abs=1e-6)
    some = [judged("TIGER", values, **own, prefix_survival_users=9, seed=seed) for seed in (1, 1, 2)]
    assert some[0][1].asked == some[1][1].asked != some[2][1].asked
    assert [len(model.asked) for _, model, _ in some] == [9, 9, 9]
    other = judged("TIGER", values, **{**own, "eval_batch_size": 25}, prefix_survival_users=9, seed=1)
    assert other[0].metrics == some[0][0].metrics
    judge, model, _ = judged("TIGER", values, metrics=["NDCG"])
    assert not model.asked and "prefix_survival@7" not in judge.metrics


def test_models_without_a_beam_are_refused(write_dataset) -> None:
    values = write_dataset(events())
    with pytest.raises(UserError, match="prefix_survival .* SASRec has no beam search: take it out"):
        RunConfig("SASRec", "small", config_dict={**values, "metrics": ["NDCG", "prefix_survival"]})
    config = RunConfig("TIGER", "small", config_dict={**values, "metrics": ["NDCG", "prefix_survival"]})
    data = load_data(config, config.model_class)
    with pytest.raises(UserError, match="Linear has no beam search"):
        Judge(config).judge(torch.nn.Linear(2, 2), data.test)
