"""Gradient accumulation, bf16 and the memory estimate change how a step is computed, not what it is."""

import pytest
import torch

from recbole_sigma.quick_start import build_model, build_trainer, run
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.loaders import load_data
from recbole_sigma.run.precision import memory_estimate, memory_sentence, pieces, precision, wants_compile
from recbole_sigma.values import UserError
from tests.planted import cycle_config, write_cycle


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted_acceleration")
    write_cycle(folder / "cycle", users=40, length=12)
    return folder


def one_step(root, tmp_path, model_name="SIGMA", **more):
    """Weights after one optimizer step over rows of different length, without anything random in the
    model.
    """
    settings = cycle_config(root, tmp_path) | {
        "train_batch_size": 128,
        "task_labels_per_row": 0,
        "MAX_ITEM_LIST_LENGTH": 6,
        "grounding_steps": 2,
        "hidden_dropout_prob": 0.0,
        "attn_dropout_prob": 0.0,
        "train_warmup_epochs": 0,
    }
    config = RunConfig(model_name, "cycle", None, settings | more)
    data = load_data(config, config.model_class)
    torch.manual_seed(0)
    model = build_model(config, config.model_class, data.train)
    trainer = build_trainer(config, model)
    loader = data.train
    assert len(loader) == 1
    trainer._train_data = loader
    trainer._train_epoch(loader, 0)
    return {name: value.clone() for name, value in model.named_parameters()}, trainer


@pytest.mark.parametrize("model", ["SIGMA", "PackedSASRec"])
@pytest.mark.parametrize("count", [4, 5, 32])
def test_a_batch_in_pieces_is_one_batch(root, tmp_path, model, count):
    whole, one = one_step(root, tmp_path, model)
    split, other = one_step(root, tmp_path, model, train_accumulation=count)
    start, _ = one_step(root, tmp_path, model, learning_rate=0.0, weight_decay=0.0)
    moved = max(float((whole[name] - start[name]).abs().max()) for name in whole)
    assert moved > 1e-3
    for name, value in whole.items():  # AdamW's first step is the sign of a gradient: tiny ones may flip
        differ = (split[name] - value).abs() > 1e-5
        assert differ.float().mean() < 0.01, name
    first, second = one.history[-1]["train_loss"], other.history[-1]["train_loss"]
    assert first == pytest.approx(second, rel=1e-5)


def test_pieces_hold_every_row_once_and_the_like_together():
    from recbole.data.interaction import Interaction

    length = torch.tensor([5, 1, 9, 2, 9, 1, 3])
    batch = Interaction({"n": length, "row": torch.arange(7)})
    found = list(pieces(batch, 3, "n"))
    assert sorted(torch.cat([piece["row"] for piece, _ in found]).tolist()) == list(range(7))
    assert [rows for _, rows in found] == [3, 2, 2] and found[0][0]["n"].max() <= found[1][0]["n"].min()
    assert [rows for _, rows in pieces(batch, 99, None)] == [1] * 7
    assert next(iter(pieces(batch, 1, "n")))[0] is batch


def test_bf16_stays_near_fp32(root, tmp_path):
    """Stated tolerance: after 6 epochs on the planted walk, hit@5 within 0.1 and the loss within 5 %."""
    settings = cycle_config(root, tmp_path) | {"epochs": 6, "grounding_steps": 5}
    plain = run("SIGMA", "cycle", config_dict=settings, saved=False)
    half = run("SIGMA", "cycle", config_dict={**settings, "train_precision": "bf16"}, saved=False)
    first, second = (sum(result["history"][-1]["train_loss"]) for result in (plain, half))
    assert first != second and second == pytest.approx(first, rel=0.05)
    assert half["test_result"]["hit@5"] == pytest.approx(plain["test_result"]["hit@5"], abs=0.1)


def test_precision_by_device():
    cpu = torch.device("cpu")
    assert precision("fp32", cpu) is None and precision("auto", cpu) is None
    assert precision("bf16", cpu) == torch.bfloat16


def test_memory_estimate_counts_what_is_there(root, tmp_path):
    _, trainer = one_step(root, tmp_path)
    model = trainer.model
    need = memory_estimate(model, 1000, half=False)
    weights = sum(p.numel() for p in model.parameters()) * 4 / 2**30
    assert need["gradients"] == pytest.approx(weights) and need["optimizer"] == pytest.approx(2 * weights)
    assert need["weights"] > weights and need["activations"] == pytest.approx(68 * 64 * 1000 * 2 / 2**30)
    assert memory_estimate(model, 1000, half=True)["activations"] < need["activations"]
    assert "GiB" in memory_sentence(model, 1000, False)
    assert model.longest_row() > 6


@pytest.mark.slow
@pytest.mark.parametrize("model", ["SIGMA", "PackedSASRec"])
def test_a_compiled_network_takes_the_same_step(root, tmp_path, model):
    """Within what the order of sums in fused kernels may change; AdamW's first step is a sign."""
    plain, one = one_step(root, tmp_path, model)
    torch._dynamo.reset()
    fused, other = one_step(root, tmp_path, model, train_compile="on")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert not torch._dynamo.utils.counters["graph_break"]
    assert one.history[-1]["train_loss"] == pytest.approx(other.history[-1]["train_loss"], rel=1e-5)
    for name, value in plain.items():
        assert ((fused[name] - value).abs() > 1e-5).float().mean() < 0.01, name


def test_who_compiles():
    assert [wants_compile(name) for name in ("off", "auto", "on")] == [False, False, True]


def test_without_a_compiler_compilation_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="train_compile"):
        wants_compile("on")
    assert not wants_compile("auto")
