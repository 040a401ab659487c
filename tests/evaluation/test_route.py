"""The shipped labelled sentences are what they are said to be, and figures have known answers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from recbole_sigma.commands.main import main
from recbole_sigma.evaluation.tasks.route import NONE, Labelled, load_sentences, route, unlike_templates
from recbole_sigma.instructions.samples import build_tasks
from recbole_sigma.instructions.tasks import load_tasks
from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.loaders import load_data
from recbole_sigma.settings.recipes import properties_dir
from recbole_sigma.understanding.build import lexicon_of
from recbole_sigma.understanding.reader import Understanding
from recbole_sigma.values import UserError

SHIPPED = sorted((properties_dir() / "sentences").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_sentences(path: Path) -> None:
    parts = load_sentences(path)
    rows = [row for part in parts.values() for row in part]
    assert set(parts) == {"tuned", "held"} and len({row.sentence for row in parts["held"]}) == len(
        parts["held"]
    )
    count = Counter(row.task for row in rows)
    tasks = load_tasks(properties_dir() / "tasks")
    assert set(count) <= {*tasks, NONE} and count[NONE] >= 20
    assert all(n >= 30 for task, n in count.items() if task != NONE)
    assert sum(any(slot.startswith("-") for slot in row.slots) for row in rows) >= 20
    templates = [task.fill(text, "") for task in tasks.values() for text in task.templates]
    assert unlike_templates(rows, templates) > 0.5


@pytest.fixture(scope="module")
def films() -> Understanding:
    """Reads sentences about ml-100k, which RecBole brings."""
    config = RunConfig("SIGMA", "ml-100k", [], {"state": "ERROR", "show_progress": False})
    train = load_data(config, config.model_class).train._dataset
    tasks = build_tasks(train, config, "all")
    return Understanding(lexicon_of(train, config, tasks.material, tasks.rows))


@pytest.mark.parametrize("part", ["tuned", "held"])
def test_ml_100k_is_understood(films: Understanding, part: str) -> None:
    found = route(films, load_sentences(properties_dir() / "sentences" / "ml-100k.yaml")[part])
    for figure in ("routing", "value_f1", "out_of_scope", "negation_exact"):
        assert found[figure]["value"] >= 0.95, (figure, found["wrong"])


def test_figures_with_known_answers(films: Understanding) -> None:
    def row(sentence: str, task: str, *slots: str) -> Labelled:
        return Labelled(sentence, task, frozenset(slots))

    found = route(
        films,
        [
            row("a comedy", "Category", "category=Comedy"),
            row("no horror", "JustForYou", "-category=Horror"),
            row("a western", "Query", "category=Horror"),
            row("purple elephants", NONE),
            row("surprise me", NONE),
        ],
    )
    values = {
        key: (each["value"], each["n"])
        for key, each in found.items()
        if isinstance(each, dict) and "n" in each
    }
    assert values["routing"] == (2 / 3, 3) and values["out_of_scope"] == (1 / 2, 2)
    assert values["slots_exact"] == (4 / 5, 5) and values["end_to_end"] == (3 / 5, 5)
    assert values["slot_f1"] == (2 / 3, 3) and values["negation_exact"] == (1.0, 1)
    assert found["confusion"]["Query -> Category"] == 1 and len(found["wrong"]) == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a", "holds a list"),
        ("", "give parts"),
        ("x: [[only]]", "x: entry 1 is not"),
        ("x: [[a, Category, 'colour=red']]", "unknown slot 'colour=red'"),
        ("x: [a: b", "is not valid YAML"),
        ("x: " + "[" * 20_000, "nests its values too deep"),
        ("x: [[a, b]]\nx: [[a, b]]", "stands there twice"),
        (f"x: [[{'a' * 1001}, JustForYou]]", "1001 characters"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        load_sentences(path)


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "mine:\n  - [a comedy, Category, category=Comedy]\n  - [in winter, Season, season=winter]\n"
    )
    words = ["tasks", "--route", "--dataset=ml-100k", f"--output={tmp_path}"]
    assert main([*words, f"--sentences={own}"]) == 0
    text = capsys.readouterr().out
    assert "mine" in text and "1.000 (1)" in text and "1 sentences of tasks that are off are left out" in text
    own.write_text("mine: [[in winter, Season, season=winter]]\n")  # all of them are left out
    assert main([*words, f"--sentences={own}"]) == 0
    own.write_text("mine: [[a comedy, Categroy, category=Comedy]]\n")
    assert main([*words, f"--sentences={own}"]) == 2
    assert "unknown task 'Categroy'; nearest: Category" in capsys.readouterr().err
    own.write_text("dataset: [[a comedy, Category, category=Comedy]]\n")
    assert main([*words, f"--sentences={own}"]) == 2
    assert "rename the part" in capsys.readouterr().err
    assert main([*words, f"--sentences={tmp_path / 'none.yaml'}"]) == 2
    assert "no labelled sentences" in capsys.readouterr().err
    assert main(["tasks", "--dataset=ml-100k", f"--sentences={own}"]) == 2
    assert main(["tasks", "--converse"]) == 2 and "--checkpoint" in capsys.readouterr().err
