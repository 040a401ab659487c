"""``--smoke`` on every verb that trains: a few users, one epoch, a folder of its own, and a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recbole_sigma.commands.main import main, parsers
from recbole_sigma.commands.words import SMOKE


def words(planted) -> list[str]:
    return [
        f"--data_path={planted['data_path']}",
        "--load_col={inter: [user_id, item_id, timestamp]}",
        "--dataset=planted",
        "--quiet",
    ]


def test_every_verb_that_trains_has_it() -> None:
    _, verbs = parsers()
    has = {name for name, verb in verbs.items() if "smoke" in verb.options()}
    assert has == {"train", "benchmark", "demo", "tune", "tasks"}


def test_a_table_beside_the_real_ones(planted, capsys, scratch: Path) -> None:
    table = ["benchmark", "--models=Pop,BPR", *words(planted), "--smoke"]
    assert main([*table, "--limit=30", "--epochs=2"]) == 0
    text = capsys.readouterr().out
    assert "only the first 30 users" in text and text.rstrip().endswith("without --smoke")
    record = json.loads((scratch / "saved" / "smoke" / "planted" / "results.json").read_text())
    assert not (scratch / "saved" / "benchmark").exists()
    for cell in record["cells"]:
        assert cell["config"]["limit"] == 30
    (bpr,) = (cell for cell in record["cells"] if cell["model"] == "BPR")
    assert len(bpr["history"]) == 2  # the user's own word holds


@pytest.mark.parametrize("verb", ["train", "tune"])
def test_one_model(verb: str, planted, capsys, scratch: Path) -> None:
    assert main([verb, "--model=BPR", *words(planted), "--smoke"]) == 0
    text = capsys.readouterr().out
    assert f"{SMOKE['limit']} users and {SMOKE['epochs']} epoch" in text
    assert (scratch / "saved" / "smoke").is_dir() and not (scratch / "saved" / "results").exists()
