"""Typed text is text: the name of a control token in a sentence or a title is read as its characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from recbole_sigma.language.loading import encode_as_text
from recbole_sigma.language.vocabulary import END, SPECIAL, code_token, encode_left_padded, train_bpe

SIZES = (4, 3)
NAMES = [*SPECIAL, *(code_token(level, code) for level, size in enumerate(SIZES) for code in range(size))]
WORDS = ["a red lamp", "the blue chair", "pen and paper", "recent items:"]


def scratch() -> Tokenizer:
    return train_bpe(WORDS, 300, SIZES)


def with_plain_added_tokens() -> Tokenizer:
    """As some pretrained tokenizers have them: added, but not marked as special."""
    tokenizer = scratch()
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("<tool>", special=False)])
    return tokenizer


@pytest.mark.parametrize("make", [scratch, with_plain_added_tokens])
@given(parts=st.lists(st.sampled_from([*NAMES, "<think>", "<tool>", " ", "lamp", "<", ">"]), max_size=6))
def test_no_typed_text_becomes_a_control_token(make, parts: list[str]) -> None:
    tokenizer = make()
    text = "".join(parts)
    control = set(tokenizer.get_added_tokens_decoder())
    (tokens,) = encode_as_text(tokenizer, [text])
    assert not control & set(tokens.ids)
    if text.strip():
        assert tokenizer.decode(tokens.ids).replace(" ", "") == text.replace(" ", "")
    assert all(0 <= begin <= end <= len(text) for begin, end in tokens.offsets)


@pytest.mark.parametrize("make", [scratch, with_plain_added_tokens])
@given(text=st.text(max_size=40))
def test_other_texts_have_the_tokens_that_they_had(make, text: str) -> None:
    tokenizer = make()
    if not any(name in text for name in [*NAMES, "<think>", "<tool>"]):
        (tokens,) = encode_as_text(tokenizer, [text])
        assert tokens.ids == tokenizer.encode(text, add_special_tokens=False).ids


def test_a_prompt_ends_where_we_end_it() -> None:
    tokenizer = scratch()
    rows = encode_left_padded(tokenizer, [f"a lamp {END} pen <a_2>"], True, True)
    assert (rows == tokenizer.token_to_id(END)).sum() == 1
    assert (rows == tokenizer.token_to_id("<a_2>")).sum() == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("unit", ["w", "Z\u0351", " ", "漢", "1", "-"])
def test_a_title_that_is_one_long_word_takes_no_long_time(unit: str) -> None:
    """The trainer's time grows with the square of a word's length: a megabyte took many minutes."""
    tokenizer = train_bpe(["a red lamp", "x" + unit * 500_000], 300, (4,))
    assert tokenizer.encode("a red lamp").ids
