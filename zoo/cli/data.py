"""`zoo data ...`: a check of the data before training, for people and for programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.command_group import Application
from zoo.cli.curve import data_curve
from zoo.cli.document import print_document
from zoo.cli.options import Json
from zoo.display import console
from zoo.display.blocks import print_blocks
from zoo.display.console import Verbosity
from zoo.errors import FAULT_FOUND

if TYPE_CHECKING:
    from zoo.data.check.report import DataReport

data_app = Application(no_args_is_help=True, rich_markup_mode=None, help="Check your images before you train.")


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
    print_blocks(console.out(), report.blocks(whole=verbosity.verbose, with_images=not verbosity.quiet))
