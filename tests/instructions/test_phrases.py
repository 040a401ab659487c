"""Pseudo-queries: what they are made of, what they match, and what never becomes one."""

import numpy as np

from recbole_sigma.instructions.phrases import (
    ItemWords,
    WordIndex,
    candidates,
    phrase_words,
    pseudo_queries,
    words_of,
)

TITLES = [
    "",
    *(f"Acme Red Nail Polish {i}ml" for i in range(30)),
    *(f"Zen Hair Brush No. {i}" for i in range(30)),
]
PATHS = [(), *[("Beauty", "Makeup", "Nails")] * 30, *[("Beauty", "Hair", "Brushes")] * 30]
ITEMS = ItemWords(TITLES, PATHS, ["", *["Acme"] * 30, *["Zen"] * 30])
TOKENS = [f"t{i}" for i in range(len(TITLES))]
ALL = np.ones(len(TITLES), dtype=bool)


def brute_force(text):
    return np.array([set(words_of(text)) <= ITEMS.all_words(i) for i in range(len(TITLES))])


def test_matching_equals_brute_force():
    index = WordIndex(ITEMS, ALL)
    for text in ("nail polish", "Acme", "brushes hair zen", "red brush", "3ml", "unknown", "beauty"):
        np.testing.assert_array_equal(index.mask(text), brute_force(text))
        assert index.count(words_of(text)) == brute_force(text).sum()
    assert not index.mask("").any() and index.count([]) == 0


def test_items_that_do_not_count_never_match():
    counted = ALL.copy()
    counted[1:11] = False
    assert WordIndex(ITEMS, counted).count(["nail"]) == 20


def test_candidates_have_leaf_bigram_and_brand_but_no_numbers_and_never_the_title():
    found = candidates(ITEMS, 1, flat=False)
    assert {"nails polish", "nail polish", "acme nails"} <= set(found)
    assert all(word.isalpha() for phrase in found for word in phrase.split())
    titles = ItemWords(["", "Nail Polish"], [(), ("Beauty",)], ["", ""])
    assert "nail polish" not in candidates(titles, 1, flat=False)
    assert candidates(ItemWords(["", "Polish"], [(), ("Polish",)], ["", ""]), 1, flat=False) == []


def test_flat_labels_are_paired():
    items = ItemWords(["", "Alien"], [(), ("Horror", "Sci-Fi")], ["", ""])
    assert candidates(items, 1, flat=True) == ["horror alien", "sci fi alien", "horror sci fi"]


def test_kept_phrases_match_within_the_bounds_and_a_draw_is_the_items_own():
    index = WordIndex(ITEMS, ALL)
    kept = pseudo_queries(ITEMS, index, TOKENS, False, 20, 40, 3, seed=1)
    assert kept[0] == [] and all(0 < len(row) <= 3 for row in kept[1:])
    assert all(20 <= index.count(phrase.split()) <= 40 for row in kept for phrase in row)
    assert all(brute_force(phrase)[i] for i, row in enumerate(kept) for phrase in row)
    again = pseudo_queries(ITEMS, index, [*TOKENS[:40], *["other"] * 21], False, 20, 40, 3, seed=1)
    assert again[:40] == kept[:40]
    assert pseudo_queries(ITEMS, index, TOKENS, False, 61, 99, 3, seed=1) == [[]] * len(TITLES)


def test_words():
    assert phrase_words("The OPI E55 x2 Set of polish") == ["opi", "polish"]
    assert words_of("日本 Café-crème") == ["日本", "café", "crème"]
