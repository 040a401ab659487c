"""What report.html is dressed in: its style, and the one script that sorts, chooses rows and saves pictures.

The script is inside the page and named there by its hash: no other script runs, and nothing is requested.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

_FILES = Path(__file__).parent / "page_files"
STYLE = (_FILES / "report.css").read_text(encoding="utf-8")
SCRIPT = (_FILES / "report.js").read_text(encoding="utf-8")
_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'"
