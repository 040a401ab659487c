"""The rooms of the package and the order in which they may import each other (docs/architecture.md)."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / "recbole_sigma"
FLOORS = [  # a room imports from floors above it in this list, or from itself
    "values _compat",
    "settings machine",
    "data language tokenization",
    "grounding instructions",
    "preparation decoding understanding",
    "models",
    "ctr",
    "evaluation",
    "policy",
    "run",
    "quick_start",
    "benchmark recommend plugin worker",
    "sharing play",
    "commands",
    "__init__ __main__",  # registers the plugin; starts the command line
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}
MODULES = {
    ".".join(("recbole_sigma", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def room(module: str) -> str:
    return (module.split(".") + ["__init__"])[1]


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else str(node.module) for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & MODULES.keys()) - {"recbole_sigma"}


EDGES = {module: imports(path) for module, path in MODULES.items()}


def test_every_file_lies_in_a_room_and_seven_at_the_top() -> None:
    assert {room(module) for module in MODULES} == FLOOR.keys()
    assert len(list(ROOT.glob("*.py"))) == 7


def test_no_import_against_the_order() -> None:
    against = [
        f"{module} imports {other}"
        for module, others in EDGES.items()
        for other in others
        if room(other) != room(module) and FLOOR[room(other)] >= FLOOR[room(module)]
    ]
    assert not against, "\n".join(against)


def test_no_circle() -> None:
    TopologicalSorter(EDGES).prepare()  # raises CycleError with the files of a circle
