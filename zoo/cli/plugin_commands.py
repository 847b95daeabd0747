"""`zoo plugins ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.exit_codes import FAULT_FOUND
from zoo.cli.options import Json

plugins_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Write a plugin of your own, and check one."
)


@plugins_app.command("new")
def new_plugin(
    kind: Annotated[str, typer.Argument(help="head, backbone or recipe.", show_default=False)],
    name: Annotated[str, typer.Argument(help="What to call it, such as sharp_linear.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="The folder to write; must not exist. Default: zoo-NAME, here.")
    ] = None,
) -> None:
    """Write an installable package with a head, backbone or recipe that works, and its tests."""
    from zoo.cli.plugins_text import print_written
    from zoo.scaffold import write_plugin

    print_written(kind, name, write_plugin(kind, name, out=out))


@plugins_app.command("check")
def check_plugin(
    name: Annotated[str, typer.Argument(help="A head, backbone or recipe, bare or qualified.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Check all that zoo relies on in a head, backbone or recipe; exits with 3 where something is wrong."""
    from zoo.cli.plugins_text import print_reports
    from zoo.testing import examine

    reports = examine(name)
    print_reports(reports, as_json=as_json)
    if not all(report.passed for report in reports):
        raise typer.Exit(FAULT_FOUND)
