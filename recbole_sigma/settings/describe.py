"""Keys in words, printed from their dataclasses: for ``--help``, and docs/settings.md by running this module.

``python -m recbole_sigma.settings.describe > docs/settings.md`` (a test holds the file to the code).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recbole_sigma.settings.reader import STAGES, Key, keys_of
from recbole_sigma.settings.reading import load_yaml, nearest
from recbole_sigma.settings.recbole_keys import RecBoleKeys, RoleKeys
from recbole_sigma.settings.recipes import properties_dir, recbole_properties, shipped_defaults
from recbole_sigma.settings.stages import KEYS_OF_EVERY_MODEL, KEYS_OF_MODEL
from recbole_sigma.values import UserError

Row = tuple[str, str, str]  # key, value, meaning
_HEAD = """\
# Settings

Printed by `python -m recbole_sigma.settings.describe > docs/settings.md`; a test compares the two. Any key
can be given as `--key=value`, in a config file or in a dictionary. Where a model has a default of its own,
it is named beside that of the key. `~` stands for no value.
"""
_UNBOUNDED = 1e5  # a greatest value above this only stops absurd numbers; it is not worth a reader's time
_YAML_LINE = re.compile(r"^(?P<key>[A-Za-z_]\w*):\s*(?P<value>.*?)\s*(?:#\s*(?P<help>.*))?$")


def plain(value: Any) -> str:
    """A value as a property file would hold it.

    >>> plain(("text", "collaborative")), plain(True), plain(None)
    ('[text, collaborative]', 'true', '~')
    """
    if value is None:
        return "~"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(plain, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {plain(member)}" for key, member in value.items()) + "}"
    return str(value)


def legal_values(key: Key) -> str:
    """Which values a key may hold, in words; empty where its type says it all."""
    if key.choices:
        return f"{'of' if key.kind is tuple else 'one of'} {', '.join(map(str, key.choices))}"
    if key.low is not None and key.high is not None:
        span = f"at least {key.low:g}" if key.high > _UNBOUNDED else f"{key.low:g} to {key.high:g}"
        return " or ".join((span, *key.words, *(["~"] if key.optional else [])))
    return " or ".join(("", *key.words)).removeprefix(" or ") if key.words else ""


def help_of_model(model: str | None) -> str:
    """The keys that every model reads and, where one is named, those of a model, with defaults and meaning.

    Raises:
        UserError: no property file has the model's name.
    """
    shipped = shipped_defaults((model,) if model else ())
    groups = [*_groups(KEYS_OF_EVERY_MODEL, shipped)]
    parts = ["keys of every model", *_lines(groups)]
    if model:
        stock = recbole_properties() / "model" / f"{model}.yaml"
        if model not in KEYS_OF_MODEL and not stock.is_file():
            known = {path.stem for path in stock.parent.glob("*.yaml")} | KEYS_OF_MODEL.keys()
            raise UserError(f"no property file for model {model!r}{nearest(model, known)}")
        groups = [*_groups(KEYS_OF_MODEL.get(model, ()), shipped)]
        if stock.is_file():
            groups.append(("RecBole's property file of the model", commented_keys(stock)))
        parts += [f"keys of {model}", *_lines(groups)]
    rows = [_row(key, shipped[name]) for name, key in keys_of(RecBoleKeys).items() if name in shipped]
    parts += ["keys of RecBole that this package sets", *_lines([("", rows)])]
    names = ", ".join(sorted(KEYS_OF_MODEL))
    parts.append(
        f"models of this package (--help --model=NAME lists their keys): {names}; and every RecBole model"
    )
    return "\n".join(parts)


def _groups(stages: tuple[type, ...], shipped: dict[str, Any]) -> Iterator[tuple[str, list[Row]]]:
    for stage in stages:
        yield str(stage.__doc__), [_row(key, shipped[name]) for name, key in keys_of(stage).items()]


def _row(key: Key, value: Any) -> Row:
    legal = legal_values(key)
    return key.name, plain(value), f"{key.help} ({legal})" if legal else key.help


def _lines(groups: list[tuple[str, list[Row]]]) -> Iterator[str]:
    for title, rows in groups:
        if title:
            yield f"  {title}"
        width = min(44, max(len(f"{name}={value}") for name, value, _ in rows))
        for name, value, text in rows:
            yield f"    --{f'{name}={value}':<{width}}  {text}"
    yield ""


def commented_keys(path: Path) -> list[Row]:
    """Keys of a property file of RecBole, with the comments beside them."""
    found = map(_YAML_LINE.match, path.read_text(encoding="utf-8").splitlines())
    return [(line["key"], line["value"], line["help"] or "") for line in found if line]


def settings_page() -> str:
    """The text of docs/settings.md: a table per stage."""
    parts = [_HEAD]
    own = {model: load_yaml(properties_dir() / "model" / f"{model}.yaml") for model in KEYS_OF_MODEL}
    overall = load_yaml(properties_dir() / "overall.yaml")
    for stage in STAGES:
        readers = [model for model, stages in KEYS_OF_MODEL.items() if stage in stages]
        who = "every model" if stage in KEYS_OF_EVERY_MODEL else ", ".join(readers)
        who = {RoleKeys: "SIGMA, TIGER", RecBoleKeys: "every model"}.get(stage, who)
        parts += [f"## {stage.__name__}", "", f"{stage.__doc__} Read by {who}.", ""]
        parts += ["| key | default | meaning | values |", "|---|---|---|---|"]
        for name, key in keys_of(stage).items():
            default = plain(overall.get(name, key.default))
            others = [
                f"{m} `{plain(v[name])}`" for m, v in own.items() if name in v and plain(v[name]) != default
            ]
            cells = (f"`{name}`", ", ".join((f"`{default}`", *others)), key.help, legal_values(key))
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    print(settings_page(), end="")
