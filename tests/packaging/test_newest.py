"""On any Python: files compile without a warning, modules without torch import, the command line answers.

`make test-newest` runs this file on the newest Python at hand, where torch may be absent.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("recbole_sigma", "dataset_adapters", "tests", "docs", "benchmarks")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def test_every_file_compiles_without_a_warning() -> None:
    assert len(FILES) > 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in FILES:
            compile(path.read_text(encoding="utf-8"), str(path), "exec", dont_inherit=True)


def test_modules_import_without_a_warning_but_for_torch() -> None:
    """In a process of its own, since every module is imported anew."""
    code = """
import importlib, pkgutil, warnings
warnings.simplefilter("error")
for name in ("recbole_sigma.commands", "recbole_sigma.settings", "recbole_sigma.machine", "dataset_adapters"):
    for found in pkgutil.iter_modules(importlib.import_module(name).__path__, name + "."):
        if not found.name.endswith("__main__"):
            try:
                importlib.import_module(found.name)
                print(found.name)
            except ModuleNotFoundError as error:
                assert error.name == "torch", (found.name, error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 35


@pytest.mark.parametrize(
    "words, told",
    [
        ("--help", "verbs"),
        ("--help --model=SIGMA", "tokenizer_prefix_length"),
        ("list", "WindowItemKNN-directed"),
        ("data list", "movielens"),
    ],
)
def test_the_command_line_answers(words: str, told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-m", "recbole_sigma", *words.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert told in done.stdout
