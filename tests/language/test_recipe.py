"""The shipped recipe for a pretrained model: known keys, values in range, and a step on a tiny model."""

import torch

from recbole_sigma.quick_start import build_model, build_trainer
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.loaders import load_data
from recbole_sigma.settings.reading import load_yaml
from recbole_sigma.settings.recipes import declared_keys, properties_dir, shipped_defaults
from tests.planted import cycle_config, write_cycle

RECIPE = properties_dir() / "recipes" / "sigma_qwen3_lora.yaml"


def test_every_key_is_known_and_explained_and_the_header_is_honest():
    values, text = load_yaml(RECIPE), RECIPE.read_text(encoding="utf-8")
    shipped = shipped_defaults(("SIGMA",))
    assert values.keys() <= shipped.keys() and values.keys() <= set(declared_keys())
    for line in text.splitlines():
        assert not line or line.startswith("#") or "  # " in line, line
    assert "only ever run on random tiny models" in text
    assert values["train_batch_size"] % values["train_accumulation"] == 0
    assert values["backbone"].endswith("Qwen3-0.6B") and values["train_schedule"] == "cosine"


def test_it_trains_a_step_on_a_tiny_model(tmp_path, saved):
    folder = saved("qwen3")
    write_cycle(tmp_path / "cycle", users=16, length=10)
    recipe = load_yaml(RECIPE)
    own = {name: value for name, value in cycle_config(tmp_path, tmp_path).items() if name not in recipe}
    tiny = {
        "backbone": f"pretrained:{folder}",
        "grounding_text_encoder": f"causal-lm:{folder}",
        "grounding_steps": 1,
        "grounding_batch_pairs": 8,
        "grounding_chunk": 4,
        "MAX_ITEM_LIST_LENGTH": 6,
    }
    config = RunConfig("SIGMA", "cycle", [str(RECIPE)], {**own, **tiny})
    data = load_data(config, config.model_class)
    model = build_model(config, config.model_class, data.train)
    assert model.prepared.report["views"].keys() == {"collaborative", "semantic", "taxonomy"}
    assert model.prepared.vectors.text.shape[1] == recipe["grounding_dim"]
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer = build_trainer(config, model)
    trainer._train_data = data.train
    trainer._train_epoch(data.train, 0)
    assert trainer.accumulation == 8 and trainer.half is None and len(data.train) == 1
    assert model.trunk.backbone.is_activation_checkpointing
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert {name for name in moved if "backbone" in name} and not any("base_layer" in name for name in moved)
    assert any("lora_B" in name for name in moved)
