from __future__ import annotations

import ast
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_sigma.run.config import RunConfig, rebuild_config, requested_values
from recbole_sigma.settings import reader, reading, recipes
from recbole_sigma.settings.describe import settings_page
from recbole_sigma.settings.keys import key
from recbole_sigma.settings.recbole_keys import RecBoleKeys
from recbole_sigma.values import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("5", 5),
        ("True", True),
        ("false", False),
        ("None", None),
        ("[1, 5]", [1, 5]),
        ("(64,32)", [64, 32]),
        ("{'LS': 'valid_and_test'}", {"LS": "valid_and_test"}),
        ("{LS: test_only}", {"LS": "test_only"}),
        ("adam", "adam"),
        ("[3,inf)", "[3,inf)"),
        ("(0,1];[3,4)", "(0,1];[3,4)"),
        ("a: b: c", "a: b: c"),
        ("", None),
        ("2020-01-01", "2020-01-01"),
        ("0,1", "0,1"),
        ("-1", -1),
        (".5", 0.5),
        ("1e5", 1e5),
        ("a=b", "a=b"),
        ("apf", "apf"),
    ],
)
def test_parse_value(text: str, value: object) -> None:
    parsed = reading.parse_value(text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    "payload",
    [
        "__import__('os').system('touch owned')",
        "!!python/object/apply:os.system ['touch owned']",
        'exec(\'open("owned","w")\')',
        "{a: !!python/name:os.system }",
        "[__import__('os')]",
    ],
)
def test_payloads_are_text(payload: str, scratch: Path) -> None:
    parsed = reading.parse_value(payload)
    assert "owned" in str(parsed) or "os" in str(parsed)
    with pytest.raises(UserError):
        RunConfig("BPR", "ml-100k", arguments=[f"--learning_rate={payload}"])
    (scratch / "evil.yaml").write_text(f"learning_rate: {payload}\n")
    with pytest.raises(UserError):
        RunConfig("BPR", "ml-100k", [str(scratch / "evil.yaml")])
    with pytest.raises(UserError):
        RunConfig("BPR", "ml-100k", config_dict={"learning_rate": payload})
    assert not (scratch / "owned").exists()


@given(st.text(max_size=40))
def test_parse_value_never_raises(text: str) -> None:
    reading.parse_value(text)


@given(st.lists(st.text(max_size=15), max_size=5))
def test_parse_arguments_never_raises(words: list[str]) -> None:
    reading.parse_arguments(words, [])


def test_both_spellings_of_an_argument() -> None:
    problems: list[str] = []
    found = reading.parse_arguments(["--a=1", "--b", "x y", "--c", "--d=-2", "--e", "-3"], problems)
    assert found == {"a": 1, "b": "x y", "c": True, "d": -2, "e": -3} and not problems


def test_argument_mistakes_are_named() -> None:
    problems: list[str] = []
    reading.parse_arguments(["epochs=3", "--seed=1", "--seed=2"], problems)
    assert len(problems) == 2 and "'epochs=3'" in problems[0] and "--seed" in problems[1]


def test_all_problems_come_in_one_message(scratch: Path) -> None:
    (scratch / "mine.yaml").write_text("learning_rat: 1\n")
    with pytest.raises(UserError) as caught:
        RunConfig(
            "BPR",
            "ml-100k",
            ["mine.yaml", "missing.yaml"],
            {"epochs": "many", "metrics": ["AUC", "Hitt"], "topk": [0], "train_schedule": "cosin"},
            ["--weight_decay=-1", "--filter_sen=true", "stray"],
        )
    text = str(caught.value)
    for part in (
        "learning_rat' in mine.yaml; nearest: learning_rate",
        "missing.yaml does not exist; nearest: mine.yaml",
        "epochs must be",
        "AUC needs",
        "unknown metric 'Hitt'",
        "topk must",
        "nearest: cosine",
        "weight_decay must lie",
        "nearest: filter_seen",
        "'stray'",
    ):
        assert part in text, part
    assert text.startswith("11 problems:"), text


def test_unknown_model_and_missing_names() -> None:
    with pytest.raises(UserError, match="unknown model 'SIGM'; nearest: SIGMA"):
        RunConfig("SIGM", "ml-100k")
    with pytest.raises(UserError, match="no model is named"):
        RunConfig(None, "ml-100k")
    with pytest.raises(UserError, match="no dataset is named"):
        RunConfig("BPR")


@pytest.mark.parametrize("metric", ["GAUC", "AUC", "RMSE", "MAE", "LogLoss"])
def test_metrics_that_need_all_scores_are_refused(metric: str) -> None:
    with pytest.raises(UserError, match=f"metric {metric} needs the scores of all items"):
        RunConfig("BPR", "ml-100k", config_dict={"metrics": [metric, "NDCG"]})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"eval_args": {"split": {"XS": 1}}}, "split must be"),
        ({"filter_seen": "yes"}, "filter_seen must be true or false"),
        ({"topk": 2.5}, "topk must be a list of positive integers"),
        ({"learning_rate": float("nan")}, "learning_rate must lie in"),
    ],
)
def test_values_that_cannot_work(values: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        RunConfig("BPR", "ml-100k", config_dict=values)


def test_precedence(scratch: Path) -> None:
    (scratch / "a.yaml").write_text("learning_rate: 2.0e-3\nepochs: 7\nseed: 1\n")
    (scratch / "b.yaml").write_text("epochs: 8\n")
    config = RunConfig(
        "PackedSASRec",
        "ml-100k",
        ["a.yaml", "b.yaml"],
        {"seed": 2, "stopping_step": 3},
        ["--stopping_step=4"],
    )
    assert config["weight_decay"] == 0.05  # our model file over RecBole's overall
    assert config["layer_norm_eps"] == 1e-12  # RecBole's file of the parent class
    assert config["hidden_dropout_prob"] == 0.3  # our model file over the parent's
    assert config["learning_rate"] == 2e-3 and config["epochs"] == 8  # files over ours, the later file wins
    assert (
        config["seed"] == 2 and config["stopping_step"] == 4
    )  # dictionary over files, command line over all


@pytest.mark.parametrize("dataset", ["ml-100k", "amazon-beauty", "unheard-of"])
def test_a_models_own_history_length_holds_unless_the_user_says_otherwise(dataset: str) -> None:
    assert RunConfig("TIGER", dataset)["MAX_ITEM_LIST_LENGTH"] == 20
    assert RunConfig("TIGER", dataset, None, {"MAX_ITEM_LIST_LENGTH": 7})["MAX_ITEM_LIST_LENGTH"] == 7
    assert RunConfig("SASRec", dataset)["MAX_ITEM_LIST_LENGTH"] == 50


def test_shipped_files_at_recboles_precedence(tmp_path: Path, monkeypatch) -> None:
    """overall < model < sample < dataset < quick start < files; ours right after RecBole's each time, and our
    model file over RecBole's sample and dataset files."""
    ours = tmp_path / "properties"
    for place, text in (
        (
            "overall.yaml",
            "epochs: 1\nseq_separator: a\nMAX_ITEM_LIST_LENGTH: 1\nrepeatable: False\nworker: 1\n",
        ),
        (
            "model/PackedSASRec.yaml",
            "sasrec_score: dot\nsasrec_temperature: 1\nseq_separator: b\nMAX_ITEM_LIST_LENGTH: "
            "2\nn_layers: 9\nworker: 2\n",
        ),
        ("dataset/ml-100k.yaml", "MAX_ITEM_LIST_LENGTH: 3\nrepeatable: False\nnormalize_all: False\n"),
    ):
        (ours / place).parent.mkdir(parents=True, exist_ok=True)
        (ours / place).write_text(text)
    monkeypatch.setattr("recbole_sigma.settings.recipes.properties_dir", lambda: ours)
    from recbole.config import Config

    config = Config(
        "PackedSASRec", "ml-100k", config_dict={"metrics": ["NDCG"], "train_neg_sample_args": None}
    )
    assert config["epochs"] == 1  # our overall over RecBole's
    assert (
        config["worker"] == 2 and config["n_layers"] == 9
    )  # our model file over our overall and the parent's file
    assert config["seq_separator"] == "b"  # our model file over RecBole's sample and dataset files
    assert (
        config["MAX_ITEM_LIST_LENGTH"] == 3 and config["normalize_all"] is False
    )  # our dataset file over RecBole's
    assert config["repeatable"] is True  # RecBole's quick-start file over dataset files
    assert (
        Config("SASRec", "ml-100k", config_dict={"train_neg_sample_args": None})["epochs"] == 300
    )  # stock models untouched


@pytest.mark.parametrize("model", ["Pop", "BPR", "SASRec", "PackedSASRec"])
def test_one_protocol_for_all_models(model: str) -> None:
    config = RunConfig(model, "ml-100k", config_dict={"eval_args": {"group_by": "user"}})
    assert config["eval_args"] == {
        "split": {"LS": "valid_and_test"},
        "order": "TO",
        "group_by": "user",
        "mode": {"valid": "full", "test": "full"},
    }
    assert config["filter_seen"] is True and config["topk"] == [1, 5, 10, 20]
    assert "timestamp" in config["load_col"]["inter"]


def test_argv_never_leaks(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest", "--epochs=1", "--maxfail=1"])
    assert RunConfig("BPR", "ml-100k")["epochs"] == 300


def test_recboles_own_lists_are_not_changed() -> None:
    from recbole.utils import dataset_arguments

    before = list(dataset_arguments)
    RunConfig("BPR", "ml-100k")
    assert list(dataset_arguments) == before


def test_a_config_can_be_rebuilt_from_plain_values() -> None:
    import json

    config = RunConfig("SASRec", "ml-100k", config_dict={"user_inter_num_interval": "[3,inf)", "n_layers": 1})
    values = json.loads(json.dumps(requested_values(config)))
    again = rebuild_config(values)
    left = {k: str(v) for k, v in config.final_config_dict.items()}
    assert {k: str(v) for k, v in again.final_config_dict.items()} == left
    assert rebuild_config(values, {"seed": 5})["seed"] == 5


def test_every_shipped_value_and_every_default_of_recbole_fits_its_key() -> None:
    for root in (recipes.properties_dir(), recipes.recbole_properties()):
        for path in root.rglob("*.yaml"):
            if path.parent.name not in ("tasks", "tune"):
                for key, value in reading.load_yaml(path).items():
                    assert reader.wrong_value(key, value, None) is None, f"{path}: {key}"


def test_a_key_stands_once_with_a_meaning_and_a_default_that_fits() -> None:
    owner: dict[str, type] = {}
    for stage in reader.STAGES:
        inherited = {name for base in stage.__mro__[1:] for name in getattr(base, "__annotations__", ())}
        for name, found in reader.keys_of(stage).items():
            if name not in inherited:
                assert owner.setdefault(name, stage) is stage, name
            assert len(found.help) > 5 and reader.wrong_value(name, found.default) is None, name


def test_the_defaults_of_recboles_keys_are_recboles() -> None:
    shipped = reading.load_yaml(recipes.recbole_properties() / "overall.yaml")
    shipped |= reading.load_yaml(recipes.recbole_properties() / "dataset" / "sample.yaml")
    for name, value in recipes.stage_defaults([RecBoleKeys]).items():
        assert shipped.get(name) == value, name


def test_property_files_hold_only_what_differs() -> None:
    root = recipes.properties_dir()
    for path in [root / "overall.yaml", *(root / "model").glob("*.yaml")]:
        stages = [stage for stage in reader.STAGES if stage is not RecBoleKeys]
        values = reading.load_yaml(path)
        same = {k for k, v in recipes.stage_defaults(stages).items() if k in values and values[k] == v}
        assert not same, f"{path} repeats the defaults of {same}"


def test_recboles_lists_of_arguments_are_found_without_importing_it() -> None:
    import recbole.utils as stock

    for name in recipes._ARGUMENT_LISTS:
        assert set(getattr(stock, name)) <= recipes.declared_keys()


def test_the_settings_page_is_printed_from_the_code() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
    assert page.read_text(encoding="utf-8") == settings_page(), (
        "run python -m recbole_sigma.settings.describe > docs/settings.md"
    )


@dataclass(frozen=True)
class Sample:
    """A stage with a key of every kind."""

    flag: bool = key(True, "a switch")
    count: int = key(3, "a number", 0, 9)
    part: float = key(0.5, "a share", 0.0, 1.0)
    name: str = key("one", "a choice", choices=("one", "Two", "none"))
    days: float | None = key(7.0, "days, or no value", 0.0, 366.0)
    level: int | str = key(1, "a level", words=("all",))
    sizes: tuple[int, ...] = key((1, 2), "some sizes")
    more: dict[str, Any] = key({"a": 1}, "a mapping")
    parts: tuple[str, ...] | None = key(None, "some parts", choices=("left", "Right"))
    source: str = key("own", "made or read", choices=("own", "file:<path>"))


def test_reading_gives_the_declared_types() -> None:
    assert reader.read(Sample, {}) == Sample()
    got = reader.read(
        Sample,
        {"part": 1, "name": "TWO", "days": None, "level": "all", "sizes": 5, "count": 9, "flag": False},
    )
    assert got == Sample(False, 9, 1.0, "Two", None, "all", (5,), {"a": 1})
    assert type(got.part) is float
    assert reader.read(Sample, {"name": None, "sizes": None}) == Sample(name="none", sizes=())
    assert reader.read(Sample, {"parts": ["right", "left"]}).parts == ("Right", "left")
    assert reader.read(Sample, {"parts": "LEFT", "source": "file:A b"}) == Sample(
        parts=("left",), source="file:A b"
    )
    assert reader.read(Sample, {"parts": []}).parts == ()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"flag": 1}, "flag must be true or false, not 1"),
        ({"count": True}, "count must be an integer, not True"),
        ({"count": 10}, r"count must lie in \[0, 9\], not 10"),
        ({"count": None}, "count must be an integer, not None"),
        ({"part": float("nan")}, "part must lie in"),
        ({"days": "soon"}, r"days must be a number or ~ \(none\), not 'soon'"),
        ({"name": "Twoo"}, "name must be one of one, Two, none; not 'Twoo'; nearest: Two"),
        ({"parts": ["left", "rigt"]}, "parts must be a list of left, Right; not 'rigt'; nearest: Right"),
        ({"parts": {"left": 1}}, "parts must be a list of left, Right; not"),
        ({"source": "file:"}, "source must be one of own, file:<path>; not 'file:'"),
        ({"level": "al"}, "level must be an integer or all, not 'al'"),
        ({"sizes": [1, "x"]}, "sizes must be a list of integers, not"),
        ({"more": [1]}, "more must be a mapping"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_the_key(values: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        reader.read(Sample, values)


def test_properties_are_found_inside_an_installed_package(tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "site" / "recbole_sigma"
    (package / "properties").mkdir(parents=True)
    (package / "properties" / "overall.yaml").write_text("epochs: 1\n")
    monkeypatch.setattr(recipes, "__file__", str(package / "settings" / "recipes.py"))
    assert recipes.properties_dir() == package / "properties"
    os.remove(package / "properties" / "overall.yaml")
    with pytest.raises(UserError, match="reinstall"):
        recipes.properties_dir()


def test_nothing_but_the_reader_casts_values_of_a_config() -> None:
    """``int(config["key"])`` is a second opinion about the type of a key, and about what stands for none."""
    root = Path(reader.__file__).resolve().parents[1]
    casts = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") in ("bool", "float", "int", "list", "str", "tuple")
        and any(map(_reads_config, node.args))
    ]
    assert not casts, f"read the key's stage with settings.reader.read: {casts}"


def _reads_config(node: ast.AST) -> bool:
    """Whether an expression is ``config["key"]``, ``self.config["key"]`` or ``config["key"] or default``.

    The device is no key: RecBole resolves it from two, and its text names it.
    """
    if isinstance(node, ast.BoolOp):
        return any(map(_reads_config, node.values))
    if not isinstance(node, ast.Subscript) or getattr(node.slice, "value", "") == "device":
        return False
    return getattr(node.value, "id", getattr(node.value, "attr", "")).endswith("config")


def test_a_sets_own_property_file_is_read_and_outranked(planted, write_dataset):
    """Beside the files, by the set's name; files, dictionaries and words win over it."""
    folder = Path(planted["data_path"]) / "planted"
    own = folder / "planted.yaml"
    own.write_text("learning_rate: 0.5\nepochs: 7\nmodel: BPR\neval_args: {split: {RS: [8, 1, 1]}}\n")
    try:
        Path("mine.yaml").write_text("epochs: 9\n")
        values = {key: value for key, value in planted.items() if key not in ("learning_rate", "epochs")}
        config = RunConfig("PackedSASRec", "planted", ["mine.yaml"], values)
        assert config["model"] == "PackedSASRec" and config["epochs"] == 9
        assert config["learning_rate"] == 0.5 and config["eval_args"]["split"] == {"RS": [8, 1, 1]}
        # a checkpoint is whole: reloading it does not look there
        own.write_text("no_such_key: 1\n")
        again = rebuild_config(requested_values(config))
        assert again["learning_rate"] == 0.5
        with pytest.raises(UserError, match=r"no_such_key.*planted\.yaml"):
            RunConfig("PackedSASRec", "planted", [], values)
    finally:
        own.unlink()


@pytest.mark.parametrize(
    "text", ["epochs: 1\nepochs: 2\n", "eval_args: {order: TO, order: RO}\n", "'epochs': 1\nepochs: 2\n"]
)
def test_a_key_that_stands_twice_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UserError, match=r"p.yaml:\d is not valid YAML: the key '\w+' stands there twice"):
        reading.load_yaml(tmp_path / "p.yaml")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"normalize_all": "banana"}, "normalize_all must be true or false, not 'banana'"),
        ({"use_gpu": "banana"}, "use_gpu must be true or false"),
        ({"shuffle": "banana"}, "shuffle must be true or false"),
        ({"reproducibility": 5}, "reproducibility must be true or false"),
        ({"embedding_size": "x"}, "embedding_size must be a positive integer"),
        ({"embedding_size": 10**9}, "embedding_size must be at most 1,048,576"),
        ({"n_layers": 10**9}, "n_layers must (be at most 1,000|lie in)"),
        ({"weight_decay": float("nan")}, "weight_decay must lie in"),
        ({"reg_weight": float("nan")}, "reg_weight must be a number, not nan"),
        ({"worker": 1_000_000}, "worker must lie in"),
        ({"USER_ID_FIELD": None}, "USER_ID_FIELD is empty"),
        ({"LIST_SUFFIX": ""}, "LIST_SUFFIX is empty"),
        ({"eval_args": {"group_by": "nobody"}}, "group_by must be user or none, not 'nobody'"),
        ({"eval_args": {"mode": {"foo": "full"}}}, "mode names the parts valid and test, not foo"),
    ],
)
def test_wrong_values_of_recboles_keys_are_refused(values: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        RunConfig("BPR", "ml-100k", config_dict=values)
