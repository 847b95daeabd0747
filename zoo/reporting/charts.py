"""The charts of the report. Each is drawn in two widths; the style sheet shows the one that fits the window."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from zoo.reporting.svg import (
    LETTER,
    SIZES,
    Frame,
    axes,
    box,
    dot,
    drawing,
    last_value,
    line,
    path,
    shortened,
    text,
    ticks,
)

CLASSES_SHOWN = 40
"""Most classes in the bar chart. Of more, those with the lowest F1 are shown."""
_DOTS_MOST = 60
"""Most epochs with a dot each. More dots would run together and hide the line."""
_PARTS = ("data", "features", "train", "evaluate", "other")


def in_both_widths(draw: Callable[[str, float], Markup]) -> Markup:
    """A chart in every size of `SIZES`, drawn by `draw(size, width)`."""
    return Markup("").join(draw(size, width) for size, width in SIZES.items())


def loss_curves(history: Sequence[Mapping[str, Any]], kept: str, *, judged: str = "validation") -> Markup:
    """Training and validation loss (nats) per epoch over all stages; `kept` is the kept stage's name.

    `judged`: what stands for validation, in words.
    """
    series = [
        (judged, "c1", [epoch["val"].get("loss") for epoch in history]),
        ("training", "c2 dashed", [epoch["train_loss"] for epoch in history]),
    ]
    return in_both_widths(lambda size, width: _curves(history, series, kept, "loss (nats)", size, width))


def accuracy_curve(history: Sequence[Mapping[str, Any]], kept: str, *, judged: str = "validation") -> Markup:
    """Validation accuracy (0 to 1) per epoch over all stages; `kept` is the kept stage's name.

    `judged`: as in `loss_curves`.
    """
    series = [(judged, "c1", [epoch["val"].get("accuracy") for epoch in history])]
    return in_both_widths(lambda size, width: _curves(history, series, kept, "accuracy", size, width))


def class_bars(classes: Sequence[Mapping[str, Any]]) -> Markup:
    """Recall and precision per class with 95 % intervals; of more than `CLASSES_SHOWN`, those of lowest F1.

    Classes without images that were never predicted come last: their F1 is 0, and they say nothing of the classifier.
    """
    shown = list(classes)
    if len(shown) > CLASSES_SHOWN:
        shown = sorted(shown, key=lambda scores: (_is_absent(scores), float(scores["f1"])))[:CLASSES_SHOWN]
    return in_both_widths(lambda size, width: _class_bars(shown, size, width))


def _is_absent(scores: Mapping[str, Any]) -> bool:
    return scores["recall"] is None and scores["precision"] is None


def reliability_chart(bins: Sequence[Mapping[str, Any]]) -> Markup:
    """Accuracy against confidence, and the number of images in each bin."""
    return in_both_widths(lambda size, width: _reliability(bins, size, width))


def time_bar(seconds: Mapping[str, float]) -> Markup:
    """One bar that shows how the run's time was spent."""
    return in_both_widths(lambda size, width: _time_bar(shares_of_time(seconds), size, width))


def shares_of_time(seconds: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """(part of the run, seconds, share of the total from 0 to 1). Time that no part accounts for is `other`."""
    parts = {name: seconds[name] for name in _PARTS if name in seconds}
    # So that no share is above 1, also where a record has no total, or one below the sum of its parts.
    total = max(seconds.get("total", 0.0), sum(parts.values()), 1e-9)
    parts["other"] = total - sum(parts.values())
    return [(name, parts[name], parts[name] / total) for name in _PARTS if name in parts]


def _curves(
    history: Sequence[Mapping[str, Any]],
    series: Sequence[tuple[str, str, list[float | None]]],
    kept: str,
    metric: str,
    size: str,
    width: float,
) -> Markup:
    height = 300.0 if size == "wide" else 260.0
    values = [value for _, _, numbers in series for value in numbers if value is not None]
    # Losses that are all 0 would leave an axis without height.
    top = 1.0 if metric == "accuracy" else max(values, default=1.0) * 1.05 or 1.0
    low = 0.0
    # From zero, a curve between 0.95 and 0.99 would look flat.
    if metric == "accuracy" and min(values, default=0.0) > 0.55:
        low = math.floor(min(values) * 10 - 0.5) / 10
    frame = Frame(40, 44, width - 14, height - 42, x=(0.5, len(history) + 0.5), y=(low, top))
    x_ticks = [tick for tick in ticks(1, len(history), about=6, whole=True) if tick >= 1]
    parts = _stage_bands(history, kept, frame)
    parts += axes(frame, x_label="epoch", y_label=metric, x_ticks=x_ticks, y_ticks=ticks(low, top))
    for name, kind, numbers in series:
        points = [
            (epoch, value, frame.at_x(epoch), frame.at_y(value))
            for epoch, value in enumerate(numbers, start=1)
            if value is not None
        ]
        parts.append(path([(x, y) for _, _, x, y in points], f"line {kind}"))
        if len(history) <= _DOTS_MOST:
            parts += [
                dot(x, y, 2.6, f"dot {kind}", f"epoch {epoch}: {name} {value:.4f}") for epoch, value, x, y in points
            ]
    parts += _legend([(name, kind) for name, kind, _ in series], width) if len(series) > 1 else []
    ends = "; ".join(f"{name} ends at {last_value(numbers)}" for name, _, numbers in series)
    return drawing(parts, width=width, height=height, label=f"{metric} over {len(history)} epochs: {ends}", size=size)


def _stage_bands(history: Sequence[Mapping[str, Any]], kept: str, frame: Frame) -> list[str]:
    """A labelled line at the start of each stage, and a tint behind the kept one."""
    parts: list[str] = []
    # Stages follow one another, so where the name changes, one ends.
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
        full = f"{name}, kept" if name == kept else name
        # The longest label that fits: with "kept", the name, a part of the name, the stage's number.
        fitting = next((label for label in (full, name) if LETTER * len(label) + 8 <= right - left), None)
        label = fitting or (shortened(name, right - left - 6) if right - left > 34 else str(number))
        title = f"stage {number}, {full}: epochs {first + 1} to {end}"
        parts.append(text(left + 4, frame.top - 5, label, kind="stage-name", title=title))
    return parts


def _legend(entries: Sequence[tuple[str, str]], width: float) -> list[str]:
    parts = []
    right = width - 14
    # From the right edge of the chart to the left, so that it ends there whatever the names are.
    for name, kind in reversed(entries):
        right -= LETTER * len(name)
        parts += [text(right, 12, name), line(right - 24, 8, right - 6, 8, f"line {kind}")]
        right -= 38
    return parts


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
    for index, scores in enumerate(classes):
        y = top + row * index
        name = shortened(scores["name"], label - 12)
        parts.append(text(label - 8, y + row / 2 + 4, name, anchor="end", title=scores["name"]))
        for offset, kind, metric in ((5, "c1", "recall"), (18, "c2", "precision")):
            parts += _bar(frame, y + offset, scores[metric], kind, f"{scores['name']}: {metric}")
    return drawing(parts, width=width, height=height, label="Recall and precision of each class", size=size)


def _bar(frame: Frame, y: float, share: Mapping[str, float] | None, kind: str, metric: str) -> list[str]:
    if share is None:
        return [text(frame.left + 4, y + 9, "none", kind="faint", title=f"{metric}: no images to count")]
    title = f"{metric} {share['value']:.1%}, 95 % interval {share['low']:.1%} to {share['high']:.1%}"
    middle, low, high = y + 5, frame.at_x(share["low"]), frame.at_x(share["high"])
    return [
        box(frame.left, y, frame.at_x(share["value"]) - frame.left, 10, f"fill {kind}", title),
        line(low, middle, high, middle, "whisker"),
        line(low, middle - 3, low, middle + 3, "whisker"),
        line(high, middle - 3, high, middle + 3, "whisker"),
    ]


def _reliability(bins: Sequence[Mapping[str, Any]], size: str, width: float) -> Markup:
    height, strip = (430.0 if size == "wide" else 350.0), 56.0
    frame = Frame(40, 24, width - 14, height - 58 - strip, x=(0, 1), y=(0, 1))
    parts = axes(frame, x_label="", y_label="accuracy", x_ticks=[], y_ticks=[0, 0.25, 0.5, 0.75, 1])
    most = max((part["images"] for part in bins), default=0) or 1
    below = Frame(40, frame.bottom + 18, width - 14, frame.bottom + 10 + strip, x=(0, 1), y=(0, most))
    for part in bins:
        left, right = frame.at_x(part["low"]) + 1, frame.at_x(part["high"]) - 1
        if part["accuracy"] is None:
            continue
        title = (
            f"confidence {part['low']:.2f} to {part['high']:.2f}: {part['images']} images, "
            f"mean confidence {part['confidence']:.3f}, accuracy {part['accuracy']:.3f}"
        )
        y = frame.at_y(part["accuracy"])
        parts.append(box(left, y, right - left, frame.bottom - y, "fill c1 soft", title))
        parts.append(line(left, y, right, y, "line c1"))
        parts.append(dot(frame.at_x(part["confidence"]), y, 3.2, "dot c1", title))
        # One image among thousands would be less than a pixel high.
        count = max(1.5, below.bottom - below.at_y(part["images"]))
        parts.append(box(left, below.bottom - count, right - left, count, "fill grey", title))
    parts.append(line(frame.at_x(0), frame.at_y(0), frame.at_x(1), frame.at_y(1), "ideal"))
    parts.append(text(frame.at_x(0.03), frame.top + 14, "above the line: underconfident", kind="faint"))
    parts.append(text(frame.at_x(0.97), frame.bottom - 8, "below: overconfident", kind="faint", anchor="end"))
    parts += [
        line(below.left, below.bottom, below.right, below.bottom, "axis"),
        text(frame.left - 7, below.top + 8, most, anchor="end"),
        text(frame.left - 7, below.bottom, 0, anchor="end"),
    ]
    parts += [text(frame.at_x(tick / 4), below.bottom + 17, f"{tick / 4:g}", anchor="middle") for tick in range(5)]
    middle = (frame.left + frame.right) / 2
    parts.append(text(middle, below.bottom + 35, "confidence (grey: number of images)", anchor="middle", kind="name"))
    return drawing(parts, width=width, height=height, label="Accuracy against confidence", size=size)


def _time_bar(shares: Sequence[tuple[str, float, float]], size: str, width: float) -> Markup:
    if size == "wide":
        width = 2 * width  # this chart stands alone, the others two in a row
    x, parts = 0.0, []
    for number, (name, seconds, share) in enumerate(shares, start=1):
        across = share * width
        parts.append(box(x, 0, across, 34, f"fill t{number}", f"{name}: {seconds:.1f} s, {share:.0%}"))
        if across > LETTER * len(name) + 16:
            parts.append(text(x + 8, 22, name, kind="on-part"))
        x += across
    listed = ", ".join(f"{name} {share:.0%}" for name, _, share in shares)
    return drawing(parts, width=width, height=34, label=f"Time: {listed}", size=size)
