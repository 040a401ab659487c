"""Which task a free sentence is nearest to: word overlap with the tasks' templates and slot values."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from recbole_sigma.instructions.phrases import words_of
from recbole_sigma.instructions.rules import TaskRows
from recbole_sigma.instructions.tasks import GENERAL

NAMED_SLOT = 0.5  # what a slot value inside the sentence adds to its task's similarity
FAINTEST = 0.1  # below this similarity a sentence is a plain request


def nearest_task(sentence: str, rows: Iterable[TaskRows]) -> tuple[str, str | None]:
    """The task whose wording a sentence resembles most.

    Similarity is the cosine of TF-IDF word vectors against each template; a category, season or holiday that
    stands in the sentence counts for its task. Queries are open text and count by their templates only.

    Args:
        sentence: what the person typed.
        rows: the tasks that a model was trained on.

    Returns:
        (task name, the slot value found in the sentence or None).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    tasks = list(rows)
    owners, texts = [], []
    for number, found in enumerate(tasks):
        for template in (*found.task.templates, found.task.held_out):
            owners.append(number)
            texts.append(found.task.fill(template, ""))
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    table = vectorizer.fit_transform(texts)
    likeness = (table @ vectorizer.transform([sentence]).T).toarray()[:, 0]
    best = np.zeros(len(tasks))
    np.maximum.at(best, np.array(owners), likeness)
    slots: list[str | None] = []
    for number, found in enumerate(tasks):
        slot = None if found.kind in ("", "typed", "pseudo") else slot_in(sentence, found.values)
        slots.append(slot)
        best[number] += NAMED_SLOT * (slot is not None)
    winner = int(best.argmax())
    if best[winner] < FAINTEST:
        winner = [found.task.name for found in tasks].index(GENERAL)
    return tasks[winner].task.name, slots[winner]


def slot_in(sentence: str, values: Iterable[str]) -> str | None:
    """The longest value whose words stand next to each other in a sentence, or None.

    >>> slot_in("a good sci-fi film", ["Drama", "Sci-Fi"])
    'Sci-Fi'
    """
    text = f" {' '.join(words_of(sentence))} "
    named = [value for value in values if words_of(value) and f" {' '.join(words_of(value))} " in text]
    return max(named, key=len) if named else None
