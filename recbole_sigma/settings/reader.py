"""The one reader of keys: what the user gave is checked and becomes a typed stage (`settings.keys`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from recbole_sigma.settings.reading import nearest
from recbole_sigma.settings.recbole_keys import RecBoleKeys, RoleKeys
from recbole_sigma.settings.stages import KEYS_OF_EVERY_MODEL, KEYS_OF_MODEL
from recbole_sigma.values import UserError

Stage = TypeVar("Stage")

STAGES: tuple[type, ...] = tuple(
    dict.fromkeys(
        (*KEYS_OF_EVERY_MODEL, *(s for own in KEYS_OF_MODEL.values() for s in own), RoleKeys, RecBoleKeys)
    )
)
_KINDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    tuple: "a list",
    dict: "a mapping",
}
_MEMBERS = {int: "integers", float: "numbers", str: "texts"}


@dataclass(frozen=True)
class Key:
    """A key, as its field in `settings.keys` declares it.

    Attributes:
        kind: bool, int, float, str, tuple or dict.
        element: the type of a tuple's members, else None.
        optional: whether None is a value.
    """

    name: str
    default: Any
    kind: type
    element: type | None
    optional: bool
    help: str
    low: float | None
    high: float | None
    choices: tuple[Any, ...]
    words: tuple[str, ...]


@cache
def keys_of(stage: Any) -> dict[str, Key]:
    """The keys of a stage by name, in the order of the file."""
    hints = get_type_hints(stage)
    return {field.name: _key(field, hints[field.name]) for field in fields(stage)}


def _key(field: Field[Any], hint: Any) -> Key:
    parts = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    kind = parts[0]
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    element = get_args(kind)[0] if get_origin(kind) is tuple else None
    return Key(field.name, default, get_origin(kind) or kind, element, type(None) in parts, **field.metadata)


@cache
def all_keys() -> dict[str, Key]:
    """Every key that a stage declares, RecBole's that we check among them."""
    return {name: key for stage in STAGES for name, key in keys_of(stage).items()}


def read(stage: Callable[..., Stage], config: Any) -> Stage:
    """Read a stage out of a config.

    Args:
        stage: a dataclass of `settings.keys` (or one declared the same way elsewhere).
        config: a RecBole Config or a mapping; a key that it lacks has its default.

    Raises:
        UserError: a value does not fit its key; the sentence names the key.
    """
    found = {}
    for name, key in keys_of(stage).items():
        value = config[name] if name in config else key.default
        problem = _wrong(key, value)
        if problem:
            raise UserError(problem)
        found[name] = _typed(key, value)
    return stage(**found)


def wrong_value(name: str, value: Any, default: Any = None) -> str | None:
    """The sentence about a value that does not fit its key, or None.

    Args:
        name: the key.
        value: what the user gave.
        default: the value of the property files, which gives the type of a key that no stage declares
            (None: any type).
    """
    key = all_keys().get(name)
    if key is not None:
        return _wrong(key, value)
    if default is None or value is None:
        return None
    kind: type = tuple if isinstance(default, list) else type(default)
    return None if _fits(kind, value) else f"{name} must be {_KINDS.get(kind, kind.__name__)}, not {value!r}"


def _fits(kind: type, value: Any) -> bool:
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is tuple:  # one member may stand alone: --topk=10
        return not isinstance(value, dict)
    if kind is str:
        return isinstance(value, (str, os.PathLike))
    return isinstance(value, kind)


def _wrong(key: Key, value: Any) -> str | None:
    value = _choice(key, value)
    if (value is None and (key.optional or key.kind is tuple)) or value in key.words:
        return None
    if key.choices and key.kind is not dict:
        for part in _members(value) if key.kind is tuple else (value,):
            if not any(_is_choice(choice, part) for choice in key.choices):
                near = nearest(str(part), map(str, key.choices))
                what = "a list of" if key.kind is tuple else "one of"
                return f"{key.name} must be {what} {', '.join(map(str, key.choices))}; not {part!r}{near}"
        return None
    if not _fits(key.kind, value):
        or_word = "".join(f" or {word}" for word in (*key.words, *(["~ (none)"] if key.optional else [])))
        return f"{key.name} must be {_KINDS[key.kind]}{or_word}, not {value!r}"
    if key.element is not None:
        for member in _members(value):
            if not _fits(key.element, member):
                return f"{key.name} must be a list of {_MEMBERS[key.element]}, not {value!r}"
    low, high = key.low, key.high
    if low is not None and high is not None and not low <= value <= high:  # NaN is refused too
        return f"{key.name} must lie in [{low:g}, {high:g}], not {value!r}"
    return None


def _choice(key: Key, value: Any) -> Any:
    """A choice as its key spells it; None means none where that is a choice (YAML and Python read it so)."""
    if key.kind is tuple and key.choices and value is not None:
        return tuple(_spelt(key, member) for member in _members(value))
    return _spelt(key, value)


def _spelt(key: Key, value: Any) -> Any:
    plain = "none" if value is None else str(value).lower()
    return next((choice for choice in key.choices if str(choice).lower() == plain), value)


def _is_choice(choice: Any, value: Any) -> bool:
    start, is_open, _ = str(choice).partition("<")
    return value == choice or bool(
        is_open and isinstance(value, str) and value.startswith(start) and value != start
    )


def _members(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (list, tuple, set, frozenset)) else (value,)


def _typed(key: Key, value: Any) -> Any:
    value = _choice(key, value)
    if value is None and key.optional:
        return None
    if key.kind is tuple:
        return tuple((key.element or str)(member) for member in _members(value))
    return value if value is None or value in key.words or key.kind is dict else key.kind(value)
