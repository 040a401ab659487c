"""Items by what a person types: an original id, a title, or enough words of one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from recbole_sigma.instructions.phrases import words_of
from recbole_sigma.values import UserError

SHOWN = 5
_BRACKETED = re.compile(r".*\[([^\[\]]+)\]")
LONGEST = 500  # characters of a title that somebody types


class Titles:
    """Look-up of items.

    Args:
        tokens: original item ids [N]; row 0 is padding.
        titles: titles [N], '' where unknown.
    """

    def __init__(self, tokens: Sequence[str], titles: Sequence[str]) -> None:
        self.titles = titles
        self.by_token = {str(token): i for i, token in enumerate(tokens) if i}
        self.by_title: dict[str, list[int]] = {}
        self.by_word: dict[str, set[int]] = {}
        for item in range(1, len(titles)):
            key = _key(titles[item])
            if not key:
                continue
            self.by_title.setdefault(key, []).append(item)
            for word in key.split():
                self.by_word.setdefault(word, set()).add(item)
        self.tokens = tokens

    def find(self, text: str) -> int:
        """The item that a text names.

        In this order: an original id, which brackets may surround (``[51662]``), also behind its title; a
        whole title; the only title that holds all the words.

        Raises:
            UserError: no item, or several; with suggestions.
        """
        text = text.strip()
        if not text:
            raise UserError("history: an entry is empty; write titles or item ids separated by ';'")
        if len(text) > LONGEST:
            raise UserError(f"history: an entry has {len(text)} characters, and no title is that long")
        bracketed = _BRACKETED.fullmatch(text)
        if bracketed and bracketed[1] in self.by_token:
            return self.by_token[bracketed[1]]
        if text in self.by_token:
            return self.by_token[text]
        key = _key(text)
        found = self._titled(key)
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"history: '{text}' fits {len(found)} items: {self._shown(found)}; write the whole title or "
                "the id in brackets"
            )
        near = [
            item
            for title in difflib.get_close_matches(key, self.by_title, n=SHOWN, cutoff=0.5)
            for item in self.by_title[title]
        ]
        hint = f"; nearest: {self._shown(near)}" if near else ""
        raise UserError(f"history: no item is called '{text}'{hint}")

    def _titled(self, key: str) -> list[int]:
        """Items whose title is this key, or else holds all its words."""
        found = self.by_title.get(key, [])
        if not found and key:
            sets = sorted((self.by_word.get(word, set()) for word in key.split()), key=len)
            found = sorted(set.intersection(*sets))
        return found

    def readings(self, texts: Sequence[str]) -> list[str]:
        """What was read where a text is the id of one item and fits the title of another: sentences."""
        notes = []
        for text in map(str.strip, texts):
            item = self.by_token.get(text)
            others = [other for other in self._titled(_key(text)) if other != item] if item else []
            if item and others:
                notes.append(
                    f"{text!r} is read as the id of {self._shown([item])}; for another item write its id in "
                    f"brackets: {self._shown(others)}"
                )
        return notes

    def _shown(self, items: Sequence[int]) -> str:
        names = [f"{self.titles[item]} [{self.tokens[item]}]" for item in items[:SHOWN]]
        return ", ".join(names) + (", ..." if len(items) > SHOWN else "")


def _key(title: str) -> str:
    return " ".join(words_of(title))
