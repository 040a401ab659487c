"""The data set card: what a result on this data set should be able to say, as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dataset_adapters import atomic
from dataset_adapters.events import Events, FeatureTable
from dataset_adapters.filters import Step
from dataset_adapters.job import Job
from dataset_adapters.recipe import PROTOCOL_TEXT
from dataset_adapters.statistics import coverage
from dataset_adapters.streams import digest_of
from dataset_adapters.values import SECOND

CARD_VERSION = 1


def build_card(
    job: Job,
    name: str,
    command: str,
    events: Events,
    steps: list[Step],
    statistics: dict[str, Any],
    splits: dict[str, Any],
    items: FeatureTable | None,
    users: FeatureTable | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Collect the facts of one conversion; nothing in it depends on the day or the machine."""
    reader, adapter = job.reader, job.adapter
    rows = {
        "bad_rows_skipped": dict(sorted(reader.bad_rows.items())),
        "bad_row_examples": reader.bad_examples,
        "lines_read_as_latin_1": reader.latin1_lines,
        "text_changes": dict(sorted(job.text.changes.items())),
        **job.counts,
    }
    card: dict[str, Any] = {
        "card_version": CARD_VERSION,
        "name": name,
        "adapter": adapter.name,
        "summary": adapter.summary,
        "command": command,
        "protocol": job.options.protocol,
        "protocol_text": PROTOCOL_TEXT[job.options.protocol],
        "filter_seen": settings["filter_seen"],
        "order": _order_text(job, events),
        "sources": sources_of(job),
        "steps": [asdict(s) for s in steps],
        "statistics": statistics,
        "split": splits,
        "roles": {
            k: settings[k]
            for k in ("text_fields", "category_field", "brand_field", "query_field", "profile_fields")
        },
        "rows": rows,
        **terms_of(job),
    }
    if items:
        card["items"] = {
            "rows": len(items.rows),
            "without_record": _missing(items),
            "share_filled": coverage(items),
        }
        card["rows"]["repeated_item_records_ignored"] = items.repeated
    if users:
        card["users"] = {
            "rows": len(users.rows),
            "without_record": _missing(users),
            "share_filled": coverage(users),
        }
    return card


def _missing(table: FeatureTable) -> int:
    return sum(row is None for row in table.rows.values())


def _order_text(job: Job, events: Events) -> str:
    role = job.adapter.inputs[0].role
    files = ", ".join(dict.fromkeys(s.path.name for s in job.reader.sources if s.role == role)) or "the file"
    if not events.timed:
        return "none: no times were read"
    if events.scale != SECOND:
        return "by position (timestamp counts positions, not seconds)"
    return f"each user's events by time; equal times keep the order of {files}"


def sources_of(job: Job) -> list[dict[str, Any]]:
    """The raw files that a conversion read."""
    return [
        {"role": s.role, "file": s.path.name, "bytes": s.size, "rows": s.rows, "sha256": s.sha256}
        for s in job.reader.sources
    ]


def terms_of(job: Job) -> dict[str, Any]:
    """What a conversion left out, its notes and warnings, and the terms of the raw data."""
    adapter = job.adapter
    return {
        "left_out": [{"fields": fields, "reason": reason} for fields, reason in adapter.left_out],
        "notes": list(adapter.notes),
        "warnings": job.warnings,
        "licence": adapter.licence,
        "citation": adapter.citation,
        "homepage": adapter.homepage,
    }


def write_papers(
    folder: Path,
    name: str,
    recipe: str,
    card: dict[str, Any],
    markdown: Callable[[Mapping[str, Any]], str],
) -> None:
    """Write the property file of a converted set and then its card, which has the digests of all files.

    Args:
        folder: with the atomic files.
        name: of the data set.
        recipe: text of the property file.
        card: the facts; ``files`` is added.
        markdown: lays the card out.
    """
    atomic.write_text(folder / f"{name}.yaml", recipe)
    card["files"] = {path.name: digest_of(path) for path in sorted(folder.iterdir())}
    atomic.write_text(folder / f"{name}.card.json", card_json(card))
    atomic.write_text(folder / f"{name}.card.md", markdown(card))


def card_json(card: Mapping[str, Any]) -> str:
    """Lay a card out as JSON."""
    return json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def card_markdown(card: Mapping[str, Any]) -> str:
    """Lay a card out as Markdown."""
    lines = [f"# {card['name']}", "", f"{card['summary']}", "", f"Made by `{card['command']}`.", ""]
    lines += [f"- protocol: {card['protocol']} ({card['protocol_text']})", f"- order: {card['order']}"]
    lines += [f"- filter_seen: {str(card['filter_seen']).lower()}"]
    lines += [f"- {key}: {_show(value)}" for key, value in card["roles"].items()]
    for warning in card["warnings"]:
        lines += ["", f"**Warning:** {warning}"]
    lines += ["", "## Filters", "", "| step | interactions | users | items |", "|---|---|---|---|"]
    lines += [
        f"| {s['name']} | {s['interactions']:,} | {s['users']:,} | {s['items']:,} |" for s in card["steps"]
    ]
    for title, key in (("Statistics", "statistics"), ("Split", "split"), ("Rows and texts", "rows")):
        lines += [
            "",
            f"## {title}",
            "",
            *(f"- {k.replace('_', ' ')}: {_show(v)}" for k, v in card[key].items()),
        ]
    for key in ("items", "users"):
        if key in card:
            lines += [
                "",
                f"## {key.capitalize()} file",
                "",
                *(f"- {k.replace('_', ' ')}: {_show(v)}" for k, v in card[key].items()),
            ]
    lines += ["", "## Sources", "", "| role | file | bytes | rows | sha256 |", "|---|---|---|---|---|"]
    lines += [
        f"| {s['role']} | {s['file']} | {s['bytes']:,} | {s['rows']:,} | `{s['sha256']}` |"
        for s in card["sources"]
    ]
    lines += [
        "",
        "## Left out",
        "",
        *(f"- {entry['fields']}: {entry['reason']}" for entry in card["left_out"]),
    ]
    lines += ["", "## Notes", "", *(f"- {note}" for note in card["notes"])]
    lines += [
        "",
        "## Terms",
        "",
        f"- licence: {card['licence']}",
        f"- cite: {card['citation']}",
        f"- from: {card['homepage']}",
    ]
    return "\n".join(lines) + "\n"


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_show(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_show, value)) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "none" if value is None else str(value)
