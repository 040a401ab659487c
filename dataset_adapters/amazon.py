"""Amazon reviews of 2014, 2018 and 2023: reviews and metadata, one object a line."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dataset_adapters.errors import BadRow
from dataset_adapters.events import EventLog, FeatureTable, Field, Roles
from dataset_adapters.job import Adapter, Input, Job, slug, stem
from dataset_adapters.rows import key_filter
from dataset_adapters.values import Clock, TextCleaner, clean_id, number

ITEM_FIELDS = (Field("title"), Field("brand"), Field("categories", "token_seq"), Field("description"))
ITEM_ROLES = Roles(text=("title", "brand", "categories"), category="categories", brand="brand")
# Folder names that people use for the categories of the 2014 benchmark.
_SHORT = {"sports-and-outdoors": "sports", "toys-and-games": "toys"}
_LEAKS = "computed from or crawled after the whole log, so it would tell the future"


@dataclass(frozen=True)
class Schema:
    """Names of one release."""

    user: str
    item: str
    time: str
    rating: str
    unit: str
    prefix: str


_2014 = Schema("reviewerID", "asin", "unixReviewTime", "overall", "s", "amazon")
_2018 = Schema("reviewerID", "asin", "unixReviewTime", "overall", "s", "amazon2018")
_2023 = Schema("user_id", "parent_asin", "timestamp", "rating", "ms", "amazon2023")


def read_reviews(job: Job, schema: Schema) -> EventLog:
    """Read the reviews; 2023 also comes as CSV with the same names.

    A log gets a ``rating`` column only if the first review has a rating; later gaps in it stay blank.
    """
    clock = Clock(schema.unit)
    logs: list[EventLog] = []

    def handle(review: dict[str, Any]) -> None:
        absent = [key for key in (schema.user, schema.item, schema.time) if key not in review]
        if absent:
            raise BadRow(f"no {absent[0]!r} in the review, only {', '.join(map(repr, list(review)[:8]))}")
        rating = review.get(schema.rating)
        values = [] if rating is None else [number(rating, "rating")]
        time = clock(review[schema.time])
        if not logs:
            logs.append(EventLog(numbers=("rating",) if values else ()))
        if logs[0].numbers_width == 1 and not values:
            values = [float("nan")]
        logs[0].add(review[schema.user], review[schema.item], time, values[: logs[0].numbers_width])

    names = [schema.user, schema.item, schema.rating, schema.time]

    def from_cells(cells: list[Any]) -> None:
        handle(dict(zip(names, cells, strict=True)))

    for path in job.paths("reviews"):
        if re.search(r"\.csv(\.\w+)?$", path.name):
            job.reader.table("reviews", path, names, from_cells)
        else:
            job.reader.objects("reviews", path, handle)
    return logs[0]


def item_values(meta: dict[str, Any], text: TextCleaner) -> tuple[str, str, list[str], str]:
    """Title, brand, category names and description of a metadata object of any release."""
    title = meta.get("title")
    if isinstance(title, str) and ("getTime(" in title or "<script" in title):
        title = None  # pages of 2018 that were scraped as code instead of a title
        text.changes["titles_of_page_code_emptied"] += 1
    description = meta.get("description")
    if isinstance(description, list):
        description = " ".join(part for part in description if isinstance(part, str))
    brand = meta["brand"] if meta.get("brand") is not None else meta.get("store")
    return (
        text.text(title, "title"),
        text.text(brand, "brand"),
        category_names(meta, text),
        text.text(description, "description"),
    )


def category_names(meta: dict[str, Any], text: TextCleaner) -> list[str]:
    """Names on the category paths, each once, first path first: element 0 is the root, element 1 its child.

    2014 ships a list of paths, 2018 and 2023 one path. HTML that 2018 carries behind the path is cut off.
    """
    paths = (
        meta.get("categories")
        or meta.get("category")
        or ([meta["main_category"]] if meta.get("main_category") else [])
    )
    if isinstance(paths, str):
        paths = [paths]
    if not isinstance(paths, list):
        raise BadRow(f"categories is a {type(paths).__name__}, a list expected")
    names: list[str] = []
    for path in paths if paths and isinstance(paths[0], list) else [paths]:
        names += text.texts(_before_html(path, text), "category")
    return list(dict.fromkeys(names))


def _before_html(path: Any, text: TextCleaner) -> Any:
    """The names of a path that stand before page code."""
    if isinstance(path, list):
        for place, name in enumerate(path):
            if isinstance(name, str) and "</" in name:
                text.changes["category_html_cut"] += 1
                return path[:place]
    return path


def read_meta(job: Job, keys: Sequence[str], schema: Schema) -> FeatureTable | None:
    """Read metadata of the kept items, and their IDGenRec keywords where given."""
    keywords = _keywords(job)
    extra = (Field("keywords"),) if keywords else ()
    table = job.feature_table(keys, ITEM_FIELDS + extra)
    table.roles = Roles(("title", "brand", "categories", *(f.name for f in extra)), "categories", "brand")
    names = (schema.item,) if schema.item == "asin" else (schema.item, "asin")

    def handle(meta: dict[str, Any]) -> None:
        found = next((name for name in names if meta.get(name) is not None), None)
        if found is None:
            raise BadRow(f"no {names[0]!r} in the record, only {', '.join(map(repr, list(meta)[:8]))}")
        key = clean_id(meta[found], "item")
        if table.wants(key):
            table.put(key, (*item_values(meta, job.text), *((keywords.get(key, ""),) if extra else ())))

    for path in job.paths("meta"):
        job.reader.objects("meta", path, handle, only=None if table.grow else key_filter(names, table.wants))
    if not job.paths("meta"):
        job.warnings.append("no --meta was given: items have no title, brand or category")
    for key in table.rows if extra else ():
        if table.rows[key] is None and key in keywords:
            table.rows[key] = ("", "", [], "", keywords[key])
    return table if job.paths("meta") or extra else None


def _keywords(job: Job) -> dict[str, str]:
    found: dict[str, str] = {}

    def handle(line: str) -> None:
        item, _, words = line.partition(" ")
        found.setdefault(clean_id(item, "item"), job.text.text(words, "keywords"))

    for path in job.paths("keywords"):
        job.reader.lines("keywords", path, handle)
    return found


def python_list_text(value: Any) -> str:
    """Join a list of texts that a file holds as its Python source; other text passes unchanged."""
    if isinstance(value, str) and value.startswith("["):
        try:
            parts = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return value
        return " ".join(p for p in parts if isinstance(p, str) and p.strip())
    return value or ""


def _default_name(schema: Schema) -> Any:
    def name(job: Job) -> str:
        category = slug(re.sub(r"^reviews_|_\d+$", "", stem(job.path("reviews"))))
        return f"{schema.prefix}-{_SHORT.get(category, category)}"

    return name


def _adapter(schema: Schema, year: str, left_out: str, citation: str, homepage: str, **more: Any) -> Adapter:
    patterns = {
        "2014": (("reviews_*",), ("meta_*",)),
        "2018": (("*_5.json*", "*.json*"), ("meta_*",)),
        "2023": (("*_5.jsonl*", "*.jsonl*", "*.csv*"), ("meta_*",)),
    }[year]
    return Adapter(
        name=f"amazon{year}",
        summary=more["summary"],
        inputs=(
            Input("reviews", more["reviews"], patterns[0], required=True, many=True),
            Input("meta", more["meta"], patterns[1], many=True),
            *more.get("inputs", ()),
        ),
        events=lambda job: read_reviews(job, schema),
        items=lambda job, keys: read_meta(job, keys, schema),
        default_name=_default_name(schema),
        protocols=("leave-one-out", "global-time"),
        licence="Amazon review data, published for research use; not to be redistributed with this project",
        citation=citation,
        homepage=homepage,
        left_out=(
            (left_out, _LEAKS),
            (
                "reviewText, summary, title and text of reviews, helpful votes",
                "written with or after the event to be predicted",
            ),
            ("price", "the price of the day of the crawl, not of the event"),
            ("images, details, features", "not item text"),
        ),
        k_core=5,
        example="--reviews REVIEWS --meta META",
        html="unescape",
        filter_seen=True,
        notes=(
            "k-core counts events, repeated ones too, on users and items in turn until nothing changes "
            "(S3-Rec preprocessing).",
            "Days, not moments, in 2014 and 2018: about 45 % of a user's consecutive events tie, so the "
            "file's order decides.",
            "categories: names on the category paths, each once; element 0 is the root, element 1 the "
            "level below.",
            "description is written but not loaded by default; it is raw page text.",
        ),
    )


AMAZON2014 = _adapter(
    _2014,
    "2014",
    "salesRank, related (also_bought, also_viewed, bought_together, buy_after_viewing)",
    "McAuley, Targett, Shi, van den Hengel, SIGIR 2015; He and McAuley, WWW 2016",
    "https://jmcauley.ucsd.edu/data/amazon/",
    summary="Amazon reviews of 2014 (reviews_X_5.json.gz, meta_X.json.gz): the Beauty, Sports and Toys "
    "of S3-Rec, P5 and TIGER",
    reviews="reviews_X_5.json.gz, one JSON object a line",
    meta="meta_X.json.gz, one Python literal a line",
    inputs=(
        Input(
            "keywords",
            "IDGenRec textual ids, 'ASIN word word ...' a line; adds a keywords column",
            ("*textual_ids*",),
        ),
    ),
)
AMAZON2018 = _adapter(
    _2018,
    "2018",
    "rank, also_buy, also_view, similar_item",
    "Ni, Li, McAuley, EMNLP 2019",
    "https://nijianmo.github.io/amazon/",
    summary="Amazon reviews of 2018 (X_5.json.gz, meta_X.json.gz)",
    reviews="X_5.json.gz or X.json.gz, one JSON object a line",
    meta="meta_X.json.gz, one JSON object a line",
)
AMAZON2023 = _adapter(
    _2023,
    "2023",
    "average_rating, rating_number, bought_together",
    "Hou, Li, He, Yan, Chen, McAuley, arXiv 2403.03952 (2024)",
    "https://amazon-reviews-2023.github.io/",
    summary="Amazon reviews of 2023 (X.jsonl.gz or a rating-only X.csv.gz, meta_X.jsonl.gz); items are "
    "parent_asin",
    reviews="X.jsonl.gz (objects) or X.csv.gz (user_id,parent_asin,rating,timestamp)",
    meta="meta_X.jsonl.gz, one JSON object a line",
)
