"""Yahoo! R3 and Coat: ratings that people chose to give, and ratings of items shown at random."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from dataset_adapters.errors import AdapterError, BadRow
from dataset_adapters.events import Field
from dataset_adapters.job import Input, Job, Option
from dataset_adapters.labelled import LABEL, LabelledAdapter, Sheet
from dataset_adapters.values import clean_id, number

Rating = tuple[str, str, float]
LEAST = 4
OPTIONS = (
    Option("reading", "ratings: rows are ratings, 1 from 4 stars on; clicks: a rating from 4 on is a click, "
           "pairs drawn beside it are none", "ratings", ("ratings", "clicks")),
    Option("negatives", "clicks: pairs drawn for every click", "4"),
    Option("seed", "seed of the split and of the drawn pairs", "2020"),
)  # fmt: skip
NOTES = (
    "Training and validation are nine tenths of the ratings that people chose to give. NAME.test.inter is "
    "what was shown at random; NAME.selected.inter, the last tenth, is judged in its place with "
    "benchmark_filename: [train, valid, selected].",
    "A pair that is drawn as no click is none of the training clicks; it may be one of a held-out part.",
)


def write_parts(job: Job, sheet: Sheet, selected: list[Rating], shown: list[Rating]) -> None:
    """Split and write the rows.

    Args:
        job: reads the options.
        sheet: where they go.
        selected: ratings of a person's choice.
        shown: ratings of items shown at random.
    """
    draw = np.random.default_rng(_whole(job, "seed", 0))
    order = draw.permutation(len(selected))
    tenth = len(selected) // 10
    parts = {"selected": order[:tenth], "valid": order[tenth : 2 * tenth], "train": order[2 * tenth :]}
    clicks = job.option("reading") == "clicks"
    rows: dict[str, Iterable[tuple[str, str, int]]] = {}
    if clicks:
        users, items = sorted({u for u, *_ in selected}), sorted({i for _, i, _ in selected})
        times = _whole(job, "negatives", 1)
        rows = {p: _clicks([selected[k] for k in at], users, items, times, draw) for p, at in parts.items()}
    else:
        rows = {p: [_labelled(selected[k]) for k in at.tolist()] for p, at in parts.items()}
    for part, of_part in (*rows.items(), ("test", map(_labelled, shown))):
        for user, item, label in of_part:
            sheet.put((user, item), label, part)
    if clicks:
        job.warnings.append("rows without a click are drawn pairs, not impressions")


def _labelled(rating: Rating) -> tuple[str, str, int]:
    return rating[0], rating[1], int(rating[2] >= LEAST)


def _clicks(
    ratings: list[Rating], users: list[str], items: list[str], times: int, draw: np.random.Generator
) -> list[tuple[str, str, int]]:
    """The clicks of one part, and pairs drawn evenly that are none of them, shuffled."""
    clicked = {(user, item) for user, item, stars in ratings if stars >= LEAST}
    rows = [(user, item, 1) for user, item in sorted(clicked)]
    wanted, taken = len(rows) * times, set(clicked)
    if len(taken) + wanted > len(users) * len(items) // 2:
        raise AdapterError(f"--negatives {times}: there are too few pairs of users and items for so many")
    while wanted:
        for u, i in zip(
            draw.integers(len(users), size=wanted), draw.integers(len(items), size=wanted), strict=True
        ):
            pair = users[u], items[i]
            if pair not in taken:
                taken.add(pair)
                rows.append((*pair, 0))
                wanted -= 1
    return [rows[k] for k in draw.permutation(len(rows)).tolist()]


def _whole(job: Job, name: str, least: int) -> int:
    text = job.option(name) or ""
    if not text.isdigit() or not least <= int(text) < 1 << 31:
        raise AdapterError(f"--{name} {text!r}: a whole number from {least} expected")
    return int(text)


def _stars(text: Any) -> float:
    value = number(text, "rating")
    if not 1 <= value <= 5:
        raise BadRow(f"rating is {value:g}, 1 to 5 expected")
    return value


# --- Yahoo! R3 ---


def _triples(job: Job, role: str) -> list[Rating]:
    """Rows of user, item, rating, separated by commas (AutoDebias) or by tabs (Yahoo's own files)."""
    found: list[Rating] = []

    def handle(line: str) -> None:
        cells = line.replace("\t", ",").split(",")
        if len(cells) != 3:
            raise BadRow(f"{len(cells)} fields where user, item and rating belong")
        found.append(
            (clean_id(cells[0].strip(), "user"), clean_id(cells[1].strip(), "item"), _stars(cells[2]))
        )

    job.reader.lines(role, job.path(role), handle)
    return found


def _yahoo(job: Job, sheet: Sheet) -> None:
    write_parts(job, sheet, _triples(job, "selected"), _triples(job, "random"))


YAHOO = LabelledAdapter(
    name="yahoo-r3",
    summary="Yahoo! R3 music: ratings of the listener's choice, and of songs played at random",
    inputs=(
        Input("selected", "user.txt, or ydata-ymusic-...-train.txt", ("user.txt*", "*train.txt*"), True),
        Input("random", "random.txt, or ydata-ymusic-...-test.txt", ("random.txt*", "*test.txt*"), True),
    ),
    write=_yahoo,
    default_name=lambda job: _named(job, "yahoo-r3"),
    columns=(Field("user_id"), Field("item_id"), LABEL),
    licence="Yahoo! Webscope: research use, no redistribution",
    citation="Marlin and Zemel, Collaborative prediction with non-random missing data, RecSys 2009",
    homepage="https://webscope.sandbox.yahoo.com (R3)",
    options=OPTIONS,
    split=True,
    more_tests=("selected",),
    left_out=(("rating", "it is the label, from 4 stars on"),),
    notes=NOTES,
    example="--input yahoo_r3/",
)


def _named(job: Job, name: str) -> str:
    return name + ("-clicks" if job.option("reading") == "clicks" else "")


# --- Coat ---


def _matrix(job: Job, role: str) -> list[list[str]]:
    rows: list[list[str]] = []

    def handle(line: str) -> None:
        cells = line.split()
        if rows and len(cells) != len(rows[0]):
            raise BadRow(f"{len(cells)} numbers where the first line has {len(rows[0])}")
        rows.append(cells)

    job.reader.lines(role, job.path(role), handle)
    return rows


def _ratings(job: Job, role: str) -> list[Rating]:
    path, found = job.path(role), []
    for user, row in enumerate(_matrix(job, role)):
        for item, text in enumerate(row):
            if text not in ("0", "0.0"):
                try:
                    found.append((f"u{user}", f"i{item}", _stars(text)))
                except BadRow as reason:
                    raise AdapterError(f"{path}:{user + 1}: {reason}") from None
    return found


def _features(job: Job, sheet: Sheet, kind: str) -> None:
    """One-hot columns as one text column per prefix of the map, such as ``gender:men``."""
    if not job.paths(f"{kind}-features"):
        job.warnings.append(f"no --{kind}-features: {kind}s have no columns")
        return
    names: list[tuple[str, str]] = []

    def read_name(line: str) -> None:
        group, sign, value = line.partition(":")
        if not sign:
            raise BadRow(f"{line[:40]!r} where GROUP:VALUE belongs")
        names.append((group, value))

    job.reader.lines(f"{kind}-map", job.path(f"{kind}-map"), read_name)
    groups = list(dict.fromkeys(group for group, _ in names))
    rows: dict[str, list[str]] = {}
    path = job.path(f"{kind}-features")
    for number_, cells in enumerate(_matrix(job, f"{kind}-features")):
        if len(cells) != len(names):
            raise AdapterError(f"{path}:{number_ + 1}: {len(cells)} columns where the map names {len(names)}")
        held = {group: value for (group, value), flag in zip(names, cells, strict=True) if float(flag) > 0}
        rows[f"{kind[0]}{number_}"] = [held.get(group, "") for group in groups]
    # both tables have a column gender
    sheet.write_features(kind, [Field(f"{kind}_{group}") for group in groups], rows)


def _coat(job: Job, sheet: Sheet) -> None:
    for kind in ("user", "item"):
        if job.paths(f"{kind}-features") and not job.paths(f"{kind}-map"):
            raise AdapterError(f"coat: --{kind}-features needs --{kind}-map, which names its columns")
    write_parts(job, sheet, _ratings(job, "selected"), _ratings(job, "random"))
    for kind in ("user", "item"):
        _features(job, sheet, kind)


COAT = LabelledAdapter(
    name="coat",
    summary="Coat shopping: ratings of the customer's choice and of coats shown at random, with features",
    inputs=(
        Input("selected", "train.ascii", ("train.ascii*",), True),
        Input("random", "test.ascii", ("test.ascii*",), True),
        Input("user-features", "user_item_features/user_features.ascii", ("*user_features.ascii*",)),
        Input("user-map", "user_item_features/user_features_map.txt", ("*user_features_map.txt*",)),
        Input("item-features", "user_item_features/item_features.ascii", ("*item_features.ascii*",)),
        Input("item-map", "user_item_features/item_features_map.txt", ("*item_features_map.txt*",)),
    ),
    write=_coat,
    default_name=lambda job: _named(job, "coat"),
    columns=(Field("user_id"), Field("item_id"), LABEL),
    licence="research use, as its authors publish it",
    citation="Schnabel et al., Recommendations as treatments, ICML 2016",
    homepage="https://www.cs.cornell.edu/~schnabts/mnar/",
    options=OPTIONS,
    split=True,
    more_tests=("selected",),
    left_out=(
        ("rating", "it is the label, from 4 stars on"),
        ("propensities.ascii", "learned by its authors"),
    ),
    notes=NOTES,
    example="--input coat/",
)
