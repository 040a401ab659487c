from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from recbole.model.abstract_recommender import AbstractRecommender

from recbole_sigma.decoding.top_k import top_k
from recbole_sigma.evaluation.collector import slot_flags
from recbole_sigma.evaluation.judge import Judge
from recbole_sigma.evaluation.metrics import DUPLICATE, EMPTY, INVALID, OK, SEEN
from recbole_sigma.models.contract import Contract
from recbole_sigma.quick_start import run
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.loaders import load_data
from recbole_sigma.values import RankedItems, UserError

ALL_METRICS = [
    "Hit",
    "NDCG",
    "MRR",
    "MAP",
    "Recall",
    "Precision",
    "ItemCoverage",
    "GiniIndex",
    "ShannonEntropy",
    "AveragePopularity",
    "TailPercentage",
    "Validity",
    "Duplicate",
    "Shortlist_Rate",
]


class Fixed(torch.nn.Module):
    """Scores that depend on the user only, for any loader."""

    def __init__(self, scores: torch.Tensor, field: str = "user_id") -> None:
        super().__init__()
        self.scores, self.field = scores, field

    def full_sort_predict(self, interaction):
        return self.scores[interaction[self.field]].clone()


class FixedLists(Fixed):
    """The same model as a generative one."""

    generative = True

    def rank(self, interaction, k, seen):
        return top_k(self.full_sort_predict(interaction), k, seen)


def random_events(seed: int = 0, repeats: bool = True) -> list[tuple[str, str, int]]:
    rng = np.random.default_rng(seed)
    events = []
    for user in range(25):
        items = rng.integers(0, 30, 12) if repeats else rng.permutation(30)[:12]
        events += [(f"u{user}", f"i{item}", int(rng.integers(0, 6))) for item in items]
    return events


def judge_of(model_name, values, filter_seen=True, metrics=ALL_METRICS, seed=0, lists=False, ints=True):
    config = RunConfig(
        model_name,
        "small",
        config_dict={
            **values,
            "metrics": metrics,
            "topk": [1, 3, 7],
            "valid_metric": "NDCG@7",
            "filter_seen": filter_seen,
        },
    )
    data = load_data(config, config.model_class)
    users, items = data.dataset.user_num, data.dataset.item_num
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 4, (users, items)) if ints else rng.normal(size=(users, items))
    model = (FixedLists if lists else Fixed)(torch.from_numpy(raw.astype(np.float32)))
    judge = Judge(config)
    judge.collector.data_collect(data.train)
    return judge.judge(model, data.test), model, data


def brute_force(model, data, filter_seen, topk=(1, 3, 7)) -> dict[str, float]:
    """Every metric from plain Python over the atomic events."""
    events = data.dataset.chronology
    users, items = events.users.tolist(), events.items.tolist()
    n_items = data.dataset.item_num
    per_user: dict[int, list[int]] = {}
    for rank, user in enumerate(users):
        per_user.setdefault(user, []).append(rank)
    train = Counter(items[r] for ranks in per_user.values() for r in ranks[:-2])
    rows = []
    for user, ranks in per_user.items():
        target = items[ranks[-1]]
        seen = {items[r] for r in ranks[:-1]} if filter_seen else set()
        order = sorted(
            (i for i in range(1, n_items) if i not in seen), key=lambda i: (-model.scores[user, i].item(), i)
        )
        rows.append((target, order[: max(topk)]))
    out = {}
    for k in topk:
        place = [(lst[:k].index(t) + 1) if t in lst[:k] else 0 for t, lst in rows]
        shown = [i for _, lst in rows for i in lst[:k]]
        out[f"hit@{k}"] = out[f"recall@{k}"] = np.mean([p > 0 for p in place])
        out[f"ndcg@{k}"] = np.mean([1 / math.log2(p + 1) if p else 0 for p in place])
        out[f"mrr@{k}"] = out[f"map@{k}"] = np.mean([1 / p if p else 0 for p in place])
        out[f"precision@{k}"] = np.mean([(p > 0) / k for p in place])
        out[f"itemcoverage@{k}"] = len(set(shown)) / n_items
        out[f"averagepopularity@{k}"] = np.mean([np.mean([train[i] for i in lst[:k]]) for _, lst in rows])
        out[f"shannonentropy@{k}"] = -sum(
            c / len(shown) * math.log(c / len(shown)) for c in Counter(shown).values()
        ) / len(set(shown))
        counts = sorted(Counter(shown).get(i, 0) for i in range(n_items))
        out[f"giniindex@{k}"] = sum((2 * (r + 1) - n_items - 1) * c for r, c in enumerate(counts)) / (
            n_items * len(shown)
        )
        tail = [i for i, _ in sorted(train.items(), key=lambda p: (p[1], p[0]))][
            : max(int(len(train) * 0.1), 1)
        ]
        out[f"tailpercentage@{k}"] = np.mean([np.mean([i in tail for i in lst[:k]]) for _, lst in rows])
        out[f"validity@{k}"], out[f"duplicate@{k}"] = 1.0, 0.0
    out["shortlist_rate"] = 0.0
    return out


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("model_name", ["BPR", "SASRec", "PackedSASRec"])
def test_every_metric_equals_brute_force(model_name, filter_seen, write_dataset) -> None:
    found, model, data = judge_of(model_name, write_dataset(random_events()), filter_seen)
    want = brute_force(model, data, filter_seen)
    assert set(found.metrics) == set(want)
    for name, value in want.items():
        assert found.metrics[name] == pytest.approx(value, abs=2e-6), name


@pytest.mark.parametrize("filter_seen", [True, False])
def test_general_and_sequential_models_are_judged_alike(filter_seen, write_dataset) -> None:
    values = write_dataset(random_events(3))
    general, *_ = judge_of("BPR", values, filter_seen)
    for name in ("SASRec", "PackedSASRec", "Pop"):
        other, *_ = judge_of(name, values, filter_seen)
        assert other.metrics == general.metrics
        assert other.unreachable == general.unreachable
        order = [np.argsort(j.users) for j in (general, other)]
        for field in ("users", "targets", "places"):
            assert (getattr(general, field)[order[0]] == getattr(other, field)[order[1]]).all()


def test_lists_and_dense_scores_give_the_same(write_dataset) -> None:
    values = write_dataset(random_events(1))
    dense, *_ = judge_of("PackedSASRec", values)
    lists, *_ = judge_of("PackedSASRec", values, lists=True)
    assert dense.metrics == lists.metrics and (dense.places == lists.places).all()


def test_top_k_metrics_equal_recboles_own_collector(write_dataset) -> None:
    """Without ties and filter, RecBole's dense route must give the same numbers."""
    from recbole.evaluator import Collector, Evaluator

    names = ["Hit", "NDCG", "MRR", "MAP", "Recall", "Precision", "ShannonEntropy"]
    found, model, data = judge_of("SASRec", write_dataset(random_events(2)), False, names, ints=False)
    config = data.test.config
    collector = Collector(config)
    for interaction, _, row, item in data.test:
        scores = model.full_sort_predict(interaction)
        scores[:, 0] = -np.inf
        collector.eval_batch_collect(scores, interaction, row, item)
    want = Evaluator(config).evaluate(collector.get_data_struct())
    assert {k: pytest.approx(float(v), abs=1e-6) for k, v in want.items()} == dict(found.metrics)


def test_history_beyond_the_window_is_filtered(write_dataset) -> None:
    events = [("a", f"i{k}", k) for k in range(12)] + [("b", f"i{k}", k) for k in range(12)]
    values = write_dataset(events) | {"MAX_ITEM_LIST_LENGTH": 2}
    found, model, data = judge_of("SASRec", values)
    assert (found.places == 1).all()  # eleven of twelve items are seen: the target is the only candidate


def test_targets_met_before_are_unreachable_and_counted(write_dataset) -> None:
    events = [("a", i, k) for k, i in enumerate(["i1", "i2", "i3", "i4", "i1"])]
    events += [("b", i, k) for k, i in enumerate(["i5", "i6", "i7", "i8", "i9"])]
    values = write_dataset(events)
    for name in ("BPR", "SASRec"):
        filtered, *_ = judge_of(name, values, True)
        free, *_ = judge_of(name, values, False)
        assert filtered.unreachable == 1 and free.unreachable == 0
        assert filtered.places[filtered.users == 1].tolist() == [0]


def test_several_positives_per_user(write_dataset) -> None:
    """A general model under a ratio split: one row per user, all its test items are positives."""
    values = write_dataset(random_events(4, repeats=False)) | {
        "eval_args": {"split": {"RS": [6, 2, 2]}, "group_by": "user"}
    }
    found, model, data = judge_of("BPR", values, metrics=["Recall", "Hit", "NDCG"])
    events = data.dataset.chronology
    recall = []
    for user in range(1, data.dataset.user_num):
        own = events.items[events.users == user].tolist()
        cut = len(own) - int(0.2 * len(own))
        positives, seen = set(own[cut:]), set(own[:cut])
        order = sorted(
            (i for i in range(1, data.dataset.item_num) if i not in seen),
            key=lambda i, u=user: (-model.scores[u, i].item(), i),
        )
        recall.append(len(positives & set(order[:7])) / len(positives))
    assert found.metrics["recall@7"] == pytest.approx(np.mean(recall), abs=2e-6)


def test_a_model_with_predict_only(write_dataset) -> None:
    dense, model, data = judge_of("BPR", write_dataset(random_events(5)))

    class PredictOnly(torch.nn.Module):
        full_sort_predict = AbstractRecommender.full_sort_predict

        def predict(self, interaction):
            return model.scores[interaction["user_id"], interaction["item_id"]]

    judge = Judge(data.test.config)
    judge.collector.data_collect(data.train)
    assert judge.judge(PredictOnly(), data.test).metrics == dense.metrics


class Broken(Contract, torch.nn.Module):
    """A generative model whose lists have every fault."""

    generative = True

    def __init__(self, items) -> None:
        super().__init__()
        self.items = torch.tensor([items])

    def rank(self, interaction, k, seen):
        rows = len(interaction)
        return RankedItems(
            self.items.expand(rows, -1), torch.arange(self.items.shape[1], 0.0, -1.0).expand(rows, -1)
        )


def test_faulty_lists_are_counted_and_never_hit(write_dataset) -> None:
    events = [(u, f"i{k}", k) for u in "ab" for k in range(9)]
    values = write_dataset(events)
    _, _, data = judge_of("SASRec", values)
    target = data.dataset.token2id("item_id", "i8")
    seen = data.dataset.token2id("item_id", "i0")
    judge = Judge(data.test.config)
    judge.collector.data_collect(data.train)
    found = judge.judge(Broken([seen, 999, target, target, -4, 0, 0]), data.test).metrics
    assert found["hit@1"] == 0 and found["hit@3"] == 1 and found["recall@7"] == 1
    assert found["validity@1"] == 0 and found["validity@3"] == pytest.approx(1 / 3, abs=1e-6)
    assert found["validity@7"] == pytest.approx(2 / 7, abs=1e-6) and found["duplicate@7"] == pytest.approx(
        1 / 7, abs=1e-6
    )
    assert found["shortlist_rate"] == 1.0
    # one item was shown: empty slots are neither covered, popular nor tail
    assert found["itemcoverage@7"] == pytest.approx(1 / data.dataset.item_num, abs=1e-6)
    assert found["averagepopularity@7"] == 0 and found["shannonentropy@7"] == 0
    assert found["giniindex@7"] == pytest.approx(1 - 1 / data.dataset.item_num, abs=1e-6)


def test_slot_flags() -> None:
    items = torch.tensor([[5, 5, 0, 9, 3, -1, 0], [1, 2, 3, 4, 5, 6, 7]])
    seen = (torch.tensor([0, 1]), torch.tensor([3, 7]))
    flags = slot_flags(items, 9, seen).tolist()
    assert flags[0] == [OK, DUPLICATE, EMPTY, INVALID, SEEN, INVALID, EMPTY]
    assert flags[1] == [OK] * 6 + [SEEN]


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_results_do_not_depend_on_the_batch(model, write_dataset) -> None:
    values = write_dataset(random_events(6))
    whole, *_ = judge_of(model, values)
    single, *_ = judge_of(model, values | {"eval_batch_size": 1})
    assert whole.metrics == single.metrics


def test_random_split_filters_what_recbole_filters(write_dataset) -> None:
    values = write_dataset(random_events(7, repeats=False)) | {
        "eval_args": {"split": {"RS": [6, 2, 2]}, "order": "RO"}
    }
    found, model, data = judge_of("BPR", values)
    assert found.unreachable == 0 and (found.places >= 0).all()


def test_nothing_dense_besides_the_scores(write_dataset, monkeypatch) -> None:
    """No [batch, N] matrix is built for the targets: RecBole's pos_matrix made evaluation slow and large."""
    from recbole.evaluator import Collector

    monkeypatch.setattr(
        Collector, "eval_batch_collect", lambda *a: pytest.fail("RecBole's dense collector was used")
    )
    judge_of("SASRec", write_dataset(random_events(8)))


def test_sampled_evaluation_is_refused(write_dataset) -> None:
    with pytest.raises(UserError, match="ranks the full catalogue"):
        run("BPR", "small", config_dict=write_dataset(random_events()) | {"eval_args": {"mode": "uni20"}})


def test_log_header_and_result_carry_the_policy(write_dataset, scratch) -> None:
    values = write_dataset(random_events(9)) | {"epochs": 1, "filter_seen": False}
    result = run("BPR", "small", config_dict=values, saved=False)
    assert result["protocol"]["filter_seen"] is False
    (log,) = (scratch / "log" / "BPR").glob("*.log")
    text = log.read_text()
    assert "filter_seen False" in text and "\x1b[" not in text and "learning_rate" in text
