"""What an adapter is, and what it gets in hand for one conversion."""

from __future__ import annotations

import argparse
import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset_adapters.errors import AdapterError
from dataset_adapters.events import EventLog, FeatureTable, Field, PublishedSplit
from dataset_adapters.rows import RowReader
from dataset_adapters.values import TextCleaner

PROTOCOLS = ("leave-one-out", "global-time", "published", "random")


@dataclass(frozen=True)
class Input:
    """A file that an adapter reads.

    Attributes:
        role: its option on the command line, without the dashes.
        help: one line.
        patterns: file names by which ``--input`` recognises it, most telling first.
        required: whether a conversion needs it.
        many: whether several files may be given.
    """

    role: str
    help: str
    patterns: tuple[str, ...] = ()
    required: bool = False
    many: bool = False


@dataclass(frozen=True)
class Option:
    """An option of one adapter; ``choices`` empty means free text, ``flag`` means on or off."""

    name: str
    help: str
    default: str | None = None
    choices: tuple[str, ...] = ()
    flag: bool = False


@dataclass(frozen=True)
class Adapter:
    """One row of the registry.

    Attributes:
        name: what the user types.
        summary: one line for ``list``.
        inputs: files it reads.
        events: reads the interactions.
        items: reads features of the kept items.
        default_name: proposes a data set name from the input files.
        protocols: evaluation protocols that make sense, the default first.
        licence: terms of the raw data in one line.
        citation: what to cite.
        homepage: where a user gets the raw files.
        users: reads features of the kept users, if any.
        options: options beyond the common ones.
        left_out: fields of the raw files that are not written, each with the reason.
        k_core: default of ``--k-core``.
        encoding: default of ``--encoding``.
        html: default of ``--html``.
        filter_seen: default of the key of that name; None decides by the share of repeats.
        notes: assumptions that the card and ``describe`` state.
        example: arguments of the example in ``describe``, where the needed files alone are not enough.
    """

    name: str
    summary: str
    inputs: tuple[Input, ...]
    events: Callable[[Job], EventLog]
    items: Callable[[Job, Sequence[str]], FeatureTable | None]
    default_name: Callable[[Job], str]
    protocols: tuple[str, ...]
    licence: str
    citation: str
    homepage: str
    users: Callable[[Job, Sequence[str]], FeatureTable | None] | None = None
    options: tuple[Option, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    k_core: int = 0
    encoding: str = "utf-8"
    html: str = "keep"
    filter_seen: bool | None = None
    notes: tuple[str, ...] = ()
    example: str = ""


@dataclass
class Job:
    """One conversion: the adapter, its files and options, and the tools that all adapters share.

    Attributes:
        splits: filled by an adapter that ships splits, by name (``train``, ``valid``, ``test``).
        files: further text files to write beside the atomic ones, by suffix.
        counts: what an adapter wants the card to say, in numbers.
        warnings: what the user should know before trusting the result.
        scratch: what an adapter read once and needs again.
    """

    adapter: Any  # an Adapter, or a labelled.LabelledAdapter: inputs, options and a name
    inputs: dict[str, list[Path]]
    options: argparse.Namespace
    reader: RowReader
    text: TextCleaner
    splits: dict[str, PublishedSplit] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    scratch: dict[str, Any] = field(default_factory=dict)

    def paths(self, role: str) -> list[Path]:
        """All files given for a role."""
        return self.inputs.get(role, [])

    def path(self, role: str) -> Path:
        """The one file of a required role."""
        return self.inputs[role][0]

    def option(self, name: str) -> str | None:
        """Value of an option of this adapter, written as on the command line."""
        return getattr(self.options, name.replace("-", "_"))

    def feature_table(self, keys: Sequence[str], fields: Sequence[Field]) -> FeatureTable:
        """Table of item features, open for further items under ``--catalogue all``."""
        return FeatureTable(keys, fields, grow=self.options.catalogue == "all")


def resolve_inputs(
    adapter: Any, named: dict[str, list[str]], unnamed: Sequence[str]
) -> dict[str, list[Path]]:
    """Assign files to the roles of an adapter.

    Args:
        adapter: whose roles.
        named: files given by role.
        unnamed: files or folders given with ``--input``, assigned by file name; no folders inside folders.

    Raises:
        AdapterError: a file is missing, fits no role, or two fit where one is read.
    """
    found: dict[str, list[Path]] = {role: [Path(p) for p in paths] for role, paths in named.items() if paths}
    for text in unnamed:
        path = Path(text)
        if not path.is_dir():
            role = _role_of(adapter, path)
            if role is None:
                raise AdapterError(
                    f"{path}: its name does not tell which input it is; give it as one of {_flags(adapter)}"
                )
            found.setdefault(role, []).append(path)
            continue
        inside: dict[str, list[Path]] = {}
        for child in sorted(path.glob("[!.]*")):
            role = _role_of(adapter, child)
            if role is not None and not named.get(role) and child.is_file():
                inside.setdefault(role, []).append(child)
        if not inside:
            raise AdapterError(
                f"{path}: no file in it looks like an input of {adapter.name}; give them as {_flags(adapter)}"
            )
        for role, paths in inside.items():
            found.setdefault(role, []).extend(paths)
    for spec in adapter.inputs:
        paths = found.get(spec.role, [])
        if spec.required and not paths:
            raise AdapterError(f"{adapter.name} needs --{spec.role}: {spec.help}")
        if len(paths) > 1 and not spec.many:
            names = ", ".join(p.name for p in paths)
            raise AdapterError(
                f"{adapter.name} reads one file as --{spec.role}, found {len(paths)} ({names}); name "
                f"the one you mean"
            )
        for path in paths:
            if not path.is_file():
                raise AdapterError(f"{path}: no such file (given as --{spec.role})")
    return found


def _role_of(adapter: Adapter, path: Path) -> str | None:
    ranked = (
        (rank, spec.role)
        for spec in adapter.inputs
        for rank, pattern in enumerate(spec.patterns)
        if fnmatch.fnmatchcase(path.name.lower(), pattern)
    )
    return min(ranked, default=(0, None))[1]


def _flags(adapter: Adapter) -> str:
    return ", ".join(f"--{spec.role}" for spec in adapter.inputs)


def slug(text: str) -> str:
    """Lower-case letters, digits and hyphens; what a folder may be called."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "data"


def stem(path: Path) -> str:
    """File name without its data and compression endings."""
    return re.sub(
        r"(\.(gz|bz2|xz|zst|json|jsonl|csv|tsv|txt|dat|parquet|recon|data))+$", "", path.name, flags=re.I
    )
