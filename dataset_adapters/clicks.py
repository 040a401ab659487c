"""Criteo, Avazu, Frappe and the Open Bandit Dataset: logs of impressions with a click or none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from dataset_adapters.errors import AdapterError, BadRow
from dataset_adapters.events import Field
from dataset_adapters.job import Input, Job
from dataset_adapters.labelled import LABEL, LabelledAdapter, Sheet, label_of
from dataset_adapters.values import number

BLANK = "-"
"""What stands for a missing value in a column that plays the part of a user or an item."""


def _token(text: str) -> str:
    """A value as a token: no tab can be in it, and RecBole's padding is no value."""
    word = text.strip()
    if word == "[PAD]":
        raise BadRow("holds [PAD], which RecBole keeps for its padding")
    return word


# --- Criteo ---

_INTEGERS, _HASHED = 13, 26


def log_square(text: str) -> str:
    """The winning transform of Criteo's contest: floor(log(x)^2) above 2, the number itself below."""
    if not text.strip():
        return ""
    value = number(text, "count")
    return str(math.floor(math.log(value) ** 2)) if value > 2 else f"S{value:g}"


def _criteo(job: Job, sheet: Sheet) -> None:
    def handle(line: str) -> None:
        cells = line.split("\t")
        if len(cells) != 1 + _INTEGERS + _HASHED:
            raise BadRow(f"{len(cells)} fields separated by tabs where {1 + _INTEGERS + _HASHED} belong")
        hashed = [_token(cell) for cell in cells[1 + _INTEGERS :]]
        for column in (8, 16):  # C9 and C17 play the user and the item
            hashed[column] = hashed[column] or BLANK
        sheet.put([*map(log_square, cells[1 : 1 + _INTEGERS]), *hashed], label_of(cells[0]))

    for path in job.paths("log"):
        job.reader.lines("log", path, handle)


CRITEO = LabelledAdapter(
    name="criteo",
    summary="Criteo display advertising (train.txt): 13 counts and 26 hashed values per impression",
    inputs=(Input("log", "train.txt", ("train*.txt*",), True, True),),
    write=_criteo,
    default_name=lambda job: "criteo",
    columns=(
        *(Field(f"I{n + 1}") for n in range(_INTEGERS)),
        *(Field(f"C{n + 1}") for n in range(_HASHED)),
        LABEL,
    ),
    licence="Criteo: research use, no redistribution",
    citation="Criteo Labs, Display Advertising Challenge, 2014",
    homepage="https://ailab.criteo.com/ressources/",
    settings={
        "USER_ID_FIELD": "C9", "ITEM_ID_FIELD": "C17", "rare_below": 10,
        "metrics": ["AUC", "LogLoss", "Calibration"], "valid_metric": "AUC",
    },
    notes=(
        "Counts become tokens: floor(log(x)^2) above 2, the number itself below. Values with fewer than ten "
        "train rows become one while the data is loaded (rare_below), so that no test row is counted.",
        "Nobody knows which column is the user or the item: C9 and C17 play these parts because RecBole "
        "wants two, and there is no GAUC.",
        "The published splits differ from one another; this one is eight tenths, one and one at random.",
    ),
    example="--log train.txt",
)  # fmt: skip


# --- Avazu ---

_AVAZU = (
    "C1 banner_pos site_id site_domain site_category app_id app_domain app_category device_id device_ip "
    "device_model device_type device_conn_type C14 C15 C16 C17 C18 C19 C20 C21"
).split()


def _hour(text: str) -> tuple[str, str, str, int]:
    """Hour of the day, day of the week, weekend or not, and unix seconds, of a text such as 14102100."""
    try:
        moment = datetime.strptime(str(text).strip(), "%y%m%d%H").replace(tzinfo=UTC)
    except ValueError:
        raise BadRow(f"hour is {str(text)[:40]!r}, YYMMDDHH expected") from None
    day = moment.weekday()
    return str(moment.hour), str(day), str(int(day > 4)), int(moment.timestamp())


def _avazu(job: Job, sheet: Sheet) -> None:
    def handle(cells: list[Any]) -> None:
        hour, day, weekend, seconds = _hour(cells[1])
        values = [_token(str(cell)) or BLANK for cell in cells[2:]]
        sheet.put([hour, day, weekend, *values, str(seconds)], label_of(cells[0]))

    for path in job.paths("log"):
        job.reader.table("log", path, ["click", "hour", *_AVAZU], handle)


AVAZU = LabelledAdapter(
    name="avazu",
    summary="Avazu mobile advertising (train.csv): 21 columns and the hour of every impression",
    inputs=(Input("log", "train.csv", ("train*.csv*", "*avazu*.csv*", "*avazu*.txt*"), True, True),),
    write=_avazu,
    default_name=lambda job: "avazu",
    columns=(
        Field("hour"),
        Field("weekday"),
        Field("weekend"),
        *(Field(name) for name in _AVAZU),
        Field("timestamp", "float"),
        LABEL,
    ),
    licence="Kaggle competition rules",
    citation="Avazu, Click-Through Rate Prediction, Kaggle 2014",
    homepage="https://www.kaggle.com/c/avazu-ctr-prediction",
    settings={
        "USER_ID_FIELD": "device_ip", "ITEM_ID_FIELD": "C14", "rare_below": 2, "TIME_FIELD": "timestamp",
        "not_loaded": ("timestamp",),
    },
    left_out=(("id", "a number of the row: as a column it tells rows apart, not clicks"),),
    notes=(
        "device_ip plays the user and C14 the item. Values with fewer than two train rows become one while "
        "the data is loaded (rare_below).",
        "timestamp is written for splits in order of time, and not loaded: a random split would be told.",
    ),
    example="--log train.csv",
)  # fmt: skip


# --- Frappe ---

_FRAPPE = "user_id item_id daytime weekday isweekend homework cost weather country city".split()


def _frappe(job: Job, sheet: Sheet) -> None:
    """Three files as published; without the train file the validation file is nine tenths train."""
    whole = bool(job.paths("train"))
    draw = np.random.default_rng(2020)
    if not whole:
        job.warnings.append(
            "no --train was given: nine tenths of the validation file are the train part, so figures compare "
            "with none that is published"
        )

    def read(role: str, part: str) -> None:
        def handle(line: str) -> None:
            first, *rest = line.split()
            values = [cell.partition(":")[0] for cell in rest]
            if len(values) != len(_FRAPPE) or not all(value.isdigit() for value in values):
                raise BadRow(f"{len(values)} columns where {len(_FRAPPE)} of the form NUMBER:1 belong")
            to = part or ("train" if draw.random() < 0.9 else "valid")
            sheet.put(values, label_of(first, "1", "-1"), to)

        job.reader.lines(role, job.path(role), handle)

    if whole:
        read("train", "train")
    read("validation", "valid" if whole else "")
    read("test", "test")


FRAPPE = LabelledAdapter(
    name="frappe",
    summary="Frappe as neural factorisation machines publish it (libfm files): app use in context",
    inputs=(
        Input("train", "frappe.train.libfm", ("*train.libfm*",)),
        Input("validation", "frappe.validation.libfm", ("*validation.libfm*",), True),
        Input("test", "frappe.test.libfm", ("*test.libfm*",), True),
    ),
    write=_frappe,
    default_name=lambda job: "frappe",
    columns=(*(Field(name) for name in _FRAPPE), LABEL),
    licence="research use",
    citation="Baltrunas et al. 2015, arXiv 1505.03014; He and Chua, SIGIR 2017",
    homepage="https://github.com/hexiangnan/neural_factorization_machine (data/frappe)",
    split=True,
    notes=("Two of three rows are no use of an app but pairs that the publishers drew.",),
    example="--input frappe/",
)


# --- Open Bandit Dataset ---

_PEOPLE = [f"user_feature_{n}" for n in range(4)]


def _obd(job: Job, sheet: Sheet) -> None:
    def handle(cells: list[Any]) -> None:
        item, position, click, propensity, *people = map(str, cells)
        if not 0 < number(propensity, "propensity_score") <= 1:
            raise BadRow(f"propensity_score is {propensity[:40]!r}, a number in (0, 1] expected")
        values = [_token(value) or BLANK for value in people]
        sheet.put(
            ["/".join(v[:8] for v in values), _token(item), position, *values, propensity], label_of(click)
        )

    columns = ["item_id", "position", "click", "propensity_score", *_PEOPLE]
    for path in job.paths("log"):
        job.reader.table("log", path, columns, handle)
    if not job.paths("items"):
        return
    rows: dict[str, Sequence[str]] = {}

    def item_row(cells: list[Any]) -> None:
        rows[_token(str(cells[0]))] = [_token(str(cell)) for cell in cells[1:]]

    names = [f"item_feature_{n}" for n in range(1, 4)]
    job.reader.table("items", job.path("items"), ["item_id", *names], item_row)
    if not rows:
        raise AdapterError(f"{job.path('items')}: holds no item")
    sheet.write_features("item", [Field(name) for name in names], rows)


OBD = LabelledAdapter(
    name="obd",
    summary="Open Bandit Dataset: clicks on fashion items, with position and propensity of the policy",
    inputs=(
        Input("log", "all.csv, men.csv or women.csv of a policy", ("random*.csv*", "bts*.csv*", "all.csv*",
                                                                    "men.csv*", "women.csv*"), True, True),
        Input("items", "item_context.csv", ("item_context*.csv*",)),
    ),
    write=_obd,
    default_name=lambda job: "obd",
    columns=(
        Field("user_id"),
        Field("item_id"),
        Field("position"),
        *(Field(name) for name in _PEOPLE),
        Field("propensity_score", "float"),
        LABEL,
    ),
    licence="CC BY 4.0",
    citation="Saito et al. 2021, arXiv 2008.07146",
    homepage="https://research.zozo.com/data.html",
    settings={"not_loaded": ("propensity_score",)},
    left_out=(
        ("user-item_affinity_*", "counts of past clicks of the person on each item: 80 columns"),
        ("item_feature_0", "a number that nobody explains"),
        ("timestamp", "the split is at random"),
    ),
    notes=(
        "There is no user: people with the same four hashed features count as one.",
        "propensity_score is written and not loaded: it belongs to the policy, not to the person.",
        "The sample that its package ships has 38 clicks in 10,000 rows: enough to test, not to measure.",
    ),
    example="--log all.csv --items item_context.csv",
)  # fmt: skip
