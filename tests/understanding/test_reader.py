"""Sentences on planted shops: values, exclusions, references, years, wishes, and what is not understood."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_sigma.run.config import RunConfig
from recbole_sigma.run.loaders import load_data
from recbole_sigma.understanding.build import prices_of
from recbole_sigma.understanding.lexicon import Lexicon, Value
from recbole_sigma.understanding.reader import Understanding
from recbole_sigma.understanding.wording import allowed, instruction, other_wordings
from recbole_sigma.values import UserError

SHOES, HATS, COATS = "category=Shoes", "category=Hats", "category=Coats & Jackets"


@pytest.mark.parametrize(
    ("sentence", "slots"),
    [
        ("show me shoes", {SHOES}),
        ("hats, please", {HATS}),
        ("a hat", {HATS}),
        ("SHOES!!!", {SHOES}),
        ("jackets", {COATS}),
        ("coats and jackets", {COATS}),
        ("shoos", {SHOES}),
        ("shoes by Acme", {SHOES, "brand=Acme"}),
        ("st. burt shoes", {SHOES, "brand=St. Burt Inc"}),
        ("shoes or hats", {SHOES, HATS}),
        ("neither shoes nor hats", {f"-{SHOES}", f"-{HATS}"}),
        ("no shoes", {f"-{SHOES}"}),
        ("anything but hats", {f"-{HATS}"}),
        ("nothing but hats", {HATS}),
        ("I don't want anything except hats", {HATS}),
        ("not only hats", {HATS}),
        ("not without a hat", {HATS}),
        ("not hats but shoes", {SHOES, f"-{HATS}"}),
        ("no hats, shoes please", {SHOES, f"-{HATS}"}),
        ("no hats, shoes or coats", {f"-{HATS}", f"-{SHOES}", f"-{COATS}"}),
        ("I don't like hats, show me coats", {COATS, f"-{HATS}"}),
        ("hats are not for me", {f"-{HATS}"}),
        ("shoes without hats", {SHOES, f"-{HATS}"}),
        ("hats that aren't from acme", {HATS, "-brand=Acme"}),
        ("I'm tired of hats", {f"-{HATS}"}),
        ("please leave out shoes", {f"-{SHOES}"}),
        ("popular hats", {HATS, "popular"}),
        ("hats from 1985", {HATS, "year=1985-1985"}),
        ("hats from the 80s", {HATS, "year=1980-1989"}),
        ("hats before 1990", {HATS, "year=-1989"}),
        ("hats since 1990", {HATS, "year=1990-"}),
        ("hats after 1990", {HATS, "year=1991-"}),
        ("hats between 1983 and 1986", {HATS, "year=1983-1986"}),
        ("cheap hats", {HATS, "price=-35"}),
        ("expensive hats", {HATS, "price=60-"}),
        ("hats, not too expensive", {HATS, "price=-35"}),
        ("nothing cheap", {"price=60-"}),
        ("hats under 20 dollars", {HATS, "price=-20"}),
        ("hats for at least 50", {HATS, "price=50-"}),
        ("rome", {"query=rome"}),
        ("search for 12", {"query=12"}),
        ("no rome", {"-query=rome"}),
        ("shoes, not rome", {SHOES, "-query=rome"}),
        ("something like model Oslo 4", set()),
    ],
)
def test_slots(understanding: Understanding, sentence: str, slots: set[str]) -> None:
    found = understanding.read(sentence)
    assert found.slots() == slots and found.in_scope


@pytest.mark.parametrize(
    ("sentence", "task"),
    [
        ("recommend something", "JustForYou"),
        ("what next", "JustForYou"),
        ("no hats", "JustForYou"),
        ("hats", "Category"),
        ("a hidden gem", "Longtail"),
        ("hiden gems", "Longtail"),
        ("nothing popular", "Longtail"),
        ("nothing obscure", "JustForYou"),
        ("surprise me", "Discover"),
        ("surprise me with something new", "Discover"),
        ("don't surprise me", "JustForYou"),
        ("an obscure hat", "Longtail"),
        ("something by acme", "Query"),
    ],
)
def test_routing(understanding: Understanding, sentence: str, task: str) -> None:
    assert understanding.read(sentence).task == task


def test_the_sentences_of_the_old_router(seasonal: Understanding) -> None:
    for sentence, task in (
        ("suggest a hidden gem please", "Longtail"),
        ("surprise me with something new", "Discover"),
        ("what should I wear in winter", "Season"),
        ("a present for christmas", "Holiday"),
        ("xmas lamps", "Holiday"),
        ("what next", "JustForYou"),
    ):
        assert seasonal.read(sentence).task == task, sentence
    assert seasonal.read("a present for christmas").slots() == {"holiday=Christmas"}
    assert seasonal.read("in the fall").slots() == {"season=autumn"}
    assert seasonal.read("red lamps").slots() == {"category=Lamp", "query=red"} or seasonal.read(
        "red lamps"
    ).slots() == {"category=red Lamp"}


@pytest.mark.parametrize(
    "sentence",
    ["purple elephants", "what's the weather?", "how do I cook rice", "\u4f60\u597d", "?!...", "\x1b[2J"],
)
def test_out_of_scope_is_said(understanding: Understanding, sentence: str) -> None:
    found = understanding.read(sentence)
    assert not found.in_scope and found.task == "JustForYou" and not found.slots()
    assert "names a task or a value" in found.told()[0]


@given(st.text(max_size=300))
def test_any_text_is_read(understanding: Understanding, text: str) -> None:
    found = understanding.read(text)
    assert found.sentence == text and found.told()


def test_references_take_the_title_and_leave_values_alone(understanding: Understanding) -> None:
    lexicon = understanding.lexicon
    (item,) = understanding.read("hats like model Oslo 4").like
    assert lexicon.material.words.titles[item] == "model Oslo 4"
    assert understanding.read("I like hats").like == ()
    unwanted = understanding.read("nothing like model Oslo 4")
    assert not unwanted.like and unwanted.slots() == {"-like=model Oslo 4"}


def test_what_the_data_lack_is_said(understanding: Understanding, seasonal: Understanding) -> None:
    assert seasonal.read("a cheap lamp").missing == ("the data have no prices",)
    assert "no years" in seasonal.read("a lamp from the 90s").missing[0]
    assert understanding.read("purple hats").unread == ("purple",)


def test_what_is_allowed_is_what_was_stated(understanding: Understanding) -> None:
    lexicon = understanding.lexicon
    words, counts = lexicon.material.words, lexicon.counts
    categories = [set(path) for path in words.categories]

    def mask(sentence: str, history: tuple[int, ...] = ()) -> np.ndarray:
        return allowed(understanding.read(sentence), lexicon, history)

    hats = np.array(["Hats" in names for names in categories])
    assert (mask("hats") == hats).all() and hats.sum() == 16
    no_hats = ~hats
    no_hats[0] = False
    assert (mask("no hats") == no_hats).all()
    acme = np.array([brand == "Acme" for brand in words.brands])
    assert (mask("hats not by acme") == (hats & ~acme)).all()
    rome = np.array(["Rome" in title for title in words.titles])
    assert (mask("rome") == rome).all() and (mask("hats, no rome") == (hats & ~rome)).all()
    prices = lexicon.prices
    assert prices is not None and (mask("hats under 20") == (hats & (prices <= 20))).all()
    assert prices[mask("cheap ones")].max() < prices[mask("expensive ones")].min()
    tail = mask("a hidden gem")
    assert (tail == lexicon.tail).all() and counts[tail].max() <= counts[mask("popular ones")].min()
    some_hat = int(np.flatnonzero(hats)[0])
    assert not (mask("surprise me", (some_hat,)) & hats).any()
    assert mask("purple elephants").sum() == lexicon.n - 1


def test_the_model_reads_the_wording_of_training(understanding: Understanding) -> None:
    tasks = understanding.lexicon.tasks
    for sentence, text in (
        ("give me some hats", "Recommend an item from the category: Hats"),
        ("hats pls", "Recommend an item from the category: Hats"),
        ("a hidden gem", tasks["Longtail"].task.templates[0]),
        ("rome", "The user is searching for: rome"),
        ("by acme", "The user is searching for: acme"),
        ("purple elephants", ""),
        ("recommend something", ""),
    ):
        assert instruction(understanding.read(sentence), tasks) == text, sentence
    assert instruction(understanding.read("hats"), {}) == ""


def test_other_wordings_are_understood(understanding: Understanding) -> None:
    wordings = other_wordings(understanding.lexicon)
    assert len(wordings) == 3 and all(understanding.read(text).in_scope for text in wordings)


def test_held_out_events_change_no_popularity(understanding: Understanding) -> None:
    lexicon = understanding.lexicon
    material = lexicon.material
    items = material.items.copy()
    held = material.part > 0
    items[held] = items[held][::-1]
    other = Lexicon(dataclasses.replace(material, items=items), lexicon.tasks, lexicon.years)
    assert (items != material.items).any()
    for kind in ("popular", "longtail"):
        assert (other.mask(Value(kind, kind)) == lexicon.mask(Value(kind, kind))).all()
    assert other.typed == lexicon.typed and other.titles == lexicon.titles


def test_a_price_column_must_be_a_loaded_number(wardrobe: dict[str, Any]) -> None:
    for column, sentence in (
        ("colour", "no loaded column 'colour'"),
        ("kind", "'kind' of wardrobe.item is not of type"),
    ):
        config = RunConfig("SIGMA", "wardrobe", config_dict={**wardrobe, "price_field": column})
        with pytest.raises(UserError, match=sentence):
            prices_of(load_data(config, config.model_class).train._dataset, config)


def test_every_wording_of_a_task_is_read_as_its_task(seasonal: Understanding) -> None:
    wrong = []
    for name, rows in seasonal.lexicon.tasks.items():
        slot = {"pseudo": "blue model", "category": "Lawn"}.get(
            rows.kind, rows.values[0] if rows.values else ""
        )
        for template in (*rows.task.templates, rows.task.held_out):
            text = rows.task.fill(template, slot)
            found = seasonal.read(text)
            if found.task != name:
                wrong.append((text, name, found.task))
    assert not wrong
