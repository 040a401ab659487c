"""docs/tour.md shows what docs/tour.py prints."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.planted import cycle_config, write_cycle

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def tour():
    spec = importlib.util.spec_from_file_location("tour", DOCS / "tour.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.tour


def test_the_walk_prints_every_step_that_the_page_shows(tour, tmp_path: Path, capsys) -> None:
    write_cycle(tmp_path / "data" / "cycle")
    tour("cycle", cycle_config(tmp_path / "data", tmp_path, epochs=1))
    printed = capsys.readouterr().out.splitlines()
    page = (DOCS / "tour.md").read_text(encoding="utf-8").splitlines()
    steps = [line for line in printed if line[:1].isdigit()]
    assert len(steps) == 7 and [line for line in page if line in steps] == steps
    labels = [line.split("(")[0] for line in printed if line.startswith("  ") and " (" in line]
    shown = [label for label in labels if any(line.startswith(label) for line in page)]
    assert len(shown) >= 9, set(labels) - set(shown)
