"""Pretrained trunks: nothing changes until training does, and only what training changed is kept."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from recbole_sigma.language.backbone import build_backbone, embedding_scale, hidden_states, output_rows
from recbole_sigma.language.grown import build_pretrained, export_merged
from recbole_sigma.language.loading import load_causal_model, load_tokenizer
from recbole_sigma.language.lora import LoraOptions
from recbole_sigma.language.vocabulary import (
    END,
    PAD,
    START,
    code_offsets,
    encode_left_padded,
    pretrained_tokenizer,
)
from recbole_sigma.values import UserError
from tests.arithmetic import SCORES, STATES
from tests.language_models import save_model

SHAPES = ("qwen3", "llama", "gpt2")
SIZES = (4, 3)


def grown(folder, rank=4, seed=0, **more):
    tokenizer = pretrained_tokenizer(folder, SIZES)
    torch.manual_seed(seed)
    model = build_pretrained(folder, tokenizer, 64, LoraOptions(rank=rank, alpha=8, dropout=0.0), **more)
    return model.eval(), tokenizer


def run(model, embeddings, allowed=None, positions=None):
    batch, length, _ = embeddings.shape
    if positions is None:
        positions = torch.arange(length).expand(batch, -1)
    if allowed is None:
        allowed = torch.ones(length, length, dtype=torch.bool).tril().expand(batch, -1, -1)
    return hidden_states(model, embeddings, positions, allowed)


def perturb(model, seed=1):
    """As if it had been trained: LoRA's B is zero at first."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("shape", SHAPES)
def test_untrained_adapter_is_the_base_model(saved, shape):
    folder = saved(shape)
    base = load_causal_model(folder, "backbone").eval()
    ids = torch.randint(0, 200, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = base.base_model(input_ids=ids).last_hidden_state
        model, _ = grown(folder)
        embed = model.get_input_embeddings()
        torch.testing.assert_close(embed(ids), base.get_input_embeddings()(ids), rtol=0, atol=0)
        torch.testing.assert_close(run(model, embed(ids)), expected, **STATES)


@pytest.mark.parametrize("shape", SHAPES)
def test_only_adapter_and_new_rows_learn_and_every_linear_layer_has_an_adapter(saved, shape):
    model, tokenizer = grown(saved(shape))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in name or name.endswith(".rows") for name in trained)
    linear = {"gpt2": 4 * 2, "qwen3": 7 * 2, "llama": 7 * 2}[shape]
    assert sum("lora_A" in name for name in trained) == linear
    first = code_offsets(tokenizer, SIZES)[0]
    ids = torch.tensor([[3, first, first + 1, tokenizer.token_to_id(PAD)]])
    states = run(model, model.get_input_embeddings()(ids))
    rows = output_rows(model, torch.arange(first, first + SIZES[0]))
    assert rows.shape == (SIZES[0], 32)
    (states @ rows.T).square().sum().backward()
    assert all(p.grad is None for n, p in model.named_parameters() if n not in trained)
    assert model.get_input_embeddings().rows.grad.abs().sum() > 0
    assert any(
        p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "lora_B" in n
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_merged_export_equals_the_adapter_and_loads_as_a_plain_model(saved, shape, tmp_path):
    model, tokenizer = grown(saved(shape))
    perturb(model)
    total = tokenizer.get_vocab_size()
    first = code_offsets(tokenizer, SIZES)[0]
    ids = torch.tensor([[5, 9, first, first + 2, total - 1, 7]])
    with torch.no_grad():
        states = run(model, model.get_input_embeddings()(ids))
        expected = model.get_output_embeddings()(states)
        assert expected.shape[-1] == total
        rows = output_rows(model, torch.arange(first, total))
        torch.testing.assert_close(states @ rows.T, expected[..., first:total], **STATES)
        target = tmp_path / "merged"
        export_merged(model, tokenizer, target)
        plain = load_causal_model(str(target), "backbone").eval()
        torch.testing.assert_close(plain(ids).logits[..., :total], expected, **SCORES)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    again = pretrained_tokenizer(str(target), SIZES)
    assert again.get_vocab() == tokenizer.get_vocab()
    rebuilt = build_pretrained(str(target), again, 64, LoraOptions(rank=2))
    torch.testing.assert_close(output_rows(rebuilt, torch.arange(first, total)), rows, atol=1e-6, rtol=0)
    with pytest.raises(UserError, match="not empty"):
        export_merged(rebuilt, again, target)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [4, 0])
def test_saved_and_loaded_model_is_equal_and_small(saved, shape, rank):
    folder = saved(shape)
    model, tokenizer = grown(folder, rank)
    perturb(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert all(("lora_" in n) or n.endswith("rows") or n.startswith("base_") for n in state) == bool(rank)
    other, _ = grown(folder, rank, seed=5)
    ids = torch.tensor([[5, 9, tokenizer.get_vocab_size() - 1, 7]])
    with torch.no_grad():
        before = run(other, other.get_input_embeddings()(ids))
        other.load_state_dict(state)
        expected = run(model, model.get_input_embeddings()(ids))
        after = run(other, other.get_input_embeddings()(ids))
    assert torch.equal(after, expected) and not torch.allclose(before, expected)
    inside = torch.nn.ModuleDict({"backbone": grown(folder, rank, seed=6)[0]})  # as a part of SIGMA
    inside.load_state_dict({f"backbone.{name}": value for name, value in state.items()})
    with pytest.raises(RuntimeError, match="Missing"):
        inside.load_state_dict({f"backbone.{n}": v for n, v in state.items() if not n.endswith("rows")})


def test_an_adapter_for_another_base_or_vocabulary_is_refused(saved, tmp_path):
    model, _ = grown(saved("llama"))
    state = model.state_dict()
    other = save_model(tmp_path / "other", "llama", seed=3)
    with pytest.raises(UserError, match="base with other weights"):
        grown(other)[0].load_state_dict(state)
    changed = tmp_path / "changed"
    for source in Path(saved("llama")).iterdir():
        (changed / source.name).parent.mkdir(exist_ok=True)
        (changed / source.name).write_bytes(source.read_bytes())
    words = json.loads((changed / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    one, two = "A", "B"
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (changed / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(UserError, match="base with other vocabulary"):
        grown(str(changed))[0].load_state_dict(state)


@pytest.mark.parametrize("shape", SHAPES)
def test_padding_side_and_batch_order_change_nothing(saved, shape):
    """A prompt alone, padded on the left, padded on the right, and in another row of the batch."""
    model, tokenizer = grown(saved(shape))
    perturb(model)
    text = torch.tensor([5, 9, 30, 31, 7])
    pad = tokenizer.token_to_id(PAD)
    short = torch.full((3,), pad)
    rows = torch.stack([torch.cat([short, text]), torch.cat([text, short]), torch.arange(8) + 3])
    real = rows != pad
    causal = torch.ones(8, 8, dtype=torch.bool).tril()
    allowed = (causal[None] & real[:, None, :]) | torch.eye(8, dtype=torch.bool)
    positions = (real.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        embed = model.get_input_embeddings()
        alone = run(model, embed(text[None]))[0]
        states = run(model, embed(rows), allowed, positions)
        order = torch.tensor([2, 0, 1])
        shuffled = run(model, embed(rows[order]), allowed[order], positions[order])
    torch.testing.assert_close(states[0, 3:], alone, **STATES)
    torch.testing.assert_close(states[1, :5], alone, **STATES)
    torch.testing.assert_close(shuffled, states[order], **STATES)


def test_checkpointing_gives_the_same_gradients(saved):
    gradients = []
    for recompute in (False, True):
        model, _ = grown(saved("qwen3"), checkpointing=recompute)
        perturb(model)
        model.train()
        embeddings = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(0))
        run(model, embeddings.requires_grad_()).square().mean().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value)


def test_bf16_weights_stay_near_fp32(saved):
    """Stated tolerance: states of a unit-variance trunk differ by less than 3 % of their size."""
    states = []
    for dtype in (torch.float32, torch.bfloat16):
        model, _ = grown(saved("qwen3"), dtype=dtype)
        perturb(model)
        ids = torch.tensor([[5, 9, 30, 31, 7]])
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            states.append(run(model, model.get_input_embeddings()(ids).to(dtype)).float())
    assert (states[0] - states[1]).norm() < 0.03 * states[0].norm()


def test_prompt_tokens_of_a_base_with_a_post_processor(saved, tmp_path):
    """A tokenizer that adds a start token by itself must not put one inside the prompt."""
    tokenizer = pretrained_tokenizer(saved("llama"), SIZES)
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    rows = encode_left_padded(tokenizer, ["red thing", "red"], start=True, end=True)
    assert 0 not in rows and (rows[:, -1] == tokenizer.token_to_id(END)).all()
    assert rows[0, 0] == tokenizer.token_to_id(START) and rows[1, 0] == tokenizer.token_to_id(PAD)
    base = load_tokenizer(saved("llama"), "backbone")
    assert all(tokenizer.token_to_id(token) == number for token, number in base.get_vocab().items())
    assert isinstance(tokenizer, Tokenizer)


def test_named_through_build_backbone(saved):
    tokenizer = pretrained_tokenizer(saved("gpt2"), SIZES)
    model = build_backbone(
        "pretrained:" + saved("gpt2"), tokenizer.get_vocab_size(), 64, 0.0, tokenizer=tokenizer
    )
    weight = load_causal_model(saved("gpt2"), "backbone").get_input_embeddings().weight
    weight = weight[: model.get_input_embeddings().first]
    assert embedding_scale(model) == pytest.approx(weight.square().mean().sqrt().item(), rel=1e-4)


def refuse(match, name, max_positions=64, lora=None):
    with pytest.raises(UserError, match=match) as caught:
        tokenizer = pretrained_tokenizer(name, SIZES)
        build_pretrained(name, tokenizer, max_positions, lora or LoraOptions(rank=2))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 420


def test_bad_models_get_one_sentence_with_the_remedy(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    empty = tmp_path / "empty"
    empty.mkdir()
    refuse("no config.json", str(empty))
    refuse("does not exist; nearest: empty", str(tmp_path / "emty"))
    refuse("check the name and the network", "nobody/no-such-model")
    refuse("is an encoder without causal attention", saved("bert"))
    refuse("is an encoder-decoder", saved("t5"))
    refuse("at most 256 positions", saved("llama"), max_positions=1000)
    refuse("name no linear layer", saved("llama"), lora=LoraOptions(rank=2, targets=("query",)))

    def copy(name):
        target = tmp_path / name
        target.mkdir()
        for source in Path(saved("llama")).iterdir():
            (target / source.name).write_bytes(source.read_bytes())
        return target

    bare = copy("bare")
    (bare / "model.safetensors").unlink()
    refuse("save it again", str(bare))
    cut = copy("cut")
    content = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(content[: len(content) // 2])
    refuse("save it again", str(cut))
    broken = copy("broken")
    (broken / "config.json").write_text("{")
    refuse("save it again", str(broken))
    words = copy("words")
    (words / "tokenizer.json").unlink()
    refuse("backbone: ", str(words))
    from safetensors.torch import load_file, save_file

    partial = copy("partial")
    tensors = load_file(partial / "model.safetensors")
    tensors.pop("model.layers.0.mlp.up_proj.weight")
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    refuse("lack 1 tensors", str(partial))
    foreign = copy("foreign")
    table = json.loads((foreign / "tokenizer.json").read_text())
    for number in range(1000, 1100):
        table["model"]["vocab"][f"w{number}"] = len(table["model"]["vocab"])
    (foreign / "tokenizer.json").write_text(json.dumps(table))
    refuse("belong to different models", str(foreign))


def test_a_tokenizer_without_pad_and_eos_is_enough(tmp_path):
    """Our own <|pad|> and <|end|> are new rows, so a base that lacks them needs no repair."""
    folder = save_model(tmp_path / "plain", "llama", special=(), bos_token_id=None, eos_token_id=None)
    model, tokenizer = grown(folder)
    rows = encode_left_padded(tokenizer, ["red", "red thing number"], start=True, end=True)
    with torch.no_grad():
        states = run(model, model.get_input_embeddings()(torch.from_numpy(rows)))
    assert torch.isfinite(states).all()
