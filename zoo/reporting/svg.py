"""Drawing primitives: SVG text whose colours come from the page, so that light, dark and print agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

SIZES = {"wide": 520, "narrow": 340}
"""Pixels across; the page shows the one that fits, so that letters keep their size."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The plotting area of a chart, and how data lie on it."""

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at_x(self, value: float) -> float:
        low, high = self.x
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def at_y(self, value: float) -> float:
        low, high = self.y
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def drawing(parts: Sequence[str], *, width: float, height: float, label: str, size: str) -> Markup:
    """An `<svg>` with its description for those who do not see it."""
    return Markup(
        f'<svg class="chart {size}" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" '
        f'role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def text(x: float, y: float, content: object, *, kind: str = "", anchor: str = "start", title: str = "") -> str:
    """A line of text with its baseline at `y`; `title` shows when the pointer rests on it."""
    more = f"<title>{escape(title)}</title>" if title else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(str(content))}{more}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def box(x: float, y: float, width: float, height: float, kind: str, title: str = "") -> str:
    more = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}">{more}</rect>'


def dot(x: float, y: float, radius: float, kind: str, title: str = "") -> str:
    more = f"<title>{escape(title)}</title>" if title else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{kind}">{more}</circle>'


def path(points: Sequence[tuple[float, float]], kind: str) -> str:
    """A line through the points."""
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" class="{kind}"/>'


def axes(frame: Frame, *, x_label: str, y_label: str, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> list[str]:
    """Grid lines, numbers and what they count."""
    parts = []
    for tick in y_ticks:
        y = frame.at_y(tick)
        parts += [line(frame.left, y, frame.right, y, "grid"), text(frame.left - 7, y + 4, number(tick), anchor="end")]
    for tick in x_ticks:
        parts.append(text(frame.at_x(tick), frame.bottom + 17, number(tick), anchor="middle"))
    parts.append(line(frame.left, frame.bottom, frame.right, frame.bottom, "axis"))
    parts.append(text((frame.left + frame.right) / 2, frame.bottom + 35, x_label, anchor="middle", kind="name"))
    parts.append(text(2, 12, y_label, kind="name"))
    return parts


def ticks(low: float, high: float, *, about: int = 5, whole: bool = False) -> list[float]:
    """Round numbers from `low` to `high`, some `about` of them."""
    rough = max((high - low) / about, 1e-12)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1.0, float(math.ceil(step)))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def number(value: float) -> str:
    return f"{value:g}"


def shortened(name: str, pixels: float) -> str:
    """As much of a name as fits at the charts' size of letters."""
    most = max(1, int(pixels / 6.6))
    return name if len(name) <= most else name[: max(1, most - 1)] + "…"
