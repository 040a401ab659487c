"""What only a GPU can show: the same losses and lists as on a CPU, in fp32, and metrics near them in bf16."""

import json
import os
import subprocess
import sys

import pytest
import torch

from recbole_sigma.quick_start import build_model, build_trainer, run
from recbole_sigma.recommend.recommender import Recommender
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.loaders import load_data
from tests.language_models import save_model
from tests.planted import cycle_config, one_batch, tiny, write_cycle

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

ROWS = [
    ("PackedSASRec", {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}),
    ("PackedSASRec", {"sasrec_low_pass": 0.7, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}),
    ("HSTU", {"hidden_dropout_prob": 0.0}),
    ("BSARec", {"hidden_dropout_prob": 0.0}),
    ("BSARec", {"bsarec_padding": False, "hidden_dropout_prob": 0.0}),
    ("SIGMA", {}),
    ("SIGMA", {"tasks": "all", "sigma_history": "long"}),
    ("SIGMA", {"sigma_objective": "paper", "tokenizer_prefix_length": 2}),
    ("TIGER", {}),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted_gpu")
    write_cycle(folder / "cycle", users=40, length=12)
    return folder


def settings_of(root, tmp_path, name, changes):
    settings = cycle_config(root, tmp_path, filter_seen=True, **changes)
    return tiny("TIGER", **settings) if name == "TIGER" else settings


@pytest.mark.parametrize(("name", "changes"), ROWS)
def test_scores_are_those_of_a_cpu(root, tmp_path, name, changes):
    settings = settings_of(root, tmp_path, name, changes)
    config = RunConfig(name, "cycle", config_dict={**settings, "use_gpu": False})
    data = load_data(config, config.model_class)
    torch.manual_seed(0)
    model = build_model(config, config.model_class, data.train).eval()
    batch = one_batch(data.test)
    with torch.no_grad():
        expected = model.full_sort_predict(batch)
        model.to("cuda")
        model.device = torch.device("cuda")
        found = model.full_sort_predict(batch.to("cuda")).cpu()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "changes"), ROWS)
def test_a_whole_run_learns_the_cycle(root, tmp_path, name, changes, precision):
    """Training, evaluation with the memory, and a checkpoint."""
    settings = settings_of(root, tmp_path, name, changes)
    settings |= {"train_precision": precision, "memory": "fixed", "use_gpu": True, "filter_seen": False}
    result = run(name, "cycle", config_dict=settings)
    assert all(torch.isfinite(torch.tensor(entry["train_loss"])).all() for entry in result["history"])
    if name == "SIGMA" and changes.get("sigma_objective") != "paper":
        assert result["test_result"]["hit@10"] >= 0.9
    assert 0 <= result["test_result"]["ndcg@10"] <= 1


def losses_of(root, tmp_path, name, changes, **more):
    """(losses of every epoch, the trainer) of a training on the GPU, dropout included."""
    settings = {**cycle_config(root, tmp_path, filter_seen=True), **changes, "epochs": 4, "eval_step": 4}
    settings = tiny("TIGER", **settings) if name == "TIGER" else settings
    settings = {**settings, "use_gpu": True, "epochs": 4, "train_batch_size": 8, **more}
    config = RunConfig(name, "cycle", config_dict=settings)
    data = load_data(config, config.model_class)
    torch.manual_seed(0)
    trainer = build_trainer(config, build_model(config, config.model_class, data.train))
    trainer.fit(data.train, data.valid, saved=False)
    return torch.tensor([entry["train_loss"] for entry in trainer.history]), trainer


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("PackedSASRec", {}),
        ("HSTU", {}),
        ("BSARec", {}),
        ("BSARec", {"bsarec_padding": False}),
        ("SIGMA", {}),
        ("SIGMA", {"tasks": "all", "sigma_history": "long"}),
        ("SIGMA", {"train_precision": "bf16", "train_clip_norm": 1.0}),
        ("TIGER", {}),
        ("TIGER", {"train_precision": "bf16", "tiger_d_kv": 16}),  # attention as one kernel
        ("PackedSASRec", {"ensemble_size": 2}),
    ],
)
def test_replayed_steps_are_those_taken_one_by_one(root, tmp_path, name, changes):
    """Four epochs with dropout: random numbers come in the same order, only that of sums may differ."""
    replayed, trainer = losses_of(root, tmp_path, name, changes)
    assert sum(found is not None for found in trainer._replay.found.values()) >= 1
    one_by_one, other = losses_of(root, tmp_path, name, changes, train_compile="off")
    assert not other._replay.found
    torch.testing.assert_close(replayed, one_by_one, rtol=2e-3, atol=1e-4)


def test_a_pretrained_trunk_is_replayed_too(root, tmp_path):
    base = save_model(tmp_path / "base", "gpt2", tie_word_embeddings=False)
    changes = {"backbone": f"pretrained:{base}", "lora_rank": 4, "train_precision": "bf16"}
    replayed, trainer = losses_of(root, tmp_path, "SIGMA", changes)
    assert sum(found is not None for found in trainer._replay.found.values()) >= 1
    one_by_one, _ = losses_of(root, tmp_path, "SIGMA", changes, train_compile="off")
    torch.testing.assert_close(replayed, one_by_one, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("changes", [{"train_accumulation": 2}, {"backbone_checkpointing": True}])
def test_other_ways_to_take_a_step(root, tmp_path, changes):
    """They give the losses of the plain step."""
    fixed = {"backbone_dropout": 0.0, "task_labels_per_row": 0}  # nothing is drawn
    plain, _ = losses_of(root, tmp_path, "SIGMA", fixed)
    found, _ = losses_of(root, tmp_path, "SIGMA", {**fixed, **changes})
    torch.testing.assert_close(found, plain, rtol=2e-3, atol=1e-4)


CUT = """
import json, os, sys
from recbole_sigma.quick_start import run
from recbole_sigma.run.trainer import RunTrainer
name, values, last = json.loads(sys.argv[1])
real = RunTrainer._valid_epoch
def stop(self, *args, **kwargs):
    if len(self.history) == last:
        os._exit(9)
    return real(self, *args, **kwargs)
RunTrainer._valid_epoch = stop
print(json.dumps([entry["train_loss"] for entry in run(name, "cycle", config_dict=values)["history"]]))
"""


@pytest.mark.parametrize("name", ["SIGMA", "TIGER"])
def test_a_resumed_run_goes_on_with_the_same_losses(root, tmp_path, name):
    settings = {**cycle_config(root, tmp_path), "use_gpu": True, "epochs": 4, "train_batch_size": 8}
    settings = {**tiny("TIGER", **settings), "epochs": 4} if name == "TIGER" else settings

    def end(folder, last, **more):
        values = {**settings, "checkpoint_dir": str(tmp_path / folder), **more}
        command = [sys.executable, "-c", CUT, json.dumps([name, values, last])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    whole = end("whole", 0)
    assert end("cut", 3).returncode == 9
    again = end("cut", 0, resume=True)
    found, wanted = (torch.tensor(json.loads(done.stdout.splitlines()[-1])) for done in (again, whole))
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=1e-4)


def test_recommend_gives_the_lists_of_a_cpu(root, tmp_path):
    settings = {**cycle_config(root, tmp_path), "use_gpu": True, "epochs": 2}
    file = run("SIGMA", "cycle", config_dict=settings)["checkpoint"]
    there, here = (Recommender.load(file, {"use_gpu": gpu}) for gpu in (True, False))
    for number in (1, 2, 3):
        user = str(there.dataset.id2token(there.dataset.uid_field, number))
        assert [row.item for row in there.recommend(user=user)] == [
            row.item for row in here.recommend(user=user)
        ]


@pytest.mark.parametrize("name", ["SIGMA", "PackedSASRec"])
def test_a_step_makes_the_host_wait_for_nothing(root, tmp_path, name):
    """As the driver itself sees it."""
    settings = settings_of(root, tmp_path, name, {})
    config = RunConfig(name, "cycle", config_dict={**settings, "use_gpu": True})
    data = load_data(config, config.model_class)
    model = build_model(config, config.model_class, data.train).train()
    batches = [model.on_device(batch, "cuda") for _, batch in zip(range(2), data.train, strict=False)]
    for batch in batches:
        model.step_inputs(batch)  # what follows from the lengths goes over here, and not inside the step
    losses = model.calculate_loss(batches[0])  # kernels are chosen in the first pass
    (sum(losses) if isinstance(losses, tuple) else losses).backward()
    torch.autograd.set_detect_anomaly(False)  # RecBole's SINE switches it on, and it reads every gradient
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = model.calculate_loss(batches[-1])
        (sum(losses) if isinstance(losses, tuple) else losses).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
