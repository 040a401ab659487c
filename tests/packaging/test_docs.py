"""Pages that point into the code point at something."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENTRY = re.compile(r"`([\w/]+\.py)`(?::((?:,? ?`\w+`)+))?")


@pytest.mark.parametrize("page", ["docs/paper_map.md", "README.md", "docs/architecture.md"])
def test_named_files_and_definitions_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    missing, found = [], 0
    for line in rows:
        for path, names in ENTRY.findall(line):
            file = ROOT / "recbole_sigma" / path
            if "/" not in path and not file.is_file():  # a file of the room that the row is about
                continue
            if not file.is_file():
                missing.append(path)
                continue
            defined = {
                node.name
                for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
                if isinstance(node, (ast.FunctionDef, ast.ClassDef))
            }
            found += 1
            missing += [f"{path}: {name}" for name in re.findall(r"`(\w+)`", names) if name not in defined]
    assert not missing, missing
    assert found


def test_links_between_pages_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/**/*.md")]
    links = [
        (page, target)
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in target
    ]
    assert len(links) > 30
    assert [f"{page.name}: {target}" for page, target in links if not (page.parent / target).exists()] == []


def test_tests_that_pages_and_comments_name_exist() -> None:
    """Names without a folder stand beside a full one; only full names are followed."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("recbole_sigma/**/*.py")]
    named = {
        found
        for page in pages
        for found in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", page.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    text = {path: (ROOT / path).read_text(encoding="utf-8") for path, _ in named if (ROOT / path).is_file()}
    assert [path for path, _ in named if path not in text] == []
    assert [name for path, name in named if name and f"def {name}(" not in text[path]] == []
