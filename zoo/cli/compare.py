"""`zoo compare`: the comparison on the terminal first, then the page.

Printing first means that a page which cannot be written costs only the page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import zoo
from zoo.cli import console
from zoo.cli.document import print_document
from zoo.comparing.conclusion import SPLIT_WORDS, p_value_text, points
from zoo.process import prints_to_stderr
from zoo.storage.atomic import json_text

if TYPE_CHECKING:
    from rich.console import Console

    from zoo.comparing.comparison import ComparedRun, Comparison, SplitScores

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


def compare_and_print(runs: Sequence[Path], *, html: Path | None, as_json: bool) -> None:
    """Compare runs, print the result, and write the page: to `html`, else to a new file, with `as_json` only to `html`.

    Raises Refused for a page that exists, RunError for a run that cannot be read.
    """
    from zoo.comparing.page import write_page
    from zoo.storage.atomic import refuse_existing

    if html is not None:
        refuse_existing(html)
    with prints_to_stderr():  # plugins are asked for recipes and input sizes, and may print
        comparison = zoo.compare(*runs)
    if as_json:
        page = write_page(comparison, html) if html is not None else None
        print_document(json_text({**comparison.to_dict(), "page": str(page) if page else None}))
        return
    _print_comparison(comparison)
    print(f"\npage: {write_page(comparison, html)}")


def _print_comparison(comparison: Comparison) -> None:
    """Print the runs, what differs, their metrics, the paired tests, and what may be concluded."""
    screen = console.out()
    for run in comparison.runs:
        plan = run.record.plan
        head, recipe = (name.rpartition("/")[2] for name in (plan.head.name, plan.recipe))
        screen.print(f"{run.letter}  {run.record.path}: {plan.backbone.name}, {head}, {recipe}")
    _print_differences(comparison, screen)
    _print_metrics(comparison, screen)
    _print_paired_tests(comparison, screen)
    screen.print()
    for verdict, *explanation in comparison.conclusions:
        screen.print(verdict, style="bold")
        for sentence in explanation:
            screen.print(sentence)
        screen.print()
    for warning in comparison.cautions:
        screen.print(warning)


def _print_differences(comparison: Comparison, screen: Console) -> None:
    letters = _letters(comparison)
    rows = [[name, *values] for name, values in comparison.choices]
    if comparison.seeds:
        rows.append(["seed (no choice)", *map(str, comparison.seeds)])
    screen.print()
    if rows:
        console.show(screen, console.table(None, ["choice", *letters], rows))
    else:
        screen.print("No choice differs, and the seed is the same.")
    if comparison.follows:
        screen.print(f"follows from these: {', '.join(comparison.follows)}")
    if comparison.surroundings:
        screen.print()
        surroundings = [[name, *values] for name, values in comparison.surroundings]
        console.show(screen, console.table(None, ["surroundings", *letters], surroundings))


def _print_metrics(comparison: Comparison, screen: Console) -> None:
    letters = _letters(comparison)
    rows = []
    for split in comparison.splits:
        for name, as_text in _SPLIT_METRICS.items():
            cells = [as_text(run.scores[split]) if split in run.scores else "-" for run in comparison.runs]
            rows.append([f"{SPLIT_WORDS[split]} {name}", *cells])
    rows += [[name, *map(as_text, comparison.runs)] for name, as_text in _RUN_METRICS.items()]
    screen.print()
    console.show(screen, console.table(None, ["metric", *letters], rows, right=letters))


def _print_paired_tests(comparison: Comparison, screen: Console) -> None:
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
            points(test.outcomes.difference),
            f"{points(test.interval.low)} to {points(test.interval.high)}",
            _p_value(test.p),
            *([_p_value(test.p_adjusted)] if several else []),
        ]
        for pair in comparison.against
        for test in pair.tested
    ]
    screen.print()
    console.show(screen, console.table(None, columns, rows, right=columns[2:]))
    interval = comparison.against[0].tested[0].interval
    screen.print(
        f"percentage points; exact McNemar test; paired bootstrap, {interval.resamples:,} resamples, "
        f"seed {interval.seed}"
    )


def _p_value(p: float) -> str:
    """A p-value without its name, which the column has."""
    return p_value_text(p).removeprefix("p = ").removeprefix("p ")


def _letters(comparison: Comparison) -> list[str]:
    return [run.letter for run in comparison.runs]
