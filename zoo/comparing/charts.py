"""The charts of a comparison: curves over one another, and the differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from zoo.comparing.comparison import Against, Compared, Tested
from zoo.comparing.wording import SPLIT_WORDS, p_text, points
from zoo.reporting.charts import both
from zoo.reporting.svg import Frame, axes, box, dot, drawing, line, path, text, ticks

_COLOURS, _STROKES = 4, ("", " dashed", " dotted")
_DOTS_MOST = 60


def style_of(index: int) -> str:
    """Classes of a run's line and dots: four colours, then the same ones dashed, then dotted."""
    return f"c{index % _COLOURS + 1}{_STROKES[index // _COLOURS % len(_STROKES)]}"


def curves(runs: Sequence[Compared], metric: str, what: str) -> Markup:
    """A validation metric, `accuracy` or `loss`, per epoch over all stages, of every run that noted epochs."""
    series = [[epoch["val"].get(metric) for epoch in run.record.history] for run in runs]
    return both(lambda size, width: _curves(runs, series, what, size, width))


def differences(against: Sequence[Against]) -> Markup:
    """Each run's difference to the first in accuracy, with its interval, for every split."""
    rows = [(each, tested) for each in against for tested in each.tested]
    return both(lambda size, width: _differences(rows, size, width))


def _curves(
    runs: Sequence[Compared], series: Sequence[Sequence[float | None]], what: str, size: str, width: float
) -> Markup:
    height = 300.0 if size == "wide" else 260.0
    values = [value for numbers in series for value in numbers if value is not None]
    longest = max((len(numbers) for numbers in series), default=1) or 1
    low, top = _range(values, share=what == "accuracy")
    frame = Frame(40, 34, width - 30, height - 42, x=(0.5, longest + 0.5), y=(low, top))
    x_ticks = [tick for tick in ticks(1, longest, about=6, whole=True) if tick >= 1]
    parts = axes(frame, x_label="epoch", y_label=what, x_ticks=x_ticks, y_ticks=ticks(low, top))
    ends: list[tuple[float, float]] = []
    for index, (run, numbers) in enumerate(zip(runs, series, strict=True)):
        parts += _curve(run, numbers, style_of(index), frame, ends)
    spoken = "; ".join(f"{run.letter} ends at {_last(numbers)}" for run, numbers in zip(runs, series, strict=True))
    return drawing(parts, width=width, height=height, label=f"Validation {what} over epochs: {spoken}", size=size)


def _curve(
    run: Compared, numbers: Sequence[float | None], kind: str, frame: Frame, ends: list[tuple[float, float]]
) -> list[str]:
    """A line with its letter at the end and a ring where the kept stage ends; `ends`: places that have one."""
    at = [
        (index, value, frame.at_x(index), frame.at_y(value))
        for index, value in enumerate(numbers, start=1)
        if value is not None
    ]
    if not at:
        return []
    parts = [path([(x, y) for _, _, x, y in at], f"line {kind}")]
    if len(numbers) <= _DOTS_MOST:
        parts += [
            dot(x, y, 2.4, f"dot {kind}", f"{run.letter}, epoch {index}: {value:.4f}") for index, value, x, y in at
        ]
    kept = [index for index, epoch in enumerate(run.record.history, start=1) if epoch["stage"] == run.kept]
    parts += [
        dot(x, y, 5.5, f"ring {kind}", f"{run.letter}: the kept stage, {run.kept}, ends here")
        for index, _, x, y in at
        if kept and index == kept[-1]
    ]
    _, _, x, y = at[-1]
    while any(abs(x - left) < 14 and abs(y - above) < 12 for left, above in ends):
        y += 12
    ends.append((x, y))
    parts.append(text(x + 9, y + 4, run.letter, kind=f"letter {kind}"))
    return parts


def _range(values: Sequence[float], *, share: bool) -> tuple[float, float]:
    if not share:
        return 0.0, max(values, default=1.0) * 1.05 or 1.0
    lowest = min(values, default=0.0)
    return max(0.0, math.floor(lowest * 10 - 0.5) / 10), 1.0


def _last(numbers: Sequence[float | None]) -> str:
    finite = [value for value in numbers if value is not None]
    return f"{finite[-1]:.3f}" if finite else "no number"


def _differences(rows: Sequence[tuple[Against, Tested]], size: str, width: float) -> Markup:
    width = 2 * width if size == "wide" else width
    label, row, top = 150.0, 30.0, 10.0
    bottom = top + row * len(rows)
    reach = max([0.02, *(abs(end) for _, each in rows for end in (each.interval.low, each.interval.high))]) * 1.1
    frame = Frame(label, top, width - 16, bottom, x=(-100 * reach, 100 * reach), y=(0, 1))
    parts = []
    for tick in ticks(-100 * reach, 100 * reach, about=8 if size == "wide" else 4):
        x = frame.at_x(tick)
        parts += [line(x, top, x, bottom, "axis" if tick == 0 else "grid")]
        parts += [text(x, bottom + 17, f"{tick:+g}" if tick else "0", anchor="middle")]
    middle = (frame.left + frame.right) / 2
    parts.append(text(middle, bottom + 35, "percentage points of accuracy", anchor="middle", kind="name"))
    for index, (each, tested) in enumerate(rows):
        y = top + row * index + row / 2
        name = f"{each.run.letter} less {each.first.letter}, {SPLIT_WORDS[tested.split]}"
        low, high = (frame.at_x(100 * end) for end in (tested.interval.low, tested.interval.high))
        at = frame.at_x(100 * tested.outcomes.difference)
        said = (
            f"{name}: {points(tested.outcomes.difference)} points, 95 % interval {points(tested.interval.low)} to "
            f"{points(tested.interval.high)}, {p_text(tested.p_adjusted)}"
        )
        parts += [
            text(label - 10, y + 4, name, anchor="end", kind="name"),
            box(low, y - 5, high - low, 10, "fill c1 soft", said),
            line(low, y - 7, low, y + 7, "whisker"),
            line(high, y - 7, high, y + 7, "whisker"),
            dot(at, y, 4.5, "dot c1", said),
        ]
    return drawing(parts, width=width, height=bottom + 42, label="Differences in accuracy to the first run", size=size)
