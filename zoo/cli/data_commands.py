"""`zoo data ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.exit_codes import FAULT_FOUND
from zoo.cli.options import Json

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at your images before you train.")


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
    """Open every file and say what is wrong with the data; exits with 3 for what makes results wrong."""
    from zoo import api
    from zoo.cli.data_text import print_report
    from zoo.cli.run_display import RunDisplay

    # Progress goes to stderr, as with --json: the first line on stdout is the summary.
    with RunDisplay(ctx.obj, as_json=True) as display:
        found = api.check_data(path, report=display.report)
    print_report(found, ctx.obj, as_json=as_json)
    if not found.passed:
        raise typer.Exit(FAULT_FOUND)
