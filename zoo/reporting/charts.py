"""The charts of the report. Each is drawn for two widths; the page shows the one that fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from zoo.reporting.svg import SIZES, Frame, axes, box, dot, drawing, line, path, shortened, text, ticks

CLASSES_SHOWN = 40
"""Bars of more classes would be a page of their own: the worst are shown."""
_PARTS = ("data", "features", "train", "evaluate", "other")


def loss_curves(history: Sequence[Mapping[str, Any]], kept: str) -> Markup:
    """Training and validation loss per epoch, over all stages."""
    series = [
        ("validation", "c1", [epoch["val"].get("loss") for epoch in history]),
        ("training", "c2 dashed", [epoch["train_loss"] for epoch in history]),
    ]
    return both(lambda size, width: _curves(history, series, kept, "loss (nats)", size, width))


def accuracy_curve(history: Sequence[Mapping[str, Any]], kept: str) -> Markup:
    """Validation accuracy per epoch, over all stages."""
    series = [("validation", "c1", [epoch["val"].get("accuracy") for epoch in history])]
    return both(lambda size, width: _curves(history, series, kept, "accuracy", size, width))


def class_bars(classes: Sequence[Mapping[str, Any]]) -> Markup:
    """Recall and precision of every class with 95 % intervals; of many classes the `CLASSES_SHOWN` of lowest F1."""
    shown = list(classes)
    if len(shown) > CLASSES_SHOWN:
        shown = sorted(shown, key=lambda each: float(each["f1"]))[:CLASSES_SHOWN]
    return both(lambda size, width: _class_bars(shown, size, width))


def reliability_chart(bins: Sequence[Mapping[str, Any]]) -> Markup:
    """Accuracy over confidence, and how many images each bin holds."""
    return both(lambda size, width: _reliability(bins, size, width))


def time_bar(seconds: Mapping[str, float]) -> Markup:
    """One bar, divided by what a run spent its time on."""
    return both(lambda size, width: _time_bar(shares_of_time(seconds), size, width))


def shares_of_time(seconds: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """(what, seconds, share of the total), with the rest as `other`."""
    parts = {name: seconds[name] for name in _PARTS if name in seconds}
    total = max(seconds.get("total", 0.0), sum(parts.values()), 1e-9)
    parts["other"] = total - sum(parts.values())
    return [(name, parts[name], parts[name] / total) for name in _PARTS if name in parts]


def both(draw: Callable[[str, float], Markup]) -> Markup:
    """A chart drawn for either width, by `draw(size, width)`."""
    return Markup("").join(draw(size, width) for size, width in SIZES.items())


def _curves(
    history: Sequence[Mapping[str, Any]],
    series: Sequence[tuple[str, str, list[float | None]]],
    kept: str,
    what: str,
    size: str,
    width: float,
) -> Markup:
    height = 300.0 if size == "wide" else 260.0
    values = [value for _, _, line_ in series for value in line_ if value is not None]
    top = 1.0 if what == "accuracy" else max(values, default=1.0) * 1.05 or 1.0
    low = 0.0
    if what == "accuracy" and min(values, default=0.0) > 0.55:
        low = math.floor(min(values) * 10 - 0.5) / 10
    frame = Frame(40, 44, width - 14, height - 42, x=(0.5, len(history) + 0.5), y=(low, top))
    x_ticks = [tick for tick in ticks(1, len(history), about=6, whole=True) if tick >= 1]
    parts = _stage_bands(history, kept, frame)
    parts += axes(frame, x_label="epoch", y_label=what, x_ticks=x_ticks, y_ticks=ticks(low, top))
    for name, kind, numbers in series:
        points = [
            (frame.at_x(index), frame.at_y(value)) for index, value in enumerate(numbers, start=1) if value is not None
        ]
        parts.append(path(points, f"line {kind}"))
        if len(history) <= 60:
            parts += [
                dot(frame.at_x(index), frame.at_y(value), 2.6, f"dot {kind}", f"epoch {index}: {name} {value:.4f}")
                for index, value in enumerate(numbers, start=1)
                if value is not None
            ]
    parts += _legend([(name, kind) for name, kind, _ in series], width) if len(series) > 1 else []
    spoken = "; ".join(f"{name} ends at {_last(numbers)}" for name, _, numbers in series)
    return drawing(parts, width=width, height=height, label=f"{what} over {len(history)} epochs: {spoken}", size=size)


def _stage_bands(history: Sequence[Mapping[str, Any]], kept: str, frame: Frame) -> list[str]:
    """A labelled line where each stage begins, and a tint under the one that was kept."""
    parts: list[str] = []
    begin = 0
    stages: list[tuple[str, int, int]] = []
    for index, epoch in enumerate(history):
        if index + 1 == len(history) or history[index + 1]["stage"] != epoch["stage"]:
            stages.append((epoch["stage"], begin, index + 1))
            begin = index + 1
    for number, (name, first, end) in enumerate(stages, start=1):
        left, right = frame.at_x(first + 0.5), frame.at_x(end + 0.5)
        if name == kept:
            parts.append(box(left, frame.top, right - left, frame.bottom - frame.top, "kept"))
        parts.append(line(left, frame.top - 16, left, frame.bottom, "stage"))
        whole = f"{name}, kept" if name == kept else name
        fits = next((each for each in (whole, name) if 6.6 * len(each) + 8 <= right - left), None)
        label = fits or (shortened(name, right - left - 6) if right - left > 34 else str(number))
        title = f"stage {number}, {whole}: epochs {first + 1} to {end}"
        parts.append(text(left + 4, frame.top - 5, label, kind="stage-name", title=title))
    return parts


def _legend(entries: Sequence[tuple[str, str]], width: float) -> list[str]:
    parts = []
    right = width - 14
    for name, kind in reversed(entries):
        right -= 6.6 * len(name)
        parts += [text(right, 12, name), line(right - 24, 8, right - 6, 8, f"line {kind}")]
        right -= 38
    return parts


def _last(numbers: Sequence[float | None]) -> str:
    finite = [value for value in numbers if value is not None]
    return f"{finite[-1]:.3f}" if finite else "no number"


def _class_bars(classes: Sequence[Mapping[str, Any]], size: str, width: float) -> Markup:
    label, row, top = (150.0 if size == "wide" else 92.0), 34.0, 34.0
    height = top + row * len(classes) + 42
    frame = Frame(label, top, width - 14, top + row * len(classes), x=(0, 1), y=(0, 1))
    parts = [line(frame.at_x(tick / 4), frame.top, frame.at_x(tick / 4), frame.bottom, "grid") for tick in range(5)] + [
        text(frame.at_x(tick / 4), frame.bottom + 17, f"{25 * tick}", anchor="middle") for tick in range(5)
    ]
    parts.append(text((frame.left + frame.right) / 2, frame.bottom + 35, "% of images", anchor="middle", kind="name"))
    parts += [box(frame.left, 6, 12, 8, "fill c1"), text(frame.left + 18, 14, "recall")]
    parts += [box(frame.left + 78, 6, 12, 8, "fill c2"), text(frame.left + 96, 14, "precision")]
    for index, each in enumerate(classes):
        y = top + row * index
        name = shortened(each["name"], label - 12)
        parts.append(text(label - 8, y + row / 2 + 4, name, anchor="end", title=each["name"]))
        for offset, share, kind, what in (
            (5, each["recall"], "c1", "recall"),
            (18, each["precision"], "c2", "precision"),
        ):
            parts += _bar(frame, y + offset, share, kind, f"{each['name']}: {what}")
    return drawing(parts, width=width, height=height, label="Recall and precision of each class", size=size)


def _bar(frame: Frame, y: float, share: Mapping[str, float] | None, kind: str, what: str) -> list[str]:
    if share is None:
        return [text(frame.left + 4, y + 9, "none", kind="faint", title=f"{what}: nothing to count")]
    said = f"{what} {share['value']:.1%}, 95 % interval {share['low']:.1%} to {share['high']:.1%}"
    middle, low, high = y + 5, frame.at_x(share["low"]), frame.at_x(share["high"])
    return [
        box(frame.left, y, frame.at_x(share["value"]) - frame.left, 10, f"fill {kind}", said),
        line(low, middle, high, middle, "whisker"),
        line(low, middle - 3, low, middle + 3, "whisker"),
        line(high, middle - 3, high, middle + 3, "whisker"),
    ]


def _reliability(bins: Sequence[Mapping[str, Any]], size: str, width: float) -> Markup:
    height, strip = (430.0 if size == "wide" else 350.0), 56.0
    frame = Frame(40, 24, width - 14, height - 58 - strip, x=(0, 1), y=(0, 1))
    parts = axes(frame, x_label="", y_label="accuracy", x_ticks=[], y_ticks=[0, 0.25, 0.5, 0.75, 1])
    most = max((each["images"] for each in bins), default=0) or 1
    below = Frame(40, frame.bottom + 18, width - 14, frame.bottom + 10 + strip, x=(0, 1), y=(0, most))
    for each in bins:
        left, right = frame.at_x(each["low"]) + 1, frame.at_x(each["high"]) - 1
        if each["accuracy"] is None:
            continue
        said = (
            f"confidence {each['low']:.2f} to {each['high']:.2f}: {each['images']} images, "
            f"mean confidence {each['confidence']:.3f}, accuracy {each['accuracy']:.3f}"
        )
        y = frame.at_y(each["accuracy"])
        parts.append(box(left, y, right - left, frame.bottom - y, "fill c1 soft", said))
        parts.append(line(left, y, right, y, "line c1"))
        parts.append(dot(frame.at_x(each["confidence"]), y, 3.2, "dot c1", said))
        count = max(1.5, below.bottom - below.at_y(each["images"]))
        parts.append(box(left, below.bottom - count, right - left, count, "fill grey", said))
    parts.append(line(frame.at_x(0), frame.at_y(0), frame.at_x(1), frame.at_y(1), "ideal"))
    parts.append(text(frame.at_x(0.03), frame.top + 14, "above the line: too modest", kind="faint"))
    parts.append(text(frame.at_x(0.97), frame.bottom - 8, "below: too sure", kind="faint", anchor="end"))
    parts += [line(below.left, below.bottom, below.right, below.bottom, "axis")]
    parts += [
        text(frame.left - 7, below.top + 8, most, anchor="end"),
        text(frame.left - 7, below.bottom, 0, anchor="end"),
    ]
    parts += [text(frame.at_x(tick / 4), below.bottom + 17, f"{tick / 4:g}", anchor="middle") for tick in range(5)]
    middle = (frame.left + frame.right) / 2
    parts.append(text(middle, below.bottom + 35, "confidence; grey: images", anchor="middle", kind="name"))
    return drawing(parts, width=width, height=height, label="Accuracy over confidence", size=size)


def _time_bar(shares: Sequence[tuple[str, float, float]], size: str, width: float) -> Markup:
    if size == "wide":
        width = 2 * width
    x, parts = 0.0, []
    for number, (name, seconds, share) in enumerate(shares, start=1):
        across = share * width
        parts.append(box(x, 0, across, 34, f"fill t{number}", f"{name}: {seconds:.1f} s, {share:.0%}"))
        if across > 6.6 * len(name) + 16:
            parts.append(text(x + 8, 22, name, kind=f"on-t{number}"))
        x += across
    spoken = ", ".join(f"{name} {share:.0%}" for name, _, share in shares)
    return drawing(parts, width=width, height=34, label=f"Time: {spoken}", size=size)
