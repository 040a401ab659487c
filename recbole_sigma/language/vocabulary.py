"""Prompt text and its tokens: the profile before the history, the instruction after it.

Layout of a SIGMA prompt (paper figure 1c; the wording is ours)::

    <|start|> user profile: age 24, gender m. recent items: | [<a_k> v_i] [<a_k> v_j] ... | instruction
    <|end|> | <a_y>

The history is not text: each item is its prefix tokens followed by one continuous token, see
``models.sigma``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from recbole_sigma.language.loading import add_tokens, encode_as_text, load_tokenizer
from recbole_sigma.values import UserError

PAD, START, END = "<|pad|>", "<|start|>", "<|end|>"
SPECIAL = (PAD, START, END)


def profile_text(values: dict[str, str]) -> str:
    """The sentence before the history; unknown values ('' or '[PAD]') are left out.

    >>> profile_text({"age": "24", "gender": "M", "occupation": ""})
    'user profile: age 24, gender M. recent items:'
    >>> profile_text({})
    'recent items:'
    """
    known = [f"{name} {value}" for name, value in values.items() if value and value != "[PAD]"]
    return f"user profile: {', '.join(known)}. recent items:" if known else "recent items:"


def train_bpe(texts: Sequence[str], vocab_size: int, code_sizes: Sequence[int]) -> Tokenizer:
    """Train a byte-level BPE tokenizer offline and append the semantic-ID tokens to it.

    Args:
        texts: item texts, profile sentences and templates.
        vocab_size: size of the text vocabulary, special tokens included, code tokens not.
        code_sizes: codebook size of each prefix level; level 0 becomes ``<a_0>...``, level 1 ``<b_0>...``.

    Returns:
        The tokenizer; code tokens of one level have consecutive ids.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((_LONG_RUN.sub(_broken, text) for text in texts), trainer)
    tokenizer.add_special_tokens(
        [code_token(level, code) for level, k in enumerate(code_sizes) for code in range(k)]
    )
    return tokenizer


_LONG_RUN = re.compile(r"\S{1000}|\s{1000,}")
"""What the trainer would take for one word: its time grows with the square of a word's length."""


def _broken(run: re.Match[str]) -> str:
    return " " if run[0].isspace() else f"{run[0]} "


TEXTS_FOR_WORDS = 200_000
"""As many texts settle a vocabulary of some thousand words; below, every text is read."""


def thinned(texts: Sequence[str], most: int = TEXTS_FOR_WORDS) -> Sequence[str]:
    """All texts, or every second, third ... of them so that at most ``most`` are left."""
    return texts[:: max(1, -(-len(texts) // most))]


def pretrained_tokenizer(name: str, code_sizes: Sequence[int]) -> Tokenizer:
    """The tokenizer of a pretrained model, kept as it is, with our special and semantic-ID tokens after its
    own.

    Args:
        name: folder or hub name, as in ``backbone: pretrained:<name>``.
        code_sizes: as in `train_bpe`.

    Raises:
        UserError: it cannot be loaded, or an exported model with a codebook of another size was named.
    """
    tokenizer = load_tokenizer(name, "backbone")
    codes = [code_token(level, code) for level, k in enumerate(code_sizes) for code in range(k)]
    add_tokens(tokenizer, [*SPECIAL, *codes])
    try:
        code_offsets(tokenizer, code_sizes)
    except ValueError as error:
        raise UserError(
            f"backbone: '{name}' already holds semantic-ID tokens of another codebook ({error}): set "
            "tokenizer_codebook_size to the one it was exported with, or name its base"
        ) from error
    return tokenizer


def code_token(level: int, code: int) -> str:
    """Name of a semantic-ID token: level 0 is ``<a_k>``, level 1 ``<b_k>``, and so on."""
    return f"<{chr(ord('a') + level)}_{code}>"


def code_offsets(tokenizer: Tokenizer, code_sizes: Sequence[int]) -> list[int]:
    """Vocabulary id of code 0 of each level.

    Raises:
        ValueError: the tokenizer lacks the tokens or they are not consecutive.
    """
    offsets = []
    for level, size in enumerate(code_sizes):
        first = tokenizer.token_to_id(code_token(level, 0))
        last = tokenizer.token_to_id(code_token(level, size - 1))
        if first is None or last is None or last - first != size - 1:
            raise ValueError(
                f"the tokenizer's tokens of semantic-ID level {level} do not match a codebook of {size}"
            )
        offsets.append(first)
    return offsets


def encode_left_padded(
    tokenizer: Tokenizer, texts: Sequence[str], start: bool, end: bool, width: int | None = None
) -> np.ndarray:
    """Token ids [n, width], padded on the LEFT with the pad token, so that every text ends in one column.

    Args:
        tokenizer: from ``train_bpe``.
        texts: the sentences.
        start: put ``<|start|>`` before each text.
        end: put ``<|end|>`` after each text.
        width: columns; a longer text loses its beginning. None takes the longest text.
    """
    head = [tokenizer.token_to_id(START)] if start else []
    tail = [tokenizer.token_to_id(END)] if end else []
    number = {text: place for place, text in enumerate(dict.fromkeys(texts))}  # many users share a profile
    rows = [head + tokens.ids + tail for tokens in encode_as_text(tokenizer, list(number))]
    width = width or max(len(row) for row in rows)
    rows = [row[-width:] for row in rows]
    out = np.full((len(rows), width), tokenizer.token_to_id(PAD), dtype=np.int64)
    for row, ids in zip(out, rows, strict=True):
        row[width - len(ids) :] = np.asarray(ids)
    return out[[number[text] for text in texts]]
