"""docs/robustness.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`((?:tests/[\w/]*)?test_\w+\.py)?(?:::(\w+))?`")


def test_every_promise_names_a_test() -> None:
    file, named = "", 0
    for path, test in NAMED.findall((ROOT / "docs" / "robustness.md").read_text(encoding="utf-8")):
        file = path or file
        if not path and not test:
            continue
        where = ROOT / file if file.startswith("tests/") else Path(__file__).with_name(file)
        assert where.is_file(), file
        assert not test or f"def {test}(" in where.read_text(encoding="utf-8"), f"{file}::{test}"
        named += 1
    assert named > 50
