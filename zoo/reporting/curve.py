"""The learning curve of a probe in words and as a chart, from its record in plain JSON types (`curve.json`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from zoo.reporting.charts import CLASSES_SHOWN, in_both_widths
from zoo.reporting.svg import Frame, axes, box, dot, drawing, line, path, text, ticks
from zoo.text import some

IN_WORDS = {2: "Twice", 4: "Four times"}
_MOST_OF_IT = 0.5
"""A class that brings more than this share of the gain brings most of it."""
_NAMED = 3


def interval(found: Mapping[str, float], digits: int = 1) -> str:
    """`[0.5, 3.5]`, in points or percent."""
    # Adding 0.0 takes the sign from a zero.
    return f"[{100 * found['low'] + 0.0:.{digits}f}, {100 * found['high'] + 0.0:.{digits}f}]"


def curve_sentences(record: Mapping[str, Any]) -> tuple[str, ...]:
    """What a curve says, and what it cannot say, in full sentences; the first one is about now."""
    last = record["points"][-1]["accuracy"]
    whole = record["of"] == record["images"]
    judged = f"{record['images']:,} images" if whole else f"{record['images']:,} of {record['of']:,} images"
    sentences = [f"A linear probe classifies {100 * last['value']:.1f} % {interval(last)} of {judged} correctly."]
    if not whole:
        sentences.append("The curve is of this part, and so is what follows; zoo data curve takes all images.")
    sentences += [_forecast(each) for each in record["forecasts"]]
    if record["forecasts"] and record["forecasts"][0]["gain"] is not None:
        sentences.append(_of_classes(record))
    return tuple(sentences)


def _forecast(forecast: Mapping[str, Any]) -> str:
    words = f"{IN_WORDS[forecast['times']]} as many images ({forecast['images']:,})"
    gain = forecast["gain"]
    if gain is None:
        return f"What {words[0].lower()}{words[1:]} would bring cannot be said: {forecast['why']}."
    brings = f"{words} would bring {100 * gain['value']:.1f} points {interval(gain)}"
    if gain["low"] > 0:
        return f"{brings}."
    return f"{brings}: that they bring anything is not certain."


def _of_classes(record: Mapping[str, Any]) -> str:
    """Which classes would gain most, as far as the numbers bear it."""
    known = [each for each in record["classes"] if each["gain"] is not None]
    sure = sorted((each for each in known if each["gain"]["low"] > 0), key=lambda each: -_brings(each))
    if not sure:
        why = "the interval of every class reaches 0" if known else "no class has enough images"
        return f"Which classes would gain most cannot be said: {why}."
    first = sure[0]
    # "Most of it" is only known where something is known of every class.
    if _brings(first) > _MOST_OF_IT * sum(map(_brings, known)) and len(known) == len(record["classes"]) > 1:
        return f"Most of it would come from {first['name']}: {_points(first)} of its own images."
    named = some([f"{each['name']} ({_points(each)})" for each in sure], _NAMED)
    return f"Classes that would gain from twice as many images, beyond chance: {named}."


def _brings(each: Mapping[str, Any]) -> float:
    """How many more images of a class would be classified correctly."""
    return float(each["images"] * max(0.0, each["gain"]["value"]))


def _points(each: Mapping[str, Any]) -> str:
    return f"{100 * each['gain']['value']:.1f} points {interval(each['gain'])}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownCurve:
    """A learning curve as pages show it."""

    record: Mapping[str, Any]
    sentences: tuple[str, ...]
    chart: Markup
    extrapolates: bool
    """Whether any forecast could be made."""
    classes: Sequence[Mapping[str, Any]]
    """All classes, or of many those with the lowest recall."""


def lowest_recalls(classes: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The classes of a record; of more than `CLASSES_SHOWN`, those with the lowest recall at the last point.

    Those of which no image was judged come last: nobody knows their recall.
    """
    if len(classes) <= CLASSES_SHOWN:
        return classes
    return sorted(classes, key=lambda each: (not is_judged(each), float(each["recalls"][-1])))[:CLASSES_SHOWN]


def is_judged(of_class: Mapping[str, Any]) -> bool:
    """Whether any image of a class was judged; in the record of an older zoo, which does not say, all were."""
    return bool(of_class.get("judged", 1))


def shown_curve(record: Mapping[str, Any]) -> ShownCurve:
    """Prepare a record for the template `curve_part.html`."""
    return ShownCurve(
        record=record,
        sentences=curve_sentences(record),
        chart=curve_chart(record),
        extrapolates=any(each["gain"] is not None for each in record["forecasts"]),
        classes=lowest_recalls(record["classes"]),
    )


def curve_chart(record: Mapping[str, Any]) -> Markup:
    """Accuracy against the number of images, with its interval; what is extrapolated is dashed."""
    return in_both_widths(lambda size, width: _chart(record, size, width))


def _chart(record: Mapping[str, Any], size: str, width: float) -> Markup:
    points = [(each["images"], each["accuracy"]) for each in record["points"]]
    ahead = [(each["images"], each["accuracy"]) for each in record["forecasts"] if each["accuracy"] is not None]
    everything = [*points, *ahead]
    # Down to the next 5 % with a little room, so that no interval lies on the axis.
    low = max(0.0, math.floor(min(found["low"] for _, found in everything) * 20 - 0.2) / 20)
    height = 300.0 if size == "wide" else 260.0
    # The number of images doubles from point to point, so its logarithm is drawn.
    frame = Frame(40, 30, width - 22, height - 42, x=_across(everything), y=(low, 1.0))
    parts = axes(frame, x_label="images (each step doubles)", y_label="accuracy", x_ticks=[], y_ticks=ticks(low, 1.0))
    # On a phone every second number, counted from the end, for the largest is the one that people look for.
    shown = everything if size == "wide" else everything[::-2][::-1]
    parts += [
        text(frame.at_x(math.log2(count)), frame.bottom + 17, f"{count:,}", anchor="middle") for count, _ in shown
    ]
    parts += _measured(frame, points)
    for begin, end in zip([points[-1], *ahead], ahead, strict=False):
        parts.append(path([_place(frame, begin), _place(frame, end)], "line c2 dashed"))
    parts += [part for each in ahead for part in _whisker(frame, *each)]
    said = ", ".join(f"{found['value']:.3f} with {count:,} images" for count, found in points)
    expected = ", ".join(f"{found['value']:.3f} with {count:,}" for count, found in ahead)
    label = f"Accuracy: {said}" + (f"; expected: {expected}" if expected else "; nothing is extrapolated")
    return drawing(parts, width=width, height=height, label=label, size=size)


def _across(everything: Sequence[tuple[int, Mapping[str, float]]]) -> tuple[float, float]:
    counts = [math.log2(count) for count, _ in everything]
    return min(counts) - 0.3, max(counts) + 0.3


def _place(frame: Frame, point: tuple[int, Mapping[str, float]]) -> tuple[float, float]:
    return frame.at_x(math.log2(point[0])), frame.at_y(point[1]["value"])


def _measured(frame: Frame, points: Sequence[tuple[int, Mapping[str, float]]]) -> list[str]:
    parts = []
    for count, found in points:
        x, low, high = frame.at_x(math.log2(count)), frame.at_y(found["low"]), frame.at_y(found["high"])
        parts.append(box(x - 5, high, 10, low - high, "fill c1 soft"))
    parts.append(path([_place(frame, each) for each in points], "line c1"))
    for count, found in points:
        title = f"{count:,} images: {100 * found['value']:.1f} %, 95 % interval {interval(found)}"
        parts.append(dot(*_place(frame, (count, found)), 3.2, "dot c1", title))
    return parts


def _whisker(frame: Frame, count: int, found: Mapping[str, float]) -> list[str]:
    x, low, high = frame.at_x(math.log2(count)), frame.at_y(found["low"]), frame.at_y(found["high"])
    title = f"{count:,} images, extrapolated: {100 * found['value']:.1f} %, 80 % interval {interval(found)}"
    return [
        line(x, low, x, high, "whisker"),
        line(x - 5, low, x + 5, low, "whisker"),
        line(x - 5, high, x + 5, high, "whisker"),
        dot(*_place(frame, (count, found)), 3.2, "dot c2", title),
    ]
