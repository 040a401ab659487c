"""Two small pictures of a table as SVG text: its rows with intervals, and accuracy against cost.

They are written by hand, not by matplotlib: a tenth of the size, text stays text, and the same record gives
the same bytes. Lengths are in pixels.
"""

from __future__ import annotations

import math
from html import escape
from typing import Any

from recbole_sigma.benchmark.results import machines_of, title
from recbole_sigma.benchmark.statistics import OWN
from recbole_sigma.benchmark.tables import policy_name

_STYLE = """
text { font: 12px system-ui, 'DejaVu Sans', sans-serif; fill: #1f2328; }
.paper { fill: #ffffff; } .soft { fill: #59636e; } .head { font-weight: 600; font-size: 13px; }
.grid { stroke: #d8dee4; } .mark { stroke: #d55e00; stroke-dasharray: 5 3; }
.own { fill: #0072b2; stroke: #0072b2; } .other { fill: #8a939d; stroke: #8a939d; } .span { stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .paper { fill: #0d1117; } .soft { fill: #9198a1; } .grid { stroke: #30363d; }
  .own { fill: #56b4e9; stroke: #56b4e9; } .mark { stroke: #e69f00; } }
"""
_LETTER = 7.6  # width of a letter, generously: the reader's font is not known
_ROW, _PANEL, _TOP, _GAP = 20, 270, 52, 44


class _Picture:
    """Shapes in drawing order."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """Text whose line stands on y."""
        named = f' class="{kind}"' if kind else ""
        where = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}"{named}{where}>{escape(text)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        self.parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def dot(self, x: float, y: float, kind: str) -> None:
        """A filled circle."""
        self.parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')

    def svg(self, width: float, height: float, label: str) -> str:
        """The whole file."""
        size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(label)}" {size}>\n'
            f"<style>{_STYLE}</style>\n"
            f'<rect class="paper" width="{width:.0f}" height="{height:.0f}"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )


def accuracy(record: dict[str, Any], policy: bool) -> tuple[str, str] | None:
    """(caption, SVG) of the rows' means with bootstrap intervals, best on top; None without intervals."""
    tests = [test for test in record.get("significance", []) if test["filter_seen"] == policy]
    if not tests:
        return None
    base = {cell["row"]["name"]: cell["row"]["base"] for cell in record["cells"]}
    names = sorted(tests[0]["rows"], key=lambda name: (-tests[0]["rows"][name]["mean"], name))
    left = 16 + _LETTER * max(map(len, names))
    bottom = _TOP + _ROW * len(names)
    picture = _Picture()
    picture.text(12, 20, _heading(record, policy), "head")
    for number, name in enumerate(names):
        picture.text(left - 8, _TOP + _ROW * number + 14, name, anchor="end")
    for panel, test in enumerate(tests):
        start = left + panel * (_PANEL + _GAP)
        spans = [row["interval"] for row in test["rows"].values()]
        ticks = _ticks(min(low for low, _ in spans), max(high for _, high in spans))

        def x(value: float, start: float = start, ticks: list[float] = ticks) -> float:
            return start + _PANEL * (value - ticks[0]) / (ticks[-1] - ticks[0])

        picture.text(start, _TOP - 10, title(test["metric"]), "soft")
        for tick in ticks:
            picture.line(x(tick), _TOP, x(tick), bottom, "grid")
            picture.text(x(tick), bottom + 16, f"{tick:.2f}", "soft", "middle")
        middle = x(test["rows"][test["reference"]]["mean"])
        picture.line(middle, _TOP, middle, bottom, "mark")
        for number, name in enumerate(names):
            row, y = test["rows"][name], _TOP + _ROW * number + 10
            kind = "own" if base[name] == OWN else "other"
            picture.line(x(row["interval"][0]), y, x(row["interval"][1]), y, f"{kind} span")
            picture.dot(x(row["mean"]), y, kind)
    against = " and ".join(dict.fromkeys(test["reference"] for test in tests))
    caption = (
        f"Accuracy on test with 95 % bootstrap intervals over {tests[0]['users']:,} users; SIGMA's rows in "
        f"blue; dashed: {against}"
    )
    width = left + len(tests) * (_PANEL + _GAP)
    return caption, picture.svg(width, bottom + 28, caption)


def cost(record: dict[str, Any], policy: bool) -> tuple[str, str] | None:
    """(caption, SVG) of NDCG@10 against CPU seconds of the whole run; None without NDCG@10, or where cells
    ran on different machines.
    """
    rows = [row for row in record["table"] if row["filter_seen"] == policy and "ndcg@10" in row]
    if not rows or len(machines_of(record["cells"])) > 1:
        return None
    left, width, bottom = 56.0, 760.0, _TOP + 380.0
    right = width - 24
    seconds = [max(row["cpu seconds"], 0.1) for row in rows]
    low, high = math.floor(2 * math.log10(min(seconds))), math.ceil(2 * math.log10(max(seconds)) + 1e-9)
    ticks = _ticks(min(row["ndcg@10"] for row in rows), max(row["ndcg@10"] for row in rows))
    picture = _Picture()
    picture.text(12, 20, _heading(record, policy), "head")
    picture.text(12, _TOP - 12, "NDCG@10", "soft")
    for tick in ticks:
        y = bottom - (bottom - _TOP) * (tick - ticks[0]) / (ticks[-1] - ticks[0])
        picture.line(left, y, right, y, "grid")
        picture.text(left - 6, y + 4, f"{tick:.2f}", "soft", "end")
    for half in range(low, high + 1):  # half powers of ten: 1, 3, 10, 30, ...
        x = left + (right - left) * (half - low) / (high - low)
        picture.line(x, _TOP, x, bottom, "grid")
        picture.text(
            x, bottom + 16, f"{10.0 ** (half / 2):.1g}" if half < 0 else f"{_round(half):,}", "soft", "middle"
        )
    picture.text((left + right) / 2, bottom + 34, "CPU seconds of the whole run", "soft", "middle")
    spots = []
    for row, spent in zip(rows, seconds, strict=True):
        x = left + (right - left) * (2 * math.log10(spent) - low) / (high - low)
        y = bottom - (bottom - _TOP) * (row["ndcg@10"] - ticks[0]) / (ticks[-1] - ticks[0])
        picture.dot(x, y, "own" if row["base"] == OWN else "other")
        spots.append((row["ndcg@10"], row["model"], x, y))
    taken = [(x - 5, y - 5, x + 5, y + 5) for _, _, x, y in spots]
    for _, name, x, y in sorted(spots, key=lambda spot: (-spot[0], spot[1])):  # the best are named first
        box = _free_place(x, y, _LETTER * len(name), taken, (left, _TOP - 8, width - 4, bottom))
        if box is not None:
            taken.append(box)
            before = box[2] < x  # a name before its point ends there, whatever the width of its letters
            picture.text(box[2] if before else box[0], box[3] - 3, name, anchor="end" if before else "start")
    caption = (
        "Accuracy against CPU seconds of preparation, training, validation and test; SIGMA's rows in blue; "
        "points without a name are in the table"
    )
    return caption, picture.svg(width, bottom + 46, caption)


_Box = tuple[float, float, float, float]


def _free_place(x: float, y: float, wide: float, taken: list[_Box], frame: _Box) -> _Box | None:
    """A box beside a point for its name that covers no other name or point, or None."""
    for dx, dy in ((8, -7), (-8 - wide, -7), (-wide / 2, -22), (-wide / 2, 8), (6, -18), (6, 5)):
        box = (x + dx, y + dy, x + dx + wide, y + dy + 14)
        inside = box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]
        if inside and not any(
            box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
            for other in taken
        ):
            return box
    return None


def _heading(record: dict[str, Any], policy: bool) -> str:
    return f"{', '.join(record['dataset'])}, {policy_name(policy)}"


def _round(half: int) -> int:
    """10 to the power of half / 2 with one digit: 1, 3, 10, 30, ..."""
    return 10 ** (half // 2) * (3 if half % 2 else 1)


def _ticks(low: float, high: float) -> list[float]:
    """Three to nine round numbers, the first at most ``low`` and the last at least ``high``."""
    for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
        first, last = math.floor(low / step), math.ceil(high / step)
        if last - first <= 8:
            break
    return [number * step for number in range(first, max(last, first + 1) + 1)]
