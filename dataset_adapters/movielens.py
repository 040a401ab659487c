"""MovieLens in its three dialects: 100K (u.data), 1M and 10M (.dat), latest, 20M, 25M and 32M (.csv)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from dataset_adapters.errors import AdapterError, BadRow
from dataset_adapters.events import EventLog, FeatureTable, Field, Roles
from dataset_adapters.job import Adapter, Input, Job, slug
from dataset_adapters.streams import Source, numbered_lines
from dataset_adapters.values import Clock, clean_id, number

GENRES_100K = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|Film-Noir|Horror|Musical|"
    "Mystery|Romance|Sci-Fi|Thriller|War|Western"
).split("|")
AGES_1M = {
    "1": "under 18",
    "18": "18-24",
    "25": "25-34",
    "35": "35-44",
    "45": "45-49",
    "50": "50-55",
    "56": "56 and over",
}
OCCUPATIONS_1M = (
    "other or not specified|academic or educator|artist|clerical or admin|college or grad "
    "student|customer service|"
    "doctor or health care|executive or managerial|farmer|homemaker|K-12 student|lawyer|programmer|retired|"
    "sales or marketing|scientist|self-employed|technician or engineer|tradesman or "
    "craftsman|unemployed|writer"
).split("|")
_YEAR = re.compile(r"\((\d{4})(?:[-–]\d{0,4})?\)\s*$")
_NO_GENRE = {"(no genres listed)", "unknown"}


def dialect(path: Path) -> str:
    """Tell ``u``, ``dat`` or ``csv`` by the first line, whatever the file is called.

    Raises:
        AdapterError: the line is none of them.
    """
    first = next(numbered_lines(Source("", path), False))[1].decode("latin-1").strip()
    if "::" in first:
        return "dat"
    if re.match(r'"?(userId|movieId)"?,', first):
        return "csv"
    if len(first.split("\t")) == 4 or first.count("|") in (4, 23):
        return "u"
    raise AdapterError(f"{path}:1: {first[:60]!r} is no line of a MovieLens file (u.*, *.dat or *.csv)")


def events(job: Job) -> EventLog:
    """Read the ratings."""
    path, clock, log = job.path("ratings"), Clock("s"), EventLog(numbers=("rating",))
    add = _rating_reader(log, clock)
    kind = dialect(path)
    if kind == "csv":
        job.reader.table("ratings", path, ["userId", "movieId", "rating", "timestamp"], add)
    else:
        job.reader.lines("ratings", path, _split("\t" if kind == "u" else "::", 4, add))
    return log


def _rating_reader(log: EventLog, clock: Clock) -> Callable[[list[str]], None]:
    def add(cells: list[str]) -> None:
        user, item, rating, time = cells
        log.add(user, item, clock(time), (number(rating, "rating"),))

    return add


def _split(separator: str, count: int, handle: Callable[[list[str]], None]) -> Callable[[str], None]:
    def line_reader(line: str) -> None:
        cells = line.split(separator)
        if len(cells) != count:
            raise BadRow(f"{len(cells)} fields separated by {separator!r} where {count} belong")
        handle(cells)

    return line_reader


def items(job: Job, keys: Sequence[str]) -> FeatureTable | None:
    """Read titles and genres; the year is taken from the title, or from the release date in 100K."""
    if not job.paths("movies"):
        job.warnings.append("no --movies was given: items have no title")
        return None
    table = job.feature_table(keys, (Field("title"), Field("release_year"), Field("genres", "token_seq")))
    table.roles = Roles(text=("title", "genres", "release_year"), category="genres")

    def put(item: str, title: str, genres: list[str], year: str = "") -> None:
        found = _YEAR.search(title)
        names = [g for g in job.text.texts(genres, "genre") if g not in _NO_GENRE]
        table.put(clean_id(item, "item"), (job.text.text(title), found[1] if found else year, names))

    def from_100k(cells: list[str]) -> None:
        flags = cells[5:]
        if set(flags) - {"0", "1"}:
            raise BadRow("a genre flag is neither 0 nor 1")
        genres = [name for name, flag in zip(GENRES_100K, flags, strict=True) if flag == "1"]
        put(cells[0], cells[1], genres, cells[2][-4:] if re.search(r"\d{4}$", cells[2]) else "")

    def from_dat(line: str) -> None:
        item, _, rest = line.partition("::")
        title, mark, genres = rest.rpartition("::")
        if not mark:
            raise BadRow("fewer than 3 fields separated by '::'")
        put(item, title, genres.split("|"))

    path = job.path("movies")
    kind = dialect(path)
    if kind == "u":
        job.reader.lines("movies", path, _split("|", 24, from_100k))
    elif kind == "dat":
        job.reader.lines("movies", path, from_dat)
    else:
        job.reader.table(
            "movies", path, ["movieId", "title", "genres"], lambda c: put(c[0], c[1], c[2].split("|"))
        )
    return table


def users(job: Job, keys: Sequence[str]) -> FeatureTable | None:
    """Read age, gender and occupation; the codes of 1M are written out as its README explains them."""
    if not job.paths("users"):
        return None
    fields = (Field("age"), Field("gender"), Field("occupation"), Field("zip_code"))
    table = FeatureTable(keys, fields)
    table.roles = Roles(profile=("age", "gender", "occupation"))

    def from_100k(cells: list[str]) -> None:
        table.put(clean_id(cells[0], "user"), tuple(job.text.text(c) for c in cells[1:]))

    def from_dat(cells: list[str]) -> None:
        user, gender, age, occupation, zip_code = cells
        if age not in AGES_1M or not occupation.isdigit() or int(occupation) >= len(OCCUPATIONS_1M):
            raise BadRow(f"age code {age!r} or occupation code {occupation!r} is not in the README of ML-1M")
        table.put(
            clean_id(user, "user"),
            (AGES_1M[age], gender, OCCUPATIONS_1M[int(occupation)], job.text.text(zip_code)),
        )

    path = job.path("users")
    if dialect(path) == "dat":
        job.reader.lines("users", path, _split("::", 5, from_dat))
    else:
        job.reader.lines("users", path, _split("|", 5, from_100k))
    return table


def _default_name(job: Job) -> str:
    name = slug(job.path("ratings").resolve().parent.name)
    return "movielens-100k" if name == "ml-100k" else name


MOVIELENS = Adapter(
    name="movielens",
    summary="MovieLens 100K (u.data, u.item, u.user), 1M and 10M (.dat), latest, 20M, 25M and 32M (.csv)",
    inputs=(
        Input(
            "ratings",
            "u.data, ratings.dat or ratings.csv",
            ("u.data", "ratings.dat", "ratings.csv", "ratings.*"),
            True,
        ),
        Input(
            "movies", "u.item, movies.dat or movies.csv", ("u.item", "movies.dat", "movies.csv", "movies.*")
        ),
        Input("users", "u.user or users.dat", ("u.user", "users.dat", "users.*")),
    ),
    events=events,
    items=items,
    users=users,
    default_name=_default_name,
    protocols=("leave-one-out", "global-time"),
    licence="GroupLens research licence: no commercial use and no redistribution without permission",
    citation="Harper and Konstan, ACM TiiS 5(4):19, 2015, doi:10.1145/2827872",
    homepage="https://grouplens.org/datasets/movielens/",
    left_out=(
        (
            "tags.csv, genome-*.csv",
            "free text of users, given at any time, also after the event to be predicted",
        ),
        ("links.csv, IMDb address, video release date", "not item text"),
    ),
    encoding="auto",
    example="--input ml-1m/",
    notes=(
        "u.item and movies.dat of 1M are Latin-1, the .csv editions UTF-8: each line is read as UTF-8 "
        "where it is, else Latin-1.",
        "title is written as in the file, year included; release_year repeats the year.",
        "Ratings are clicks here: every rating is an interaction unless --min-rating says otherwise.",
        "Many ratings of a user share a second; the file's order decides between them.",
    ),
)
