"""What a reader of the repository must not find in it, and what has to agree between its files."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("recbole_sigma", "dataset_adapters", "properties", "tests", "benchmarks", "docs")
MAX_LINES = 450
# Folders of one machine; a dot or a name before the slash makes it a relative path.
MACHINE_PATH = re.compile(r"(^|[^\w.])/(work|farm|tmp|root)/")
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|NotImplemented" + r"Error)\b")


def tree(*suffixes: str) -> Iterator[Path]:
    """The project's own files with these suffixes: its folders and what lies at the top."""
    found = [*ROOT.glob("*")]
    for folder in FOLDERS:
        found.extend((ROOT / folder).rglob("*"))
    found = [path for path in found if path.name != ".coverage"]  # what CI leaves behind, a database
    return (path for path in sorted(found) if path.is_file() and path.suffix in suffixes)


def matches(pattern: re.Pattern[str], *suffixes: str) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tree(*suffixes)
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_every_recipe_is_plain_yaml_without_repeated_keys() -> None:
    class Strict(yaml.SafeLoader):
        """SafeLoader that refuses a mapping with the same key twice (PyYAML keeps the last, silently)."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            repeated = {str(key) for key in keys if keys.count(key) > 1}
            assert not repeated, f"{node.start_mark}: repeated {sorted(repeated)}"
            return super().construct_mapping(node, deep)

    recipes = [path for path in tree(".yaml", ".yml") if path.is_relative_to(ROOT / "properties")]
    assert recipes
    for path in recipes:
        with path.open(encoding="utf-8") as stream:
            content = yaml.load(stream, Loader=Strict)  # noqa: S506  (a SafeLoader)
        assert isinstance(content, dict), f"{path.relative_to(ROOT)} holds no mapping"


def test_no_path_of_one_machine() -> None:
    assert matches(MACHINE_PATH, ".py", ".yaml", ".yml", ".md", ".cfg", ".toml", ".txt", "") == []


def test_nothing_unfinished() -> None:
    assert matches(UNFINISHED, ".py") == []


def test_files_read_in_one_sitting() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in tree(".py")}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def test_constraints_pin_every_requirement_within_its_bounds(setup_cfg: configparser.ConfigParser) -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    assert pins["torch"] == "2.13.0"
    assert not [version for version in pins.values() if "+" in version], "local builds are of one machine"

    extras = setup_cfg["options.extras_require"].values()
    wanted = "\n".join([setup_cfg["options"]["install_requires"], *extras]).splitlines()
    for line in filter(None, wanted):
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name != "recbole-sigma":
            assert requirement.specifier.contains(pins[name]), f"{line} against =={pins[name]}"


def test_the_oldest_versions_are_the_lower_bounds(setup_cfg: configparser.ConfigParser) -> None:
    """constraints-oldest.txt pins what setup.cfg promises, so that `make test-oldest` tests the promise."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): Version(version) for name, version in pins.items()}
    extras = setup_cfg["options.extras_require"]
    wanted = [
        setup_cfg["options"]["install_requires"],
        *(extras[n] for n in ("adapters", "play", "report", "test")),
    ]
    for line in filter(None, "\n".join(wanted).splitlines()):
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name in ("recbole-sigma", "torch"):  # an older torch was not tried
            continue
        if requirement.marker and not requirement.marker.evaluate({"python_version": "3.11"}):
            continue
        lower = [part.version for part in requirement.specifier if part.operator in (">=", "==")]
        assert [Version(version) for version in lower] == [pins[name]], line


def test_a_later_python_gets_what_recbole_requires_but_for_ray(setup_cfg: configparser.ConfigParser) -> None:
    """RecBole is installed without its requirements there, so setup.cfg names them, within its bounds."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = filter(None, setup_cfg["options"]["install_requires"].splitlines())
    ours = {
        canonicalize_name(found.name): found
        for found in map(Requirement, lines)
        if found.marker is None or found.marker.evaluate({"python_version": "3.14"})
    }
    theirs = [Requirement(line) for line in requires("recbole") or [] if "extra" not in line]
    assert len(theirs) > 10 and "recbole" not in ours
    assert {canonicalize_name(found.name) for found in theirs} - ours.keys() == {"ray"}
    for found in theirs:
        if found.name != "ray":
            allowed = ours[canonicalize_name(found.name)].specifier
            (lower,) = (part.version for part in allowed if part.operator == ">=")
            least = [part.version for part in found.specifier if part.operator in (">=", "==")]
            assert all(Version(lower) >= Version(version) for version in least), found


def test_one_version(setup_cfg: configparser.ConfigParser) -> None:
    import recbole_sigma

    assert recbole_sigma.__version__ == setup_cfg["metadata"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert recbole_sigma.__version__ in changelog
