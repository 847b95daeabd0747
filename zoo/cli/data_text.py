"""What a check of the data found, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zoo.cli import console
from zoo.cli.console import Verbosity
from zoo.files import json_text

if TYPE_CHECKING:
    from rich.console import Console

    from zoo.data.checking.report import Case, DataReport, Finding

_SHOWN = 10


def print_report(report: DataReport, verbosity: Verbosity, *, as_json: bool) -> None:
    """The summary, images by class and split, and every finding with its files."""
    if as_json:
        print(json_text(report.to_dict()), end="")
        return
    screen = console.out()
    screen.print(_summary(report), style="bold")
    if not verbosity.quiet:
        screen.print()
        _print_images(report, screen)
    for finding in report.findings:
        _print_finding(finding, screen, verbosity)


def _summary(report: DataReport) -> str:
    found = [
        console.count(len(each), name)
        for each, name in ((report.faults, "fault"), (report.warnings, "warning"))
        if each
    ]
    counted = ", ".join(
        [
            console.count(report.files, "image"),
            console.count(len(report.classes), "class", "classes"),
            console.count(len(report.images), "split"),
        ]
    )
    return f"{counted}: {', '.join(found) or 'nothing found'}"


def _print_images(report: DataReport, screen: Console) -> None:
    splits = list(report.images)
    rows = [
        [name, *(f"{report.images[split][label]:,}" for split in splits)] for label, name in enumerate(report.classes)
    ]
    if len(rows) > 2 * _SHOWN:
        rows = [*rows[:_SHOWN], [f"and {len(rows) - _SHOWN} more", *("" for _ in splits)]]
    console.show(screen, console.table(None, ["class", *splits], rows, right=splits))
    if report.split_note:
        screen.print(report.split_note)


def _print_finding(finding: Finding, screen: Console, verbosity: Verbosity) -> None:
    style = "bold red" if finding.severity == "fault" else "yellow"
    screen.print(f"\n{finding.severity.upper()} {finding.code}: {finding.sentence}", style=style)
    shown: Sequence[Case] = finding.cases if verbosity.verbose else finding.cases[:_SHOWN]
    for case in shown:
        screen.print(f"  {_case(case)}")
    if len(shown) < len(finding.cases):
        screen.print(f"  and {len(finding.cases) - len(shown):,} more; zoo -v and --json list them all")
    if finding.classes and not finding.cases:
        more = f" and {len(finding.classes) - _SHOWN} more" if len(finding.classes) > _SHOWN else ""
        screen.print(f"  {', '.join(finding.classes[:_SHOWN])}{more}")
    screen.print(f"  Next: {finding.next_step}")


def _case(case: Case) -> str:
    files = " and ".join(case.files)
    return f"{files}: {case.detail}" if files and case.detail else files or case.detail
