"""The pictures of a report, drawn from the record alone. Needs matplotlib (extra ``report``)."""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_sigma.benchmark.results import machines_of, title
from recbole_sigma.benchmark.statistics import OWN, by_popularity, curve, seconds_to_levels, trained_cells
from recbole_sigma.benchmark.tables import policies, policy_name

MISSING = "no plots: matplotlib is not installed (pip install 'recbole-sigma[report]')"
# a palette that stays apart for colour-blind readers (Okabe and Ito), then lighter variants of it
_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F", "#7F7F7F",
    "#8A6FCB", "#C23B3B", "#66A61E", "#C51B7D", "#17BECF", "#4F6DDE", "#8FBC8F", "#F08080",
)  # fmt: skip
MANY = 8  # lines in one picture of popularity bins
_MARKERS = "osD^vP*X"
_LIGHT = {"ink": "#1f2328", "paper": "#ffffff", "grid": "#d8dee4"}
_DARK = {"ink": "#e6edf3", "paper": "#0d1117", "grid": "#30363d"}


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


@dataclass(frozen=True)
class Picture:
    """One picture of a report.

    Attributes:
        caption: what it shows.
        filter_seen: the seen-item policy of its rows.
        light, dark: SVG for a light and for a dark page. What belongs to row n of `row_numbers` has an id
            that begins with ``row-n-``.
        pdf: the light one for print.
    """

    caption: str
    filter_seen: bool
    light: bytes
    dark: bytes
    pdf: bytes


def row_numbers(record: dict[str, Any]) -> dict[str, int]:
    """A number for every row's name, in the order of the table."""
    return {name: i for i, name in enumerate(dict.fromkeys(row["model"] for row in record["table"]))}


def draw(record: dict[str, Any]) -> dict[str, Picture]:
    """All pictures that the record has data for, by file stem.

    Args:
        record: results with ``significance``.
    """
    pictures: dict[str, Picture] = {}
    for policy in policies(record):
        suffix = "" if policy else "-unfiltered"
        for stem, make in _PICTURES.items():
            files, caption = {}, None
            for tone, form in (("light", "svg"), ("dark", "svg"), ("light", "pdf")):
                with _style(tone == "dark", f"{stem}{suffix}-{tone}"):
                    made = make(record, policy)
                    if made is None:
                        break
                    figure, caption = made
                    files[tone, form] = _saved(figure, form)
            if caption is not None:
                pictures[stem + suffix] = Picture(
                    f"{caption} ({policy_name(policy)})",
                    policy,
                    files["light", "svg"],
                    files["dark", "svg"],
                    files["light", "pdf"],
                )
    return pictures


@contextmanager
def _style(dark: bool, name: str = "picture") -> Iterator[None]:
    """Colours of a page, and a name that makes the ids of a picture its own.

    Args:
        dark: for a dark page.
        name: of the picture.
    """
    import matplotlib

    tone = _DARK if dark else _LIGHT
    values: Any = {
        "figure.facecolor": tone["paper"], "axes.facecolor": tone["paper"],
        "savefig.facecolor": tone["paper"],
        "text.color": tone["ink"], "axes.labelcolor": tone["ink"], "xtick.color": tone["ink"],
        "ytick.color": tone["ink"], "axes.edgecolor": tone["grid"], "grid.color": tone["grid"],
        "grid.linewidth": 0.8, "axes.grid": True, "axes.axisbelow": True, "font.size": 10,
        "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
        "font.family": "DejaVu Sans", "figure.dpi": 100,
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": name,
        "text.parse_math": False,  # a row's name is text, also between dollar signs
    }  # fmt: skip
    with matplotlib.rc_context(values):
        yield


def _log_scale(axis: Any) -> None:
    """A logarithmic x axis with plain numbers; those of matplotlib need mathtext, which is off here."""
    from matplotlib.ticker import LogFormatter

    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(LogFormatter())
    axis.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, list[Any]]:
    """A figure that no window system is asked about: drawn by Agg."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def _saved(figure: Any, form: str) -> bytes:
    """The picture as a file, the same bytes for the same record."""
    stream = io.BytesIO()
    about = {"Date": None} if form == "svg" else {"CreationDate": None, "Producer": None, "Creator": None}
    figure.savefig(stream, format=form, metadata=about)
    if form == "pdf":
        return stream.getvalue()
    text = stream.getvalue().decode()
    # without the head of a file, and without names such as axes_1: several pictures stand in one page
    return re.sub(r' id="(?!row-)[\w.]+_\d+"', "", text[text.index("<svg") :]).encode()


class _Rows:
    """Marks what belongs to a row, so that a page can hide it."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.numbers, self.count = row_numbers(record), 0
        self.looks = _looks(record)

    def mark(self, name: str, *artists: Any) -> None:
        """Give artists ids of the row; ids of one page must differ, so they count on."""
        for artist in artists:
            self.count += 1
            artist.set_gid(f"row-{self.numbers[name]}-{self.count}-{_style_name()}")


def _style_name() -> str:
    import matplotlib

    return str(matplotlib.rcParams["svg.hashsalt"])


def _looks(record: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Colour and marker of every row, the same in every picture."""
    names = list(dict.fromkeys(row["model"] for row in record["table"]))
    return {
        name: (_COLOURS[i % len(_COLOURS)], _MARKERS[(i // len(_COLOURS) + i) % len(_MARKERS)])
        for i, name in enumerate(names)
    }


def accuracy(record: dict[str, Any], policy: bool) -> tuple[Any, str] | None:
    """Means with bootstrap intervals, best on top."""
    tests = [t for t in record.get("significance", []) if t["filter_seen"] == policy]
    if not tests:
        return None
    rows = _Rows(record)
    names = sorted(tests[0]["rows"], key=lambda name: tests[0]["rows"][name]["mean"])
    figure, axes = _figure(8.4, 1.1 + 0.34 * len(names), len(tests))
    for axis, test in zip(axes, tests, strict=True):
        for y, name in enumerate(names):
            row, (colour, marker) = test["rows"][name], rows.looks[name]
            low, high = row["interval"]
            rows.mark(
                name, *axis.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="round")
            )
            rows.mark(name, *axis.plot([row["mean"]], [y], marker, color=colour, markersize=7))
        best = test["rows"][test["reference"]]["mean"]
        axis.axvline(best, linestyle=(0, (4, 3)), linewidth=1, color=axis.xaxis.label.get_color())
        axis.set_yticks(range(len(names)), names if axis is axes[0] else [""] * len(names))
        for name, label in zip(names, axis.get_yticklabels(), strict=True):
            rows.mark(name, label)
        axis.set_xlabel(title(test["metric"]))
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.grid(axis="y", visible=False)
    return figure, (
        f"Accuracy on test with 95 % bootstrap intervals over {tests[0]['users']} users; dashed: the best "
        "baseline"
    )


def cost(record: dict[str, Any], policy: bool) -> tuple[Any, str] | None:
    """Accuracy against CPU seconds of the whole run; none where cells ran on different machines."""
    rows = [row for row in record["table"] if row["filter_seen"] == policy and "ndcg@10" in row]
    if not rows or len(machines_of(record["cells"])) > 1:
        return None
    marks = _Rows(record)
    figure, (axis,) = _figure(8.4, 4.8)
    for row in rows:
        colour, marker = marks.looks[row["model"]]
        x = max(row["cpu seconds"], 0.1)
        point, caps, bars = axis.errorbar(
            [x], [row["ndcg@10"]], yerr=row["ndcg@10 sd"], fmt=marker, color=colour, markersize=8,
            linestyle="none",
        )  # fmt: skip
        marks.mark(row["model"], point, *caps, *bars)
    _log_scale(axis)
    axis.set_xlabel("CPU seconds: preparation, training, validation, test (log scale)")
    axis.set_ylabel("NDCG@10 on test")
    spots = [(row["model"], max(row["cpu seconds"], 0.1), row["ndcg@10"]) for row in rows]
    unnamed = _name_points(axis, spots, marks)
    return (
        figure,
        "Accuracy against CPU seconds of the whole run; bars: one standard deviation over seeds" + unnamed,
    )


def popularity(record: dict[str, Any], policy: bool) -> tuple[Any, str] | None:
    """HR@10 by how often the target occurs in training."""
    found = by_popularity(record, policy)
    if len(found["bins"]) < 2:
        return None
    marks = _Rows(record)
    overall = {name: np.dot(values, found["targets"]) for name, values in found["rows"].items()}
    shown = sorted(overall, key=lambda name: -overall[name])[:MANY]
    figure, (axis,) = _figure(8.4, 4.8)
    x = range(len(found["bins"]))
    for name, values in found["rows"].items():
        if name not in shown:
            continue
        colour, marker = marks.looks[name]
        line = axis.plot(x, values, marker=marker, color=colour, label=name, linewidth=1.5, markersize=6)
        marks.mark(name, *line)
    ticks = [f"{b}\nn={n}" for b, n in zip(found["bins"], found["targets"], strict=True)]
    axis.set_xticks(list(x), ticks)
    axis.set_xlabel("train events of the target item; n: test targets")
    axis.set_ylabel("HR@10")
    axis.set_ylim(bottom=0)
    _legend(axis, len(shown), marks)
    some = f", the {MANY} best rows" if len(overall) > MANY else ""
    return figure, f"HR@10 by popularity of the target item{some}"


def learning(record: dict[str, Any], policy: bool) -> tuple[Any, str] | None:
    """Validation NDCG@10 over CPU seconds, one line per seed."""
    marks = _Rows(record)
    own = [c for c in trained_cells(record) if c["filter_seen"] == policy]
    curves = [(c["row"]["name"], points) for c in own if len(points := curve(c)) > 1]
    if not curves:
        return None
    figure, (axis,) = _figure(8.4, 4.8)
    for i, (name, points) in enumerate(curves):
        label = name if name not in [n for n, _ in curves[:i]] else None
        colour = marks.looks[name][0]
        line = axis.plot(*zip(*points, strict=True), color=colour, label=label, linewidth=1.4, alpha=0.9)
        marks.mark(name, *line)
    longest = [points[-1][0] for _, points in curves]
    wide = max(longest) > 5 * min(longest)
    if wide:
        _log_scale(axis)
    axis.set_xlabel(f"CPU seconds of preparation and training{' (log scale)' if wide else ''}")
    axis.set_ylabel("NDCG@10 on validation")
    # the best value under one policy says nothing about curves under the other
    levels = [level for level in seconds_to_levels(record) if level["filter_seen"] == policy]
    for level in levels:
        axis.axhline(level["level"], linestyle=(0, (4, 3)), linewidth=1, color=axis.xaxis.label.get_color())
    _legend(axis, len({name for name, _ in curves}), marks)
    return figure, "Learning curves, one line per seed" + (
        f"; dashed: best validation value of {' and '.join(each['of'] for each in levels)}, mean over seeds"
        if levels
        else ""
    )


def diversity(record: dict[str, Any], policy: bool) -> tuple[Any, str] | None:
    """Accuracy against intra-list distance for rows that share SIGMA's weights and differ in decoding."""
    reused = {
        c["row"]["name"]
        for c in record["cells"]
        if c["weights"]["shared"] == "decoding" and c["row"]["base"] == OWN and c["filter_seen"] == policy
    }
    rows = [
        row
        for row in record["table"]
        if row["filter_seen"] == policy
        and (row["model"] in reused or (reused and row["model"] == OWN))
        and row["ild@10"] is not None
        and "ndcg@10" in row
    ]
    if len(rows) < 2:
        return None
    marks = _Rows(record)
    figure, (axis,) = _figure(8.4, 4.2)
    for row in rows:
        colour, marker = marks.looks[row["model"]]
        point = axis.plot([row["ild@10"]], [row["ndcg@10"]], marker, color=colour, markersize=9)
        marks.mark(row["model"], *point)
    axis.margins(0.15)
    axis.set_xlabel("intra-list distance of the first 10 (train co-occurrence vectors)")
    axis.set_ylabel("NDCG@10 on test")
    spots = [(row["model"], row["ild@10"], row["ndcg@10"]) for row in rows]
    return figure, "Decoding mode against diversity: the same weights" + _name_points(axis, spots, marks)


_LEGEND_LINES, _LINE_INCHES = 4, 0.19  # lines that the plain height has room for; height of one more


def _name_points(axis: Any, spots: list[tuple[str, float, float]], marks: _Rows) -> str:
    """Write each row's name beside its point where it covers no other name or point, the best first.

    Args:
        axis: with all its points.
        spots: (row, x, y) in data.
        marks: of the rows.

    Returns:
        What the caption adds about points without a name.
    """
    figure = axis.figure
    figure.draw_without_rendering()  # the layout settles where a point lies
    renderer = figure.canvas.get_renderer()
    places = {name: axis.transData.transform((x, y)) for name, x, y in spots}
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places.values()]
    frame = axis.get_window_extent(renderer)
    left_out = 0
    for name, _, _ in sorted(spots, key=lambda spot: (-spot[2], spot[0])):
        x, y = places[name]
        for dx, dy, side, level in _BESIDE:
            text = axis.annotate(
                name, (x, y), (dx, dy), xycoords="figure pixels", textcoords="offset pixels", ha=side,
                va=level, fontsize=9,
            )  # fmt: skip
            box = text.get_window_extent(renderer)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            covers = any(box.x0 < o[2] and o[0] < box.x1 and box.y0 < o[3] and o[1] < box.y1 for o in taken)
            if inside and not covers:
                taken.append((box.x0, box.y0, box.x1, box.y1))
                text.xycoords, text.xy = "data", next((sx, sy) for n, sx, sy in spots if n == name)
                text.set_anncoords("offset points")
                text.set_position((dx * 72 / figure.dpi, dy * 72 / figure.dpi))
                marks.mark(name, text)
                break
            text.remove()
        else:
            left_out += 1
    return f"; {left_out} points without a name are in the table" if left_out else ""


_BESIDE = (
    (9, 0, "left", "center"), (-9, 0, "right", "center"), (0, 9, "center", "bottom"),
    (0, -9, "center", "top"), (9, 9, "left", "bottom"), (9, -9, "left", "top"),
    (-9, 9, "right", "bottom"), (-9, -9, "right", "top"),
)  # fmt: skip
"""Where a name may stand: pixels from its point, and which side of the text lies there."""


def _legend(axis: Any, rows: int, marks: _Rows | None = None) -> None:
    """Below the picture, so that it never covers a point: in as many columns as fit, on paper of its own."""
    figure = axis.figure
    for columns in range(min(4, rows), 0, -1):
        legend = figure.legend(loc="outside lower center", ncols=columns, fontsize=9)
        if columns == 1 or legend.get_window_extent(figure.canvas.get_renderer()).width <= figure.bbox.width:
            break
        legend.remove()
    if marks is not None:
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
            marks.mark(text.get_text(), handle, text)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + max(0, -(-rows // columns) - _LEGEND_LINES) * _LINE_INCHES)


_PICTURES: dict[str, Callable[[dict[str, Any], bool], tuple[Any, str] | None]] = {
    "accuracy": accuracy,
    "cost": cost,
    "popularity": popularity,
    "learning": learning,
    "diversity": diversity,
}
