"""SVG primitives. They name CSS classes, never colours: the style sheet sets those for light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

SIZES = {"wide": 520, "narrow": 340}
"""Chart widths in pixels. The style sheet shows the one that fits, so that text is never scaled down on a phone."""
LETTER = 6.6
"""Average width of a letter in the charts' font, in pixels. The browser's font is unknown, so this is an estimate."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The plotting area of a chart in pixels, and the range of values that it shows."""

    left: float
    top: float
    right: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at_x(self, value: float) -> float:
        """The horizontal pixel of a value."""
        low, high = self.x
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def at_y(self, value: float) -> float:
        """The vertical pixel of a value."""
        low, high = self.y
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def drawing(parts: Sequence[str], *, width: float, height: float, label: str, size: str) -> Markup:
    """An `<svg>` element; `label` describes it to screen readers."""
    # Safe as it stands: each part has escaped the texts that it was given.
    return Markup(
        f'<svg class="chart {size}" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" '
        f'role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def text(x: float, y: float, content: object, *, kind: str = "", anchor: str = "start", title: str = "") -> str:
    """One line of text with its baseline at `y`; `title` is the tooltip."""
    tooltip = _tooltip(title)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(str(content))}{tooltip}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def box(x: float, y: float, width: float, height: float, kind: str, title: str = "") -> str:
    """A rectangle; (x, y) is its upper left corner."""
    tooltip = _tooltip(title)
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}">{tooltip}</rect>'


def dot(x: float, y: float, radius: float, kind: str, title: str = "") -> str:
    """A circle around (x, y)."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{kind}">{_tooltip(title)}</circle>'


def path(points: Sequence[tuple[float, float]], kind: str) -> str:
    """A line through all points."""
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" class="{kind}"/>'


def axes(frame: Frame, *, x_label: str, y_label: str, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> list[str]:
    """Grid lines, tick labels and axis labels."""
    parts = []
    for tick in y_ticks:
        y = frame.at_y(tick)
        parts += [line(frame.left, y, frame.right, y, "grid"), text(frame.left - 7, y + 4, f"{tick:g}", anchor="end")]
    for tick in x_ticks:
        parts.append(text(frame.at_x(tick), frame.bottom + 17, f"{tick:g}", anchor="middle"))
    parts.append(line(frame.left, frame.bottom, frame.right, frame.bottom, "axis"))
    parts.append(text((frame.left + frame.right) / 2, frame.bottom + 35, x_label, anchor="middle", kind="name"))
    parts.append(text(2, 12, y_label, kind="name"))
    return parts


def ticks(low: float, high: float, *, about: int = 5, whole: bool = False) -> list[float]:
    """About `about` round numbers from `low` to `high`; `whole` allows integers only."""
    rough = max((high - low) / about, 1e-12)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1.0, float(math.ceil(step)))
    # The small margins keep a bound that is itself a tick despite rounding errors.
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    # As written by people: 3 * 0.1 is 0.30000000000000004.
    return [round(index * step, 10) for index in range(first, last + 1)]


def last_value(values: Sequence[float | None]) -> str:
    """The last value that is a number, for a chart's description."""
    finite = [value for value in values if value is not None]
    return f"{finite[-1]:.3f}" if finite else "no number"


def shortened(name: str, pixels: float) -> str:
    """A name cut to the given width, with an ellipsis where it was cut."""
    most = max(1, int(pixels / LETTER))
    return name if len(name) <= most else name[: max(1, most - 1)] + "…"


def _tooltip(title: str) -> str:
    return f"<title>{escape(title)}</title>" if title else ""
