"""Single values: identifiers, times and texts, made fit for RecBole's reader without silent loss."""

from __future__ import annotations

import html
import math
import re
import reprlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from html.entities import html5
from typing import Any

from dataset_adapters.errors import AdapterError, BadRow

SECOND = 1_000_000
SEPARATOR = "|"
MAX_TEXT = 100_000
# RecBole loads text through pandas.read_csv, which takes these cells for missing values, quoted or not.
_NA = "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null"
NA_WORDS = frozenset(_NA.split("|"))
_CONTROL = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029]+")
_ENTITY = re.compile(r"&(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Whole tags of HTML only: "a < b", "<3" and "<Untitled>" are titles. A tag that the end cuts counts too.
_INLINE = "a|abbr|b|big|em|font|i|s|small|span|strong|sub|sup|tt|u"
_BLOCK = (
    "blockquote|body|br|center|dd|div|dl|dt|form|h[1-6]|head|hr|html|iframe|img|input|li|link|meta|noscript|ol|p|"
    "pre|script|section|style|table|tbody|td|th|thead|tr|ul"
)
_TAG = re.compile(
    r"<(script|style)\b[^<>]*>.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)"
    rf"|</?(?:(?P<inline>{_INLINE})|{_BLOCK})(?:\s*/?>|\s[^<>]*(?:>|\Z))",
    re.I | re.S,
)
_DIGITS = re.compile("[0-9]{1,20}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = 4_102_444_800 * SECOND  # the year 2100
_LARGEST = 2**53  # positions are written as numbers, which RecBole holds in 64-bit floats
_SCALE = {"s": SECOND, "ms": 1_000, "us": 1}
UNITS = ("auto", "s", "ms", "us", "iso", "order")


def visible(text: str) -> str:
    """Text for a terminal: control characters and marks that turn its direction are shown as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60


def shown(value: Any) -> str:
    """A raw value for a message: one short line, however long or deep it is."""
    return _short.repr(value)


def clean_id(value: Any, what: str) -> str:
    """Turn a raw identifier into a RecBole token; leading zeros stay.

    Args:
        value: text or whole number from the file.
        what: ``user`` or ``item``, for the message.

    Raises:
        BadRow: nothing is there, or RecBole could not read the token back.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a Parquet column of whole numbers with gaps arrives as floats
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise BadRow(
            f"{what} id is {'missing' if value is None else type(value).__name__}, text or a whole "
            f"number expected"
        )
    token = value.strip()
    if not token:
        raise BadRow(f"{what} id is missing")
    if token in NA_WORDS or token == "[PAD]":
        raise BadRow(f"{what} id is {token!r}, which RecBole reads as missing")
    if _CONTROL.search(token):
        raise BadRow(f"{what} id {token[:40]!r} holds a tab, line break or control character")
    if len(token) > 1_000:
        raise BadRow(f"{what} id is {len(token)} characters long")
    try:
        token.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{what} id {token[:40]!r} is not valid Unicode") from None
    return token


def number(value: Any, what: str) -> float:
    """Read a finite number.

    Raises:
        BadRow: it is not one.
    """
    try:
        result = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise BadRow(f"{what} is {shown(value)}, a finite number expected")
    return result


class Clock:
    """Reads times into whole microseconds since 1970 (UTC), or into plain positions.

    Args:
        unit: ``s``, ``ms``, ``us``, ``iso``, ``order`` (any whole number, not a date), or ``auto``: the first
            good row decides and every later row must agree, or a mixed column would order events wrongly.
        pattern: a ``strptime`` pattern that replaces the ISO reading.
        hint: what else the user can do about a time that is too small for a date, for the message.
    """

    def __init__(self, unit: str = "auto", pattern: str | None = None, hint: str = "") -> None:
        if unit not in UNITS:
            raise AdapterError(f"unknown time unit {unit!r}; one of {', '.join(UNITS)}")
        self.unit = "iso" if pattern else unit
        self.hint = hint
        self.pattern = pattern
        if pattern is not None:
            _check_pattern(pattern)

    @property
    def scale(self) -> int:
        """How many stored steps make one unit of the written column."""
        return 1 if self.unit == "order" else SECOND

    def __call__(self, value: Any) -> int:
        """Return the time in microseconds (or the position).

        Raises:
            BadRow: not a time, out of range, or another unit than the rows before.
        """
        if self.unit == "iso":
            return self._checked(self._date(value), value)
        if self.unit == "auto":
            return self._decide(value)
        if self.unit in _SCALE and (type(value) is int or (type(value) is str and _DIGITS.fullmatch(value))):
            return self._checked(int(value) * _SCALE[self.unit], value)
        count = self._count(value)
        if self.unit == "order":
            if count < 0 or count != count.to_integral_value():
                raise BadRow(f"position {shown(value)} is not a whole number from 0")
            if count > _LARGEST:
                raise BadRow(f"position {shown(value)} is larger than {_LARGEST}")
            return int(count)
        return self._checked(int(count * _SCALE[self.unit]), value)

    def _decide(self, value: Any) -> int:
        try:
            size = self._count(value)
        except BadRow:
            time = self._checked(self._date(value), value)
            self.unit = "iso"
            return time
        unit = "s" if size < 10**11 else "ms" if size < 10**14 else "us"
        time = self._checked(int(size * _SCALE[unit]), value)
        self.unit = unit
        return time

    def _checked(self, time: int, value: Any) -> int:
        if time <= 0:
            raise BadRow(
                f"time {shown(value)} is zero or negative, which usually stands for a missing time{self.hint}"
            )
        if time >= _LATEST:
            hint = "; it looks like milliseconds in a column of seconds" if self.unit == "s" else ""
            raise BadRow(f"time {shown(value)} lies after the year 2100{hint}")
        # Seconds read as milliseconds land in 1970: no public log is that old.
        if self.unit in ("ms", "us") and time < 3 * 365 * 86_400 * SECOND:
            raise BadRow(f"time {shown(value)} looks like seconds in a column of {self.unit}{self.hint}")
        return time

    @staticmethod
    def _count(value: Any) -> Decimal:
        if isinstance(value, bool) or not isinstance(value, int | float | str) or "_" in str(value):
            raise BadRow(f"time is {shown(value)}, a number expected")
        try:
            result = Decimal(str(value).strip())
        except InvalidOperation:
            raise BadRow(f"time is {shown(value)}, a number expected") from None
        if not result.is_finite() or result.adjusted() > 20:
            raise BadRow(f"time is {shown(value)}, a finite number expected")
        return result

    def _date(self, value: Any) -> int:
        try:
            text = value if isinstance(value, str) else ""
            moment = (
                datetime.strptime(text, self.pattern)
                if self.pattern
                else datetime.fromisoformat(text.strip())
            )
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            return (moment - _EPOCH) // timedelta(microseconds=1)
        except (ValueError, OverflowError):
            wanted = (
                f"a date like {self.pattern!r}"
                if self.pattern
                else "an ISO date (2011-10-23 17:55:08) or a number"
            )
            raise BadRow(f"time is {shown(value)}, {wanted} expected") from None


def _check_pattern(pattern: str) -> None:
    """Refuse a time pattern that Python cannot compile, before the first row is blamed for it.

    Raises:
        AdapterError: naming the pattern.
    """
    reason = None
    try:
        datetime.strptime("", pattern)
    except ValueError as error:  # an empty text fits no pattern, which says nothing against the pattern
        reason = str(error) if "directive" in str(error) or "%" in str(error).partition("format")[0] else None
    except (re.error, OverflowError, IndexError, KeyError) as error:
        reason = str(error)
    if reason is not None:
        raise AdapterError(
            f"--time-format {pattern!r}: is no pattern of strptime ({reason}); write each directive once, "
            "such as %Y-%m-%d"
        )


def _resolve(entity: re.Match[str]) -> str:
    """Resolve a whole entity only: ``html.unescape`` alone would also take ``&not`` out of ``&notes;``."""
    known = entity[1].startswith("#") or f"{entity[1]};" in html5
    return html.unescape(entity[0]) if known else entity[0]


def _gap(tag: re.Match[str]) -> str:
    """What stands in place of a tag: nothing inside a line, a blank between blocks."""
    return "" if tag["inline"] else " "


class TextCleaner:
    """Makes texts survive a tab-separated file; ``changes`` counts each kind of change for the card.

    Args:
        unescape: take HTML out: tags go, then entities are resolved once (``&amp;`` becomes ``&``, so that
            ``&lt;b&gt;`` stays as the text ``<b>``). False leaves both, and counts the texts that hold any.
    """

    def __init__(self, unescape: bool) -> None:
        self.unescape = unescape
        self.changes: Counter[str] = Counter()

    def text(self, value: Any, what: str = "text") -> str:
        """Return one line of text, empty where nothing usable was given; double spaces stay.

        Raises:
            BadRow: the value is neither text nor a number.
        """
        if value is None:
            return ""
        if not isinstance(value, str):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise BadRow(f"{what} is a {type(value).__name__}, text expected")
            value = "" if isinstance(value, float) and math.isnan(value) else str(value)
        if self.unescape:
            if "<" in value:
                value = self._note("html_tags_removed", value, _TAG.sub(_gap, value))
            if "&" in value:
                value = self._note("html_entities_resolved", value, _ENTITY.sub(_resolve, value))
        elif ("<" in value and _TAG.search(value)) or ("&" in value and _ENTITY.search(value)):
            self.changes["html_kept"] += 1
        if not value.isascii():
            sound = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            value = self._note("broken_unicode_replaced", value, sound)
        if not value.isprintable():
            value = self._note("control_characters_to_space", value, _CONTROL.sub(" ", value))
        value = self._note("outer_blanks_removed", value, value.strip())
        if len(value) > MAX_TEXT:
            value = self._note("cut_at_100000_characters", value, value[:MAX_TEXT])
        if value in NA_WORDS:
            value = self._note("missing_value_words_emptied", value, "")
        return value

    def texts(self, values: Any, what: str = "text") -> list[str]:
        """Clean a list of tokens; empty ones are dropped and a ``|`` inside one becomes ``/``.

        Raises:
            BadRow: the value is not a list.
        """
        if values is None or values == "":
            return []
        if not isinstance(values, list | tuple):
            raise BadRow(f"{what} is a {type(values).__name__}, a list expected")
        cleaned = (self.text(value, what) for value in values)
        return [self._note("separator_in_token_to_slash", v, v.replace(SEPARATOR, "/")) for v in cleaned if v]

    def _note(self, change: str, before: str, after: str) -> str:
        if before != after:
            self.changes[change] += 1
        return after
