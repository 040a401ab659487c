"""Seasons and holidays of a moment, computed for every year; times are unix seconds, days are UTC."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np

SEASONS = ("winter", "spring", "summer", "autumn")
HOLIDAYS = (
    "Valentine's Day",
    "Easter",
    "Mother's Day",
    "back to school",
    "Halloween",
    "Black Friday",
    "Christmas",
)
LEXICON: dict[str, frozenset[str]] = {
    "Valentine's Day": frozenset({"valentine", "valentines"}),
    "Easter": frozenset({"easter", "bunny"}),
    "Mother's Day": frozenset({"mother", "mothers", "mom"}),
    "back to school": frozenset({"school", "student", "classroom", "backpack"}),
    "Halloween": frozenset({"halloween", "costume", "spooky", "pumpkin"}),
    "Black Friday": frozenset(),
    "Christmas": frozenset({"christmas", "xmas", "santa", "advent", "stocking", "ornament"}),
}
"""Words in a title that tie an item to a holiday."""

_EPOCH = date(1970, 1, 1).toordinal()
DAY = 86_400.0


def easter(year: int) -> date:
    """Western Easter Sunday (Gregorian computus of Meeus, Jones and Butcher).

    >>> easter(2013), easter(2038)
    (datetime.date(2013, 3, 31), datetime.date(2038, 4, 25))
    """
    a, b, c = year % 19, year // 100, year % 100
    d, e = b // 4, b % 4
    g = (8 * b + 13) // 25
    h = (19 * a + b - d - g + 15) % 30
    i, k = c // 4, c % 4
    m = (32 + 2 * e + 2 * i - h - k) % 7
    n = (a + 11 * h + 22 * m) // 451
    month, day = divmod(h + m - 7 * n + 114, 31)
    return date(year, month, day + 1)


def nth_weekday(year: int, month: int, weekday: int, n: int) -> date:
    """The n-th weekday (Monday = 0) of a month.

    >>> nth_weekday(2014, 11, 3, 4)
    datetime.date(2014, 11, 27)
    """
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (n - 1))


def windows(year: int) -> list[tuple[str, date, date]]:
    """The holidays of a year with the first and last day of their windows, in order of time.

    Mother's Day and Thanksgiving are those of the United States.
    """
    sunday, thanks = easter(year), nth_weekday(year, 11, 3, 4)
    mothers = nth_weekday(year, 5, 6, 2)
    fortnight = timedelta(days=14)
    return [
        (HOLIDAYS[0], date(year, 2, 1), date(year, 2, 14)),
        (HOLIDAYS[1], sunday - fortnight, sunday),
        (HOLIDAYS[2], mothers - fortnight, mothers),
        (HOLIDAYS[3], date(year, 8, 1), date(year, 9, 10)),
        (HOLIDAYS[4], date(year, 10, 10), date(year, 10, 31)),
        (HOLIDAYS[5], thanks - timedelta(days=3), thanks + timedelta(days=4)),
        (HOLIDAYS[6], date(year, 12, 1), date(year, 12, 24)),
    ]


def days_of(times: np.ndarray, lag_days: float) -> np.ndarray:
    """Days since 1970-01-01 of the moments ``times - lag_days``: int64 [E]."""
    return np.floor((np.asarray(times, dtype=np.float64) - lag_days * DAY) / DAY).astype(np.int64)


def season_of(times: np.ndarray, lag_days: float, southern: bool = False) -> np.ndarray:
    """Meteorological season (index into `SEASONS`) of every moment: int8 [E].

    December to February is winter in the northern hemisphere, summer in the southern.
    """
    days = days_of(times, lag_days)
    month = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12
    season = (month + 1) % 12 // 3
    return ((season + 2) % 4 if southern else season).astype(np.int8)


def holiday_of(times: np.ndarray, lag_days: float) -> np.ndarray:
    """Holiday (index into `HOLIDAYS`) whose window holds each moment, -1 outside: int8 [E].

    Where windows overlap (a late Easter and Mother's Day, Cyber Monday and Christmas) the earlier holiday
    has the day.
    """
    days = days_of(times, lag_days)
    if not len(days):
        return np.zeros(0, dtype=np.int8)
    first, last = int(days.min()), int(days.max())
    table = np.full(last - first + 1, -1, dtype=np.int8)
    years = (date.fromordinal(d + _EPOCH).year for d in (first, last))
    low, high = years
    for year in range(low, high + 1):
        for name, begin, end in reversed(windows(year)):
            a, b = begin.toordinal() - _EPOCH - first, end.toordinal() - _EPOCH - first
            table[max(a, 0) : max(b + 1, 0)] = HOLIDAYS.index(name)
    return table[days - first]
