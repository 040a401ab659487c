"""MiniOneRec's Amazon files: prediction rows in csv, items and semantic IDs in JSON, split as shipped."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

from dataset_adapters.amazon import python_list_text
from dataset_adapters.errors import AdapterError, BadRow
from dataset_adapters.events import EventLog, FeatureTable, Field, PublishedSplit, Roles
from dataset_adapters.job import Adapter, Input, Job, slug, stem
from dataset_adapters.values import clean_id

SPLITS = ("train", "valid", "test")
_COLUMNS = ["user_id", "history_item_id", "item_id"]


def events(job: Job) -> EventLog:
    """Stitch the rows of each user to one sequence and keep the rows as the published split.

    A row holds at most ten items of history and the target, so consecutive rows of a user overlap; each must
    continue the sequence so far, or the files do not belong together. Items before a user's first row
    count as train events.

    Raises:
        AdapterError: a split file is missing for the published protocol, or a row does not continue its
            user's sequence.
    """
    log = EventLog(texts=("split",))
    log.scale = 1
    sequences: dict[str, list[str]] = {}
    if job.options.protocol == "published" and not all(job.paths(s) for s in SPLITS):
        missing = next(s for s in SPLITS if not job.paths(s))
        raise AdapterError(
            f"--protocol published needs --{missing}; without it, --protocol leave-one-out uses the "
            f"rows there are"
        )
    for name in SPLITS:
        split = PublishedSplit()

        def handle(cells: list[Any], split: PublishedSplit = split, name: str = name) -> None:
            user, target = clean_id(cells[0], "user"), clean_id(cells[2], "item")
            history = _history(cells[1])
            known = sequences.get(user, [])
            if known and known[-len(history) :] != history:
                raise BadRow(
                    f"the history of user {user!r} does not continue the rows before, "
                    f"so the files do not belong together"
                )
            sequence = sequences.setdefault(user, [])
            for item in [*history, target] if not known else [target]:
                sequence.append(item)
                log.add(
                    user,
                    item,
                    len(sequence),
                    (),
                    (name if len(sequence) > len(history) or known else "train",),
                )
            split.users.append(user)
            split.histories.append(tuple(history))
            split.targets.append(target)
            split.times.append(len(sequence))

        for path in job.paths(name):
            job.reader.table(name, path, _COLUMNS, handle)
        if split.targets:
            job.splits[name] = split
    if not job.splits:
        raise AdapterError("minionerec needs at least one of --train, --valid and --test")
    return log


def _history(text: Any) -> list[str]:
    try:
        values = ast.literal_eval(text) if isinstance(text, str) else text
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        values = None
    if not isinstance(values, list) or not values:
        raise BadRow(f"history_item_id is {str(text)[:40]!r}, a non-empty list like [12, 7] expected")
    return [clean_id(value, "item") for value in values]


def items(job: Job, keys: Sequence[str]) -> FeatureTable | None:
    """Read item texts, and keep the published semantic IDs as ``NAME.index.json`` for ``tokenizer: file:``.

    The published catalogue is the whole index, so items without an event are kept too.
    """
    text = job.text
    table = FeatureTable(
        keys,
        (Field("title"), Field("brand"), Field("categories", "token_seq"), Field("description")),
        grow=True,
    )
    table.roles = Roles(("title", "brand", "categories", "description"), "categories", "brand")
    path = job.path("items")
    for number, record in job.reader.document("items", path).items():
        try:
            if not isinstance(record, dict):
                raise BadRow(f"a {type(record).__name__}, an object expected")
            categories = record.get("categories") or []
            categories = categories.split(",") if isinstance(categories, str) else categories
            table.put(
                clean_id(number, "item"),
                (
                    text.text(record.get("title"), "title"),
                    text.text(record.get("brand"), "brand"),
                    text.texts(categories, "category"),
                    text.text(python_list_text(record.get("description")), "description"),
                ),
            )
        except BadRow as reason:
            raise AdapterError(f"{path}: item {number!r}: {reason}") from None
    if job.paths("index"):
        index = job.reader.document("index", job.path("index"))
        bare = [key for key in table.rows if key not in index]
        for number, code in index.items():
            if not isinstance(code, list) or not all(isinstance(c, str) for c in code):
                raise AdapterError(
                    f"{job.path('index')}: item {number!r}: a list like ['<a_12>', '<b_3>'] expected"
                )
        if bare:
            job.warnings.append(f"{len(bare):,} items have no published semantic ID")
        kept = {key: index[key] for key in table.rows if key in index}
        job.counts["published_semantic_ids"] = len(kept)
        job.files["index.json"] = json.dumps(kept, ensure_ascii=False, indent=0) + "\n"
    return table


def _default_name(job: Job) -> str:
    category = re.sub(r"^(index__|train__|valid__|test__)|(\.item|\.index)$", "", stem(job.path("items")))
    short = {"Office_Products": "office", "Industrial_and_Scientific": "industrial"}
    return short.get(category, slug(category))


MINIONEREC = Adapter(
    name="minionerec",
    summary="Amazon 2018 as MiniOneRec publishes it: split csv files, item texts, semantic IDs (Office, "
    "Industrial)",
    inputs=(
        Input("test", "test/X_5_2016-10-2018-11.csv", ("test*.csv*", "*test*.csv*")),
        Input("valid", "valid/X_5_2016-10-2018-11.csv", ("valid*.csv*", "*valid*.csv*")),
        Input("train", "train/X_5_2016-10-2018-11.csv", ("train*.csv*", "*train*.csv*")),
        Input("items", "index/X.item.json", ("*.item.json*",), True),
        Input("index", "index/X.index.json, the published semantic IDs", ("*.index.json*",)),
    ),
    events=events,
    items=items,
    default_name=_default_name,
    protocols=("published", "leave-one-out"),
    licence="Apache-2.0 (repository); Amazon review data 2018: research use",
    citation="MiniOneRec, arXiv 2510.24431; Ni, Li, McAuley, EMNLP 2019",
    homepage="https://github.com/AkaliKong/MiniOneRec (folder data/Amazon)",
    left_out=(
        (
            "history_item_title, item_title, *_sid",
            "repeated on every row; texts and semantic IDs come from the JSON files",
        ),
    ),
    html="unescape",
    example="--train train.csv --valid valid.csv --test test.csv --items X.item.json --index X.index.json",
    notes=(
        "Order only, no times: timestamp is the position in the user's stitched sequence.",
        "NAME.inter is that stitched log with a column split; NAME.train/valid/test.inter are the rows "
        "as shipped, with at most ten items of history.",
        "The catalogue is the whole published index, items without an event included.",
        "Without the train file (it is large and often missing from copies) only the users of valid and "
        "test are there.",
    ),
)
