"""A comparison of runs on the terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.cli import console
from zoo.comparing.wording import SPLIT_WORDS, p_text, points
from zoo.files import json_text

if TYPE_CHECKING:
    from rich.console import Console

    from zoo.comparing.comparison import Compared, Comparison, Scored


def print_comparison(found: Comparison) -> None:
    """Which runs, what differs, their metrics, the paired tests, and what may be concluded."""
    screen = console.out()
    for run in found.runs:
        plan = run.record.plan
        head, recipe = (name.rpartition("/")[2] for name in (plan.head.name, plan.recipe))
        screen.print(f"{run.letter}  {run.record.path}: {plan.backbone.name}, {head}, {recipe}")
    _print_differences(found, screen)
    _print_metrics(found, screen)
    _print_paired(found, screen)
    screen.print()
    for sentences in found.conclusions:
        verdict, *rest = sentences
        screen.print(verdict, style="bold")
        for sentence in rest:
            screen.print(sentence)
        screen.print()
    for caution in found.cautions:
        screen.print(caution)


def print_comparison_json(found: Comparison, page: Path | None) -> None:
    """The same for programs."""
    print(json_text({**found.to_dict(), "page": str(page) if page else None}), end="")


def _print_differences(found: Comparison, screen: Console) -> None:
    rows = [[name, *values] for name, values in found.choices]
    if found.seeds:
        rows.append(["seed (no choice)", *map(str, found.seeds)])
    screen.print()
    if rows:
        console.show(screen, console.table(None, ["choice", *_letters(found)], rows))
    else:
        screen.print("No choice differs, and the seed is the same.")
    if found.follows:
        screen.print(f"follows from these: {', '.join(found.follows)}")
    if found.surroundings:
        screen.print()
        surroundings = [[name, *values] for name, values in found.surroundings]
        console.show(screen, console.table(None, ["surroundings", *_letters(found)], surroundings))


def _print_metrics(found: Comparison, screen: Console) -> None:
    rows = []
    for split in found.splits:
        for name, written in _METRICS.items():
            cells = [written(run.scores[split]) if split in run.scores else "-" for run in found.runs]
            rows.append([f"{SPLIT_WORDS[split]} {name}", *cells])
    rows += [[name, *map(written, found.runs)] for name, written in _OF_RUNS.items()]
    screen.print()
    console.show(screen, console.table(None, ["metric", *_letters(found)], rows, right=_letters(found)))


_METRICS: dict[str, Callable[[Scored], str]] = {
    "accuracy": lambda scored: f"{scored.accuracy.value:.3f}",
    "95 % interval": lambda scored: f"{scored.accuracy.low:.3f} to {scored.accuracy.high:.3f}",
    "images": lambda scored: f"{scored.images:,}",
    "macro F1": lambda scored: f"{scored.macro_f1:.3f}",
    "loss": lambda scored: "-" if scored.loss is None else f"{scored.loss:.4f}",
    "calibration error": lambda scored: "-" if scored.calibration_error is None else f"{scored.calibration_error:.3f}",
}
_OF_RUNS: dict[str, Callable[[Compared], str]] = {
    "time": lambda run: console.seconds(run.seconds),
    "parameters trained": lambda run: f"{run.parameters_trained:,}",
    "kept stage": lambda run: f"{run.kept}, of {run.candidates}",
    "proof": lambda run: run.proof,
}


def _print_paired(found: Comparison, screen: Console) -> None:
    several = len(found.against) > 1
    columns = ["pair", "split", "images", "only first", "only other", "difference", "95 % interval", "p"]
    rows = [
        [
            f"{each.run.letter} less {each.first.letter}",
            SPLIT_WORDS[tested.split],
            f"{tested.outcomes.images:,}",
            str(tested.outcomes.only_first),
            str(tested.outcomes.only_second),
            points(tested.outcomes.difference),
            f"{points(tested.interval.low)} to {points(tested.interval.high)}",
            p_text(tested.p).removeprefix("p = ").removeprefix("p "),
            *([p_text(tested.p_adjusted).removeprefix("p = ").removeprefix("p ")] if several else []),
        ]
        for each in found.against
        for tested in each.tested
    ]
    columns += ["p, Holm"] if several else []
    screen.print()
    console.show(screen, console.table(None, columns, rows, right=columns[2:]))
    interval = found.against[0].tested[0].interval
    screen.print(
        f"percentage points; exact McNemar test; paired bootstrap, {interval.resamples:,} resamples, "
        f"seed {interval.seed}"
    )


def _letters(found: Comparison) -> list[str]:
    return [run.letter for run in found.runs]
