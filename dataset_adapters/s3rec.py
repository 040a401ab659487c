"""Sequence files as S3-Rec published them: ``user item item ...`` a line, attributes and id maps beside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset_adapters import amazon, yelp
from dataset_adapters.errors import AdapterError, BadRow
from dataset_adapters.events import EventLog, FeatureTable, Field, Roles
from dataset_adapters.job import Adapter, Input, Job, Option, slug, stem
from dataset_adapters.statistics import sorted_share
from dataset_adapters.values import clean_id


def events(job: Job) -> EventLog:
    """Read the sequences; the position in the sequence becomes the time.

    Raises:
        AdapterError: a user occurs on two lines, or nearly all sequences ascend by item id: no time order.
    """
    log = EventLog()
    log.scale = 1
    maps = _maps(job)
    users, items = maps.get("user", {}), maps.get("item", {})
    seen: set[str] = set()

    def handle(line: str) -> None:
        raw_user, *sequence = line.split()
        if not sequence:
            raise BadRow("a user without items")
        if raw_user in seen:
            raise BadRow(f"user {raw_user!r} has a line of its own above")
        user, tokens = _named(raw_user, users, "user"), [_named(item, items, "item") for item in sequence]
        for token in tokens:
            log.items.code(token)  # all tokens are checked before any of them counts
        seen.add(raw_user)
        for position, token in enumerate(tokens, 1):
            log.add(user, token, position)

    path = job.path("sequences")
    job.reader.lines("sequences", path, handle)
    _refuse_sorted(job, path, log)
    return log


def _named(token: str, names: dict[str, str], what: str) -> str:
    if names and token not in names:
        raise BadRow(f"{what} {token!r} is not in the id map")
    return names.get(token, token)


def _refuse_sorted(job: Job, path: Path, log: EventLog) -> None:
    if job.option("allow-sorted") or not len(log):
        return
    columns = log.freeze()
    by_text = np.empty(len(columns.item_names), dtype=np.int64)
    by_text[np.argsort(np.array(columns.item_names))] = np.arange(len(by_text))
    share = sorted_share(columns.user, by_text[columns.item])
    if share > 0.9:
        raise AdapterError(
            f"{path}: the items of {share:.0%} of the users ascend by their id, so the lines are sorted "
            "by item, not by time (the Sports and Toys files of IDGenRec are); use the original file, "
            "or pass --allow-sorted if the order is right"
        )


def _maps(job: Job) -> dict[str, dict[str, str]]:
    """Number to token for ``user``, ``item`` and ``attribute``, from ``id2x`` or else from ``x2id``."""
    if "maps" in job.scratch:
        return job.scratch["maps"]
    found: dict[str, dict[str, str]] = job.scratch.setdefault("maps", {})
    for path in job.paths("maps"):
        document = job.reader.document("maps", path)
        for what in ("user", "item", "attribute"):
            forward, backward = document.get(f"id2{what}"), document.get(f"{what}2id")
            table = forward if isinstance(forward, dict) else None
            if table is None and isinstance(backward, dict):
                table = {str(number): name for name, number in backward.items()}
            if table is None:
                continue
            clean = str if what == "attribute" else lambda v, w=what: clean_id(v, w)
            try:
                found[what] = {str(number): clean(name) for number, name in table.items()}
            except BadRow as reason:
                raise AdapterError(f"{path}: id2{what}: {reason}") from None
            if len(set(found[what].values())) != len(found[what]) and what != "attribute":
                raise AdapterError(
                    f"{path}: id2{what} gives two numbers the same name, so sequences would merge"
                )
        if not found:
            raise AdapterError(
                f"{path}: has none of id2user, id2item, user2id, item2id; is it the datamaps.json?"
            )
    return found


def items(job: Job, keys: Sequence[str]) -> FeatureTable | None:
    """Read attributes, and titles from the metadata of Amazon 2014 or Yelp where given."""
    attributes = _attributes(job)
    meta = job.paths("meta")
    if not meta and attributes is None:
        job.warnings.append("neither --attributes nor --meta was given: items have no text")
        return None
    fields = (*amazon.ITEM_FIELDS[:3],) if meta else ()
    table = job.feature_table(
        keys, (*fields, *((Field("attributes", "token_seq"),) if attributes is not None else ()))
    )
    if meta:
        table.roles = Roles(("title", "brand", "categories"), "categories", "brand")
        for path in meta:
            job.reader.objects("meta", path, lambda record: _put_meta(job, table, record, attributes))
    else:
        table.roles = Roles(("attributes",), "attributes")
    blank: tuple[Any, ...] = ("", "", []) if meta else ()
    for key, names in (attributes or {}).items():
        if table.wants(key) and table.rows.get(key) is None:
            table.rows[key] = (*blank, names)
    return table


def _put_meta(
    job: Job, table: FeatureTable, record: dict[str, Any], attributes: dict[str, list[str]] | None
) -> None:
    raw = record.get("asin", record.get("business_id"))
    if raw is None:
        raise BadRow(
            f"neither 'asin' nor 'business_id' in the record, only {', '.join(map(repr, list(record)[:8]))}"
        )
    key = clean_id(raw, "item")
    if not table.wants(key):
        return
    if "business_id" in record:
        title, categories, _ = yelp.item_values(record, job.text)
        values: tuple[Any, ...] = (title, "", categories)
    else:
        values = amazon.item_values(record, job.text)[:3]
    table.put(key, (*values, attributes.get(key, [])) if attributes is not None else values)


def _attributes(job: Job) -> dict[str, list[str]] | None:
    """Attribute names by item token, or their numbers where no names are known."""
    if not job.paths("attributes"):
        return None
    maps = _maps(job)
    names: dict[str, str] = {}
    for path in job.paths("attribute-names"):
        names |= {str(k): str(v) for k, v in job.reader.document("attribute-names", path).items()}
    names = names or maps.get("attribute", {})
    item_names = maps.get("item", {})
    path = job.path("attributes")
    found: dict[str, list[str]] = {}
    unnamed = 0
    for number, values in job.reader.document("attributes", path).items():
        if not isinstance(values, list):
            raise AdapterError(
                f"{path}: item {number!r}: a list of attribute numbers expected, found "
                f"{type(values).__name__}"
            )
        labels = [names.get(str(v), "" if names else str(v)) for v in values]
        unnamed += labels.count("")
        found[item_names.get(number, number)] = job.text.texts(labels, "attribute")
    if unnamed:
        job.counts["attributes_without_a_name_left_out"] = unnamed
    return found


S3REC = Adapter(
    name="s3rec",
    summary="sequence files of S3-Rec and its followers (X.txt, X_item2attributes.json, datamaps.json)",
    inputs=(
        Input(
            "sequences",
            "'user item item ...' a line, oldest item first",
            ("*.txt", "*.txt.gz", "*.txt.zst"),
            True,
        ),
        Input("attributes", "JSON object: item number -> list of attribute numbers", ("*item2attributes*",)),
        Input(
            "maps",
            "JSON object with id2user, id2item and id2attribute (or user2id ...): numbers become real ids",
            ("*datamaps*",),
        ),
        Input("attribute-names", "JSON object: attribute number -> name", ("*attribute_names*",)),
        Input(
            "meta",
            "Amazon 2014 metadata or Yelp businesses, for titles (needs --maps)",
            ("meta_*", "*business*.json*"),
            many=True,
        ),
    ),
    options=(Option("allow-sorted", "accept sequences that ascend by item id", flag=True),),
    events=events,
    items=items,
    default_name=lambda job: slug(stem(job.path("sequences"))),
    protocols=("leave-one-out",),
    licence="that of the underlying data (Amazon reviews, Yelp, LastFM): research use; the S3-Rec "
    "repository has no licence file",
    citation="Zhou et al., S3-Rec, CIKM 2020, and the source of the data",
    homepage="https://github.com/RUCAIBox/CIKM2020-S3Rec",
    left_out=(("*_sample.txt", "sampled negatives: this project ranks the full catalogue"),),
    filter_seen=True,
    example="--sequences Beauty.txt --attributes Beauty_item2attributes.json --maps datamaps.json",
    notes=(
        "No times in these files: timestamp is the position in the user's sequence, 1, 2, ...",
        "attributes mix brand (first, when kept) and category path; with --meta they are written but "
        "not loaded.",
    ),
)
