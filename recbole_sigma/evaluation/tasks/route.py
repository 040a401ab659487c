"""How well sentences are understood: routing, slots, and both together, on labelled sentences.

The style is that of Auto-SLURP (arXiv 2504.18373): intent and slots, judged end to end. The sentences are
ours, one file per data set in ``properties/sentences``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_sigma.settings.reading import MAX_VALUES, load_yaml, nearest
from recbole_sigma.understanding.lexicon import Lexicon
from recbole_sigma.understanding.reader import Understanding
from recbole_sigma.understanding.request import Understood
from recbole_sigma.understanding.words import content, stem, tokens_of
from recbole_sigma.values import UserError

NONE = "none"
"""The task of a sentence that asks for nothing the data have."""
KINDS = ("category", "brand", "season", "holiday", "query", "year", "price", "like", "popular")


@dataclass(frozen=True)
class Labelled:
    """A sentence with what it means.

    Attributes:
        sentence: as a person typed it.
        task: name of a task, or `NONE`.
        slots: ``kind=name``, exclusions with a leading ``-``.
    """

    sentence: str
    task: str
    slots: frozenset[str]


LONGEST = 1000  # characters of a sentence, as `recommend` reads them


def load_sentences(path: Path) -> dict[str, list[Labelled]]:
    """Labelled sentences by part: ``part: [[sentence, task, slot, ...], ...]``.

    Raises:
        UserError: no such file, no YAML, or a line that is no labelled sentence.
    """
    raw = load_yaml(path, what="the file of labelled sentences", flow=MAX_VALUES)
    if not raw:
        raise UserError(f"{path}: give parts, each a list of [sentence, task, slot, ...]")
    found: dict[str, list[Labelled]] = {}
    for part, rows in raw.items():
        for number, row in enumerate(rows if isinstance(rows, list) else [None], 1):
            if not isinstance(row, list) or len(row) < 2 or not all(isinstance(text, str) for text in row):
                raise UserError(f"{path}: {part}: entry {number} is not [sentence, task, slot, ...]")
            if len(row[0]) > LONGEST:
                raise UserError(
                    f"{path}: {part}: entry {number} has {len(row[0])} characters: write at most {LONGEST}"
                )
            for slot in row[2:]:
                kind = slot.removeprefix("-").partition("=")[0]
                if kind not in KINDS:
                    raise UserError(
                        f"{path}: {part}: entry {number}: unknown slot {slot!r}{nearest(kind, KINDS)}"
                    )
            found.setdefault(str(part), []).append(
                Labelled(row[0], row[1], frozenset(map(_comparable, row[2:])))
            )
    return found


def _comparable(slot: str) -> str:
    """A slot with the words of a query reduced to stems of content words, in order."""
    kind, equals, name = slot.partition("=")
    if not kind.endswith("query"):
        return slot
    words = [token.text for token in tokens_of(name) if token.text != ","]
    return f"{kind}{equals}{' '.join(stem(word) for word in content(words) or words)}"


def _searched(slot: str) -> bool:
    """Whether a slot holds words to search for, not a value of the data."""
    return slot.removeprefix("-").startswith("query=")


def slots_of(understood: Understood, lexicon: Lexicon) -> frozenset[str]:
    """What was understood, as labelled sentences write it."""
    likes = {f"like={lexicon.material.words.titles[item]}" for item in understood.like}
    return frozenset(map(_comparable, understood.slots() | likes))


def route(understanding: Understanding, labelled: Sequence[Labelled]) -> dict[str, Any]:
    """Figures of one list of sentences.

    Returns:
        ``routing`` (share of sentences in scope with the right task), ``slots_exact``, ``slot_f1``
        (micro), ``value_f1`` (micro, over what is no search word, on sentences that name a value of the
        data), ``end_to_end`` (task and slots right), ``out_of_scope`` (share of sentences out of scope
        that are told so), ``negation_exact`` (exclusions of sentences that have some), each with its
        ``n``; ``confusion`` (task, read as) -> count; ``wrong``.
    """
    confusion: Counter[tuple[str, str]] = Counter()
    wrong: list[dict[str, Any]] = []
    scores: dict[str, list[float]] = {
        name: [] for name in ("routing", "slots_exact", "end_to_end", "out_of_scope", "negation_exact")
    }
    pairs = {"slot_f1": Counter(), "value_f1": Counter()}  # type: ignore[var-annotated]
    for row in labelled:
        found = understanding.read(row.sentence)
        task = found.task if found.in_scope else NONE
        slots = slots_of(found, understanding.lexicon)
        confusion[row.task, task] += 1
        right = task == row.task
        if row.task == NONE:
            scores["out_of_scope"].append(right)
        else:
            scores["routing"].append(right)
        scores["slots_exact"].append(slots == row.slots)
        scores["end_to_end"].append(right and slots == row.slots)
        if any(slot.startswith("-") for slot in row.slots):
            own, other = ({slot for slot in part if slot[0] == "-"} for part in (row.slots, slots))
            scores["negation_exact"].append(own == other)
        named = [{slot for slot in part if not _searched(slot)} for part in (row.slots, slots)]
        pairs["slot_f1"].update(both=len(slots & row.slots), found=len(slots), true=len(row.slots))
        if named[0]:
            pairs["value_f1"].update(both=len(named[0] & named[1]), found=len(named[1]), true=len(named[0]))
        if not (right and slots == row.slots):
            wrong.append(
                {
                    "sentence": row.sentence,
                    "task": row.task,
                    "read_as": task,
                    "slots": sorted(row.slots),
                    "slots_read": sorted(slots),
                }
            )
    figures: dict[str, Any] = {
        name: {"value": sum(values) / len(values) if values else None, "n": len(values)}
        for name, values in scores.items()
    }
    for name, counts in pairs.items():
        total = counts["found"] + counts["true"]
        figures[name] = {"value": 2 * counts["both"] / total if total else None, "n": counts["true"]}
    figures["confusion"] = {f"{a} -> {b}": count for (a, b), count in sorted(confusion.items())}
    figures["wrong"] = wrong
    return figures


def unlike_templates(labelled: Sequence[Labelled], texts: Sequence[str], most: float = 0.5) -> float | None:
    """Share of the sentences whose TF-IDF cosine with every template is below ``most``; None without any.

    Args:
        labelled: the sentences.
        texts: templates of all tasks, without their slots.
        most: below this a sentence is unlike the templates.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    table = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    known = table.fit_transform(texts)
    rows = [row for row in labelled if row.task not in (NONE, "")]
    if not rows:
        return None
    likeness = (table.transform([row.sentence for row in rows]) @ known.T).max(axis=1).toarray()
    return float((likeness < most).mean())
