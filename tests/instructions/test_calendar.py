"""Seasons and holidays against dates that anybody can look up."""

from datetime import UTC, datetime

import numpy as np
import pytest

from recbole_sigma.instructions.calendar import HOLIDAYS, SEASONS, easter, holiday_of, season_of


def seconds(*dates):
    return np.array([datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() for text in dates])


def names(*dates, lag=0.0):
    return [HOLIDAYS[i] if i >= 0 else None for i in holiday_of(seconds(*dates), lag)]


@pytest.mark.parametrize(
    "day",
    ["1997-03-30", "2000-04-23", "2005-03-27", "2008-03-23", "2011-04-24", "2013-03-31", "2014-04-20",
     "2016-03-27", "2018-04-01", "2019-04-21", "2024-03-31", "2026-04-05", "2038-04-25"],
)  # fmt: skip
def test_easter_sundays(day):
    assert easter(int(day[:4])).isoformat() == day


def test_easter_is_the_one_of_dateutil():
    other = pytest.importorskip("dateutil.easter")
    assert all(easter(year) == other.easter(year) for year in range(1970, 2100))


def test_windows_begin_and_end_on_their_days():
    assert names("2013-02-01", "2013-02-14", "2013-02-15") == [HOLIDAYS[0], HOLIDAYS[0], None]
    assert names("2014-04-05", "2014-04-06", "2014-04-20", "2014-04-21") == [None, "Easter", "Easter", None]
    assert names("2012-05-13", "2012-05-14") == ["Mother's Day", None]
    assert names("2012-07-31", "2012-08-01", "2012-09-10", "2012-09-11") == [
        None,
        HOLIDAYS[3],
        HOLIDAYS[3],
        None,
    ]
    assert names("2012-10-09", "2012-10-10", "2012-10-31", "2012-11-01") == [
        None,
        "Halloween",
        "Halloween",
        None,
    ]
    # Thanksgiving 2012 was on 22 November
    assert names("2012-11-18", "2012-11-19", "2012-11-26", "2012-11-27") == [
        None,
        HOLIDAYS[5],
        HOLIDAYS[5],
        None,
    ]
    assert names("2012-12-01", "2012-12-24T23:59:59", "2012-12-25") == ["Christmas", "Christmas", None]


def test_where_windows_overlap_the_earlier_holiday_has_the_day():
    assert names("2019-11-30", "2019-12-02", "2019-12-03") == ["Black Friday", "Black Friday", "Christmas"]
    assert names("2011-04-24", "2011-04-25") == ["Easter", "Mother's Day"]


def test_lag_shifts_the_calendar_back():
    assert names("2012-12-28", lag=7.0) == ["Christmas"] and names("2012-12-28") == [None]


def test_seasons_of_both_hemispheres():
    times = seconds(
        "2012-01-15", "2012-03-01", "2012-05-31", "2012-06-01", "2012-09-01", "2012-11-30", "2012-12-01"
    )
    north = [SEASONS[i] for i in season_of(times, 0.0)]
    assert north == ["winter", "spring", "spring", "summer", "autumn", "autumn", "winter"]
    south = [SEASONS[i] for i in season_of(times, 0.0, southern=True)]
    assert south == ["summer", "autumn", "autumn", "winter", "spring", "spring", "summer"]
    assert SEASONS[season_of(seconds("2012-03-03"), 7.0)[0]] == "winter"


def test_no_times_no_holidays():
    assert len(holiday_of(np.zeros(0), 7.0)) == 0
