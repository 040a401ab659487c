"""Items by what a person types: an original id, a title, or enough words of one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from recbole_sigma.instructions.phrases import words_of
from recbole_sigma.values import UserError

SHOWN = 5
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

        In this order: an original id, a whole title, the only title that holds all the words.

        Raises:
            UserError: no item, or several; with suggestions.
        """
        text = text.strip()
        if not text:
            raise UserError("history: an entry is empty; write titles or item ids separated by ';'")
        if len(text) > LONGEST:
            raise UserError(f"history: an entry has {len(text)} characters, and no title is that long")
        if text in self.by_token:
            return self.by_token[text]
        key = _key(text)
        found = self.by_title.get(key, [])
        if not found and key:
            sets = sorted((self.by_word.get(word, set()) for word in key.split()), key=len)
            found = sorted(set.intersection(*sets))
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

    def _shown(self, items: Sequence[int]) -> str:
        names = [f"{self.titles[item]} [{self.tokens[item]}]" for item in items[:SHOWN]]
        return ", ".join(names) + (", ..." if len(items) > SHOWN else "")


def _key(title: str) -> str:
    return " ".join(words_of(title))
