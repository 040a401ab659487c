"""Stems, spelling and the marks of a sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_sigma.understanding.words import Speller, distance, stem, tokens_of


@given(st.text(alphabet="abc", max_size=6), st.text(alphabet="abc", max_size=6))
def test_distance_is_symmetric_and_zero_for_the_same_word(one: str, other: str) -> None:
    assert distance(one, other, 6) == distance(other, one, 6)
    assert (distance(one, other, 6) == 0) == (one == other)
    assert distance(one, other, 1) == min(distance(one, other, 6), 2)


@pytest.mark.parametrize(
    "number", ["comedy comedies", "shoe shoes", "brush brushes", "movie movies", "gloss glosses"]
)
def test_both_numbers_of_a_word_have_one_stem(number: str) -> None:
    one, many = number.split()
    assert stem(one) == stem(many)


def test_a_lower_rank_wins_among_equally_near_words() -> None:
    speller = Speller({"hats": 2, "hots": 0, "winter": 0, "conditioner": 1})
    assert speller.nearest("hits") == "hots" and speller.nearest("wnter") == "winter"
    assert speller.nearest("condtoner") == "conditioner"
    assert (
        speller.nearest("het") is None and speller.nearest("zats") is None and speller.nearest("h4ts") is None
    )


@given(st.text(max_size=200))
def test_tokens_hold_no_control_characters_and_lower_case_only(text: str) -> None:
    for token in tokens_of(text):
        assert token.text and token.text == token.text.lower()
        assert not any(ord(letter) < 32 for letter in token.typed)
