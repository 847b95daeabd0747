"""Markdown tables of the works: every program's medians, and what was asked beside what was found."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks import works
from benchmarks.asked import QUANTITIES, Results, median
from benchmarks.rows import Row, run_of
from benchmarks.works import Work

_COLUMNS = [quantity for quantity in QUANTITIES if quantity != "accuracy"]


def results_of(work: Work, rows: Sequence[Row], *, smoke: bool = False) -> dict[str, list[Row]]:
    """The rows of the work's programs as they are told now, in their order; those of a refusal are left out."""
    done = [(run_of(row), row) for row in rows if "refused" not in row]
    return {
        program.name: [row for run, row in done if run == works.run_of(work, program, run.seed, smoke=smoke)]
        for program in work.programs
    }


def work_table(work: Work, rows: Sequence[Row], *, smoke: bool = False) -> str:
    """One work; nothing where it has no rows."""
    results = results_of(work, rows, smoke=smoke)
    if not any(results.values()):
        return ""
    columns = [each for each in _COLUMNS if any(median(found, each) is not None for found in results.values())]
    scored = bool(work.images.real)
    head = ["program", "runs", "precision", *(["accuracy, mean"] if scored else []), *columns]
    lines = [f"### {work.title}", "", _joined(head), "|" + "---|" * len(head)]
    lines += [_line(name, found, columns, scored=scored) for name, found in results.items() if found]
    return "\n".join([*lines, *_asked(work, results), *(["", work.note] if work.note else [])])


def _asked(work: Work, results: Results) -> list[str]:
    lines = [each.line(results) for each in work.asked]
    return ["", "| asked of the medians | asked | found | met |", "|---|---|---|---|", *lines] if lines else []


def _line(name: str, rows: Sequence[Row], columns: Sequence[str], *, scored: bool) -> str:
    precision = ", ".join(dict.fromkeys(_precision(row) for row in rows))
    accuracy = [f"{statistics.mean(row['accuracy'] for row in rows):.3f}"] if scored else []
    medians = [_number(median(rows, column)) for column in columns]
    return _joined([name, str(len(rows)), precision, *accuracy, *medians])


def _precision(row: Row) -> str:
    named = str(row.get("precision", "float32"))
    return f"{named}, {row['memory_format']}" if "memory_format" in row else named


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _joined(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
