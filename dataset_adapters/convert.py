"""One conversion from start to end: read, filter, describe, write, rename."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_adapters import atomic
from dataset_adapters.card import build_card, card_markdown, write_papers
from dataset_adapters.errors import AdapterError
from dataset_adapters.events import Events, FeatureTable
from dataset_adapters.filters import apply_filters
from dataset_adapters.job import Job
from dataset_adapters.recipe import PROTOCOL_TEXT, recipe, recipe_text
from dataset_adapters.statistics import log_statistics, split_statistics
from dataset_adapters.values import SECOND, Clock


@dataclass(frozen=True)
class Result:
    """A finished conversion.

    Attributes:
        folder: where the files lie.
        card: the data set card.
        seconds: wall time.
        rows: rows read from all files.
    """

    folder: Path
    card: dict[str, Any]
    seconds: float
    rows: int


def convert(job: Job, output: Path, name: str, command: str) -> Result:
    """Run an adapter and write its data set as ``output/name``.

    Args:
        job: the adapter with its files and options.
        output: RecBole's ``data_path``.
        name: the data set's name.
        command: the command line to put on record, without folders.

    Returns:
        the folder, the card and how long it took.

    Raises:
        AdapterError: with one sentence for the user; nothing is then left behind in ``output``.
    """
    started = time.perf_counter()
    atomic.check_name(name)
    atomic.check_free(output / name, job.options.overwrite)
    protocol = job.options.protocol
    log = job.adapter.events(job)
    query_field, whole_log = log.query_field, log.freeze()
    del log
    _check_protocol(job, whole_log)
    events, steps = apply_filters(
        whole_log,
        since=_moment(job.options.since, "--since"),
        until=_moment(job.options.until, "--until"),
        min_rating=job.options.min_rating,
        how_duplicates=job.options.duplicates,
        k=job.options.k_core,
    )
    del whole_log
    events = events.in_order()
    items = job.adapter.items(job, events.names_in_use("item"))
    users = job.adapter.users(job, events.names_in_use("user")) if job.adapter.users else None
    statistics = log_statistics(events)
    filter_seen = _filter_seen(job, statistics)
    settings = recipe(events, items, users, query_field, protocol, filter_seen)
    splits = (
        {k: len(v.targets) for k, v in job.splits.items()} if job.splits and protocol == "published" else None
    )
    _warn(job, items, statistics)
    card = build_card(
        job,
        name,
        command,
        events,
        steps,
        statistics,
        splits or split_statistics(events, protocol),
        items,
        users,
        settings,
    )
    with atomic.staged_folder(output, name, job.options.overwrite) as folder:
        _write(job, folder, name, events, items, users, settings, card)
    return Result(output / name, card, time.perf_counter() - started, sum(s.rows for s in job.reader.sources))


def _write(
    job: Job,
    folder: Path,
    name: str,
    events: Events,
    items: FeatureTable | None,
    users: FeatureTable | None,
    settings: dict[str, Any],
    card: dict[str, Any],
) -> None:
    atomic.write_events(folder / f"{name}.inter", events)
    if items and items.fields:
        atomic.write_features(folder / f"{name}.item", "item_id", items)
    if users and users.fields:
        atomic.write_features(folder / f"{name}.user", "user_id", users)
    if job.options.protocol == "published":
        for split, rows in job.splits.items():
            atomic.write_split(folder / f"{name}.{split}.inter", rows)
    for suffix, text in job.files.items():
        atomic.write_text(folder / f"{name}.{suffix}", text)
    header = [
        f"{name}: written by the command below; the facts are in {name}.card.md",
        "",
        f"made      {card['command']}",
        f"run       python run_recbole_sigma.py --model=SIGMA --dataset={name} --data_path=...",
        f"protocol  {job.options.protocol}: {PROTOCOL_TEXT[job.options.protocol]}",
        f"order     {card['order']}",
        f"source    {job.adapter.homepage} ; {job.adapter.citation}",
        f"terms     {job.adapter.licence}",
    ]
    write_papers(folder, name, recipe_text(settings, header), card, card_markdown)


def _check_protocol(job: Job, events: Events) -> None:
    protocol = job.options.protocol
    if protocol not in job.adapter.protocols:
        allowed = ", ".join(job.adapter.protocols)
        raise AdapterError(f"--protocol {protocol}: {job.adapter.name} supports {allowed}")
    if protocol in ("leave-one-out", "global-time") and not events.timed:
        raise AdapterError(f"--protocol {protocol}: this source has no order; use --protocol random")
    if protocol == "global-time" and events.scale != SECOND:
        raise AdapterError(
            "--protocol global-time: this source has only positions within each user, no common clock; "
            "use leave-one-out"
        )
    filtered = (
        job.options.k_core > 1 or job.options.duplicates != "keep" or job.options.min_rating is not None
    )
    if protocol == "published" and filtered:
        raise AdapterError(
            "--protocol published keeps the rows as shipped; leave --k-core, --duplicates and "
            "--min-rating out"
        )


def _filter_seen(job: Job, statistics: dict[str, Any]) -> bool:
    if job.options.filter_seen is not None:
        return job.options.filter_seen == "true"
    if job.adapter.filter_seen is not None:
        return job.adapter.filter_seen
    return statistics["repeated_last_events"] < 0.01


def _warn(job: Job, items: FeatureTable | None, statistics: dict[str, Any]) -> None:
    repeated = statistics["repeated_last_events"]
    if repeated >= 0.01:
        job.warnings.append(
            f"{repeated:.1%} of the users with a history end on an item of it; with filter_seen true no "
            f"model can hit those targets"
        )
    twice = statistics.get("exact_duplicates", 0)
    if twice:
        job.warnings.append(
            f"{twice:,} rows repeat the user, item and time of another; they are kept (--duplicates "
            f"exact drops them)"
        )
    if items and items.roles.text:
        bare = sum(row is None for row in items.rows.values())
        if bare:
            job.warnings.append(
                f"{bare:,} of {len(items.rows):,} items have no record in the item file and stay without text"
            )
    short = statistics["users_with_fewer_than_3_events"]
    if short and job.options.protocol == "leave-one-out":
        job.warnings.append(
            f"{short:,} users have fewer than 3 events: no validation and test target for them"
        )


def _moment(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    try:
        return Clock("auto")(text)
    except ValueError as error:
        raise AdapterError(f"{option} {text}: {error}") from None


def peak_memory_mb() -> float:
    """Highest resident memory of this process in MB, 0 where the system does not tell."""
    try:  # first choice: getrusage also counts the process that started this one
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
