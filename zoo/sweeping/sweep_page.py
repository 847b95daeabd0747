"""The page of a sweep: the winner, accuracy by the values of every knob, all trials; one file that loads nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from zoo.reporting.charts import in_both_widths
from zoo.reporting.page import environment, percent, styles
from zoo.reporting.svg import LETTER, Frame, axes, dot, drawing, line, shortened, text, ticks
from zoo.sweeping.knobs import LOGARITHMIC
from zoo.sweeping.sweep_record import CandidateScores, Sweep
from zoo.text import counted, duration, shell_word

_ROUND = (1, 2, 5)
"""First digits of the numbers below a logarithmic axis: about evenly apart there."""
_FEW = 8
"""Most different numbers that are shown like names, each in a column of its own."""
_SHOWN = 1_000
"""Trials that the page lists; trials.csv has all."""


@dataclass(frozen=True, slots=True)
class KnobChart:
    """Accuracy by the values of one knob."""

    name: str
    drawn: str
    """How the values were drawn; empty for a list."""
    chart: Markup


def render_sweep(sweep: Sweep) -> str:
    """The page as HTML."""
    templates = environment("zoo.sweeping")
    done = [each for each in sweep.candidates if not each.failed]
    varied = sweep.varied
    return templates.get_template("sweep.html").render(
        css=styles(templates),
        sweep=sweep,
        best=sweep.best,
        judged=sweep.judged,
        division=sweep.division,
        varied=varied,
        fixed={name: value for name, value in sweep.best.settings.items() if name not in varied},
        charts=[_knob_chart(name, sweep, done) for name in varied],
        title=_title(sweep),
        trials=sweep.trials[:_SHOWN],
        failed=[row for row in sweep.trials if row.status == "failed"],
        retried=[row for row in sweep.trials if row.retries],
        counted=counted,
        duration=duration,
        command=f"zoo predict {shell_word(sweep.winner_run)} IMAGE",
        interval=_interval,
    )


def _title(sweep: Sweep) -> str:
    accuracy = sweep.judged["accuracy"]
    return f"The best of {counted(len(sweep.candidates), 'candidate')} gets {percent(accuracy['value'])} right"


def _interval(each: CandidateScores) -> str:
    if each.interval is None:
        return "" if each.drawn or each.failed else "no seed changes it"
    return f"{100 * each.interval[0]:.1f} to {100 * each.interval[1]:.1f}"


def _knob_chart(name: str, sweep: Sweep, done: Sequence[CandidateScores]) -> KnobChart:
    asked = sweep.settings["over"][name]
    drawn = ""
    if isinstance(asked, str):
        values = [float(each.settings[name]) for each in sweep.candidates]
        drawn = f"drawn from {asked}, {'on a logarithmic scale' if _is_logarithmic(values, asked) else 'evenly'}"
    return KnobChart(name, drawn, in_both_widths(lambda size, width: _dots(name, done, size, width)))


def _is_logarithmic(values: Sequence[float], asked: str = "") -> bool:
    low, high = (float(each) for each in asked.split("..")) if asked else (min(values), max(values))
    return low > 0 and high / low >= LOGARITHMIC


def _dots(name: str, done: Sequence[CandidateScores], size: str, width: float) -> Markup:
    """A dot for every trial, by its value of the knob; the winner's are larger."""
    height = 280.0 if size == "wide" else 250.0
    points = [(each.settings[name], each.accuracy_of(row), each, row) for each in done for row in each.rows]
    kind = "balanced " if done[0].balanced else ""
    accuracies = [accuracy for _, accuracy, _, _ in points]
    # To the next steps of 5 points, and one further where a dot would lie on the edge.
    low = max(0.0, math.floor(20 * min(accuracies) - 0.2) / 20)
    high = min(1.0, math.ceil(20 * max(accuracies) + 0.2) / 20)
    y = (low, max(high, low + 0.05))
    numbers = _numbers([value for value, *_ in points])
    if numbers is not None:
        scale = math.log10 if _is_logarithmic(list(numbers.values())) else float
        places = {value: scale(number) for value, number in numbers.items()}
        margin = 0.05 * (max(places.values()) - min(places.values())) or 0.5  # a frame may not have no width
        x = (min(places.values()) - margin, max(places.values()) + margin)
    else:
        names = _in_order({value for value, *_ in points}, sweep_order=[each.settings[name] for each in done])
        places = {value: float(place) for place, value in enumerate(names, start=1)}
        x = (0.5, len(names) + 0.5)
    frame = Frame(44, 26, width - 14, height - 44, x=x, y=y)
    parts = axes(frame, x_label=name, y_label=f"val {kind}accuracy", x_ticks=[], y_ticks=ticks(*y))
    if numbers is None:
        room = (frame.right - frame.left) / len(places) - 6
        parts += [
            text(frame.at_x(place), frame.bottom + 17, shortened(value, room), anchor="middle", title=value)
            for value, place in places.items()
        ]
    else:
        parts += _number_ticks(frame, x, logarithmic=_is_logarithmic(list(numbers.values())))
    best = done[0]
    for value, accuracy, each, row in reversed(points):  # what is drawn last lies on top: the best
        title = f"trial {row.trial}: {each.described}, seed {row.seed}: {100 * accuracy:.1f} %"
        radius, kind = (5.5, "dot c2") if each is best else (3.4, "dot c1 soft")
        parts.append(dot(frame.at_x(places[value]), frame.at_y(accuracy), radius, kind, title))
    label = f"Validation {kind}accuracy by {name}: {len(points)} trials; the winner has {best.settings[name]}"
    return drawing(parts, width=width, height=height, label=label, size=size)


def _in_order(values: set[str], *, sweep_order: Sequence[str]) -> list[str]:
    """Numbers by size, names as they come: the best first."""
    try:
        return sorted(values, key=float)
    except ValueError:
        return sorted(values, key=sweep_order.index)


def _numbers(values: Sequence[str]) -> dict[str, float] | None:
    """The values as numbers; None for names, and for few numbers, which need no scale."""
    try:
        numbers = {value: float(value) for value in values}
    except ValueError:
        return None
    return numbers if len(numbers) > _FEW and all(map(math.isfinite, numbers.values())) else None


def _number_ticks(frame: Frame, x: tuple[float, float], *, logarithmic: bool) -> list[str]:
    if not logarithmic:
        return [
            text(frame.at_x(value), frame.bottom + 17, f"{value:g}", anchor="middle") for value in ticks(*x, about=4)
        ]
    exponents = range(math.floor(x[0]), math.ceil(x[1]) + 1)
    values = [first * 10.0**exponent for exponent in exponents for first in _ROUND]
    parts, free = [], -math.inf
    for value in values:
        if not x[0] <= math.log10(value) <= x[1]:
            continue
        across = frame.at_x(math.log10(value))
        parts.append(line(across, frame.top, across, frame.bottom, "grid"))
        half = LETTER * len(f"{value:g}") / 2
        if across - half >= free:  # labels do not run together
            parts.append(text(across, frame.bottom + 17, f"{value:g}", anchor="middle"))
            free = across + half + LETTER
    return parts
