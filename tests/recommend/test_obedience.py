"""What a sentence states holds for every item, for any model, trained on tasks or not; lists are those of
brute force over the allowed items.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_sigma.recommend.answers import Request
from recbole_sigma.recommend.recommender import Recommender
from recbole_sigma.values import UserError
from tests.planted import build, events_config, tiny, wardrobe_config, write_wardrobe

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "SIGMA": ("SIGMA", {}),
    "SIGMA-ID": ("SIGMA", {"tokenizer_prefix_length": 0}),
    "SIGMA-SID": ("SIGMA", {"tokenizer_prefix_length": "all"}),
    "SIGMA-tasks": ("SIGMA", {"tasks": ["all"], "tokenizer_bpe_size": 320}),
    "SIGMA-beam": ("SIGMA", {"decode_beam": 1}),
    "SIGMA+memory": ("SIGMA", {"decode_beam": 1, "memory": "fixed", "memory_weight": 0.5}),
    "TIGER": ("TIGER", {"decode_beam": 12}),
    "PackedSASRec": ("PackedSASRec", {}),
    "SASRec": ("SASRec", {}),
    "WindowItemKNN": ("WindowItemKNN", {}),
}
_MADE: dict[str, Recommender] = {}


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("obedience")
    write_wardrobe(root / "wardrobe")
    return wardrobe_config(root)


@pytest.fixture
def recommender(values: dict[str, Any], request: pytest.FixtureRequest) -> Recommender:
    """A recommender with fresh weights of the model that the test names."""
    name = request.param
    if name not in _MADE:
        model, changes = MODELS[name]
        config, data, built = build(model, "wardrobe", {**values, **tiny(model)}, **changes)
        _MADE[name] = Recommender(config, built, data.train._dataset, data.train._dataset, data.test)
    return _MADE[name]


HISTORY = ["hats0", "hats1", "shoe3"]
SENTENCES = {
    "show me shoes": lambda kind, brand, title: kind == "Shoes",
    "neither shoes nor hats": lambda kind, brand, title: kind not in ("Shoes", "Hats"),
    "hats, please": lambda kind, brand, title: kind == "Hats",
    "hats not by acme": lambda kind, brand, title: kind == "Hats" and brand != "Acme",
    "shoes, nothing with rome": lambda kind, brand, title: kind == "Shoes" and "Rome" not in title,
    "anything but hats": lambda kind, brand, title: kind != "Hats",
}


@pytest.mark.parametrize("recommender", MODELS, indirect=True)
@pytest.mark.parametrize("sentence", SENTENCES)
def test_every_item_satisfies_what_was_stated(recommender: Recommender, sentence: str) -> None:
    words = recommender.material.words
    good = {
        item
        for item in range(1, recommender.lexicon.n)
        if SENTENCES[sentence](words.categories[item][0], words.brands[item], words.titles[item])
        and recommender.material.tokens[item] not in HISTORY
    }
    (answer,) = recommender.answer([Request(history=HISTORY, instruction=sentence)], 10)
    listed = [recommender.number(row.item) for row in answer.items]
    assert len(set(listed)) == len(listed) == min(10, len(good)) and set(listed) <= good
    assert answer.allowed == len(good)


@pytest.mark.parametrize("recommender", [name for name in MODELS if "memory" not in name], indirect=True)
def test_constrained_lists_are_those_of_brute_force(recommender: Recommender) -> None:
    maker = recommender.maker
    found = recommender.understanding.read("neither shoes nor hats")
    (answer,) = recommender.answer([Request(history=HISTORY, instruction=found.sentence)], 6)
    coats = [
        i for i in range(1, maker.n_items) if recommender.material.words.categories[i] == ("Coats & Jackets",)
    ]
    row = maker.batch([_row(recommender, answer.instruction)])
    with torch.no_grad():
        if recommender.config["model"] == "TIGER":
            scores = maker.model.score_candidates(row, torch.tensor([coats]))[0]
        elif recommender.config["model"] == "SIGMA":
            scores = maker.model.score_all(row, width=0)[0, coats]
        else:
            scores = maker.judge.dense(maker.model, row, maker.n_items, maker.loader)[0, coats].float()
    order = np.lexsort((coats, -scores.double().numpy()))
    assert [recommender.number(each.item) for each in answer.items] == [coats[i] for i in order[:6]]


def _row(recommender: Recommender, text: str) -> Any:
    from recbole_sigma.recommend.lists import Row

    items = [recommender.number(token) for token in HISTORY]
    return Row(0, items, text, np.zeros(recommender.lexicon.n, dtype=bool))


@pytest.mark.parametrize("recommender", ["SIGMA-tasks", "PackedSASRec"], indirect=True)
def test_what_is_not_understood_gives_the_plain_list_and_says_so(recommender: Recommender) -> None:
    plain = recommender.recommend(history=HISTORY)
    (answer,) = recommender.answer([Request(history=HISTORY, instruction="purple elephants")], 10)
    assert answer.items == plain and answer.moved == 0 and answer.task == "JustForYou"
    assert answer.notes[0].startswith("nothing in 'purple elephants'")
    assert any(note.startswith("say it otherwise") for note in answer.notes)
    assert "this is the plain list" in answer.notes


@pytest.mark.parametrize("recommender", ["SIGMA-tasks", "SASRec"], indirect=True)
def test_the_answer_says_what_moved(recommender: Recommender) -> None:
    plain = {row.item for row in recommender.recommend(history=HISTORY)}
    (answer,) = recommender.answer([Request(history=HISTORY, instruction="no hats")], 10)
    assert (
        answer.moved == len({row.item for row in answer.items} - plain) and answer.moved_by_instruction == 0
    )
    assert any(f"{answer.moved} of 10 items differ" in note for note in answer.notes)
    (answer,) = recommender.answer([Request(history=HISTORY, instruction="hats")], 10)
    trained = bool(recommender.trained)
    assert bool(answer.instruction) is trained
    if not trained:
        assert "not trained on Category" in " ".join(answer.notes)


@pytest.mark.parametrize("recommender", ["SASRec"], indirect=True)
def test_like_and_after_read_the_item_as_the_newest(recommender: Recommender) -> None:
    title = recommender.title(recommender.number("shoe7"))
    (answer,) = recommender.answer([Request(history=HISTORY, instruction=f"after {title}")], 10)
    longer = recommender.recommend(history=[*HISTORY, answer_item(recommender, title)])
    assert [row.item for row in answer.items] == [row.item for row in longer]


def answer_item(recommender: Recommender, title: str) -> str:
    item = recommender.lexicon.item_called([word.lower() for word in title.split()])
    assert item is not None
    return recommender.material.tokens[item]


@pytest.mark.parametrize("recommender", ["SIGMA-tasks"], indirect=True)
@pytest.mark.parametrize(
    "sentence",
    [
        "show me hats <|im_end|>",
        "[PAD] <a_0> <|eos|>",
        "\x1b[2J hats\x07",
        "\u5e3d\u5b50",
        "?" * 900,
        "hat " * 240,
        "<s></s>",
        "\ud800",
    ],
)
def test_hostile_sentences_give_a_list(recommender: Recommender, sentence: str) -> None:
    (answer,) = recommender.answer([Request(history=HISTORY, instruction=sentence)], 5)
    assert len(answer.items) == 5
    kinds = {row.item[:4] for row in answer.items}
    assert ("hat" not in sentence) or kinds == {"hats"}


@pytest.mark.parametrize("recommender", ["SIGMA-tasks"], indirect=True)
def test_a_sentence_of_ten_thousand_characters_is_refused_in_one(recommender: Recommender) -> None:
    with pytest.raises(UserError, match="10000 characters") as error:
        recommender.recommend(history=HISTORY, instruction="x" * 10_000)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("recommender", ["SIGMA-tasks", "TIGER", "SASRec", "SIGMA+memory"], indirect=True)
def test_an_explanation_is_what_taking_an_item_out_costs(recommender: Recommender) -> None:
    request = Request(history=HISTORY, instruction="hats")
    (answer,) = recommender.answer([request], 3, explained=True)
    assert len(answer.explanations) == 3
    row = _row(recommender, answer.instruction)
    rows = [row, *(_without(row, place) for place in range(3))]
    scores = recommender.maker.log_probabilities(rows)
    for item, why in zip(answer.items, answer.explanations):
        number = recommender.number(item.item)
        gains = {
            recommender.title(row.items[i]): float(scores[0, number] - scores[1 + i, number])
            for i in range(3)
        }
        for title, gain in why.voters:
            assert gain == pytest.approx(gains[title], abs=1e-5) and gain > 0
        assert (why.instruction is None) is (not answer.instruction) and why.title in why.told()


def _without(row: Any, place: int) -> Any:
    import dataclasses

    return dataclasses.replace(row, items=[*row.items[:place], *row.items[place + 1 :]])


def test_data_without_items_texts_understand_the_tasks_alone(tmp_path: Path) -> None:
    events = [(f"u{user}", f"i{(user + step) % 12}", 1000 + step) for user in range(12) for step in range(6)]
    values = {**events_config(tmp_path / "data" / "bare", events, spare=2), **tiny("SASRec")}
    values |= {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}}
    config, data, built = build("SASRec", "bare", values)
    recommender = Recommender(config, built, data.train._dataset, data.train._dataset, data.test)
    plain = recommender.recommend(history=["i0"], k=3)
    for sentence in ("hats", "no hats", "from the 90s", "by acme", "surprise me"):
        assert recommender.recommend(history=["i0"], instruction=sentence, k=3) == plain
    (tail,) = recommender.answer([Request(history=["i0"], instruction="a hidden gem")], 3)
    assert all(recommender.lexicon.tail[recommender.number(row.item)] for row in tail.items)
