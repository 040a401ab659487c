"""SIGMA on a pretrained trunk from end to end: train, store a few kB, reload onto the same base only."""

import os

import pytest
import torch

from recbole_sigma.decoding.top_k import top_k
from recbole_sigma.quick_start import build_trainer, load_data_and_model, run
from recbole_sigma.values import RankedItems, UserError
from tests.arithmetic import same_list
from tests.language_models import save_model
from tests.planted import build, cycle_config, one_batch, write_cycle


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted_lm")
    write_cycle(folder / "cycle", users=40, length=12)
    return folder


def settings(root, tmp_path, folder, **more):
    small = {"epochs": 2, "grounding_steps": 5, "lora_rank": 4, "MAX_ITEM_LIST_LENGTH": 10}
    return cycle_config(root, tmp_path, **{**small, "backbone": f"pretrained:{folder}", **more})


def test_trains_stores_and_reloads(root, tmp_path, saved):
    folder = save_model(tmp_path / "base", "qwen3", hidden_size=64, num_hidden_layers=3)
    result = run("SIGMA", "cycle", config_dict=settings(root, tmp_path, folder))
    losses = [epoch["train_loss"] for epoch in result["history"]]
    assert sum(losses[-1]) < sum(losses[0])
    base = os.path.getsize(os.path.join(folder, "model.safetensors"))
    model, test = load_data_and_model(result["checkpoint"])[1::4]
    batch = next(iter(test))[0]
    stored = model.state_dict()
    assert not any("embed_tokens.base" in name or name.endswith("base_layer.weight") for name in stored)
    backbone = sum(v.numel() * v.element_size() for n, v in stored.items() if "backbone" in n)
    assert backbone < base / 2
    again = load_data_and_model(result["checkpoint"])[1]
    assert torch.equal(model.rank(batch, 5).items, again.rank(batch, 5).items)
    os.rename(folder, folder + ".moved")
    with pytest.raises(UserError, match="backbone: the model folder .* does not exist"):
        load_data_and_model(result["checkpoint"])
    save_model(tmp_path / "base", "qwen3", seed=4, hidden_size=64, num_hidden_layers=3)
    with pytest.raises(UserError, match="base with other weights"):
        load_data_and_model(result["checkpoint"])


@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_other_shapes_decode_like_a_full_pass(root, tmp_path, saved, shape):
    _, data, model = build("SIGMA", "cycle", settings(root, tmp_path, saved(shape), decode_beam=0))
    model.eval()
    batch = one_batch(data.test)
    ranked = model.rank(batch, 5)
    scores = model.full_sort_predict(batch)
    same_list(ranked, top_k(scores, 5))
    same_list(model.rank(batch[3:4], 5), RankedItems(ranked.items[3:4], ranked.scores[3:4]))
    losses = model.calculate_loss(next(iter(data.train)))
    sum(losses).backward()
    trained = {name for name, p in model.trunk.backbone.named_parameters() if p.grad is not None}
    assert trained and all("lora_" in name or name.endswith("rows") for name in trained)


def test_two_kinds_of_model_that_fail_before_training(root, tmp_path, saved):
    for shape, match in (("bert", "not a causal language model"), ("t5", "encoder-decoder")):
        with pytest.raises(UserError, match=match):
            run("SIGMA", "cycle", config_dict=settings(root, tmp_path, saved(shape)))


def test_accumulating_4_times_8_rows_is_a_batch_of_32(tmp_path, saved):
    """One plain gradient step, so that the gradients themselves are compared; nothing random in the model."""
    write_cycle(tmp_path / "cycle", users=32, length=12)
    events = tmp_path / "cycle" / "cycle.inter"
    head, *lines = events.read_text().splitlines()
    kept = [line for i, line in enumerate(lines) if i % 12 < 5 + (i // 12) % 8]  # rows of many lengths
    events.write_text("\n".join([head, *kept]) + "\n")
    found = {}
    for rate, pieces in ((0.0, 1), (0.5, 1), (0.5, 4)):
        values = settings(tmp_path, tmp_path, saved("llama"), learner="sgd", learning_rate=rate)
        values |= {
            "weight_decay": 0.0,
            "train_clip_norm": 0.0,
            "train_warmup_epochs": 0,
            "grounding_steps": 2,
        }
        values |= {"train_schedule": "constant", "train_batch_size": 32, "train_accumulation": pieces}
        values |= {"lora_dropout": 0.0, "task_labels_per_row": 0}
        config, data, model = build("SIGMA", "cycle", values)
        trainer = build_trainer(config, model)
        trainer._train_data = data.train
        assert len(data.train) == 1 and len(data.train._dataset.inter_feat) == 32
        trainer._train_epoch(data.train, 0)
        found[rate, pieces] = dict(trainer.model.named_parameters()), trainer.history[-1]["train_loss"]
    start, (whole, loss), (split, same_loss) = found[0.0, 1][0], found[0.5, 1], found[0.5, 4]
    assert same_loss == pytest.approx(loss, rel=1e-5)
    moved = {name for name in whole if (whole[name] - start[name]).abs().max() > 1e-4}
    assert any("lora_B" in name for name in moved) and any(name.endswith("rows") for name in moved)
    for name, value in whole.items():
        torch.testing.assert_close(
            split[name], value, atol=2e-6, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )
