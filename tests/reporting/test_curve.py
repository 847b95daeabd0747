"""A curve in words and as a chart: from its record alone."""

from __future__ import annotations

from typing import Any

import pytest
from zoo.reporting.curve import curve_chart, curve_sentences, shown_curve


def ranged(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def record_with(gain: dict[str, float] | None, classes: list[dict[str, Any]], why: str = "") -> dict[str, Any]:
    points = [
        {"share": share, "images": int(800 * share), "accuracy": ranged(0.8 + share / 10, 0.03)}
        for share in (0.25, 0.5, 1)
    ]
    accuracy = None if gain is None else ranged(0.9 + gain["value"], 0.03)
    forecasts = [
        {"times": times, "images": 800 * times, "gain": gain, "accuracy": accuracy, "why": why} for times in (2, 4)
    ]
    return {"images": 800, "of": 800, "draws": 3, "points": points, "forecasts": forecasts, "classes": classes}


def named(name: str, gain: dict[str, float] | None) -> dict[str, Any]:
    return {"name": name, "images": 400, "recalls": [0.7, 0.8, 0.9], "gain": gain}


@pytest.mark.parametrize(
    ("gain", "classes", "words"),
    [
        (
            ranged(0.02, 0.015),
            [named("rose", ranged(0.04, 0.02)), named("tulip", ranged(0.0, 0.02))],
            "Twice as many images (1,600) would bring 2.0 points [0.5, 3.5].|Most of it would come from rose",
        ),
        (
            ranged(0.02, 0.03),
            [named("rose", ranged(0.04, 0.05))],
            "[-1.0, 5.0]: that they bring anything is not certain.|cannot be said: the interval of every class",
        ),
        (ranged(0.02, 0.01), [named("rose", None)], "cannot be said: no class has enough images"),
        (None, [named("rose", None)], "What twice as many images (1,600) would bring cannot be said: it is short."),
    ],
)
def test_the_sentences(gain: dict[str, float] | None, classes: list[dict[str, Any]], words: str) -> None:
    text = " ".join(curve_sentences(record_with(gain, classes, why="it is short")))
    assert all(each in text for each in words.split("|")), text


def test_the_chart_has_two_widths_and_dashes_what_is_extrapolated() -> None:
    drawn = curve_chart(record_with(ranged(0.02, 0.01), []))
    assert drawn.count("<svg") == 2 and drawn.count("line c2 dashed") == 4 and "expected: 0.920 with 1,600" in drawn
    assert "dashed" not in curve_chart(record_with(None, []))


def test_of_many_classes_those_with_the_lowest_recall_are_shown_and_not_those_of_which_nothing_is_known() -> None:
    unknown = [{**named(f"unknown {number}", None), "recalls": [0.0], "judged": 0} for number in range(50)]
    known = [{**named(f"known {number}", None), "recalls": [number / 60], "judged": 4} for number in range(60)]
    shown = shown_curve({**record_with(None, [*unknown, *known])}).classes
    assert [each["name"] for each in shown] == [f"known {number}" for number in range(40)]
