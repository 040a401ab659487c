"""The stage: what it does to a model, what it reads, and that it goes on exactly where it was cut off."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from recbole_sigma.quick_start import run
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.trainer import RunTrainer
from recbole_sigma.settings.policy_keys import POLICIES
from recbole_sigma.values import UserError
from tests.planted import chain_config, tiny, write_chain
from tests.policy.conftest import POLICY, go, same

MODELS = {
    "hybrid": ("SIGMA", {}),
    "paper": ("SIGMA", {"sigma_objective": "paper", "tokenizer_prefix_length": 2}),
    "pure ID": ("SIGMA", {"tokenizer_prefix_length": 0}),
    "TIGER": ("TIGER", {}),
}


@pytest.mark.parametrize("kind", [*MODELS])
def test_the_whole_command_trains_twice_and_never_ends_below_its_start(kind, planted, tmp_path) -> None:
    model, keys = MODELS[kind]
    values = tiny(model, **{**planted, **POLICY, **keys, "topk": [5, 10], "epochs": 2, "policy": "a2po"})
    found = run(model, "planted", config_dict={**values, "artifact_dir": str(tmp_path)})
    first, last = found["history"][0], found["history"][-1]
    assert first["epoch"] == -1 and last["epoch"] == 1
    assert first["valid"] == found["supervised"]["best_valid_result"]  # it went on from the best weights
    assert found["best_valid_score"] == max(each["valid"]["ndcg@10"] for each in found["history"])
    figures = last["policy"]
    assert figures["groups"] == 60 and 0 <= figures["skipped_groups"] <= 1
    assert figures["hit_rate"] + figures["skipped_groups"] == pytest.approx(1.0)
    assert figures["bound_violations"] == 0 and figures["short_groups"] == 0
    assert {"coverage", "tail_share", "code_entropy"} <= figures.keys()
    assert found["seconds"]["cpu"] > found["supervised"]["seconds"]["cpu"]
    assert Path(found["checkpoint"]).is_file() and found["checkpoint"] != found["supervised"]["checkpoint"]


def valid_scores(values: dict) -> list[float]:
    """NDCG@10 on validation of the start and after every epoch."""
    return [each["valid"]["ndcg@10"] for each in go("SIGMA", values, True, "cycle")[1].history]


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "none"])
def test_every_policy_learns_a_certain_next_item(policy, half) -> None:
    """From .52 on; that the rollouts count by probability is what brings grpo to the end."""
    judge = {"policy_judge": "heuristic"}
    found = valid_scores({**half, **judge, "policy": policy})
    assert max(found) > found[0] + 0.1
    if policy in ("grpo", "a2po", "sft"):
        assert found[-1] > 0.95


def test_beams_that_count_alike_do_not_get_there(half) -> None:
    """As published, the many improbable beams of a group outweigh the few that matter."""
    assert max(valid_scores({**half, "policy": "grpo", "policy_shares": "equal"})) < 0.8


@pytest.mark.parametrize(
    "keys",
    [
        {"policy_rollout": "forced"},
        {"policy_rollout": "sample"},
        {"policy_updates": 2},
        {"policy_reward": "rank"},
    ],
)
@pytest.mark.slow
def test_rollouts_rewards_and_steps_of_every_kind_learn_it(keys, half) -> None:
    found = valid_scores({**half, "policy": "grpo", **keys})
    assert max(found) > found[0] + 0.2


@pytest.mark.parametrize("kind", ["hybrid", "TIGER"])
def test_a_judge_that_always_disagrees_leaves_the_business_reward_bit_for_bit(kind, started) -> None:
    model, keys = MODELS[kind]
    values = started(model, **keys)
    judged, trainer = go(model, {**values, "policy": "a2po", "policy_judge": "adversarial"})
    assert same(judged, go(model, {**values, "policy": "grpo"})[0])
    assert trainer.history[-1]["policy"]["mean_lambda"] == 0.0
    assert not same(judged, go(model, {**values, "policy": "a2po", "policy_judge": "random"})[0])


def test_under_an_adversary_adv_sum_unlearns_and_a2po_learns(half) -> None:
    against = {**half, "policy_judge": "adversarial", "policy_judge_weight": 3.0}
    kept, lost = (valid_scores({**against, "policy": policy}) for policy in ("a2po", "adv_sum"))
    assert kept[-1] > 0.95 and lost[-1] < 0.3 < lost[0]


def test_several_steps_on_one_rollout_differ_from_one_and_clip(started) -> None:
    values = started("SIGMA") | {"policy": "grpo"}
    one = go("SIGMA", values)[0]
    two = go("SIGMA", {**values, "policy_updates": 2})[0]
    still = go("SIGMA", {**values, "policy_updates": 2, "policy_clip": 0.0, "policy_ratio": "token"})[0]
    assert not same(one, two) and not same(two, still)


def test_divergence_from_the_start_is_held_down(started) -> None:
    values = started("SIGMA") | {"policy": "grpo", "policy_epochs": 3, "weight_decay": 0.0}
    begin = go("SIGMA", {**values, "policy_learning_rate": 0.0})[0]

    def moved(weights: dict) -> float:
        return sum(float((weights[n] - begin[n]).double().square().sum()) for n in begin) ** 0.5

    # steps of 100 times the divergence, at this rate, jump over the start and to and fro
    weights = (0.0, 1.0, 10.0)
    free, held, near = (go("SIGMA", {**values, "learner": "sgd", "policy_kl": kl})[0] for kl in weights)
    assert 0 < moved(near) < moved(held) < moved(free)


# --- leak ---


def test_held_out_events_change_no_rollout_reward_judge_or_weight(tmp_path, started) -> None:
    """Every user's last two events are other items; the stage comes to the same bits."""
    values = started("SIGMA") | {"policy": "a2po", "policy_judge": "heuristic", "policy_rollout": "sample"}
    before, first = go("SIGMA", values)
    root = tmp_path / "changed"
    write_chain(root / "planted")
    path = root / "planted" / "planted.inter"
    lines = path.read_text().splitlines()
    by_user: dict[str, list[int]] = {}
    for number, line in enumerate(lines[1:], 1):
        by_user.setdefault(line.split("\t")[0], []).append(number)
    for numbers in by_user.values():
        for number in numbers[-2:]:
            user, item, time = lines[number].split("\t")
            group, place = item[1], int(item[3:])
            lines[number] = f"{user}\tg{(int(group) + 1) % 3}i{(place + 7) % 16}\t{time}"
    path.write_text("\n".join(lines) + "\n")
    after, second = go("SIGMA", values | chain_config(root))
    assert same(before, after)
    for one, other in zip(first.history, second.history, strict=True):
        assert one["train_loss"] == other["train_loss"]
        timed = {name for name in one["policy"] if name.startswith("seconds")}
        assert all(one["policy"][name] == other["policy"][name] for name in one["policy"].keys() - timed)


# --- resume ---


@pytest.mark.parametrize("kind", ["hybrid", "TIGER"])
def test_a_cut_stage_goes_on_bit_for_bit(kind, started, monkeypatch) -> None:
    model, keys = MODELS[kind]
    values = started(model, **keys) | {
        "policy": "a2po",
        "policy_judge": "random",
        "policy_judge_share": 0.6,
        "policy_rollout": "sample",
        "policy_updates": 2,
        "checkpoint_steps": 1,
    }
    whole = run(model, "planted", config_dict={**values, "checkpoint_dir": "whole"})
    real, done = RunTrainer._check_finite, 0

    def cut(self, *args):
        nonlocal done
        done += 1
        if done > 13:  # the second epoch has 8 steps behind the first 8; the 13th is the first of a rollout
            raise KeyboardInterrupt
        return real(self, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunTrainer, "_check_finite", cut)
        run(model, "planted", config_dict=values)
    gc.collect()  # the process that was cut off would be gone, and its lock with it
    steps = []
    monkeypatch.setattr(
        RunTrainer, "_check_finite", lambda self, *a: (steps.append(a[1:]), real(self, *a))[1]
    )
    again = run(model, "planted", config_dict={**values, "resume": True})
    assert steps[0] == (1, 4) and len(steps) == 4
    assert again["test_result"] == whole["test_result"]
    for one, other in zip(whole["history"], again["history"], strict=True):
        assert one["train_loss"] == other["train_loss"] and one["valid"] == other["valid"]
        apart = {k for k in one["policy"] if one["policy"][k] != other["policy"][k]}
        assert all(name.startswith("seconds") for name in apart)


def test_the_first_stage_is_not_repeated_on_resume(planted, monkeypatch, tmp_path) -> None:
    values = tiny("SIGMA", **{**planted, **POLICY, "topk": [5, 10], "artifact_dir": str(tmp_path)})
    values["policy"] = "grpo"
    whole = run("SIGMA", "planted", config_dict=values)
    monkeypatch.setattr(RunTrainer, "_check_finite", lambda *a: pytest.fail("nothing is trained again"))
    again = run("SIGMA", "planted", config_dict={**values, "resume": True})
    assert again["test_result"] == whole["test_result"] and again["history"] == whole["history"]


def test_another_start_is_not_gone_on_with(started, monkeypatch, tmp_path) -> None:
    values = started("SIGMA") | {"policy": "grpo", "policy_from": "start.safetensors"}
    source = Path(started("SIGMA")["policy_from"])
    Path("start.safetensors").write_bytes(source.read_bytes())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunTrainer, "_valid_epoch", raising_after(1))
        run("SIGMA", "planted", config_dict={**values, "checkpoint_steps": 1})
    gc.collect()
    other = run("SIGMA", "planted", config_dict=tiny("SIGMA", **{**values, "policy": "none", "epochs": 2}))
    Path("start.safetensors").write_bytes(Path(other["checkpoint"]).read_bytes())
    with pytest.raises(UserError, match="resume: the checkpoint of policy_from changed since"):
        run("SIGMA", "planted", config_dict={**values, "checkpoint_steps": 1, "resume": True})


def raising_after(calls: int):
    real, done = RunTrainer._valid_epoch, 0

    def stop(self, *args, **more):
        nonlocal done
        done += 1
        if done > calls:
            raise KeyboardInterrupt
        return real(self, *args, **more)

    return stop


@pytest.mark.slow
def test_two_processes_roll_out_and_train(started) -> None:
    values = started("SIGMA") | {"policy": "a2po", "policy_epochs": 1, "nproc": 2}
    found = run("SIGMA", "planted", config_dict=values)
    assert found["history"][-1]["policy"]["groups"] == 60
    one = run("SIGMA", "planted", config_dict={**values, "nproc": 1})
    # the same rollouts in another order of sums: beams draw nothing
    loss, alone = (each["history"][-1]["train_loss"][0] for each in (found, one))
    assert loss == pytest.approx(alone, abs=1e-4)


# --- bad input ---


def test_mistakes_end_in_one_sentence(started, planted) -> None:
    values = started("SIGMA")
    for keys, sentence in (
        ({"policy": "grpo", "policy_group": 60}, "policy_group 60 is larger than the catalogue"),
        ({"policy": "grpo", "policy_reward": "price"}, "price"),
        ({"policy": "grpo", "policy_reward": "user_id"}, "holds no single numbers"),
        ({"policy": "best"}, "policy must be one of"),
        ({"policy": "grpo", "policy_from": "nowhere.safetensors"}, "does not exist"),
        ({"policy": "a2po", "text_fields": []}, "text_fields"),
    ):
        with pytest.raises(UserError, match=sentence):
            run("SIGMA", "planted", config_dict={**values, **keys})
    tiger = started("TIGER")
    with pytest.raises(UserError, match=r"policy_group 101 is larger than the (beam|catalogue)"):
        run("TIGER", "planted", config_dict={**tiger, "policy": "grpo", "policy_group": 101})
    with pytest.raises(UserError, match=r"policy_group 11 is larger than the beam \(decode_beam 10\)"):
        run(
            "TIGER", "planted", config_dict={**tiger, "policy": "grpo", "policy_group": 11, "decode_beam": 10}
        )
    with pytest.raises(UserError, match="SASRec gives no likelihood of the tokens"):
        run("SASRec", "planted", config_dict={**tiny("SASRec", **planted), "policy": "grpo"})
    with pytest.raises(UserError, match="written for model 'SIGMA'"):
        run("TIGER", "planted", config_dict={**tiger, "policy": "grpo", "policy_from": values["policy_from"]})


@pytest.mark.parametrize(
    ("policy", "told"), [({}, True), ({"policy": "none"}, False), ({"policy": "grpo"}, False)]
)
def test_keys_of_the_stage_without_a_policy_are_warned_of(policy, told: bool, planted, caplog) -> None:
    RunConfig("SIGMA", "cycle", config_dict={**planted, **policy, "policy_group": 4})
    assert ("policy_group has no effect without a policy" in caplog.text) is told


def test_a_mistake_of_the_stage_is_told_before_supervision(planted, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(RunTrainer, "fit", lambda *a, **k: pytest.fail("nothing may be trained"))
    for model, keys in (
        ("TIGER", {"policy": "grpo", "policy_group": 40, "decode_beam": 20}),
        ("SIGMA", {"policy": "grpo", "policy_reward": "stars"}),
        ("SIGMA", {"policy": "a2po", "policy_judge": "lm:nowhere"}),
        ("SIGMA", {"policy": "a2po", "policy_judge": "file:nowhere"}),
    ):
        values = tiny(model, **{**planted, "topk": [5, 10], "artifact_dir": str(tmp_path), **keys})
        with pytest.raises(UserError, match="policy_"):
            run(model, "planted", config_dict=values)


def rated(root: Path, cell: str) -> dict:
    write_chain(root / "planted")
    path = root / "planted" / "planted.inter"
    head, *lines = path.read_text().splitlines()
    lines = [f"{line}\t{1 + number % 5}" for number, line in enumerate(lines)]
    lines[7] = lines[7].rpartition("\t")[0] + "\t" + cell
    path.write_text("\n".join([head + "\tstars:float", *lines]) + "\n")
    return chain_config(root)


def test_a_column_of_the_interactions_is_a_reward(started, tmp_path) -> None:
    values = started("SIGMA") | rated(tmp_path, "2") | {"policy": "grpo", "policy_reward": "stars"}
    weights, trainer = go("SIGMA", values)
    stage = trainer.stage
    events = stage.dataset.train_events()
    for number in (0, 50, 200):
        user, item = events.users[number : number + 1], events.items[number : number + 1]
        worth = stage.dataset.event_feat["stars"][events.ranks[number]]
        assert float(stage.values(user, item[None])) == float(worth)
    assert float(stage.values(events.users[:1], torch.tensor([[0]]))) == 0.0
    assert not same(weights, go("SIGMA", {**values, "policy_reward": "hit"})[0])


def test_a_reward_that_is_no_number_is_named(started, tmp_path) -> None:
    values = started("SIGMA") | rated(tmp_path, "nan") | {"policy": "grpo", "policy_reward": "stars"}
    with pytest.raises(UserError, match="column 'stars' has 1 values that are no number"):
        run("SIGMA", "planted", config_dict=values)
