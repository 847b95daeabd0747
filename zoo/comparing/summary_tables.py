"""A comparison as tables and sentences: on the terminal, and in a notebook where the page is too large for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from zoo.comparing.comparison import ComparedRun, Comparison, SplitScores
from zoo.comparing.conclusion import SPLIT_WORDS, p_value_text
from zoo.display import console
from zoo.display.blocks import Block, Line, TextTable
from zoo.text import in_points

_SPLIT_METRICS: dict[str, Callable[[SplitScores], str]] = {
    "accuracy": lambda scored: f"{scored.accuracy.value:.3f}",
    "95 % interval": lambda scored: f"{scored.accuracy.low:.3f} to {scored.accuracy.high:.3f}",
    "images": lambda scored: f"{scored.images:,}",
    "macro F1": lambda scored: f"{scored.macro_f1:.3f}",
    "loss": lambda scored: "-" if scored.loss is None else f"{scored.loss:.4f}",
    "calibration error": lambda scored: "-" if scored.calibration_error is None else f"{scored.calibration_error:.3f}",
}
"""Rows of the metrics table that each split has."""
_RUN_METRICS: dict[str, Callable[[ComparedRun], str]] = {
    "time": lambda run: console.seconds(run.seconds),
    "parameters trained": lambda run: f"{run.parameters_trained:,}",
    "kept stage": lambda run: f"{run.kept_in_words}, of {run.candidates}",
    "proof": lambda run: run.proof,
}
"""Rows of the metrics table that each run has once."""


def comparison_blocks(comparison: Comparison) -> Iterator[Block]:
    """The runs, what differs, their metrics, the paired tests, and what may be concluded."""
    for run in comparison.runs:
        plan = run.record.plan
        head, recipe = (name.rpartition("/")[2] for name in (plan.head.name, plan.recipe))
        yield Line(f"{run.letter}  {run.record.path}: {plan.backbone.name}, {head}, {recipe}")
    yield from _differences(comparison)
    yield from _metrics(comparison)
    yield from _paired_tests(comparison)
    yield Line()
    for verdict, *explanation in comparison.conclusions:
        yield Line(verdict, "bold")
        yield from map(Line, explanation)
        yield Line()
    yield from map(Line, comparison.cautions)


def _differences(comparison: Comparison) -> Iterator[Block]:
    letters = _letters(comparison)
    rows = [[name, *values] for name, values in comparison.choices]
    if comparison.seeds:
        rows.append(["seed (no choice)", *map(str, comparison.seeds)])
    yield Line()
    if rows:
        yield TextTable(columns=["choice", *letters], rows=rows)
    else:
        yield Line("No choice differs, and the seed is the same.")
    if comparison.follows:
        yield Line(f"follows from these: {', '.join(comparison.follows)}")
    if comparison.surroundings:
        yield Line()
        surroundings = [[name, *values] for name, values in comparison.surroundings]
        yield TextTable(columns=["surroundings", *letters], rows=surroundings)


def _metrics(comparison: Comparison) -> Iterator[Block]:
    letters = _letters(comparison)
    rows = []
    for split in comparison.splits:
        for name, as_text in _SPLIT_METRICS.items():
            cells = [as_text(run.scores[split]) if split in run.scores else "-" for run in comparison.runs]
            rows.append([f"{SPLIT_WORDS[split]} {name}", *cells])
    rows += [[name, *map(as_text, comparison.runs)] for name, as_text in _RUN_METRICS.items()]
    yield Line()
    yield TextTable(columns=["metric", *letters], rows=rows, right=letters)


def _paired_tests(comparison: Comparison) -> Iterator[Block]:
    several = len(comparison.against) > 1  # only then is there anything to adjust for
    columns = ["pair", "split", "images", "only first", "only other", "difference", "95 % interval", "p"]
    columns += ["p, Holm"] if several else []
    rows = [
        [
            f"{pair.run.letter} minus {pair.first.letter}",
            SPLIT_WORDS[test.split],
            f"{test.outcomes.images:,}",
            str(test.outcomes.only_first),
            str(test.outcomes.only_second),
            in_points(test.outcomes.difference),
            f"{in_points(test.interval.low)} to {in_points(test.interval.high)}",
            _p_value(test.p),
            *([_p_value(test.p_adjusted)] if several else []),
        ]
        for pair in comparison.against
        for test in pair.tested
    ]
    yield Line()
    yield TextTable(columns=columns, rows=rows, right=columns[2:])
    # All intervals are drawn alike; the first says how.
    interval = comparison.against[0].tested[0].interval
    yield Line(
        f"percentage points; exact McNemar test; paired bootstrap, {interval.resamples:,} resamples, "
        f"seed {interval.seed}"
    )


def _p_value(p: float) -> str:
    """A p-value without its name, which the column has."""
    return p_value_text(p).removeprefix("p = ").removeprefix("p ")


def _letters(comparison: Comparison) -> list[str]:
    return [run.letter for run in comparison.runs]
