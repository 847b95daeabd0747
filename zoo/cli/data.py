"""`zoo data ...`: a check of the data before training, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli import console
from zoo.cli.console import Verbosity
from zoo.cli.curve import data_curve
from zoo.cli.document import print_document
from zoo.cli.options import Json
from zoo.errors import FAULT_FOUND

if TYPE_CHECKING:
    from rich.console import Console

    from zoo.data.check.report import Case, DataReport, Finding

_SHOWN = 10
"""Files of a finding, or classes, that are listed without `-v`."""

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check your images before you train.")


@data_app.command("check")
def check_data(
    ctx: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(
            help="Folder with train/ and val/, one folder of class folders, or other data as --data takes them.",
            show_default=False,
        ),
    ],
    as_json: Json = False,
) -> None:
    """Open every file and list the problems of the data. Exits with 3 for one that makes results wrong."""
    import zoo
    from zoo.cli.display import RunDisplay
    from zoo.storage.atomic import json_text

    # Progress goes to stderr even without --json, so that the first line on stdout is the summary.
    with RunDisplay(ctx.obj, as_json=True) as display:
        report = zoo.check_data(path, on_event=display.report)
    if as_json:
        print_document(json_text(report.to_dict()))
    else:
        _print_report(report, ctx.obj)
    if not report.passed:
        raise typer.Exit(FAULT_FOUND)


data_app.command("curve")(data_curve)


def _print_report(report: DataReport, verbosity: Verbosity) -> None:
    screen = console.out()
    screen.print(_summary(report), style="bold")
    if not verbosity.quiet:
        screen.print()
        _print_images(report, screen)
    for finding in report.findings:
        _print_finding(finding, screen, verbosity)


def _summary(report: DataReport) -> str:
    images = console.count(report.files, "image")
    classes = console.count(len(report.classes), "class", "classes")
    splits = console.count(len(report.images), "split")
    severities = (("fault", report.faults), ("warning", report.warnings))
    findings = [console.count(len(findings), name) for name, findings in severities if findings]
    return f"{images}, {classes}, {splits}: {', '.join(findings) or 'nothing found'}"


def _print_images(report: DataReport, screen: Console) -> None:
    splits = list(report.images)
    rows = [
        [name, *(f"{report.images[split][label]:,}" for split in splits)] for label, name in enumerate(report.classes)
    ]
    if len(rows) > 2 * _SHOWN:
        rows = [*rows[:_SHOWN], [f"and {len(rows) - _SHOWN} more", *("" for _ in splits)]]
    console.show(screen, console.table(None, ["class", *splits], rows, right=splits))
    for note in (*report.notes, report.split_note):
        if note:
            screen.print(note)
    if report.passed_over:
        names = {"hidden": "hidden file", "system file": "system file"}
        counts = [console.count(count, names[reason]) for reason, count in sorted(report.passed_over.items())]
        screen.print(f"passed over: {', '.join(counts)}")


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
