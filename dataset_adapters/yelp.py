"""Yelp Open Dataset: reviews and businesses, one JSON object a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dataset_adapters.errors import BadRow
from dataset_adapters.events import EventLog, FeatureTable, Field, Roles
from dataset_adapters.job import Adapter, Input, Job
from dataset_adapters.rows import key_filter
from dataset_adapters.values import Clock, TextCleaner, clean_id, number

ITEM_FIELDS = (Field("title"), Field("categories", "token_seq"), Field("city"))
ITEM_ROLES = Roles(text=("title", "categories", "city"), category="categories")


def events(job: Job) -> EventLog:
    """Read the reviews; their stars, where all reviews have them, become the rating."""
    clock = Clock("iso")
    logs: list[EventLog] = []

    def handle(review: dict[str, Any]) -> None:
        absent = [key for key in ("user_id", "business_id", "date") if key not in review]
        if absent:
            raise BadRow(f"no {absent[0]!r} in the review, only {', '.join(map(repr, list(review)[:8]))}")
        time = clock(review["date"])
        if not logs:
            logs.append(EventLog(numbers=("rating",) if "stars" in review else ()))
        values = (number(review.get("stars"), "stars"),) if logs[0].numbers_width else ()
        logs[0].add(review["user_id"], review["business_id"], time, values)

    for path in job.paths("reviews"):
        job.reader.objects("reviews", path, handle)
    return logs[0]


def item_values(business: dict[str, Any], text: TextCleaner) -> tuple[str, list[str], str]:
    """Name, categories and city of a business object."""
    categories = business.get("categories")
    if isinstance(categories, str):
        categories = categories.split(", ")
    return (
        text.text(business.get("name"), "name"),
        text.texts(categories, "category"),
        text.text(business.get("city"), "city"),
    )


def items(job: Job, keys: Sequence[str]) -> FeatureTable | None:
    """Read the kept businesses."""
    if not job.paths("business"):
        job.warnings.append("no --business was given: items have no name or category")
        return None
    table = job.feature_table(keys, ITEM_FIELDS)
    table.roles = ITEM_ROLES

    def handle(business: dict[str, Any]) -> None:
        if "business_id" not in business:
            raise BadRow(f"no 'business_id' in the record, only {', '.join(map(repr, list(business)[:8]))}")
        key = clean_id(business["business_id"], "item")
        if table.wants(key):
            table.put(key, item_values(business, job.text))

    only = None if table.grow else key_filter(("business_id",), table.wants)
    job.reader.objects("business", job.path("business"), handle, only=only)
    return table


YELP = Adapter(
    name="yelp",
    summary="Yelp Open Dataset (review and business files); with a time window the Yelp of S3-Rec",
    inputs=(
        Input(
            "reviews", "yelp_academic_dataset_review.json, one object a line", ("*review*.json*",), True, True
        ),
        Input("business", "yelp_academic_dataset_business.json, one object a line", ("*business*.json*",)),
    ),
    events=events,
    items=items,
    default_name=lambda job: "yelp",
    protocols=("leave-one-out", "global-time"),
    licence="Yelp Dataset Agreement: academic use, no redistribution",
    citation="Yelp Open Dataset; protocol of Zhou et al., S3-Rec, CIKM 2020",
    homepage="https://business.yelp.com/data/resources/open-dataset/",
    left_out=(
        ("stars and review_count of a business", "computed on all reviews, so they would tell the future"),
        ("text, useful, funny, cool of reviews", "written with or after the event to be predicted"),
        ("attributes, hours, is_open, address", "as of the day of the dump; not item text"),
    ),
    k_core=5,
    example="--reviews REVIEW.json --business BUSINESS.json --since 2019-01-01 --until 2020-01-01",
    filter_seen=True,
    notes=(
        "S3-Rec's Yelp is the dump of 2020 with --since 2019-01-01 --until 2020-01-01 and the 5-core.",
        "Dates have no time zone and are read as UTC.",
        "Category names that contain a comma ('Books, Mags, Music & Video') come in pieces: the raw "
        "file joins names by commas.",
        "filter_seen is true as in S3-Rec's evaluation; 6.7 % of its Yelp targets are repeats, which no "
        "model can then hit.",
    ),
)
