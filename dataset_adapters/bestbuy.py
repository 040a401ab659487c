"""Best Buy hackathon 2012: real search queries, each with the item clicked after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dataset_adapters.events import EventLog, FeatureTable, Field, Roles
from dataset_adapters.job import Adapter, Input, Job
from dataset_adapters.values import Clock, clean_id

_COLUMNS = ["user", "sku", "click_time", "query", "category"]


def events(job: Job) -> EventLog:
    """Read the clicks of all files as one log; the query string is kept as typed."""
    log, clock = EventLog(texts=("query",)), Clock("iso")
    log.query_field = "query"
    categories: dict[str, str] = job.scratch.setdefault("categories", {})

    def handle(cells: list[Any]) -> None:
        user, sku, time, query, category = cells
        log.add(user, sku, clock(time), (), (job.text.text(query, "query"),))
        categories.setdefault(clean_id(sku, "item"), job.text.text(category, "category"))

    for path in job.paths("clicks"):
        job.reader.table("clicks", path, _COLUMNS, handle)
    return log


def items(job: Job, keys: Sequence[str]) -> FeatureTable | None:
    """Read item names where given; the category is the one of the item's clicks."""
    categories: dict[str, str] = job.scratch["categories"]
    table = job.feature_table(keys, (Field("title"), Field("category")))
    table.roles = Roles(text=("title",), category="category")

    def handle(line: str) -> None:
        sku, _, name = line.partition("\t")
        key = clean_id(sku, "item")
        table.put(key, (job.text.text(name, "name"), categories.get(key, "")))

    for path in job.paths("names"):
        job.reader.lines("names", path, handle)
    bare = [key for key, row in table.rows.items() if row is None]
    if bare:
        job.counts["items_without_a_name"] = len(bare)
        job.warnings.append(f"{len(bare):,} of {len(table.rows):,} items have no name and stay without text")
    for key in bare:
        table.rows[key] = ("", categories.get(key, ""))
    return table


BESTBUY = Adapter(
    name="bestbuy",
    summary="Best Buy searches of 2011 (ACM SF hackathon 2012): real query strings with the clicked item",
    inputs=(
        Input(
            "clicks",
            "train.csv and others of its columns: user,sku,category,query,click_time,query_time",
            ("*.csv*",),
            True,
            True,
        ),
        Input("names", "item names, 'sku<TAB>name' a line", ("*name*.tsv*", "*.tsv*")),
    ),
    events=events,
    items=items,
    default_name=lambda job: "bestbuy",
    protocols=("global-time", "leave-one-out"),
    licence="Kaggle competition data: for the competition; private testing only",
    citation="Data Mining Hackathon on (small) data: Best Buy mobile web site, ACM SF Bay Area chapter, 2012",
    homepage="https://www.kaggle.com/c/acm-sf-chapter-hackathon-small",
    example="--clicks train.csv --names sku_name.tsv",
    left_out=(("query_time", "click_time orders the events"),),
    notes=(
        "query holds the search string as typed before the click, case kept: the Query task uses it, "
        "nothing is made up.",
        "Files are read in the order given and sorted by click_time; a random split of the source does "
        "not matter.",
        "Times have milliseconds and are written with them. Most users have one click: cold users, not "
        "sequences.",
    ),
)
