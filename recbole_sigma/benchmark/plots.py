"""The pictures of a report, drawn from the record alone. Needs matplotlib (extra ``report``)."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from recbole_sigma.benchmark.results import title
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


def draw(record: dict[str, Any], dark: bool = False) -> dict[str, tuple[str, bytes]]:
    """All pictures that the record has data for.

    Args:
        record: results with ``significance``.
        dark: for a dark page.

    Returns:
        file stem -> (caption, PNG bytes).
    """
    pictures: dict[str, tuple[str, bytes]] = {}
    for policy in policies(record):
        suffix = "" if policy else "-unfiltered"
        for stem, make in _PICTURES.items():
            with _style(dark):
                made = make(record, policy)
            if made is not None:
                figure, caption = made
                pictures[stem + suffix] = (f"{caption} ({policy_name(policy)})", _png(figure))
    return pictures


@contextmanager
def _style(dark: bool) -> Iterator[None]:
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


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150, metadata={"Software": None})
    return stream.getvalue()


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
    looks = _looks(record)
    names = sorted(tests[0]["rows"], key=lambda name: tests[0]["rows"][name]["mean"])
    figure, axes = _figure(8.4, 1.1 + 0.34 * len(names), len(tests))
    for axis, test in zip(axes, tests, strict=True):
        for y, name in enumerate(names):
            row, (colour, marker) = test["rows"][name], looks[name]
            low, high = row["interval"]
            axis.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="round")
            axis.plot([row["mean"]], [y], marker, color=colour, markersize=7)
        best = test["rows"][test["reference"]]["mean"]
        axis.axvline(best, linestyle=(0, (4, 3)), linewidth=1, color=axis.xaxis.label.get_color())
        axis.set_yticks(range(len(names)), names if axis is axes[0] else [""] * len(names))
        axis.set_xlabel(title(test["metric"]))
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.grid(axis="y", visible=False)
    return figure, (
        f"Accuracy on test with 95 % bootstrap intervals over {tests[0]['users']} users; dashed: the best "
        "baseline"
    )


def cost(record: dict[str, Any], policy: bool) -> tuple[Any, str] | None:
    """Accuracy against CPU seconds of the whole run."""
    rows = [row for row in record["table"] if row["filter_seen"] == policy and "ndcg@10" in row]
    if not rows:
        return None
    looks = _looks(record)
    figure, (axis,) = _figure(8.4, 4.8)
    for row in rows:
        colour, marker = looks[row["model"]]
        x = max(row["cpu seconds"], 0.1)
        axis.errorbar(
            [x], [row["ndcg@10"]], yerr=row["ndcg@10 sd"], fmt=marker, color=colour, markersize=8,
            label=row["model"], linestyle="none",
        )  # fmt: skip
    _log_scale(axis)
    axis.set_xlabel("CPU seconds: preparation, training, validation, test (log scale)")
    axis.set_ylabel("NDCG@10 on test")
    _legend(axis, len(rows))
    return (
        figure,
        "Accuracy against CPU seconds of the whole run; bars: one standard deviation over seeds",
    )


def popularity(record: dict[str, Any], policy: bool) -> tuple[Any, str] | None:
    """HR@10 by how often the target occurs in training."""
    found = by_popularity(record, policy)
    if len(found["bins"]) < 2:
        return None
    looks = _looks(record)
    overall = {name: np.dot(values, found["targets"]) for name, values in found["rows"].items()}
    shown = sorted(overall, key=lambda name: -overall[name])[:MANY]
    figure, (axis,) = _figure(8.4, 4.8)
    x = range(len(found["bins"]))
    for name, values in found["rows"].items():
        if name not in shown:
            continue
        colour, marker = looks[name]
        axis.plot(x, values, marker=marker, color=colour, label=name, linewidth=1.5, markersize=6)
    ticks = [f"{b}\nn={n}" for b, n in zip(found["bins"], found["targets"], strict=True)]
    axis.set_xticks(list(x), ticks)
    axis.set_xlabel("train events of the target item; n: test targets")
    axis.set_ylabel("HR@10")
    axis.set_ylim(bottom=0)
    _legend(axis, len(shown))
    some = f", the {MANY} best rows" if len(overall) > MANY else ""
    return figure, f"HR@10 by popularity of the target item{some}"


def learning(record: dict[str, Any], policy: bool) -> tuple[Any, str] | None:
    """Validation NDCG@10 over CPU seconds, one line per seed."""
    looks = _looks(record)
    own = [c for c in trained_cells(record) if c["filter_seen"] == policy]
    curves = [(c["row"]["name"], points) for c in own if len(points := curve(c)) > 1]
    if not curves:
        return None
    figure, (axis,) = _figure(8.4, 4.8)
    for i, (name, points) in enumerate(curves):
        label = name if name not in [n for n, _ in curves[:i]] else None
        axis.plot(*zip(*points, strict=True), color=looks[name][0], label=label, linewidth=1.4, alpha=0.9)
    longest = [points[-1][0] for _, points in curves]
    wide = max(longest) > 5 * min(longest)
    if wide:
        _log_scale(axis)
    axis.set_xlabel(f"CPU seconds of preparation and training{' (log scale)' if wide else ''}")
    axis.set_ylabel("NDCG@10 on validation")
    levels = seconds_to_levels(record)
    for level in levels:
        axis.axhline(level["level"], linestyle=(0, (4, 3)), linewidth=1, color=axis.xaxis.label.get_color())
    _legend(axis, len({name for name, _ in curves}))
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
    looks = _looks(record)
    figure, (axis,) = _figure(6.4, 4.2)
    for row in rows:
        colour, marker = looks[row["model"]]
        axis.plot([row["ild@10"]], [row["ndcg@10"]], marker, color=colour, markersize=9, label=row["model"])
    axis.margins(0.15)
    axis.set_xlabel("intra-list distance of the first 10 (train co-occurrence vectors)")
    axis.set_ylabel("NDCG@10 on test")
    _legend(axis, len(rows))
    return figure, "Decoding mode against diversity: the same weights"


_LEGEND_LINES, _LINE_INCHES = 4, 0.19  # lines that the plain height has room for; height of one more


def _legend(axis: Any, rows: int) -> None:
    """Below the picture, so that it never covers a point: in as many columns as fit, on paper of its own."""
    figure = axis.figure
    for columns in range(min(4, rows), 0, -1):
        legend = figure.legend(loc="outside lower center", ncols=columns, fontsize=9)
        if columns == 1 or legend.get_window_extent(figure.canvas.get_renderer()).width <= figure.bbox.width:
            break
        legend.remove()
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + max(0, -(-rows // columns) - _LEGEND_LINES) * _LINE_INCHES)


_PICTURES: dict[str, Callable[[dict[str, Any], bool], tuple[Any, str] | None]] = {
    "accuracy": accuracy,
    "cost": cost,
    "popularity": popularity,
    "learning": learning,
    "diversity": diversity,
}
