"""A learning curve as it is recorded: points with intervals, forecasts for more images, and what cannot be said.

`zoo.probes.learning_curve` makes the curve. Texts, tables and pages are made of this record.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zoo.evaluation.metrics import Z95, wilson_interval
from zoo.probes.learning_curve import LearningCurve
from zoo.probes.power_law import Z80, Extrapolation, extrapolate

FORMAT = 1
"""Of `curve.json`."""
TIMES = (2, 4)
"""How many times as many images forecasts are made for."""
WIDEST = 0.1
"""A forecast whose interval reaches further than this from its middle says nothing."""
LEAST_OF_A_CLASS = 20
"""Fewest images of a class of which a forecast is made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """A share from 0 to 1, or a difference of shares from -1 to 1, with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """The accuracy of a probe when it is fitted to a share of the images."""

    share: float
    images: int
    accuracy: Range
    """With its 95 % interval, over images and draws."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a number of times as many images would bring."""

    times: int
    images: int
    gain: Range | None
    """Of accuracy on the same images, with its 80 % interval; None where nothing can be said."""
    accuracy: Range | None
    """With its 80 % interval, chance in the images included."""
    missed: float | None
    """The backtest: what the curve's end brought, less what its beginning had promised."""
    why: str = ""
    """Why nothing can be said; empty where something can."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassCurve:
    """The curve of one class's images."""

    name: str
    images: int
    recalls: tuple[float, ...]
    """At each point."""
    gain: Range | None
    """What twice as many images of all classes would bring, with its 80 % interval; None where nothing can be said."""
    judged: int
    """How many of the images a fit was asked about that had not seen them. Of 0, the recalls say nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveRecord:
    """The curve of a linear probe on the features of some images."""

    images: int
    """How many images the curve was made of."""
    of: int
    """How many there are: more than `images` where a part was enough."""
    draws: int
    points: tuple[CurvePoint, ...]
    forecasts: tuple[Forecast, ...]
    classes: tuple[ClassCurve, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, as in `curve.json` of a run."""
        return {"format": FORMAT, **asdict(self)}


def record_of(curve: LearningCurve, classes: Sequence[str], *, of: int | None = None) -> CurveRecord:
    """Make the record of a curve; `classes` are their names, `of` how many images there are if not all were taken."""
    count = len(curve.targets)
    # Of a single draw the spread is then 0, where the usual correction would make it nan.
    spread = curve.right[:, :, curve.judged].double().mean(2).std(0, correction=min(1, len(curve.right) - 1))
    # The mean over draws varies less than one draw does.
    chances = [float(each) / math.sqrt(len(curve.right)) for each in spread]
    # Copies of an image are right or wrong together: they are one piece of evidence.
    independent = len({group for group, judged in zip(curve.groups, curve.judged.tolist(), strict=True) if judged})
    points = tuple(
        CurvePoint(share=share, images=round(share * count), accuracy=_measured(value, independent, chance))
        for share, value, chance in zip(curve.shares, curve.accuracies, chances, strict=True)
    )
    return CurveRecord(
        images=count,
        of=count if of is None else of,
        draws=len(curve.right),
        points=points,
        forecasts=tuple(_forecast(curve, times) for times in TIMES),
        classes=tuple(_of_class(curve, index, name) for index, name in enumerate(classes)),
    )


def _measured(value: float, images: int, chance: float) -> Range:
    """An accuracy with its 95 % interval: Wilson's, of independent images, widened by the chance of draws."""
    share = wilson_interval(round(value * images), images)
    if share is None:
        return Range(value=value, low=0.0, high=1.0)
    below, above = (math.hypot(each, Z95 * chance) for each in (share.value - share.low, share.high - share.value))
    return Range(value=value, low=max(0.0, value - below), high=min(1.0, value + above))


def _forecast(curve: LearningCurve, times: int) -> Forecast:
    count = len(curve.targets)
    found = extrapolate(curve, times)
    why = _why_not(found)
    if found is None or why:
        missed = None if found is None else found.missed
        return Forecast(times=times, images=times * count, gain=None, accuracy=None, missed=missed, why=why)
    # The gain's interval is that of a difference on the same images. The accuracy also has the chance that is in them.
    middle = curve.accuracies[-1] + found.gain
    reach = math.hypot(found.half_width, Z80 * found.chance)
    accuracy = Range(value=middle, low=max(0.0, middle - reach), high=min(1.0, middle + reach))
    gain = Range(value=found.gain, low=found.low, high=found.high)
    return Forecast(times=times, images=times * count, gain=gain, accuracy=accuracy, missed=found.missed)


def _why_not(found: Extrapolation | None) -> str:
    if found is None:
        return "the curve is too short: there are too few images of each class"
    if found.half_width > WIDEST:
        return f"the interval would be wider than {200 * WIDEST:.0f} points"
    return ""


def _of_class(curve: LearningCurve, index: int, name: str) -> ClassCurve:
    images = curve.judged & (curve.targets == index)
    count = int(images.sum())
    recalls = curve.right[:, :, images].double().mean((0, 2)).tolist() if count else [0.0] * len(curve.shares)
    found = extrapolate(curve, TIMES[0], images) if count >= LEAST_OF_A_CLASS else None
    says = found is not None and found.half_width <= 2 * WIDEST
    gain = Range(value=found.gain, low=found.low, high=found.high) if found is not None and says else None
    return ClassCurve(
        name=name, images=int((curve.targets == index).sum()), recalls=tuple(recalls), gain=gain, judged=count
    )
