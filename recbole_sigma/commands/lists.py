"""The verbs ``list`` and ``data``: what there is by name, and raw public files to RecBole's files."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from recbole_sigma.benchmark.variants import shipped
from recbole_sigma.commands.words import add_verb, refuse_rest
from recbole_sigma.models import registry
from recbole_sigma.settings.recipes import properties_dir, recbole_properties
from recbole_sigma.values import UserError


def add(verbs: Any) -> None:
    """Declare the verbs."""
    parser = add_verb(
        verbs,
        "list",
        show,
        "names that the other verbs take: models, rows of tables, RecBole's models, recipes, data sets",
        ("list", "list rows"),
        {},
    )
    parser.add_argument("kind", nargs="?", metavar="KIND", help=f"one of {', '.join(KINDS)}; all without it")
    add_verb(
        verbs,
        "data",
        data,
        "raw public files to RecBole's files: data list | describe NAME | fetch NAME | convert NAME ...",
        ("data fetch ml-1m", "data convert movielens --input ml-100k/ --output dataset/"),
        {},
    )


def data(words: Sequence[str]) -> int:
    """Hand on to the adapters, which have verbs and options of their own."""
    from dataset_adapters.cli import main

    return main(words)


def show(options: argparse.Namespace, rest: list[str]) -> int:
    """Print the names, a section per kind."""
    refuse_rest("list", rest, KINDS)
    kinds = [options.kind] if options.kind else list(KINDS)
    if options.kind and options.kind not in KINDS:
        raise UserError(f"list: unknown kind {options.kind!r}; there are {', '.join(KINDS)}")
    if options.json:
        import json

        print(json.dumps({kind: dict(KINDS[kind][1]()) for kind in kinds}))
        return 0
    for kind in kinds:
        title, lines = KINDS[kind]
        print(f"{title}\n{_aligned(lines())}\n")
    return 0


def _aligned(lines: Sequence[tuple[str, str]]) -> str:
    width = max((len(name) for name, _ in lines), default=0)
    return "\n".join(f"  {name:<{width}}  {text}".rstrip() for name, text in lines)


def _models() -> list[tuple[str, str]]:
    return [(name, entry.why) for name, entry in registry.MODELS.items()]


def _rows() -> list[tuple[str, str]]:
    return [(name, row.why) for name, row in shipped().items()]


def _recbole() -> list[tuple[str, str]]:
    return [(name, "") for name in registry.model_names() if name not in registry.MODELS]


def _recipes() -> list[tuple[str, str]]:
    """Each recipe with the comment on its first line."""
    found = []
    for path in sorted((properties_dir() / "recipes").glob("*.yaml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        found.append((path.stem, first.removeprefix("#").strip() if first.startswith("#") else ""))
    return found


def _sets() -> list[tuple[str, str]]:
    from dataset_adapters.registry import ADAPTERS
    from dataset_adapters.sources import SOURCES

    inside = recbole_properties().parent / "dataset_example"
    found = [(path.name, "inside RecBole") for path in sorted(inside.iterdir()) if path.is_dir()]
    found += [(name, f"from its publisher: data fetch {name}") for name in SOURCES if name != "ml-100k"]
    found += [(name, f"converted by: data convert {name} ...") for name in ADAPTERS]
    return found


KINDS: dict[str, tuple[str, Callable[[], list[tuple[str, str]]]]] = {
    "models": ("models of this package, for --model and --models", _models),
    "rows": ("rows of tables, for --model and --models; +memory behind any of them", _rows),
    "recbole": ("RecBole's models, for --model and --models", _recbole),
    "recipes": ("recipes, for --config_files", _recipes),
    "sets": ("data sets", _sets),
}
