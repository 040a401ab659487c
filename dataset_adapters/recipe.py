"""The property file that goes with a converted data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from dataset_adapters.atomic import event_fields
from dataset_adapters.events import Events, FeatureTable
from dataset_adapters.values import SEPARATOR

_EVAL = {
    "leave-one-out": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "global-time": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "none", "mode": "full"},
    "published": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "random": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"},
}
PROTOCOL_TEXT = {
    "leave-one-out": "each user's last event is the test target, the one before it the validation "
    "target; full ranking",
    "global-time": "first 80 % of all events by time train, next 10 % valid, last 10 % test; full ranking",
    "published": "train, valid and test as shipped by the source (benchmark_filename); full ranking",
    "random": "80/10/10 of each user's events at random: the source has no order, so sequential models "
    "do not apply",
}


def recipe(
    events: Events,
    items: FeatureTable | None,
    users: FeatureTable | None,
    query_field: str | None,
    protocol: str,
    filter_seen: bool,
) -> dict[str, Any]:
    """Settings that RecBole and SIGMA need to read a converted data set as it is meant.

    A role names only a column that has values; a category column must tell at least two groups apart.
    """
    loaded = [
        "user_id",
        "item_id",
        *(["timestamp"] if events.timed else []),
        *([query_field] if query_field else []),
    ]
    settings: dict[str, Any] = {
        "field_separator": "\t",
        "seq_separator": SEPARATOR,
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
    }
    names = {f.name for f in event_fields(events)}
    settings["RATING_FIELD"] = next((n for n in ("rating", "weight") if n in names), "rating")
    settings["TIME_FIELD"] = "timestamp"
    if protocol == "published":
        settings["benchmark_filename"] = ["train", "valid", "test"]
        settings["alias_of_item_id"] = ["item_id_list"]
        loaded.append("item_id_list")
    load: dict[str, list[str]] = {"inter": loaded}
    text = [name for name in items.roles.text if any(items.column(name))] if items else []
    category = items.roles.category if items else None
    if items and category and len({str(v) for v in items.column(category) if v}) < 2:
        category = None
    brand = (
        items.roles.brand if items and items.roles.brand and any(items.column(items.roles.brand)) else None
    )
    used = list(dict.fromkeys([*text, *filter(None, (category, brand))]))
    if used:
        load["item"] = ["item_id", *used]
    profile = [n for n in users.roles.profile if any(users.column(n))] if users else []
    if profile:
        load["user"] = ["user_id", *profile]
    settings["load_col"] = load
    settings["normalize_all"] = False
    settings |= {"text_fields": text, "category_field": category, "brand_field": brand}
    settings |= {"query_field": query_field, "profile_fields": profile}
    return settings | {"eval_args": _EVAL[protocol], "filter_seen": filter_seen}


def recipe_text(settings: Mapping[str, Any], header: Sequence[str]) -> str:
    """Lay settings out as YAML under a header of comment lines."""
    notes = {"text_fields": "roles that SIGMA reads", "eval_args": "protocol"}
    lines = [f"# {line}".rstrip() for line in header] + [""]
    for key, value in settings.items():
        if key in notes:
            lines += ["", f"# {notes[key]}"]
        if key in ("load_col", "eval_args"):
            lines.append(f"{key}:")
            lines += [f"  {name}: {_flow(part)}" for name, part in value.items()]
        else:
            lines.append(f"{key}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    if value is None:
        return "~"
    if value in ("\t", SEPARATOR):
        return '"\\t"' if value == "\t" else f'"{value}"'
    if isinstance(value, bool):
        return str(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).strip()
    return text.removesuffix("\n...").removesuffix("...").strip()
