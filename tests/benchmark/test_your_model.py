"""A model of the user's own in the table: the code of docs/your_model.md, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recbole_sigma.benchmark import run_benchmark
from recbole_sigma.commands.main import main
from recbole_sigma.quick_start import run
from recbole_sigma.run.config import RunConfig
from recbole_sigma.values import UserError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "your_model.md"
MODELS = ["WindowItemKNN", "own/my_model.py:RecentItems"]


@pytest.fixture
def own_file(scratch: Path) -> Path:
    """The model of the page, in a folder outside the package."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    path = scratch / "own" / "my_model.py"
    path.parent.mkdir()
    path.write_text(code, encoding="utf-8")
    return path


def bench(planted, **more):
    values = {**planted, "learning_rate": 0.05, "epochs": 4, **more.pop("values", {})}
    return run_benchmark(MODELS, "planted", config_dict=values, output="o", **more)


def test_the_model_of_the_page_gets_its_row(planted, own_file: Path) -> None:
    record = bench(planted, values={"embedding_size": 32})
    assert not record["failed"] and [row["model"] for row in record["table"]] == [
        "WindowItemKNN",
        "RecentItems",
    ]
    knn, own = record["cells"]
    assert own["protocol"] == knn["protocol"]
    assert own["parameters"] == 2 * 49 * 32 + 50, "a key that RecBole declares reaches the model"
    assert own["test_result"]["hit@10"] > 0.9, "it learns the planted cycle, or the page shows no model"
    test = record["significance"][0]
    assert test["rows"].keys() == {"WindowItemKNN", "RecentItems"} and test["users"] == 60


def test_a_change_in_the_file_trains_anew(planted, own_file: Path) -> None:
    bench(planted, values={"epochs": 1})
    own_file.write_text(own_file.read_text().replace("nn.Dropout(0.2)", "nn.Dropout(0.1)"))
    again = bench(planted, values={"epochs": 1})["outcome"]
    assert again["kept"] == ["WindowItemKNN, seed 2020"] and again["done"] == ["RecentItems, seed 2020"]


@pytest.mark.parametrize(
    "words",
    [
        ["--model=own/my_model.py:RecentItems"],
        ["tune", "--models=own/my_model.py:RecentItems,SASRec-CE", "--space=space.yaml", "--trials=1"],
    ],
)
def test_the_other_verbs_take_the_same_words(words, planted, own_file: Path, capsys) -> None:
    Path("space.yaml").write_text("learning_rate: {choices: [0.1, 0.01]}\n")
    data = [f"--data_path={planted['data_path']}", "--load_col={inter: [user_id, item_id, timestamp]}"]
    assert main([*words, "--dataset=planted", "--epochs=1", "--quiet", *data]) == 0
    assert "RecentItems" in capsys.readouterr().out


@pytest.mark.slow
def test_several_processes_run_the_file(planted, own_file: Path) -> None:
    record = bench(planted, arguments=["--nproc=2"])
    assert not record["failed"] and record["cells"][1]["test_result"]["hit@10"] > 0.9


@pytest.mark.parametrize(
    ("code", "word", "sentence"),
    [
        (None, "my.py:Mine", "there is no file my.py"),
        ("x = 1\nboom\n", "my.py:Mine", r"my.py:2 cannot be run \(NameError"),
        ("class Other: pass\n", "my.py:Mine", "my.py has no model class 'Mine'"),
        ("class Mine: pass\n", "my.py:Mine", "my.py has no model class 'Mine'"),
        ("from recbole.model.general_recommender.bpr import BPR as B\nclass SASRec(B): pass\n",
         "my.py:SASRec", "has the name of an existing model"),
    ],
)  # fmt: skip
def test_files_that_hold_no_model(code, word, sentence, planted) -> None:
    if code is not None:
        Path("my.py").write_text(code)
    with pytest.raises(UserError, match=sentence):
        run(word, "planted", config_dict=planted)


def test_only_a_command_may_name_a_file(planted, own_file: Path) -> None:
    Path("keys.yaml").write_text("model: own/my_model.py:RecentItems\n")
    own_file.write_text("raise SystemExit('the file was run')\n")
    with pytest.raises(UserError, match="unknown model"):
        run(None, "planted", ["keys.yaml"], planted)
    with pytest.raises(UserError, match="unknown model"):
        RunConfig(None, "planted", None, {**planted, "model": "own/my_model.py:RecentItems"})
