"""The page docs/licences.md, from the metadata of what is installed: ``make licences`` writes it."""

from __future__ import annotations

import configparser
import re
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "licences.md"
HEAD = """# Licences of the direct dependencies

Written by `make licences` from the metadata of the pinned versions (constraints.txt), and compared with it by
`tests/packaging/test_licences.py`; the project itself is under the MIT licence.

| package | licence |
|---|---|
"""


def direct_dependencies() -> list[str]:
    """Packages that setup.cfg names, in its order, without the project itself."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].splitlines()
    for extra in config["options.extras_require"].values():
        lines += extra.splitlines()
    names = [re.split(r"[<>=\[!~ ]", line, maxsplit=1)[0] for line in lines if line and line[0] != "#"]
    return list(dict.fromkeys(name for name in names if name != "recbole-sigma"))


def pinned(name: str) -> bool:
    """Whether the version of constraints.txt is the installed one; a local build of it counts."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line[0] != "#")
    wanted = {canonicalize_name(pin): Version(text) for pin, text in pins.items()}
    try:
        return wanted[canonicalize_name(name)] == Version(Version(version(name)).public)
    except PackageNotFoundError:
        return False


def licence(name: str) -> str:
    """The licence that a package states: its SPDX expression, else its classifier, else its own words."""
    found = metadata(name)
    if found["License-Expression"]:
        return str(found["License-Expression"])
    classifiers = [text for text in found.get_all("Classifier") or [] if text.startswith("License ::")]
    if classifiers:
        return ", ".join(text.rpartition(" :: ")[2] for text in classifiers)
    return str(found["License"] or "not stated").strip().splitlines()[0]


def listed() -> dict[str, str]:
    """Package -> licence, as the page has it."""
    cells = (line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines()[7:])
    return {name: text for name, text in cells}


def page() -> str:
    """The page anew; a package that is not installed as pinned keeps its line."""
    found = {name: licence(name) if pinned(name) else listed()[name] for name in direct_dependencies()}
    return HEAD + "".join(f"| {name} | {text} |\n" for name, text in found.items())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
