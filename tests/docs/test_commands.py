"""Every command that a page shows is one: its verb, options, keys and names are known.

Heavy work is cut off where it begins, after everything that a person can type wrong was looked at. The
commands of the README also run, as printed, in `tests/docs/test_readme.py`.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from recbole_sigma.commands.main import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(?:python run_recbole_sigma\.py|recbole-sigma|python -m recbole_sigma)( [^`\n]*)?")


def commands() -> list[tuple[str, str]]:
    """(page, words) of every command in a block or between backticks."""
    found: dict[tuple[str, str], None] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for match in COMMAND.finditer(text):
            words = (match[1] or "").split("  #")[0].split(" # ")[0].strip().rstrip(".,;:)")
            mentioned = words in ("data convert", "data fetch") or "=NAME" in words  # no command to type
            if words.startswith(("--", *VERBS)) and "..." not in words and not mentioned:
                found[page.name, words] = None
    return list(found)


VERBS = tuple("train demo benchmark tune report tasks recommend play export list data".split())


class Reached(BaseException):
    """The work would begin now."""


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Reached

    for place in (
        "recbole_sigma.quick_start.run",
        "recbole_sigma.quick_start.load_data_and_model",
        "recbole_sigma.benchmark.run_benchmark",
        "recbole_sigma.benchmark.rebuild_report",
        "recbole_sigma.benchmark.tune.tune",
        "recbole_sigma.run.loaders.load_data",
        "recbole_sigma.run.checkpoint.read",
        "recbole_sigma.recommend.recommender.Recommender.load",
        "recbole_sigma.play.server.check_installed",
        "recbole_sigma.sharing.items.append_items",
        "recbole_sigma.sharing.items.export_items",
        "recbole_sigma.sharing.pretrained.save_pretrained",
        "dataset_adapters.fetch.download",
        "dataset_adapters.cli.convert",
    ):
        monkeypatch.setattr(place, stop)
    monkeypatch.setattr("recbole_sigma.commands.words.checkpoint_named", lambda word: word)
    monkeypatch.setattr("recbole_sigma.commands.main.checkpoint_named", lambda word: word)
    monkeypatch.setattr("recbole_sigma.commands.play.checkpoint_named", lambda word: word)


def test_the_pages_show_commands() -> None:
    found = commands()
    assert len(found) > 50 and len({page for page, _ in found}) > 8
    assert {words.split()[0] for _, words in found if not words.startswith("--")} >= set(VERBS) - {
        "train",
        "demo",
    }


@pytest.mark.parametrize("page, words", commands())
def test_it_is_a_command(page: str, words: str, cut_off: None, scratch: Path, capsys) -> None:
    for name in ("my.csv", "clicks.csv", "new.item", "users.txt", "tuned.yaml", "mine.yaml", "my.yaml"):
        (scratch / name).write_text("{}\n" if name == "users.txt" else "")
    try:
        code = main(shlex.split(words))
    except Reached:
        return
    err = capsys.readouterr().err
    own = (
        "does not exist",
        "there is no file",
        "holds no",
        "fits no",
        "o such file",
    )  # files of the reader's
    assert code == 0 or any(words in err for words in own), err
