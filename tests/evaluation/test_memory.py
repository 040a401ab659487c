"""The memory in the evaluator: every model, the weight from validation only, no leak."""

import numpy as np
import pytest
import torch

from recbole_sigma.decoding import memory as module
from recbole_sigma.decoding.memory import WEIGHTS, CollaborativeMemory, add_bonus
from recbole_sigma.decoding.top_k import top_k
from recbole_sigma.evaluation.judge import Judge
from recbole_sigma.quick_start import evaluate_checkpoint, run
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.loaders import load_data
from recbole_sigma.settings.keys import MemoryKeys
from recbole_sigma.values import UserError
from tests.planted import build, cycle_config, tiny, write_cycle


def settings(root, scratch, **changes):
    small = {"epochs": 1, "memory_last": 3, "memory_window": 4, "filter_seen": True}
    return cycle_config(root, scratch, **{**small, **changes})


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    noisy = lambda u, s, item: f"i{rng.integers(4)}_{rng.integers(6)}" if rng.random() < 0.3 else item  # noqa: E731
    write_cycle(tmp_path / "data" / "cycle", change=noisy, length=9)
    return tmp_path / "data"


@pytest.mark.parametrize("model", ["Pop", "BPR", "PackedSASRec", "SIGMA", "TIGER"])
def test_every_model_can_have_the_memory(root, tmp_path, model):
    own = tiny("TIGER", decode_beam=24) if model == "TIGER" else {}
    plain = settings(root, tmp_path, **own)
    result = run(model, "cycle", config_dict={**plain, "memory": "validation"})
    assert result["memory_weight"] in WEIGHTS
    again = evaluate_checkpoint(result["checkpoint"])
    assert dict(again.metrics) == result["test_result"]
    without = evaluate_checkpoint(result["checkpoint"], {"memory": "none"})
    fixed = evaluate_checkpoint(
        result["checkpoint"], {"memory": "fixed", "memory_weight": result["memory_weight"]}
    )
    assert fixed.metrics == again.metrics
    assert (without.metrics == again.metrics) <= (result["memory_weight"] == 0) or not np.array_equal(
        without.lists, again.lists
    )


def test_the_chosen_weight_is_the_best_on_validation(root, tmp_path):
    values = settings(
        root, tmp_path, memory="validation", metrics=["NDCG"], topk=[10], valid_metric="NDCG@10"
    )
    result = run("PackedSASRec", "cycle", config_dict=values)
    found = {}
    for weight in WEIGHTS:
        again = evaluate_checkpoint(
            result["checkpoint"], {"memory": "fixed", "memory_weight": weight}, phase="valid"
        )
        found[weight] = again.metrics["ndcg@10"]
    assert result["memory_weight"] == max(found, key=lambda w: (round(found[w], 9), -w))


def test_fused_lists_are_sorted_sums_over_the_whole_catalogue(root, tmp_path):
    _, data, model = build("PackedSASRec", "cycle", settings(root, tmp_path))
    model.eval()
    judge = Judge(RunConfig("PackedSASRec", "cycle", None, settings(root, tmp_path, memory="fixed")))
    judged = judge.judge(model, data.valid)
    interaction, _, _, _ = next(iter(data.valid))
    histories = data.valid._dataset.chronology.before(interaction["user_id"], interaction["timestamp"])
    memory = CollaborativeMemory(judge.config)
    bonus = memory.bonus(data.valid._dataset, histories, len(interaction))
    with torch.no_grad():
        scores = add_bonus(model.full_sort_predict(interaction), bonus, MemoryKeys().memory_weight)
    assert np.array_equal(judged.lists[: len(interaction)], top_k(scores, judge.k, histories).items.numpy())


def test_held_out_items_do_not_reach_the_memory(tmp_path):
    def held_out(user, step, item):
        return f"i{(user + 1) % 4}_{(user + step) % 6}" if step >= 14 else item

    def train(user, step, item):
        return "i1_0" if (user, step) == (0, 3) else item

    matrices = []
    for name, change in (("a", None), ("b", held_out), ("c", train)):
        write_cycle(tmp_path / name / "cycle", change=change)
        config = RunConfig("Pop", "cycle", None, settings(tmp_path / name, tmp_path))
        data = load_data(config, config.model_class)
        memory = CollaborativeMemory(config)
        memory.bonus(data.test._dataset, (torch.tensor([0]), torch.tensor([1])), 1)
        assert memory._memory is not None
        neighbours, after, history = (part.matrix for part in memory._memory.parts)
        matrices.append([neighbours.toarray(), after, history])
    for same, held_out_changed, train_changed in zip(*matrices, strict=True):
        assert np.array_equal(same, held_out_changed)
        assert not np.array_equal(same, train_changed)


def test_recommend_gives_the_lists_that_were_judged(root, tmp_path):
    from recbole_sigma.quick_start import load_data_and_model
    from recbole_sigma.recommend.recommender import Recommender, Request

    values = settings(root, tmp_path, memory="fixed", memory_weight=2.0)
    path = run("SIGMA", "cycle", config_dict=values)["checkpoint"]
    judged = evaluate_checkpoint(path)
    _, _, dataset, _, _, test = load_data_and_model(path)
    users = dataset.id2token("user_id", test._dataset.inter_feat["user_id"].numpy())
    names = dataset.field2id_token["item_id"]
    requests, width = [], judged.lists.shape[1]
    histories = dataset.chronology.before(
        test._dataset.inter_feat["user_id"], test._dataset.inter_feat["timestamp"]
    )
    for row in range(5):
        items = [str(names[i]) for i in histories[1][histories[0] == row].tolist()]
        requests.append(Request(user=str(users[row]), history=items))
    answers = Recommender.load(path).answer(requests, width)
    for row, answer in enumerate(answers):
        listed = [str(names[i]) for i in judged.lists[row] if i]
        assert [found.item for found in answer.items] == listed[: len(answer.items)]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"memory_parts": []}, "memory_parts is empty"),
        ({"memory_floor": 0.001}, "earlier form of the memory"),
        ({"memory_parts": ["kin"]}, "memory_parts"),
    ],
)
def test_a_memory_that_says_nothing_or_is_of_another_form_is_refused(changes, told):
    values = {"device": "cpu", "memory": "fixed", **changes}
    with pytest.raises(UserError, match=told):
        CollaborativeMemory(values)
    CollaborativeMemory({"device": "cpu", "memory_floor": 0.001})  # no weight was chosen: nothing to mistake


def test_a_catalogue_too_large_to_invert_keeps_neighbours_and_says_so(root, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "LARGEST", 10)
    config = RunConfig("Pop", "cycle", None, settings(root, tmp_path, memory="fixed"))
    data = load_data(config, config.model_class)
    memory = CollaborativeMemory(config)
    memory.bonus(data.test._dataset, (torch.tensor([0]), torch.tensor([1])), 1)
    assert len(memory._memory.parts) == 1
    assert "too large to invert (at most 10), so the memory holds neighbours alone" in caplog.text
