"""What an understood sentence becomes: the items it allows, and the words that a trained model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from recbole_sigma.instructions.phrases import normalise_query
from recbole_sigma.instructions.rules import TaskRows
from recbole_sigma.understanding.lexicon import Lexicon, Value
from recbole_sigma.understanding.request import Understood


def allowed(understood: Understood, lexicon: Lexicon, history: Sequence[int]) -> np.ndarray:
    """The items that satisfy everything that a sentence states: bool [N], False for padding.

    Args:
        understood: the sentence.
        lexicon: which items have a value.
        history: the person's items, oldest first.
    """
    left = np.ones(lexicon.n, dtype=bool)
    left[0] = False
    for group in understood.include:
        left &= np.logical_or.reduce([lexicon.mask(value, history) for value in group])
    for value in understood.exclude:
        left &= ~lexicon.mask(value, history)
    holding = lexicon.mask(Value("query", understood.query)) if understood.query else left
    # a query that people typed may be in no title ("mw3"): a model that was trained on it knows what it means
    return left & holding if holding.any() else left


def instruction(understood: Understood, trained: Mapping[str, TaskRows]) -> str:
    """The sentence in the words of training: the first wording of its task, '' for the plain list.

    However a person puts it, the model reads the wording that it was trained and judged on.

    Args:
        understood: the sentence.
        trained: the tasks that the model was trained on, by name.
    """
    rows = trained.get(understood.task)
    if rows is None or rows.task.rule == "next_item":
        return ""
    template = rows.task.templates[0]
    named = [value for group in understood.include for value in group]
    if rows.kind in ("season", "holiday"):
        return rows.task.fill(template, next(v.name for v in named if v.kind == rows.kind))
    texts = [value.name for value in named if value.kind in ("category", "brand")]
    if rows.kind == "category":
        known = [value.name for value in named if value.kind == "category" and value.name in rows.values]
        search = next((other for other in trained.values() if other.task.rule == "query"), None)
        if known or search is None:
            return rows.task.fill(template, " ".join([*(known or texts), understood.query]).strip())
        rows, template = search, search.task.templates[0]
    if not rows.task.slots:
        return template
    words = " ".join([*texts, understood.query])
    return rows.task.fill(template, normalise_query(words, rows.task.options["longest"]))


def other_wordings(lexicon: Lexicon, most: int = 3) -> list[str]:
    """Sentences that are understood on this data set, for a person whose own was not."""
    found = []
    for kind, pattern in (("category", "{}, please"), ("brand", "something by {}")):
        members = lexicon.members[kind]
        names = sorted((name for name in members if name), key=lambda name: -len(members[name]))
        named = [name for name in names if len(members[name]) < lexicon.n // 2]
        found += [pattern.format(name) for name in named[:1]]
        if kind == "category" and len(named) > 1:
            found.append(f"anything but {named[1]}")
    rules = {rows.task.rule for rows in lexicon.tasks.values()}
    found += ["a hidden gem"] if "longtail" in rules else []
    best = int(np.argmax(lexicon.counts))
    if title := lexicon.material.words.titles[best]:
        found.append(f"something like {title}")
    return found[:most] if len(found) <= most else [*found[: most - 1], found[-1]]
