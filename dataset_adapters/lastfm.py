"""Last.fm of HetRec 2011: listening counts of artists and friendships, no times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dataset_adapters.atomic import cell
from dataset_adapters.errors import BadRow
from dataset_adapters.events import EventLog, FeatureTable, Field, Roles
from dataset_adapters.job import Adapter, Input, Job
from dataset_adapters.values import clean_id, number


def events(job: Job) -> EventLog:
    """Read the play counts."""
    log = EventLog(numbers=("weight",), timed=False)

    def handle(cells: list[Any]) -> None:
        log.add(cells[0], cells[1], 0, (number(cells[2], "weight"),))

    columns = ["userID", "artistID", "weight"]
    job.reader.table("plays", job.path("plays"), columns, handle, delimiter="\t", quoted=False)
    return log


def items(job: Job, keys: Sequence[str]) -> FeatureTable | None:
    """Read artist names."""
    if not job.paths("artists"):
        job.warnings.append("no --artists was given: items have no name")
        return None
    table = job.feature_table(keys, (Field("title"),))
    table.roles = Roles(text=("title",))

    def handle(cells: list[Any]) -> None:
        table.put(clean_id(cells[0], "item"), (job.text.text(cells[1], "name"),))

    job.reader.table("artists", job.path("artists"), ["id", "name"], handle, delimiter="\t", quoted=False)
    return table


def users(job: Job, keys: Sequence[str]) -> None:
    """Write friendships between kept users as RecBole's ``.net`` file; there are no user features."""
    if not job.paths("friends"):
        return
    kept = set(keys)
    lines = ["source_id:token\ttarget_id:token"]

    def handle(line: str) -> None:
        cells = line.split("\t")
        if cells[0] == "userID":  # some copies have lost this header line
            return
        if len(cells) != 2:
            raise BadRow(f"{len(cells)} fields separated by tabs where 2 belong")
        pair = clean_id(cells[0], "user"), clean_id(cells[1], "user")
        if kept.issuperset(pair):
            lines.append("\t".join(map(cell, pair)))

    job.reader.lines("friends", job.path("friends"), handle)
    job.counts["friend_links"] = len(lines) - 1
    job.files["net"] = "\n".join(lines) + "\n"


LASTFM = Adapter(
    name="lastfm-hetrec",
    summary="Last.fm, HetRec 2011 (user_artists.dat, artists.dat): play counts without times",
    inputs=(
        Input("plays", "user_artists.dat", ("user_artists.dat*",), True),
        Input("artists", "artists.dat", ("artists.dat*",)),
        Input("friends", "user_friends.dat; becomes NAME.net", ("user_friends.dat*",)),
    ),
    events=events,
    items=items,
    users=users,
    default_name=lambda job: "lastfm",
    protocols=("random",),
    licence="GroupLens HetRec 2011: non-commercial research use",
    citation="Cantador, Brusilovsky, Kuflik, HetRec, RecSys 2011",
    homepage="https://grouplens.org/datasets/hetrec-2011/",
    left_out=(
        ("url, pictureURL", "not item text"),
        ("user_taggedartists*.dat, tags.dat", "tags of users, given at any time"),
    ),
    encoding="auto",
    example="--input hetrec2011-lastfm-2k/",
    notes=("No times and no order (each user's most played artists): not for next-item numbers.",),
)
