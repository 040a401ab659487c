"""Second readers: asked only where the rules find nothing, with models that the test builds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from recbole_sigma.understanding.paraphrase import EXAMPLES, InstructionModel, NearestExample, paraphrase_of
from recbole_sigma.understanding.reader import Understanding
from recbole_sigma.values import UserError

STRANGE = "take me somewhere else in the universe"


def bag(texts: Sequence[str]) -> np.ndarray:
    """Letters of a text, counted."""
    return np.array(
        [[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts], dtype=float
    )


def test_the_nearest_example_has_the_task() -> None:
    reader = NearestExample(bag)
    for task, texts in EXAMPLES.items():
        assert reader(texts[1], list(EXAMPLES)) == task
    assert reader(EXAMPLES["Longtail"][0], ["JustForYou", "Discover"]) != "Longtail"
    assert (
        NearestExample(
            lambda texts: np.array([[text in ("z",), text not in ("z",)] for text in texts], dtype=float)
        )("z", list(EXAMPLES))
        is None
    )


def test_it_is_asked_only_where_the_rules_find_nothing(understanding: Understanding) -> None:
    asked = []

    def reader(sentence: str, tasks: Sequence[str]) -> str | None:
        asked.append((sentence, tuple(tasks)))
        return "Longtail"

    both = Understanding(understanding.lexicon, reader)
    for sentence in ("hats", "a hidden gem", "recommend something", "no hats", "?!"):
        assert both.read(sentence) == understanding.read(sentence)
    assert not asked
    found = both.read(STRANGE)
    assert found.task == "Longtail" and found.in_scope and [g[0].kind for g in found.include] == ["longtail"]
    assert asked == [(STRANGE, ("JustForYou", "Discover", "Longtail"))]
    assert Understanding(understanding.lexicon, lambda sentence, tasks: None).read(STRANGE).in_scope is False


def test_an_encoder_folder(saved: Callable[[str], str]) -> None:
    reader = paraphrase_of(f"encoder:{saved('bert')}")
    assert isinstance(reader, NearestExample)
    vectors = reader.encode(["surprise me", "surprise me", "hidden"])
    assert (
        vectors.shape[0] == 3
        and np.allclose(vectors[0], vectors[1])
        and not np.allclose(vectors[0], vectors[2])
    )
    assert reader(EXAMPLES["Discover"][0], list(EXAMPLES)) == "Discover"


def test_an_instruction_model_takes_the_most_probable_answer(saved: Callable[[str], str]) -> None:
    reader = paraphrase_of(f"model:{saved('llama')}")
    assert isinstance(reader, InstructionModel)
    scores = {task: reader.score(STRANGE, EXAMPLES[task][0]) for task in EXAMPLES}
    best = max(scores, key=lambda task: scores[task])
    other = reader.score(STRANGE, "something else entirely")
    assert reader(STRANGE, list(EXAMPLES)) == (best if scores[best] > other else None)
    prompt = f"A person says: {STRANGE}\nIn other words, the person asks for: "
    ids = [
        reader.tokenizer.encode(text, add_special_tokens=False).ids
        for text in (prompt, EXAMPLES["Discover"][0])
    ]
    with torch.no_grad():
        table = reader.model(input_ids=torch.tensor([sum(ids, [])])).logits[0].log_softmax(-1)
    by_hand = np.mean([float(table[len(ids[0]) - 1 + i, token]) for i, token in enumerate(ids[1])])
    assert scores["Discover"] == pytest.approx(by_hand, abs=1e-4)
    assert reader(STRANGE, []) is None


@pytest.mark.parametrize("reader", ["rules", "encoder:", "encoder:nowhere", "model:nowhere", "other:x"])
def test_a_wrong_reader_is_one_sentence(reader: str) -> None:
    with pytest.raises(UserError, match="reader") as error:
        paraphrase_of(reader)
    assert "\n" not in str(error.value)
