from __future__ import annotations

import string
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_adapters.errors import AdapterError, BadRow
from dataset_adapters.values import NA_WORDS, Clock, TextCleaner, clean_id, number


@pytest.mark.parametrize(
    ("raw", "token"), [("007", "007"), (" A1 ", "A1"), (12, "12"), (12.0, "12"), ("0", "0"), ("é", "é")]
)
def test_ids_stay_as_they_are(raw, token):
    assert clean_id(raw, "user") == token


@pytest.mark.parametrize(
    "raw", [None, "", "  ", "a\tb", "a\nb", True, 1.5, ["a"], {}, "NA", "null", "[PAD]", "x" * 1001, "\ud800"]
)
def test_ids_that_recbole_could_not_read_back(raw):
    with pytest.raises(BadRow, match="user id"):
        clean_id(raw, "user")


@pytest.mark.parametrize(
    ("unit", "raw", "seconds"),
    [
        ("s", 964982703, 964982703),
        ("s", "964982703", 964982703),
        ("s", "964982703.5", 964982703.5),
        ("ms", 1609459200123, 1609459200.123),
        ("auto", "1609459200", 1609459200),
        ("auto", 1609459200123, 1609459200.123),
        ("auto", "2011-09-14 12:46:28.66", datetime(2011, 9, 14, 12, 46, 28, 660000, UTC).timestamp()),
        ("auto", "2011-09-14T12:46:28Z", datetime(2011, 9, 14, 12, 46, 28, 0, UTC).timestamp()),
        ("iso", "2011-09-14T12:46:28+02:00", datetime(2011, 9, 14, 10, 46, 28, 0, UTC).timestamp()),
        ("iso", "2015-07-21", datetime(2015, 7, 21, tzinfo=UTC).timestamp()),
    ],
)
def test_times(unit, raw, seconds):
    assert Clock(unit)(raw) == round(seconds * 1e6)


@pytest.mark.parametrize(
    ("unit", "raw", "reason"),
    [
        ("s", 0, "zero or negative"),
        ("s", -5, "zero or negative"),
        ("auto", "0", "zero or negative"),
        ("s", 1609459200123, "looks like milliseconds"),
        ("ms", 1609459200, "looks like seconds"),
        ("s", "12_000", "a number expected"),
        ("s", "nan", "finite"),
        ("s", "1e400", "finite"),
        ("s", True, "a number expected"),
        ("s", None, "a number expected"),
        ("iso", "21-07-2015", "ISO date"),
        ("iso", 5, "ISO date"),
        ("order", "1.5", "whole number"),
        ("order", -1, "whole number"),
    ],
)
def test_times_that_are_none(unit, raw, reason):
    with pytest.raises(BadRow, match=reason):
        Clock(unit)(raw)


def test_first_row_decides_the_unit_and_a_mixed_column_is_refused():
    clock = Clock()
    assert clock("1609459200123") == 1609459200123000
    with pytest.raises(BadRow, match="looks like seconds"):
        clock("1609459200")
    clock = Clock()
    clock("1609459200")
    with pytest.raises(BadRow):
        clock("2020-01-01")


def test_a_bad_first_row_does_not_fix_the_unit():
    clock = Clock()
    with pytest.raises(BadRow):
        clock("-3")
    assert clock("2020-01-01") == 1577836800 * 10**6


def test_pattern_and_unknown_unit():
    assert Clock(pattern="%d-%m-%Y")("21-07-2015") == 1437436800 * 10**6
    with pytest.raises(AdapterError, match="one of"):
        Clock("hours")


@given(st.integers(min_value=1, max_value=4_102_444_799_999))
def test_milliseconds_survive_the_text_of_the_file(ms):
    import numpy as np

    from dataset_adapters.atomic import time_texts

    (text,) = time_texts(np.array([ms * 1000]), 10**6)
    assert round(float(text) * 1000) == ms


@pytest.mark.parametrize("raw", ["x", None, "nan", float("inf"), True, ""])
def test_numbers(raw):
    with pytest.raises(BadRow, match="rating"):
        number(raw, "rating")


def test_texts():
    clean = TextCleaner(unescape=True)
    assert (
        clean.text("Rock &amp; Roll &#39;n&#x27; AT&T &notanentity; &copy 5")
        == "Rock & Roll 'n' AT&T &notanentity; &copy 5"
    )
    assert clean.text("a\tb\r\nc\u2028d") == "a b c d"
    assert clean.text("double  space") == "double  space"
    assert clean.text(" x ") == "x"
    assert clean.text("N/A") == "" and clean.text("\ud800") == "\ufffd"
    assert clean.text("\U0001f600 ok") == "\U0001f600 ok"
    assert clean.text("&amp;amp;") == "&amp;"  # once, not twice
    assert clean.text(5) == "5" and clean.text(None) == "" and clean.text(float("nan")) == ""
    assert len(clean.text("x" * 200_000)) == 100_000
    assert clean.texts(["a|b", "", None, "c d"]) == ["a/b", "c d"]
    assert dict(clean.changes) == {
        "html_entities_resolved": 2,
        "control_characters_to_space": 1,
        "outer_blanks_removed": 1,
        "missing_value_words_emptied": 1,
        "broken_unicode_replaced": 1,
        "cut_at_100000_characters": 1,
        "separator_in_token_to_slash": 1,
    }
    with pytest.raises(BadRow, match="title is a list"):
        clean.text(["a"], "title")
    with pytest.raises(BadRow, match="a list expected"):
        clean.texts("a,b", "category")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ('<span id="productTitle" class="a-size-large">Gift Card</span>', "Gift Card"),
        ("<B>Bold</B> and <i>thin</i>", "Bold and thin"),
        ("one<br/>two<BR>three</p>", "one two three"),
        ("x<script type='a'>var a = '<b>';</script>y", "x y"),
        ("x<style>p {color: red}", "x"),
        ("x<!-- <b> a -->y", "x y"),
        ("Card <span class='a", "Card"),
        ("<div\tclass='x'\n>a</div >", "a"),
        ("&lt;b&gt; &amp;lt;", "<b> &lt;"),
    ],
)
def test_html_is_taken_out_or_counted(raw, text):
    clean = TextCleaner(unescape=True)
    assert clean.text(raw) == text and clean.texts([raw])[0] == text
    assert clean.changes["html_tags_removed"] + clean.changes["html_entities_resolved"] >= 2
    keep = TextCleaner(unescape=False)
    keep.text(raw)
    assert keep.changes["html_kept"] == 1


@pytest.mark.parametrize(
    "raw", ["I <3 you", "a < b > c", "<Untitled>", "x <but> y", "<b", "<<>>", "Tom <tom@x.de>", "<a.b>"]
)
def test_what_is_no_html_stays(raw):
    for unescape in (True, False):
        clean = TextCleaner(unescape)
        assert clean.text(raw) == raw and not clean.changes


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", ["<span ", "<script>", "<!--", "<a b=", "</", "<br", "&#1", "<style<"])
def test_a_text_full_of_beginnings_takes_no_long_time(unit):
    TextCleaner(unescape=True).text(unit * 40_000)


@given(
    st.text(alphabet=st.characters(codec=None), max_size=40) | st.text(alphabet=string.printable, max_size=40)
)
def test_any_text_becomes_one_line_and_is_then_stable(raw):
    clean = TextCleaner(unescape=False)
    text = clean.text(raw)
    assert not any(c in text for c in "\t\n\r\x00\x1c\u2028")
    assert text == text.strip() and text not in NA_WORDS
    text.encode("utf-8")
    assert clean.text(text) == text
