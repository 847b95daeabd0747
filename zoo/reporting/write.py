"""The page: what the template shows, and the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.events import Note, Report
from zoo.files import write_text
from zoo.registry import Registry
from zoo.reporting import charts
from zoo.reporting.command import RECIPE_FILE, as_lines, command_of, recipe_of
from zoo.reporting.examples import Examples, gather
from zoo.reporting.record import RunRecord, read_run
from zoo.reporting.templating import environment, styles
from zoo.training.finish import has_result

REPORT = "report.html"
_MATRIX_MOST = 30
_CONFUSIONS_SHOWN = 25


def write_report(run: Path, registry: Registry) -> Path:
    """Build `report.html` of a finished run from what is in its folder, and write it there; nothing else changes.

    The images are looked up where the plan says; what is gone is left out, and the page says so. Raises RunError for
    what is no finished run or cannot be read or written.
    """
    record = read_run(run)
    page = render(record, gather(record, registry), registry)
    write_text(run / REPORT, page)
    return run / REPORT


def lacks_report(run: Path) -> bool:
    """Whether a run has its result and no page: it was stopped between the two, or `--no-report` left it out."""
    return has_result(run) and not (run / REPORT).exists()


def write_or_say(run: Path, registry: Registry, report: Report) -> None:
    """The same at the end of a run, which is complete whatever becomes of its report: a failure becomes a note."""
    try:
        write_report(run, registry)
    except Exception as error:
        why = str(error) or type(error).__name__
        report(Note(text=f"The report was not written: {why}\nNext: zoo report {run}", loud=True))


def render(record: RunRecord, examples: Examples, registry: Registry) -> str:
    """The whole page, with nothing outside it."""
    templates = environment()
    plan, result = record.plan, record.result
    kept = result["selection"]["kept"]
    assessed = record.assessment
    return templates.get_template("report.html").render(
        css=styles(templates),
        plan=plan,
        result=result,
        record=record,
        checks=record.checks,
        assessed=assessed,
        examples=examples,
        stages=result["stages"],
        kept=kept,
        name=record.path.absolute().name,
        backbone=plan.backbone.name.rpartition("/")[2].partition(".")[0],
        head=plan.head.name.rpartition("/")[2],
        recipe=plan.recipe.rpartition("/")[2],
        matrix=_matrix(assessed) if assessed else None,
        confusions=_confusions(assessed) if assessed else [],
        loss=charts.loss_curves(record.history, kept) if record.history else None,
        accuracy=charts.accuracy_curve(record.history, kept) if record.history else None,
        bars=charts.class_bars(assessed["classes"]) if assessed else None,
        bars_shown=charts.CLASSES_SHOWN,
        reliability=charts.reliability_chart(assessed["reliability"]) if assessed else None,
        time=charts.time_bar(result["seconds"]),
        time_shares=charts.shares_of_time(result["seconds"]),
        command=as_lines(command_of(plan, registry)),
        recipe_text=recipe_of(plan).to_toml(),
        recipe_file=RECIPE_FILE,
    )


def _matrix(assessed: Mapping[str, Any]) -> list[tuple[str, list[tuple[int, float]]]] | None:
    """(true class, [(images, share of the row)]) of every row; None for more classes than can be read."""
    names = [each["name"] for each in assessed["classes"]]
    if len(names) > _MATRIX_MOST:
        return None
    rows = []
    for name, counts in zip(names, assessed["confusion"], strict=True):
        total = sum(counts) or 1
        rows.append((name, [(count, count / total) for count in counts]))
    return rows


def _confusions(assessed: Mapping[str, Any]) -> list[tuple[str, str, int, int]]:
    """(true class, taken for, images, of how many), the most frequent first."""
    names = [each["name"] for each in assessed["classes"]]
    found = [
        (names[true], names[given], count, sum(row))
        for true, row in enumerate(assessed["confusion"])
        for given, count in enumerate(row)
        if count and true != given
    ]
    return sorted(found, key=lambda each: -each[2])[:_CONFUSIONS_SHOWN]
