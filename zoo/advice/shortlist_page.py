"""The HTML page of a shortlist: the ranking, and accuracy against latency; one file that loads nothing from outside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from zoo.advice.ranking import Ranked, Shortlist
from zoo.reporting.charts import in_both_widths
from zoo.reporting.page import environment, styles
from zoo.reporting.svg import Frame, axes, dot, drawing, line, path, text
from zoo.storage.atomic import new_path
from zoo.text import duration, escaping_errors, in_points, points, size

_ROUND = (1, 2, 5)
"""First digits of the ticks on a logarithmic axis."""
_NUMBER, _LINE = 24.0, 13.0
"""Pixels that the label of a dot takes across and down."""


def write_shortlist_page(shortlist: Shortlist, path: Path) -> Path:
    """Write the page and return its path. Raises Refused if `path` exists, RunError if it cannot be written."""
    with new_path(path) as draft:
        draft.write_text(render_shortlist(shortlist), "utf-8", errors=escaping_errors())
    return path


def render_shortlist(shortlist: Shortlist) -> str:
    """The page as HTML."""
    templates = environment("zoo.advice")
    drawn = [each for each in shortlist.ranked if each.latency]
    return templates.get_template("shortlist.html").render(
        css=styles(templates),
        shortlist=shortlist,
        best=shortlist.best,
        cheapest=shortlist.cheapest_as_good,
        title=_title(shortlist),
        chart=in_both_widths(lambda name, width: _pareto(drawn, name, width)) if drawn else None,
        front={each.candidate.name for each in pareto(drawn)},
        duration=duration,
        points=points,
        signed=in_points,
        bytes=size,
    )


def _title(shortlist: Shortlist) -> str:
    best = shortlist.best
    as_good = sum(each.as_good for each in shortlist.ranked) - 1
    others = f", and {as_good} that cannot be told from it" if as_good else ""
    return f"{best.candidate.label} is first with {100 * best.accuracy.value:.1f} % on {best.images:,} images{others}"


def pareto(rows: Sequence[Ranked]) -> list[Ranked]:
    """Those that no other one beats in both accuracy and latency, the fastest first."""
    front: list[Ranked] = []
    # Of equal times the more accurate comes first, so that the other does not get in.
    for row in sorted(rows, key=lambda each: (_milliseconds(each), -each.accuracy.value)):
        if not front or row.accuracy.value > front[-1].accuracy.value:
            front.append(row)
    return front


def _milliseconds(row: Ranked) -> float:
    return row.latency.alone if row.latency else math.inf


def _pareto(rows: Sequence[Ranked], name: str, width: float) -> Markup:
    """Accuracy against milliseconds for an image, on a logarithmic axis, with intervals and the front."""
    width, height = (2 * width, 380.0) if name == "wide" else (width, 340.0)
    # A time of 0 has no place on a logarithmic axis.
    times = [max(_milliseconds(row), 1e-3) for row in rows]
    # More room at the right, where the labels of the dots are.
    low, high = math.log10(min(times) / 1.5), math.log10(max(times) * 2.5)
    # From a multiple of 5 % to another, and never a frame without any height.
    bottom = max(0.0, math.floor(20 * min(row.accuracy.low for row in rows)) / 20)
    top = min(1.0, math.ceil(20 * max(row.accuracy.high for row in rows)) / 20)
    frame = Frame(44, 30, width - 20, height - 42, x=(low, high), y=(bottom, max(top, bottom + 0.05)))
    steps = [bottom + step * (top - bottom) / 5 for step in range(6)]
    parts = axes(frame, x_label="milliseconds for one image", y_label="accuracy", x_ticks=[], y_ticks=_rounded(steps))
    # `axes` writes the value that it places, and here the place is the logarithm of what is to be read.
    for value in _log_ticks(low, high):
        parts.append(text(frame.at_x(math.log10(value)), frame.bottom + 17, f"{value:g}", anchor="middle"))
    places = [
        (frame.at_x(math.log10(time)), frame.at_y(row.accuracy.value)) for row, time in zip(rows, times, strict=True)
    ]
    by_name = {row.candidate.name: place for row, place in zip(rows, places, strict=True)}
    front = [by_name[row.candidate.name] for row in pareto(rows)]
    parts.append(path(front, "line c1 dashed"))
    labels: list[tuple[float, float]] = []
    for rank, (row, (x, y)) in enumerate(zip(rows, places, strict=True), start=1):
        parts += _point(rank, row, (x, y), frame, labels, on_front=(x, y) in front)
    label = "; ".join(f"{row.candidate.label} {100 * row.accuracy.value:.1f} %" for row in rows[:10])
    return drawing(parts, width=width, height=height, label=f"Accuracy against latency: {label}", size=name)


def _point(
    rank: int,
    row: Ranked,
    place: tuple[float, float],
    frame: Frame,
    labels: list[tuple[float, float]],
    *,
    on_front: bool,
) -> list[str]:
    """A dot with its interval and its place in the ranking; `labels` are those so far, which none may cover."""
    x, y = place
    low, high = frame.at_y(row.accuracy.low), frame.at_y(row.accuracy.high)
    kind = "c1" if on_front else "grey"
    title = (
        f"{rank}. {row.candidate.name}: {100 * row.accuracy.value:.1f} % on {row.images:,} images "
        f"({100 * row.accuracy.low:.1f} to {100 * row.accuracy.high:.1f}), {_milliseconds(row):.1f} ms"
    )
    at = y + 4
    while any(abs(at - above) < _LINE and abs(x - left) < _NUMBER for left, above in labels):
        at += _LINE
    labels.append((x, at))
    parts = [line(x, low, x, high, f"line {kind} soft"), dot(x, y, 5, f"dot {kind}", title)]
    return [*parts, text(x + 9, at, str(rank), kind="name", title=title)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two powers of ten."""
    exponents = range(math.floor(low), math.ceil(high) + 1)
    values = [first * 10.0**exponent for exponent in exponents for first in _ROUND]
    return [value for value in values if low <= math.log10(value) <= high]


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 3) for value in values]
