"""Code never runs from data: each place of RecBole's that evaluates or unpickles is known and closed."""

from __future__ import annotations

import ast
import importlib
import json
import pickle
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recbole
import torch

from recbole_sigma import _compat
from recbole_sigma.grounding.sentence import refuse_foreign_modules
from recbole_sigma.models import registry, stock
from recbole_sigma.quick_start import evaluate_checkpoint, load_data_and_model, run
from recbole_sigma.run import checkpoint as files
from recbole_sigma.run.config import rebuild_config
from recbole_sigma.understanding.paraphrase import paraphrase_of
from recbole_sigma.values import UserError

NAMES = {"eval", "exec", "compile", "__import__"}
ENDS = (
    "import_module", "literal_eval", "read_pickle", "load_npz", "system", "popen", "Popen", "check_output",
    "extractall", "urlopen", "torch.load", "np.load", "numpy.load", "pickle.load", "pickle.loads",
    "Unpickler",    "joblib.load", "yaml.load", "yaml.full_load", "yaml.unsafe_load",
)  # fmt: skip


def dangerous(root: Path) -> Counter[tuple[str, str]]:
    """(file, function) -> how often it is called: what runs code, unpickles, downloads or starts programs."""
    found: Counter[tuple[str, str]] = Counter()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in NAMES or any(called == end or called.endswith(f".{end}") for end in ENDS):
                    found[path.relative_to(root).as_posix(), called] += 1
    return found


# A model's module: `stock.disarm` replaces what it calls.
DISARMED = {
    ("model/context_aware_recommender/kd_dagfm.py", "eval"): 1,
    ("model/context_aware_recommender/kd_dagfm.py", "torch.load"): 1,
    ("model/general_recommender/convncf.py", "torch.load"): 1,
    ("model/general_recommender/ldiffrec.py", "np.load"): 1,
    ("model/general_recommender/nais.py", "torch.load"): 1,
    ("model/general_recommender/neumf.py", "torch.load"): 2,
    ("model/general_recommender/ract.py", "torch.load"): 2,
    ("model/sequential_recommender/s3rec.py", "torch.load"): 1,
}
# Our runner never calls these functions; `test_our_runner_never_gets_there` sets a trap in each module.
UNREACHABLE = {
    ("config/configurator.py", "eval"): 1,  # RunConfig reads values with a safe parser
    ("data/utils.py", "pickle.load"): 2,  # run.loaders makes datasets and loaders itself
    ("quick_start/quick_start.py", "torch.load"): 1,  # our checkpoints are safetensors
    ("trainer/hyper_tuning.py", "eval"): 1,  # `tune` is our own
    ("trainer/trainer.py", "torch.load"): 2,  # the trainer reads our checkpoints
    ("trainer/trainer.py", "__import__"): 2,  # decision trees are refused; the names are constants
    ("utils/url.py", "f.extractall"): 1,  # a missing folder is refused before RecBole would download it
    ("utils/url.py", "ur.urlopen"): 2,
}
# What they are given cannot come from data.
HARMLESS = {
    ("config/configurator.py", "yaml.load"): 2,  # with our SafeLoader (`_build_yaml_loader`)
    ("data/dataset/dataset.py", "yaml.load"): 1,  # RecBole's own list of addresses, only when it downloads
    ("data/utils.py", "importlib.import_module"): 1,  # a constant
    (
        "utils/utils.py",
        "importlib.import_module",
    ): 5,  # a model's name, checked by `registry.find_model`
}


def test_every_such_place_in_recbole_is_known() -> None:
    known = Counter(DISARMED | UNREACHABLE | HARMLESS)
    assert dangerous(Path(recbole.__file__).parent) == known


def test_every_module_that_is_disarmed_is_hooked() -> None:
    modules = {f"recbole.{name.removesuffix('.py').replace('/', '.')}" for name, _ in DISARMED}
    assert modules == set(stock.LOADERS)


def test_our_own_code_has_no_such_place() -> None:
    root = Path(registry.__file__).parents[2]
    for package in ("recbole_sigma", "dataset_adapters"):
        for path in (root / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    assert not {"pickle", "marshal", "shelve", "dill", "joblib"} & {
                        n.name for n in node.names
                    }, path
                if not isinstance(node, ast.Call):
                    continue
                called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert called not in ("eval", "exec"), f"{path}:{node.lineno}"
                if called == "torch.load":
                    assert given["weights_only"] == "True", f"{path}:{node.lineno}"
                if called == "np.load":
                    assert given["allow_pickle"] == "False", f"{path}:{node.lineno}"
                if called == "yaml.load":
                    assert given["Loader"] == "SafeLoader", f"{path}:{node.lineno}"
                # where nothing is said, transformers asks on the terminal, and takes a yes from a pipe
                if re.fullmatch(r"Auto\w+\.from_\w+|SentenceTransformer", called):
                    assert given["trust_remote_code"] == "False", f"{path}:{node.lineno}"
                assert given.get("trust_remote_code", "False") == "False", f"{path}:{node.lineno}"


@pytest.mark.parametrize("kind", ["encoder", "model"])
def test_a_model_folder_does_not_bring_its_own_code(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where standard input says yes, as a talk that is read from a file may."""
    folder, own = (
        Path("own"),
        {name: "own.Own" for name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM")},
    )
    folder.mkdir()
    (folder / "own.py").write_text("open('owned', 'w').close()\n")
    note = {"model_type": "own", "auto_map": {**own, "AutoTokenizer": ["own.Own", None]}}
    (folder / "config.json").write_text(json.dumps(note))
    (folder / "tokenizer_config.json").write_text(json.dumps(note))
    (folder / "tokenizer.json").write_text("{}")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(UserError, match="reader: the model in 'own' cannot be loaded"):
        paraphrase_of(f"{kind}:own")
    assert not Path("owned").exists()


def test_an_encoder_is_made_of_known_modules() -> None:
    folder = Path("encoder")
    folder.mkdir()
    known = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    (folder / "modules.json").write_text(json.dumps([known]))
    refuse_foreign_modules("encoder")
    (folder / "modules.json").write_text(json.dumps([known, {**known, "type": "own.Own"}]))
    with pytest.raises(UserError, match="names 'own.Own', which is code of the folder's own"):
        refuse_foreign_modules("encoder")
    (folder / "modules.json").write_text("{}{")
    with pytest.raises(UserError, match="modules.json is damaged"):
        refuse_foreign_modules("encoder")


def test_our_runner_never_gets_there(planted, monkeypatch: pytest.MonkeyPatch) -> None:
    def trap(*_: Any, **__: Any) -> Any:
        raise AssertionError("reached")

    for name, call in UNREACHABLE:
        module = importlib.import_module(f"recbole.{name.removesuffix('.py').replace('/', '.')}")
        owner, _, attribute = call.rpartition(".")
        if owner in ("pickle", "ur"):
            monkeypatch.setattr(module, owner, type("Trap", (), {attribute: trap, "dump": trap}))
        elif owner == "torch":
            shadow = _compat.Shadow(torch, load=trap)
            monkeypatch.setattr(module, owner, shadow, raising=False)
        elif not owner:
            monkeypatch.setattr(module, call, trap, raising=False)
    for model in ("BPR", "PackedSASRec"):
        result = run(model, "planted", config_dict={**planted, "epochs": 1})
        assert evaluate_checkpoint(result["checkpoint"]).metrics == result["test_result"]


class Payload:
    """A pickle that leaves a trace when it is opened."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("OWNED"),)


@pytest.mark.parametrize("module", stock.LOADERS)
def test_a_pickle_is_not_opened_by_a_model(module: str) -> None:
    loaded = importlib.import_module(module)
    with Path("evil.pth").open("wb") as file:
        pickle.dump(Payload(), file)
    np.save("evil.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    if module in stock.LOADS_WEIGHTS:
        with pytest.raises(UserError, match="does not hold plain weights"):
            loaded.torch.load("evil.pth")
        torch.save({"state_dict": {"x": torch.ones(2)}}, "good.pth")
        assert loaded.torch.load("good.pth")["state_dict"]["x"].tolist() == [1, 1]
    if module == stock.LOADS_ARRAY:
        with pytest.raises(ValueError, match="allow_pickle"):
            loaded.np.load("evil.npy", allow_pickle=True)
    assert not Path("OWNED").exists()


CODE = "__import__('pathlib').Path('OWNED').touch() or print"


def test_a_setting_is_not_evaluated(planted) -> None:
    with pytest.raises(UserError, match="teacher must be one of"):
        run("KD_DAGFM", "planted", config_dict={**planted, "teacher": CODE})
    with pytest.raises(ValueError, match="is not one of"):
        importlib.import_module(stock.EVALUATES).eval(CODE)
    assert not Path("OWNED").exists()


def checkpoint(model: str, **config: Any) -> str:
    """A checkpoint with a good checksum, as whoever knows the format can write one."""
    meta = {"model": model, "dataset": "planted", "config": {"model": model, "dataset": "planted", **config}}
    files.write("made.safetensors", files.Checkpoint(meta, {"model/x": torch.zeros(1)}))
    return "made.safetensors"


@pytest.mark.parametrize("model", ["os.system", "../../evil", "Config", "recbole", "", "Pop\n"])
def test_a_checkpoint_names_known_models_only(model: str, planted) -> None:
    with pytest.raises(UserError, match="names the model"):
        load_data_and_model(checkpoint(model, **planted))


def test_a_checkpoint_does_not_run_its_settings(planted) -> None:
    with pytest.raises(UserError, match="teacher must be one of"):
        load_data_and_model(checkpoint("KD_DAGFM", **{**planted, "teacher": CODE}))
    assert not Path("OWNED").exists()


def test_a_checkpoint_opens_no_other_file_of_weights(planted) -> None:
    """Each setting under which a model of RecBole's opens a file is put back when a checkpoint is read."""
    asked = {
        "ConvNCF": {"train_method": "after_pretrain", "pre_model_path": "evil.pth"},
        "NAIS": {"pretrain_path": "evil.pth"},
        "NeuMF": {"use_pretrain": True, "mf_pretrain_path": "evil.pth", "mlp_pretrain_path": "evil.pth"},
        "RaCT": {"train_stage": "finetune", "pre_model_path": "evil.pth"},
        "KD_DAGFM": {"phase": "finetuning", "warm_up": "evil.pth"},
        "S3Rec": {"train_stage": "finetune", "pre_model_path": "evil.pth", "item_attribute": "genre"},
        "LDiffRec": {"n_cate": 2},
    }
    assert asked.keys() == stock.READS_FILES.keys()
    for model, values in asked.items():
        config = rebuild_config({"model": model, "dataset": "planted", **planted, **values})
        for key, safe in stock.READS_FILES[model].items():
            assert config[key] == safe, (model, key)
