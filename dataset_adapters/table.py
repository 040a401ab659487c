"""Any csv, tsv or Parquet file: the columns are named on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dataset_adapters.errors import AdapterError
from dataset_adapters.events import EventLog, FeatureTable, Field, Roles
from dataset_adapters.job import Adapter, Input, Job, Option, slug, stem
from dataset_adapters.values import UNITS, Clock, clean_id, number

_ITEM_OPTIONS = ("title", "brand", "category")
_RESERVED = {
    "user_id",
    "item_id",
    "timestamp",
    "rating",
    "query",
    "title",
    "brand",
    "category",
    "item_id_list",
    "split",
}

_NO_DATE = (
    "; where the column counts from the start of a session (as Diginetica's timeframe does), "
    "--time-unit=order takes it as places, and --time can name a column of dates"
)


def _layout(job: Job, path_name: str) -> dict[str, Any]:
    delimiter = job.option("delimiter") or (
        "\t" if re.search(r"\.(tsv|tab|inter|item)(\.\w+)?$", path_name) else ","
    )
    delimiter = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "bar": "|"}.get(
        delimiter, delimiter
    )
    if len(delimiter) != 1:
        raise AdapterError(f"--delimiter {delimiter!r}: one character, or one of tab, comma, semicolon, bar")
    return {
        "delimiter": delimiter,
        "quoted": not job.option("no-quotes"),
        "header": not job.option("no-header"),
    }


def _extra(job: Job, option: str) -> dict[str, str]:
    """Further columns by the name that they get: letters, digits and underscores."""
    columns = [c.strip() for c in (job.option(option) or "").split(",") if c.strip()]
    names = {
        re.sub(r"\W+", "_", c, flags=re.A).strip("_").lower() or f"column_{n}": c
        for n, c in enumerate(columns, 1)
    }
    clash = _RESERVED & set(names)
    if len(names) != len(columns) or clash:
        raise AdapterError(
            f"--{option}: {', '.join(sorted(clash)) or 'two columns'} would get a name that is taken"
        )
    return names


def events(job: Job) -> EventLog:
    """Read users, items and what else was named from the interaction files."""
    rating, query, time = job.option("rating"), job.option("query"), job.option("time")
    clock = Clock(job.option("time-unit") or "auto", job.option("time-format"), _NO_DATE)
    log = EventLog(("rating",) if rating else (), ("query",) if query else (), timed=time is not None)
    log.query_field = "query" if query else None
    side = {} if job.paths("items") else _item_columns(job)
    seen: dict[str, list[Any]] = job.scratch.setdefault("item_rows", {})
    columns = [job.option("user"), job.option("item"), *filter(None, (time, rating, query)), *side.values()]
    if not columns[0] or not columns[1]:
        raise AdapterError("table needs --user and --item: the names of the user and item columns")

    def handle(cells: list[Any]) -> None:
        user, item, *rest = cells
        moment = clock(rest.pop(0)) if time else 0
        numbers = (number(rest.pop(0), "rating"),) if rating else ()
        texts = (job.text.text(rest.pop(0), "query"),) if query else ()
        log.add(user, item, moment, numbers, texts)
        if rest:
            seen.setdefault(clean_id(item, "item"), rest)

    for path in job.paths("events"):
        job.reader.table("events", path, [c for c in columns if c], handle, **_layout(job, path.name))
    log.scale = clock.scale
    return log


def _item_columns(job: Job) -> dict[str, str]:
    named = {name: job.option(name) for name in _ITEM_OPTIONS}
    return {name: column for name, column in named.items() if column} | _extra(job, "text")


def items(job: Job, keys: Sequence[str]) -> FeatureTable | None:
    """Read item columns from ``--items``, or from each item's first row in the interaction files."""
    columns = _item_columns(job)
    if not columns:
        job.warnings.append("no --title, --category, --brand or --text was named: items have no text")
        return None
    split_at = job.option("category-separator")
    kinds = [Field(name, "token_seq" if name == "category" and split_at else "token") for name in columns]
    table = job.feature_table(keys, kinds)
    ordered = [n for n in ("title", "brand", "category") if n in columns] + list(_extra(job, "text"))
    table.roles = Roles(
        tuple(ordered), "category" if "category" in columns else None, "brand" if "brand" in columns else None
    )

    def values(cells: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(
            job.text.texts(cell.split(split_at) if isinstance(cell, str) else cell, f.name)
            if f.type == "token_seq"
            else job.text.text(cell, f.name)
            for f, cell in zip(kinds, cells, strict=True)
        )

    def handle(cells: list[Any]) -> None:
        key = clean_id(cells[0], "item")
        if table.wants(key):
            table.put(key, values(cells[1:]))

    for path in job.paths("items"):
        key_column = job.option("item-key") or job.option("item") or ""
        job.reader.table("items", path, [key_column, *columns.values()], handle, **_layout(job, path.name))
    for key, cells in job.scratch["item_rows"].items():
        table.put(key, values(cells))
    return table


def users(job: Job, keys: Sequence[str]) -> FeatureTable | None:
    """Read profile columns from ``--users``."""
    columns = _extra(job, "profile")
    if bool(columns) != bool(job.paths("users")):
        raise AdapterError("--users and --profile go together: a file, and the names of its profile columns")
    if not columns:
        return None
    table = FeatureTable(keys, [Field(name) for name in columns])
    table.roles = Roles(profile=tuple(columns))

    def handle(cells: list[Any]) -> None:
        table.put(clean_id(cells[0], "user"), tuple(job.text.text(c) for c in cells[1:]))

    for path in job.paths("users"):
        key_column = job.option("user-key") or job.option("user") or ""
        job.reader.table("users", path, [key_column, *columns.values()], handle, **_layout(job, path.name))
    return table


TABLE = Adapter(
    name="table",
    summary="any csv, tsv or Parquet file (also .gz, .zst, .xz), columns named on the command line",
    inputs=(
        Input("events", "interactions, a row each", ("*",), True, True),
        Input(
            "items",
            "items, a row each (without it, item columns are read from the interactions)",
            (),
            many=True,
        ),
        Input("users", "users, a row each", (), many=True),
    ),
    options=(
        Option("user", "column of the user id"),
        Option("item", "column of the item id"),
        Option("time", "column of the time; without it the data set has no order"),
        Option(
            "time-unit",
            "unit of the time column; auto: by the first row; order: any whole number",
            "auto",
            UNITS,
        ),
        Option("time-format", "pattern of the time column as in Python's strptime, such as %%d-%%m-%%Y"),
        Option("rating", "column of a rating"),
        Option("query", "column of the search query before the event"),
        Option("title", "column of the item's title"),
        Option("brand", "column of the item's brand"),
        Option("category", "column of the item's category"),
        Option("category-separator", "splits a category cell into several names"),
        Option("text", "further item text columns, separated by commas"),
        Option("profile", "user columns to keep, separated by commas (needs --users)"),
        Option("item-key", "column of the item id in --items (default: as --item)"),
        Option("user-key", "column of the user id in --users (default: as --user)"),
        Option("delimiter", "one character or tab, comma, semicolon, bar (default: by the file's ending)"),
        Option("no-header", "the first line is data; name the columns 1, 2, 3, ...", flag=True),
        Option("no-quotes", 'take " for a plain character', flag=True),
    ),
    events=events,
    items=items,
    users=users,
    default_name=lambda job: slug(stem(job.path("events"))),
    protocols=("leave-one-out", "global-time", "random"),
    licence="yours to state",
    citation="yours to state",
    homepage="your own data",
    example="--input clicks.csv --user visitor --item sku --time ts --title name",
    notes=(
        "Give only item columns that were known before the event: a rank, an average rating or a count "
        "taken over the whole log leaks the future.",
        "Dates without a time zone are read as UTC.",
    ),
)
