"""The verb export, and a checkpoint whose base lies elsewhere or is another one, as typed."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from recbole_sigma.commands.export import trained_backbone
from recbole_sigma.commands.main import main
from recbole_sigma.language.loading import load_causal_model
from recbole_sigma.language.vocabulary import pretrained_tokenizer
from recbole_sigma.preparation import items as preparation
from recbole_sigma.quick_start import run
from recbole_sigma.values import UserError
from tests.arithmetic import SCORES
from tests.language_models import save_model
from tests.planted import cycle_config, write_cycle


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Function from a shape to (checkpoint trained on it for an epoch, its base)."""
    root, made = tmp_path_factory.mktemp("export"), {}
    write_cycle(root / "cycle", users=24, length=12)

    def get(shape):
        if shape not in made:
            base = save_model(root / shape, shape)
            small = {"epochs": 1, "grounding_steps": 2, "lora_rank": 3, "MAX_ITEM_LIST_LENGTH": 6}
            values = cycle_config(root, root, backbone=f"pretrained:{base}", **small)
            made[shape] = run("SIGMA", "cycle", config_dict=values)["checkpoint"], base
        return made[shape]

    return get


@pytest.mark.parametrize("shape", ["qwen3", "llama", "gpt2"])
def test_the_exported_folder_is_the_trained_model(trained, shape, tmp_path, capsys):
    """Trained by the command's own path: merged = adapter, and the base is another model by now."""
    checkpoint, base = trained(shape)
    target = tmp_path / "merged"
    assert main(["export", "--what=language", f"--checkpoint={checkpoint}", f"--output={target}"]) == 0
    assert "adapters merged" in capsys.readouterr().out
    model, tokenizer = trained_backbone(checkpoint)
    total = tokenizer.get_vocab_size()
    ids = torch.tensor([[5, 9, total - 1, total - 3, 7]])
    plain, old = load_causal_model(str(target), "x").eval(), load_causal_model(base, "x").eval()
    position = torch.arange(5)[None]
    mask = torch.full((5, 5), torch.finfo(torch.float32).min).triu(1)[None, None]
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(ids)
        states = model.base_model(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=position
        ).last_hidden_state
        expected = model.get_output_embeddings()(states)
        found = plain(ids).logits[..., :total]
        before = old(ids.clamp(max=300)).logits
    torch.testing.assert_close(found, expected, **SCORES)
    known = min(before.shape[-1], total, 290)
    assert not torch.allclose(before[:, :2, :known], found[:, :2, :known], atol=1e-3)
    assert pretrained_tokenizer(str(target), [4]).get_vocab() == tokenizer.get_vocab()


def test_half_the_size_in_bf16_and_nothing_is_overwritten(trained, tmp_path, capsys):
    checkpoint, _ = trained("qwen3")
    words = ["export", "--what=language", f"--checkpoint={checkpoint}", "--quiet"]
    for dtype in ("fp32", "bf16"):
        assert main([*words, f"--dtype={dtype}", f"--output={tmp_path / dtype}"]) == 0
    size = {d: (tmp_path / d / "model.safetensors").stat().st_size for d in ("fp32", "bf16")}
    assert size["bf16"] < 0.6 * size["fp32"]
    assert main([*words, f"--output={tmp_path / 'fp32'}"]) == 2
    assert "not empty" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_one_sentence_for_what_cannot_be_exported(trained, tmp_path, capsys, saved):
    (checkpoint, _), other = trained("qwen3"), f"--backbone=pretrained:{saved('llama')}"
    capsys.readouterr()
    file = tmp_path / "file"
    file.write_text("")

    def refuse(match, *words):
        assert main(["export", "--what=language", *words]) == 2
        sentence = capsys.readouterr().err.strip()
        assert match in sentence and "\n" not in sentence, sentence

    output = f"--output={tmp_path / 'out'}"
    refuse("needs --checkpoint=FILE and --output=FOLDER", output)
    refuse("needs --checkpoint=FILE and --output=FOLDER", f"--checkpoint={checkpoint}")
    refuse("does not exist", "--checkpoint=none.safetensors", output)
    refuse("fp32 or bf16", f"--checkpoint={checkpoint}", output, "--dtype=int8")
    refuse("nearest: checkpoint", f"--chekpoint={checkpoint}", output)
    refuse("does not belong", f"--checkpoint={checkpoint}", output, "--seeds=1")
    refuse("not empty", f"--checkpoint={checkpoint}", f"--output={file}")
    refuse("cannot write", f"--checkpoint={checkpoint}", f"--output={file / 'below'}")
    refuse("base with other weights", f"--checkpoint={checkpoint}", output, other)
    scratch = "--backbone=scratch:tiny"
    refuse("only a pretrained backbone can be exported", f"--checkpoint={checkpoint}", output, scratch)
    assert not (tmp_path / "out").exists()


def test_another_base_is_named_as_such_whatever_its_shape(trained, tmp_path, capsys):
    """Wider, deeper, another family, or more words: never a sentence about shapes of weights."""
    checkpoint, base = trained("llama")
    moved = tmp_path / "moved"

    def recommend():
        words = ["recommend", f"--checkpoint={checkpoint}", "--user=u1", "--k=2"]
        code = main([*words, f"--backbone=pretrained:{moved}"])
        return code, capsys.readouterr()

    shutil.copytree(base, moved)
    code, out = recommend()
    assert code == 0 and "thing number" in out.out
    for shape, more in (
        ("llama", {"hidden_size": 64, "head_dim": 16}),
        ("llama", {"num_hidden_layers": 3}),
        ("gpt2", {}),
    ):
        shutil.rmtree(moved)
        save_model(moved, shape, **more)
        code, out = recommend()
        assert code == 2 and "base with other weights" in out.err
    for words in (3, 15):
        shutil.rmtree(moved)
        shutil.copytree(base, moved)
        table = json.loads((moved / "tokenizer.json").read_text())
        for number in range(words):
            table["model"]["vocab"][f"w{number}"] = len(table["model"]["vocab"])
        (moved / "tokenizer.json").write_text(json.dumps(table))
        code, out = recommend()
        assert code == 2 and "base with other vocabulary" in out.err
    shutil.rmtree(moved)
    code, out = recommend()
    assert code == 2 and "name the one where the model lies now" in out.err


def test_a_model_that_cannot_be_used_is_refused_before_items_are_grounded(
    tmp_path,
    saved,
    monkeypatch,
):
    monkeypatch.setattr(preparation, "ground_items", lambda *a, **k: pytest.fail("grounded first"))
    write_cycle(tmp_path / "cycle", users=24, length=12)
    bare = tmp_path / "bare"
    shutil.copytree(saved("gpt2"), bare)
    for file in bare.glob("tokenizer*"):
        file.unlink()  # transformers would make up an empty vocabulary
    for values, match in (
        ({"backbone": f"pretrained:{saved('t5')}"}, "encoder-decoder"),
        ({"backbone": "scratch:huge"}, "backbone: 'scratch:huge' is unknown"),
        ({"backbone": f"pretrained:{bare}"}, "holds no tokenizer"),
        ({"grounding_text_encoder": f"causal-lm:{saved('bert')}"}, "encoder without causal attention"),
        ({"grounding_text_encoder": f"causal-lm:{bare}"}, "holds no tokenizer"),
    ):
        with pytest.raises(UserError, match=match):
            run("SIGMA", "cycle", config_dict=cycle_config(tmp_path, tmp_path, **values))


def test_the_hub_is_asked_once(monkeypatch, capsys):
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError

    asked = []

    def answer(error):
        def model_info(self, name, **more):
            asked.append(name)
            raise error

        monkeypatch.setattr(HfApi, "model_info", model_info)
        with pytest.raises(UserError) as caught:
            load_causal_model("nobody/no-such-model", "backbone")
        return str(caught.value)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert "(ConnectionError): check the name and the network" in answer(ConnectionError("no route"))
    assert "no model of the hub that you may read" in answer(HFValidationError("name"))
    assert asked == ["nobody/no-such-model"] * 2
    assert capsys.readouterr().err == ""
    assert not Path("nobody").exists()
