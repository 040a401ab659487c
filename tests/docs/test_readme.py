"""The README's own commands and Python, as printed, in an empty folder, with small budgets; and the notebook.

`make test-docs` runs this folder whole; it takes a few minutes.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
USE = README.split("## Use it")[1].split("\n## ")[0]
TRAINS = ("--model", "benchmark", "demo", "tune")


def block(kind: str, text: str = USE) -> str:
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)[0]


def run(words: list[str], folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_every_command_works_as_printed(scratch: Path) -> None:
    """What trains gets --smoke; the reader's own table is made here."""
    met = [(u, i) for u in range(12) for i in range(u % 3, u % 3 + 8)]
    rows = [f"{u},{i},{1_700_000_000 + 100 * u + i},film {i},kind {i % 3}" for u, i in met]
    (scratch / "my.csv").write_text("\n".join(["U,I,T,NAME,KIND", *rows]) + "\n")
    seen = []
    for line in block("bash").splitlines():
        words = shlex.split(line.split("  #")[0])
        assert words[:2] == ["python", "run_recbole_sigma.py"]
        words = [sys.executable, "-m", "recbole_sigma", *words[2:]]
        small = ["--smoke"] if words[3].startswith(TRAINS) else []
        seen.append(run([*words, *small], scratch))
    assert len(seen) == 6
    assert "Toy Story" not in seen[2] and len(seen[2].splitlines()) >= 10
    assert "train on it" in seen[3]


@pytest.mark.slow
def test_the_python_works_as_printed(scratch: Path) -> None:
    (scratch / "it.py").write_text(block("python").replace('"epochs": 5', '"epochs": 1, "limit": 100'))
    assert "'ndcg@10'" in run([sys.executable, "it.py"], scratch)


@pytest.mark.slow
def test_what_the_demo_ends_with_works(scratch: Path) -> None:
    text = run([sys.executable, "-m", "recbole_sigma", "demo", "--smoke"], scratch)
    ends = re.findall(r"^  \S*(?:python )?__main__\.py (.*)$", text, re.MULTILINE)
    ends = ends or re.findall(r"^  (?:python )?\S+ ((?:recommend|benchmark|tasks) .*)$", text, re.MULTILINE)
    assert len(ends) == 3, text
    for line in ends:
        words = shlex.split(line)
        small = ["--smoke"] if words[0] in ("benchmark", "tasks") else []
        if words[0] == "benchmark":
            words = [word.replace("SASRec-CE-30", "Pop") for word in words]  # a minute an epoch
        run([sys.executable, "-m", "recbole_sigma", *words, *small], scratch)


def notebook() -> Any:
    spec = importlib.util.spec_from_file_location("run_notebook", ROOT / "docs" / "run_notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_notebook_runs_and_its_table_is_the_one_it_shows(scratch: Path) -> None:
    """Figures stand in it to four places; seconds differ from machine to machine."""
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    module = notebook()
    shown = nbformat.read(module.NOTEBOOK, as_version=4)
    again = module.executed(scratch)

    def texts(book: Any) -> list[str]:
        outputs = [cell["outputs"] for cell in book.cells if cell.cell_type == "code"]
        return ["".join(out.get("text", "") for out in each) for each in outputs if each]

    assert len(texts(shown)) == len(texts(again)) == 5
    for one, other in zip(texts(shown)[:2], texts(again)[:2], strict=True):
        assert one == other

    def figures(book: Any) -> dict[str, list[float]]:
        lines = [line.split() for line in texts(book)[2].splitlines()[2:] if line[:1].isupper()]
        return {line[0]: [float(number) for number in line[1:-1]] for line in lines}

    assert figures(shown).keys() == figures(again).keys()
    for name, numbers in figures(again).items():  # trained weights follow the processor's order of sums
        loose = 0.1 if name.startswith("SIGMA") else 0.0
        assert numbers == pytest.approx(figures(shown)[name], abs=loose)
    assert "green" in texts(again)[3].splitlines()[1]


@pytest.mark.slow
def test_the_pages_make_a_site_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    options = ["-W", "--keep-going", "-q", "-c", "docs/site", ".", str(tmp_path / "site")]
    run([sys.executable, "-m", "sphinx", *options], ROOT)
    index = (tmp_path / "site" / "docs" / "index.html").read_text(encoding="utf-8")
    reference = (tmp_path / "site" / "docs" / "reference.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"{page.stem}.html" in index or page.stem == "index", f"{page.name} is in no list of pages"
    assert "recbole_sigma.sharing.pretrained.from_pretrained" in reference
    assert not re.search(r'<(?:script|link)[^>]*(?:src|href)="https?://', index)  # it works without a network
