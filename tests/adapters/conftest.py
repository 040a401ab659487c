"""Helpers for the adapter tests: the command in-process, plain readers, and the shared raw data."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from dataset_adapters.cli import main

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@dataclass
class Outcome:
    """What one run of the command did."""

    code: int
    out: str
    err: str
    output: Path

    def folder(self, name: str) -> Path:
        """Folder of a converted data set, after checking that the run went well."""
        assert self.code == 0, self.err
        return self.output / name

    def card(self, name: str) -> dict:
        """Its card."""
        return json.loads((self.folder(name) / f"{name}.card.json").read_text(encoding="utf-8"))

    def sentence(self) -> str:
        """The error sentence, after checking that it is one line and nothing was written."""
        assert self.code == 2, self.out
        assert self.err.startswith("error: ") and self.err.count("\n") == 1
        assert not self.output.exists() or not list(self.output.iterdir())
        return self.err


@pytest.fixture
def convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run ``convert`` with an output folder of its own."""

    def run(*arguments: object, output: Path | None = None) -> Outcome:
        target = output or tmp_path / "dataset"
        code = main(["convert", *map(str, arguments), "--output", str(target)])
        printed = capsys.readouterr()
        return Outcome(code, printed.out, printed.err, target)

    return run


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """A folder of the shared raw data; the test is skipped where it is absent."""

    def folder(name: str) -> Path:
        if not (SHARED / name).is_dir():
            pytest.skip(f"no shared data {name}")
        return SHARED / name

    return folder


def atomic(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of an atomic file, read as RecBole's reader does (quotes only around a whole cell)."""
    with open(path, encoding="utf-8", newline="") as file:
        header = file.readline().rstrip("\n").split("\t")
        return header, list(csv.reader(file, delimiter="\t"))


def sequences(path: Path) -> dict[str, list[str]]:
    """Item tokens by user in file order."""
    found: dict[str, list[str]] = {}
    for row in atomic(path)[1]:
        found.setdefault(row[0], []).append(row[1])
    return found


def raw_lines(path: Path) -> Iterator[str]:
    """Lines of a raw file, unpacked by the standard library."""
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opener(path, "rt", encoding="utf-8") as file:
        yield from file


@pytest.fixture
def files() -> SimpleNamespace:
    """Readers that do not use the code under test."""
    return SimpleNamespace(atomic=atomic, sequences=sequences, raw_lines=raw_lines)


@pytest.fixture
def recbole_dataset(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Load a converted data set through RecBole itself, with the property file that was written."""
    import numpy as np

    for name, kind in {
        "float_": np.float64,
        "complex_": np.complex128,
        "unicode_": np.str_,
        "bool8": np.bool_,
    }.items():
        if not hasattr(np, name):
            monkeypatch.setattr(np, name, kind, raising=False)
    monkeypatch.setattr(sys, "argv", ["pytest"])

    def load(folder: Path, recipe: Path | None = None, sequential: bool = False) -> object:
        from recbole.config import Config
        from recbole.data.dataset import Dataset, SequentialDataset

        settings = {"data_path": str(folder.parent), "gpu_id": "", "use_gpu": False}
        if sequential:
            settings |= {"train_neg_sample_args": None, "loss_type": "CE"}
        config = Config(
            model="SASRec" if sequential else "BPR",
            dataset=folder.name,
            config_file_list=[str(recipe or folder / f"{folder.name}.yaml")],
            config_dict=settings,
        )
        return (SequentialDataset if sequential else Dataset)(config)

    return load
