"""Reading property files and the words of a command: nothing is executed, all problems come at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from recbole_sigma.settings.recbole_values import INTERVAL_KEYS
from recbole_sigma.values import UserError

NOTHING = ("none", "null", "~", "")


class SafeLoader(yaml.SafeLoader):
    """yaml.SafeLoader that reads ``1e-3`` as a number, as RecBole does, and takes no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """PyYAML's, which lets the last of several equal keys win in silence."""
        seen: set[tuple[str, str]] = set()
        for name, _ in node.value:
            mark = (name.tag, name.value) if isinstance(name, yaml.ScalarNode) else None
            if mark in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name.value!r} stands there twice", name.start_mark
                )
            if mark is not None and mark[0] != "tag:yaml.org,2002:merge":
                seen.add(mark)
        return super().construct_mapping(node, deep)


SafeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
        |\.[0-9_]+(?:[eE][-+][0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
        re.X,
    ),
    list("-+0123456789."),
)

MAX_VALUES = 100_000  # values of a property file, aliases counted as often as they are used


MAX_BITS = 4096  # of a whole number: Python refuses to show longer ones
MAX_BRACKETS = 200  # in a value of the command line
MAX_FLOW = 1000  # in a property file: the parser takes quadratic time over nested ones


def _too_large(value: Any) -> bool:
    """Whether a parsed value would fill the memory when it is shown: aliases of aliases double each time."""
    left, stack = MAX_VALUES, [value]
    while stack and left:
        left -= 1
        part = stack.pop()
        if isinstance(part, int) and part.bit_length() > MAX_BITS:
            return True
        if isinstance(part, dict):
            stack.extend(part.values())
        elif isinstance(part, (list, tuple, set)):
            stack.extend(part)
    return bool(stack)


def parse_value(text: str) -> Any:
    """Value of ``--key=value``: YAML's scalars and flow collections, nothing executed.

    Python's ``None``, ``True`` and parentheses for tuples are read too, since RecBole users type them.
    """
    stripped = text.strip()
    if stripped in ("None", "none"):
        return None
    if stripped.startswith("(") and stripped.endswith(")") and ";" not in stripped and "inf" not in stripped:
        stripped = f"[{stripped[1:-1].rstrip(', ')}]"
    if stripped.count("[") + stripped.count("{") > MAX_BRACKETS:
        return text
    try:
        value = yaml.load(stripped, Loader=SafeLoader)  # noqa: S506  a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    if _too_large(value):
        return text
    if isinstance(value, (str, int, float, bool, list, dict)):
        return value if not isinstance(value, str) else text
    return text if stripped not in ("", "~", "null") else None


MAX_BYTES = 1 << 20  # of a file that people write by hand


def load_yaml(
    path: Path | str,
    problems: list[str] | None = None,
    what: str = "the config file",
    flow: int = MAX_FLOW,
) -> dict[str, Any]:
    """Read a property file safely.

    Args:
        path: the file.
        problems: where to put the sentence about a file that cannot be read; None raises it.
        what: how the sentence calls the file.
        flow: brackets that it may hold.

    Raises:
        UserError: when the file is missing or is not a YAML mapping, and ``problems`` is None.
    """
    path = Path(path)
    problem = None
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OSError("it is a device or a pipe, and would be read more than once")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise OSError(f"it is longer than {MAX_BYTES} bytes")
        text = content.decode("utf-8")
        if text.count("[") + text.count("{") > flow:
            raise RecursionError
        data = yaml.load(text, Loader=SafeLoader)  # noqa: S506  a SafeLoader
        if _too_large(data):
            problem = f"{path} repeats or nests its values beyond {MAX_VALUES} of them: write them out"
        elif data is None or isinstance(data, dict):
            return {str(key): value for key, value in (data or {}).items()}
        else:
            problem = f"{path} holds a {type(data).__name__}, not `key: value` lines"
    except FileNotFoundError:
        folder = path.parent
        near = nearest(path.name, [p.name for p in folder.glob("*.y*ml")]) if folder.is_dir() else ""
        problem = f"{what} {path} does not exist{near}"
    except (OSError, UnicodeDecodeError) as error:
        problem = f"{what} {path} cannot be read: {error}"
    except RecursionError:
        problem = f"{path} nests its values too deep: write them out"
    except (yaml.YAMLError, ValueError) as error:
        line, told = "", str(error)
        if isinstance(error, yaml.MarkedYAMLError):
            told = error.problem or told
            line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = f"{path}{line} is not valid YAML: {told}"
    if problems is None:
        raise UserError(problem)
    problems.append(problem)
    return {}


def parse_arguments(arguments: Iterable[str], problems: list[str]) -> dict[str, Any]:
    """Read ``--key=value`` and ``--key value``.

    Args:
        arguments: the words after the program's name and verb.
        problems: receives a sentence for every word that is neither.

    Returns:
        key -> parsed value; a ``--key`` alone is True.
    """
    words = list(arguments)
    found: dict[str, Any] = {}
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not word.startswith("--") or word == "--":
            problems.append(f"{word!r} on the command line is not `--key=value`")
            continue
        key, equals, text = word[2:].partition("=")
        if not equals:
            if position < len(words) and not words[position].startswith("--"):
                text = words[position]
                position += 1
            else:
                text = "true"
        value = text if key in INTERVAL_KEYS and text.strip().lower() not in NOTHING else parse_value(text)
        if key in found and found[key] != value:
            problems.append(f"--{key} is given twice with different values: {found[key]!r} and {value!r}")
        found[key] = value
    return found


def nearest(name: str, names: Iterable[str], intro: str = "; nearest: ") -> str:
    """``; nearest: x, y`` for a misspelt name, or an empty string."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.7)
    if not close:
        lowered = {n.lower(): n for n in names}
        close = [lowered[m] for m in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.7)]
    return intro + ", ".join(close) if close else ""


def raise_all(problems: list[str]) -> None:
    """Raise one `UserError` that holds every problem; nothing to do for an empty list."""
    problems = list(dict.fromkeys(problems))
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        raise UserError(f"{len(problems)} problems:\n" + "\n".join(f"  - {problem}" for problem in problems))
