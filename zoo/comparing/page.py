"""Write the HTML page of a comparison, with its charts: one file that loads nothing from outside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from zoo.comparing.comparison import ComparedRun, Comparison, PairedTest, RunPair
from zoo.comparing.conclusion import SPLIT_WORDS, p_value_text
from zoo.comparing.summary_tables import comparison_blocks
from zoo.display.blocks import blocks_html, frame_html
from zoo.reporting.charts import in_both_widths
from zoo.reporting.page import environment, styles
from zoo.reporting.record import as_runs_write_it
from zoo.reporting.svg import Frame, axes, box, dot, drawing, last_value, line, path, text, ticks
from zoo.specs.drawn import drawn
from zoo.storage.atomic import new_numbered_file, new_path
from zoo.text import escaping_errors, in_points

_NAME = "comparison.html"
_DOTS_MOST = 60
"""Most epochs with a dot each. More dots would run together and hide the line."""
_COLOURS, _STROKES = 4, ("", " dashed", " dotted")


def write_page(comparison: Comparison, path: Path | None = None) -> Path:
    """Write the page and return its path. Default: a new `comparison.html` beside the first run.

    Raises Refused if `path` exists, RunError if it cannot be written.
    """
    with as_runs_write_it(*(run.record.path for run in comparison.runs)):
        text = render(comparison)

    def write(draft: Path) -> None:
        draft.write_text(text, "utf-8", errors=escaping_errors())

    if path is None:
        return new_numbered_file(_parent_of(comparison.runs[0].record.path) / _NAME, write)
    with new_path(path) as draft:
        write(draft)
    return path


def render(comparison: Comparison) -> str:
    """The page as HTML. The same runs give the same text."""
    templates = environment("zoo.comparing")
    runs = comparison.runs
    has_epochs = any(run.record.history for run in runs)
    return templates.get_template("compare.html").render(
        css=styles(templates),
        comparison=comparison,
        runs=runs,
        styles=[style_of(index) for index in range(len(runs))],
        title=_title(comparison),
        words=SPLIT_WORDS,
        points=in_points,
        p_text=p_value_text,
        accuracy=curves(runs, "accuracy", "accuracy") if has_epochs else None,
        loss=curves(runs, "loss", "loss (nats)") if has_epochs else None,
        differences=differences(comparison.against),
    )


@drawn.register
def comparison_html(comparison: Comparison) -> str:
    """A comparison as a notebook shows it: the page in a frame; its tables where the page is too large."""
    framed = frame_html(render(comparison), place="Comparison of runs")
    return blocks_html(comparison_blocks(comparison)) if framed is None else framed


def _title(comparison: Comparison) -> str:
    first = comparison.runs[0]
    if len(comparison.runs) > 2:
        return f"{len(comparison.runs)} runs, each against {first.letter}"
    (against,) = comparison.against
    main = against.tested[0]
    where = f"on {main.outcomes.images:,} {SPLIT_WORDS[main.split]} images"
    if main.outcomes.difference == 0:
        return f"A and B are right equally often {where}"
    better, other = ("B", "A") if main.outcomes.difference > 0 else ("A", "B")
    says = "more than chance explains" if main.significant else "which may be chance"
    return f"{better} is {in_points(abs(main.outcomes.difference), signed=False)} points above {other} {where}, {says}"


def _parent_of(run: Path) -> Path:
    # The lexical parent of `.` and `..` is not the folder that holds them.
    return run.parent if run.name not in ("", "..") else run.resolve().parent


def style_of(index: int) -> str:
    """CSS classes for the line and dots of a run: four colours, then the same colours dashed, then dotted."""
    return f"c{index % _COLOURS + 1}{_STROKES[index // _COLOURS % len(_STROKES)]}"


def curves(runs: Sequence[ComparedRun], metric: str, label: str) -> Markup:
    """The validation `accuracy` or `loss` of every run per epoch, over all its stages; `label` names the axis."""
    series = [[epoch["val"].get(metric) for epoch in run.record.history] for run in runs]
    return in_both_widths(lambda size, width: _curves(runs, series, label, size, width))


def differences(against: Sequence[RunPair]) -> Markup:
    """Each run's accuracy minus that of the first run, with its 95 % interval, for every split."""
    rows = [(pair, tested) for pair in against for tested in pair.tested]
    return in_both_widths(lambda size, width: _differences(rows, size, width))


def _curves(
    runs: Sequence[ComparedRun], series: Sequence[Sequence[float | None]], metric: str, size: str, width: float
) -> Markup:
    height = 300.0 if size == "wide" else 260.0
    values = [value for numbers in series for value in numbers if value is not None]
    longest = max((len(numbers) for numbers in series), default=1) or 1
    low, top = _range(values, share=metric == "accuracy")
    frame = Frame(40, 34, width - 30, height - 42, x=(0.5, longest + 0.5), y=(low, top))
    x_ticks = [tick for tick in ticks(1, longest, about=6, whole=True) if tick >= 1]
    parts = axes(frame, x_label="epoch", y_label=metric, x_ticks=x_ticks, y_ticks=ticks(low, top))
    letters: list[tuple[float, float]] = []
    for index, (run, numbers) in enumerate(zip(runs, series, strict=True)):
        parts += _curve(run, numbers, style_of(index), frame, letters)
    judged = " or ".join(dict.fromkeys(SPLIT_WORDS[run.record.judged] for run in runs)).capitalize()
    ends = "; ".join(f"{run.letter} ends at {last_value(numbers)}" for run, numbers in zip(runs, series, strict=True))
    return drawing(parts, width=width, height=height, label=f"{judged} {metric} over epochs: {ends}", size=size)


def _curve(
    run: ComparedRun, numbers: Sequence[float | None], kind: str, frame: Frame, letters: list[tuple[float, float]]
) -> list[str]:
    """A line with a ring where the kept stage ends, and the run's letter at its end.

    `letters` are the positions of the letters so far; this one is added.
    """
    drawn = [
        (epoch, value, frame.at_x(epoch), frame.at_y(value))
        for epoch, value in enumerate(numbers, start=1)
        if value is not None
    ]
    if not drawn:
        return []
    parts = [path([(x, y) for _, _, x, y in drawn], f"line {kind}")]
    if len(numbers) <= _DOTS_MOST:
        parts += [
            dot(x, y, 2.4, f"dot {kind}", f"{run.letter}, epoch {epoch}: {value:.4f}") for epoch, value, x, y in drawn
        ]
    kept = [index for index, epoch in enumerate(run.record.history, start=1) if epoch["stage"] == run.kept]
    parts += [
        dot(x, y, 5.5, f"ring {kind}", f"{run.letter}: the kept stage, {run.kept_in_words}, ends here")
        for epoch, _, x, y in drawn
        if kept and epoch == kept[-1]
    ]
    _, _, x, y = drawn[-1]
    # Curves often end close together; their letters must not cover one another.
    while any(abs(x - left) < 14 and abs(y - above) < 12 for left, above in letters):
        y += 12
    letters.append((x, y))
    parts.append(text(x + 9, y + 4, run.letter, kind=f"letter {kind}"))
    return parts


def _range(values: Sequence[float], *, share: bool) -> tuple[float, float]:
    """The lowest and the highest value of the vertical axis."""
    if not share:
        return 0.0, max(values, default=1.0) * 1.05 or 1.0
    # Up to 1 always. Below the lowest value at least half a tenth is left, so that no curve lies on the axis.
    return max(0.0, math.floor(min(values, default=0.0) * 10 - 0.5) / 10), 1.0


def _differences(rows: Sequence[tuple[RunPair, PairedTest]], size: str, width: float) -> Markup:
    width = 2 * width if size == "wide" else width  # this chart stands alone, the curves two in a row
    label, row, top = 150.0, 30.0, 10.0
    bottom = top + row * len(rows)
    # Symmetric around zero, so that the side on which an interval lies is seen at once.
    reach = max([0.02, *(abs(end) for _, tested in rows for end in (tested.interval.low, tested.interval.high))]) * 1.1
    frame = Frame(label, top, width - 16, bottom, x=(-100 * reach, 100 * reach), y=(0, 1))
    parts = []
    for tick in ticks(-100 * reach, 100 * reach, about=8 if size == "wide" else 4):
        x = frame.at_x(tick)
        parts += [line(x, top, x, bottom, "axis" if tick == 0 else "grid")]
        parts += [text(x, bottom + 17, f"{tick:+g}" if tick else "0", anchor="middle")]
    middle = (frame.left + frame.right) / 2
    parts.append(text(middle, bottom + 35, "percentage points of accuracy", anchor="middle", kind="name"))
    for index, (pair, tested) in enumerate(rows):
        y = top + row * index + row / 2
        name = f"{pair.run.letter} minus {pair.first.letter}, {SPLIT_WORDS[tested.split]}"
        low, high = (frame.at_x(100 * end) for end in (tested.interval.low, tested.interval.high))
        title = (
            f"{name}: {in_points(tested.outcomes.difference)} points, 95 % interval "
            f"{in_points(tested.interval.low)} to {in_points(tested.interval.high)}, {p_value_text(tested.p_adjusted)}"
        )
        parts += [
            text(label - 10, y + 4, name, anchor="end", kind="name"),
            box(low, y - 5, high - low, 10, "fill c1 soft", title),
            line(low, y - 7, low, y + 7, "whisker"),
            line(high, y - 7, high, y + 7, "whisker"),
            dot(frame.at_x(100 * tested.outcomes.difference), y, 4.5, "dot c1", title),
        ]
    label_text = "Accuracy of each run minus that of the first run"
    return drawing(parts, width=width, height=bottom + 42, label=label_text, size=size)
