"""Interactions in columns of machine integers, and item or user features beside them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataset_adapters.values import SECOND, clean_id


@dataclass(frozen=True)
class Field:
    """A column of an atomic file: its name and RecBole's type (``token``, ``token_seq`` or ``float``)."""

    name: str
    type: str = "token"


class Vocabulary:
    """Tokens numbered from 0 in the order in which they first appear."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.codes: dict[str, int] = {}

    def code(self, raw: Any) -> int:
        """Return the number of a raw identifier, new ones are checked first.

        Raises:
            BadRow: RecBole could not read the identifier back.
        """
        known = self.codes.get(raw) if type(raw) is str else None
        return self.put(clean_id(raw, self.what)) if known is None else known

    def put(self, token: str) -> int:
        """Return the number of a token that is known to be clean."""
        return self.codes.setdefault(token, len(self.codes))


class EventLog:
    """Grows by one interaction at a time, in file order: 16 bytes each, 8 (4) more per number (text) column.

    Args:
        numbers: names of further ``float`` columns, such as ``rating``.
        texts: names of further ``token`` columns, such as ``query``.
        timed: whether the source knows any order at all.
    """

    def __init__(self, numbers: Sequence[str] = (), texts: Sequence[str] = (), timed: bool = True) -> None:
        self.users, self.items = Vocabulary("user"), Vocabulary("item")
        self.timed, self.scale = timed, SECOND
        self.query_field: str | None = None
        self._user, self._item, self._time = array("i"), array("i"), array("q")
        self._numbers = {name: array("d") for name in numbers}
        self._texts = {name: array("i") for name in texts}
        self._values: dict[str, dict[str, int]] = {name: {} for name in texts}

    def __len__(self) -> int:
        return len(self._user)

    @property
    def numbers_width(self) -> int:
        """How many number columns there are."""
        return len(self._numbers)

    def add(
        self, user: Any, item: Any, time: int = 0, numbers: Iterable[float] = (), texts: Iterable[str] = ()
    ) -> None:
        """Append one event; either the whole event is kept or, on an error, nothing of it.

        Raises:
            BadRow: an identifier cannot be used.
        """
        user_code, item_code = self.users.code(user), self.items.code(item)
        self._user.append(user_code)
        self._item.append(item_code)
        self._time.append(time)
        for column, value in zip(self._numbers.values(), numbers, strict=True):
            column.append(value)
        for (name, codes), text in zip(self._texts.items(), texts, strict=True):
            codes.append(self._values[name].setdefault(text, len(self._values[name])))

    def freeze(self) -> Events:
        """Hand the columns over as arrays without copying them."""
        return Events(
            user=np.frombuffer(self._user, dtype=np.int32),
            item=np.frombuffer(self._item, dtype=np.int32),
            time=np.frombuffer(self._time, dtype=np.int64),
            numbers={name: np.frombuffer(column) for name, column in self._numbers.items()},
            texts={name: np.frombuffer(column, dtype=np.int32) for name, column in self._texts.items()},
            user_names=list(self.users.codes),
            item_names=list(self.items.codes),
            text_values={name: list(values) for name, values in self._values.items()},
            timed=self.timed,
            scale=self.scale,
        )


@dataclass(frozen=True)
class Events:
    """E interactions in columns.

    Attributes:
        user: int32 [E], index into ``user_names``.
        item: int32 [E], index into ``item_names``.
        time: int64 [E], ``scale`` steps to the written unit (microseconds; positions where ``scale`` is 1).
        numbers: further float64 [E] columns by name; NaN where the source is silent.
        texts: further int32 [E] columns by name, index into ``text_values[name]``.
        user_names: tokens by number, in order of first appearance.
        item_names: tokens by number, in order of first appearance.
        text_values: distinct values of each text column.
        timed: False where the source has no order.
        scale: steps of ``time`` per unit written to the ``timestamp`` column.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time: NDArray[np.int64]
    numbers: dict[str, NDArray[np.float64]]
    texts: dict[str, NDArray[np.int32]]
    user_names: list[str]
    item_names: list[str]
    text_values: dict[str, list[str]]
    timed: bool = True
    scale: int = SECOND

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: NDArray[Any]) -> Events:
        """Return the events at ``rows`` (indices or a mask), in that order."""
        return replace(
            self,
            user=self.user[rows],
            item=self.item[rows],
            time=self.time[rows],
            numbers={name: column[rows] for name, column in self.numbers.items()},
            texts={name: column[rows] for name, column in self.texts.items()},
        )

    def in_order(self) -> Events:
        """Group by user (by first appearance in the file), each user's events by time, ties by file order."""
        keys = (self.time, self.user) if self.timed else (self.user,)
        return self.take(np.lexsort(keys))

    def names_in_use(self, side: str) -> list[str]:
        """Tokens of ``user`` or ``item`` that have an event, by first event."""
        codes, names = (self.user, self.user_names) if side == "user" else (self.item, self.item_names)
        used, first = np.unique(codes, return_index=True)
        return [names[code] for code in used[np.argsort(first)].tolist()]


class FeatureTable:
    """Features of the items (or users) that are kept, filled while a metadata file streams by.

    Args:
        keys: tokens in output order.
        fields: the columns beside the token.
        grow: also accept tokens that have no event (``--catalogue all``).
    """

    def __init__(self, keys: Iterable[str], fields: Sequence[Field], grow: bool = False) -> None:
        self.rows: dict[str, tuple[Any, ...] | None] = dict.fromkeys(keys)
        self.fields = tuple(fields)
        self.grow = grow
        self.repeated = 0
        self.roles = Roles()

    def wants(self, key: str) -> bool:
        """Whether the token belongs to the output."""
        return self.grow or key in self.rows

    def put(self, key: str, values: tuple[Any, ...]) -> None:
        """Set one row; the first record of a token counts, later ones are only counted."""
        if not self.wants(key):
            return
        if self.rows.get(key) is not None:
            self.repeated += 1
            return
        self.rows[key] = values

    def column(self, name: str) -> list[Any]:
        """Values of one column in output order, ``None`` where the token has no record."""
        at = [f.name for f in self.fields].index(name)
        return [None if row is None else row[at] for row in self.rows.values()]


@dataclass(frozen=True)
class Roles:
    """Which columns play which part for SIGMA; empty where a data set has none."""

    text: tuple[str, ...] = ()
    category: str | None = None
    brand: str | None = None
    profile: tuple[str, ...] = ()


@dataclass
class PublishedSplit:
    """One split file as shipped: a prediction per row.

    Attributes:
        users: user token per row.
        histories: item tokens before the target, oldest first.
        targets: item token to predict.
        times: position of the target in the user's stitched sequence.
    """

    users: list[str] = field(default_factory=list)
    histories: list[tuple[str, ...]] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
