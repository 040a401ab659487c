"""Fixtures of the room of label-scored models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.ctr.planted_clicks import clicks_config


@pytest.fixture
def clicks(tmp_path: Path) -> dict[str, Any]:
    """Config values of `planted_clicks`."""
    return clicks_config(tmp_path / "data")
