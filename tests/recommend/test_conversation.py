"""A dialogue keeps its state: facts add up, contradictions win, and the last list can be spoken of."""

from __future__ import annotations

import io
import sys

import pytest

from recbole_sigma.commands.main import main
from recbole_sigma.evaluation.tasks.dialogue_rubric import (
    CONSTRAINT_LINES,
    LINES,
    Oracle,
    PopularList,
    converse,
)
from recbole_sigma.evaluation.tasks.dialogue_user import Person, Script
from recbole_sigma.recommend.conversation import Conversation
from recbole_sigma.recommend.dialogue import Talker, drawn_people
from recbole_sigma.recommend.recommender import Recommender
from recbole_sigma.values import UserError
from tests.planted import build, tiny, wardrobe_config, write_wardrobe

HISTORY = ["hats0", "hats1", "shoe3"]


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """PackedSASRec with fresh weights on the wardrobe: it was trained on nothing, least of all on tasks."""
    root = tmp_path_factory.mktemp("talk")
    write_wardrobe(root / "wardrobe")
    values = {**wardrobe_config(root), **tiny("PackedSASRec")}
    config, data, model = build("PackedSASRec", "wardrobe", values)
    return Recommender(config, model, data.train._dataset, data.train._dataset, data.test)


@pytest.fixture
def talk(recommender: Recommender) -> Conversation:
    return Conversation(recommender, history=HISTORY, k=5)


def kinds(turn: object) -> set[str]:
    return {row.item[:4] for row in turn.answer.items}  # type: ignore[attr-defined]


def items(turn: object) -> list[str]:
    return [row.item for row in turn.answer.items]  # type: ignore[attr-defined]


def test_facts_add_up_and_the_newest_contradiction_wins(talk: Conversation, recommender: Recommender) -> None:
    brands = {
        token: brand for token, brand in zip(recommender.material.tokens, recommender.material.words.brands)
    }
    assert kinds(talk.say("hats")) == {"hats"}
    turn = talk.say("by acme")
    assert kinds(turn) == {"hats"} and {brands[item] for item in items(turn)} == {"Acme"}
    turn = talk.say("not acme")
    assert kinds(turn) == {"hats"} and {brands[item] for item in items(turn)} == {"St. Burt Inc"}
    turn = talk.say("shoes, please")
    assert kinds(turn) == {"shoe"} and {brands[item] for item in items(turn)} == {"St. Burt Inc"}
    assert "in place of category Hats" in turn.answer.notes
    assert "shoe" not in kinds(talk.say("no shoes"))
    assert kinds(talk.say("shoes after all")) == {"shoe"}


def test_sentences_about_the_list(talk: Conversation, recommender: Recommender) -> None:
    first = talk.say("hats")
    other = talk.say("something else")
    assert kinds(other) == {"hats"} and not set(items(first)) & set(items(other))
    gone = items(other)[1]
    assert gone not in items(talk.say("I have seen the second one"))
    second = items(talk.say("next"))[1]
    turn = talk.say("more like the second")
    assert any(recommender.title(recommender.number(second)) in note for note in turn.answer.notes)
    assert second not in items(turn) and kinds(turn) == {"hats"}
    turn = talk.say("number 9 is fine, not the 9th")
    assert "no number 9" in " ".join(turn.answer.notes)


def test_why_explains_one_item_and_changes_nothing(talk: Conversation) -> None:
    before = talk.say("hats")
    turn = talk.say("why the third?")
    assert items(turn) == items(before)
    assert turn.why.startswith(before.answer.items[2].title) and "voted for by" in turn.why
    assert talk.say("why not shoes?").why == ""


def test_taking_back_and_starting_over(talk: Conversation) -> None:
    plain = items(talk.say("recommend something"))
    talk.say("no hats")
    turn = talk.say("forget the hats")
    assert items(turn) == plain and "taken back" in turn.answer.notes
    talk.say("coats")
    assert items(talk.say("start over")) == plain
    assert "nothing like that" in talk.say("forget the shoes").answer.notes[0]


def test_what_is_not_understood_keeps_the_state(talk: Conversation) -> None:
    before = talk.say("hats")
    turn = talk.say("purple elephants")
    assert items(turn) == items(before) and "names a task or a value" in turn.answer.notes[0]
    with pytest.raises(UserError, match="it is empty"):
        talk.say("  ")
    assert items(talk.say("hats")) == items(before)


def test_a_question_only_while_two_slots_are_open(talk: Conversation) -> None:
    assert "category" in talk.say("recommend something").question
    assert "brand" in talk.say("hats").question  # brand and year are open
    assert talk.say("by acme").question == ""


def test_a_turn_without_facts_is_the_plain_list(talk: Conversation, recommender: Recommender) -> None:
    person = Person((1, 2), 3, (), ())
    said = Script(person, recommender.lexicon, 0).say(())
    assert said is not None
    assert items(talk.say(said.sentence)) == [row.item for row in recommender.recommend(history=HISTORY, k=5)]


def test_the_rubric_has_its_known_answers(recommender: Recommender) -> None:
    lexicon, people = recommender.lexicon, drawn_people(recommender, 20)
    assert len(people) >= 10 and all(lexicon.mask(v)[p.target] for p in people for v in p.wanted)
    assert not any(lexicon.mask(v)[p.target] for p in people for v in p.disliked)
    length = 40
    perfect = converse(Oracle(lexicon, length), lexicon, people, length)["lines"]
    assert {line: perfect[line]["value"] for line in LINES} == dict.fromkeys(LINES, 1.0)
    popular = converse(PopularList(lexicon, length), lexicon, people, length)["lines"]
    for line in LINES:
        assert (popular[line]["value"] < 1.0) is (line in CONSTRAINT_LINES), line
    own = converse(Talker(recommender, length), lexicon, people, length)["lines"]
    for line in LINES:
        assert own[line]["value"] == 1.0, line


def test_a_talker_that_forgets_is_caught(recommender: Recommender) -> None:
    class Forgetful(Talker):
        def say(self, said):  # type: ignore[no-untyped-def]
            self.talk.start()
            return super().say(said)

    lexicon, people = recommender.lexicon, drawn_people(recommender, 20)
    lines = converse(Forgetful(recommender, 40), lexicon, people, 40)["lines"]
    assert lines["facts"]["value"] < 1.0


def test_the_terminal(chosen_run, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sys, "stdin", io.StringIO("green\n\nnot green\n" + "x" * 2000 + "\nwhy\nbye\n"))
    words = [f"--checkpoint={chosen_run['checkpoint']}", "--history=red0", "--chat", "--k=2"]
    assert main(["recommend", *words]) == 0
    text = capsys.readouterr().out
    assert "the green thing" in text and "no category green" in text
    assert "> not green\n" in text, "what came through a pipe is shown before its answer"
    assert "2000 characters" in text and "voted for by" in text
    for wrong in ("--users_file=u.txt", "--format=json"):
        assert main(["recommend", *words, wrong]) == 2
    assert main(["recommend", words[0], "--history=red0", "--instruction=green", "--explain", "--k=2"]) == 0
    assert "1. the green thing" in capsys.readouterr().out


def test_escapes_of_a_sentence_are_not_printed_raw(chosen_run, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\x1b]0;owned\x07 elephants\n"))
    assert main(["recommend", f"--checkpoint={chosen_run['checkpoint']}", "--history=red0", "--chat"]) == 0
    text = capsys.readouterr().out
    assert "elephants" in text and "\x1b" not in text and "\x07" not in text


def test_what_is_typed_may_be_no_text(chosen_run, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    """Bytes that are no UTF-8, and a line without end, which is read in parts."""
    typed = io.TextIOWrapper(io.BytesIO(b"\xff\xfegreen\n\0" + b"x" * 250_000), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", typed)
    assert main(["recommend", f"--checkpoint={chosen_run['checkpoint']}", "--history=red0", "--chat"]) == 0
    assert capsys.readouterr().out.count("write at most 1000") == 3
