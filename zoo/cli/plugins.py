"""`zoo plugins ...`: write a plugin of your own, and check one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.command_group import Application
from zoo.cli.document import print_document
from zoo.cli.options import Json
from zoo.display import console
from zoo.display.console import Verbosity
from zoo.errors import FAULT_FOUND
from zoo.process import start_computing
from zoo.text import as_sentences

if TYPE_CHECKING:
    from zoo.testing.report import Report

_TRY = {
    "head": "zoo finetune --backbone resnet18 --head {name}",
    # A backbone that was just written has no published weights.
    "backbone": "zoo finetune --backbone {name} --weights random",
    "recipe": "zoo finetune --backbone resnet18 --recipe {name}",
}
"""Kind of plugin -> the command that uses one."""

plugins_app = Application(
    no_args_is_help=True, rich_markup_mode=None, help="Write a plugin of your own, and check one."
)


@plugins_app.command("new")
def new_plugin(
    ctx: typer.Context,
    kind: Annotated[str, typer.Argument(help="head, backbone or recipe.", show_default=False)],
    name: Annotated[str, typer.Argument(help="What to call it, such as sharp_linear.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="The folder to write; must not exist. Default: zoo-NAME, here.")
    ] = None,
) -> None:
    """Write an installable package with a working head, backbone or recipe, and its tests."""
    from zoo.scaffold.new_plugin import write_plugin

    folder = write_plugin(kind, name, out=out)
    print(f"{folder}: a package with the {kind} {name!r}")
    if ctx.obj.quiet:
        return
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"  {file.relative_to(folder)}")
    # Without `./`, pip would look for a package of that name in its index.
    target = str(folder) if folder.is_absolute() else f"./{folder}"
    print(f"\nNext: pip install {target}\n      zoo plugins check {name}\n      {_TRY[kind].format(name=name)}")


@plugins_app.command("check")
def check_plugin(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A head, backbone or recipe, bare or qualified.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Check everything that zoo relies on in a head, backbone or recipe. Exits with 3 if a check fails."""
    start_computing("zoo.testing")
    import json

    from zoo.testing import examine

    reports = examine(name)
    if as_json:
        print_document(json.dumps([report.to_dict() for report in reports], indent=2, ensure_ascii=False))
    else:
        _print_reports(reports, ctx.obj)
    if not all(report.passed for report in reports):
        raise typer.Exit(FAULT_FOUND)


def _print_reports(reports: Sequence[Report], verbosity: Verbosity) -> None:
    """Print every check with its verdict, with `-q` those that failed, and the totals below each report."""
    screen = console.out()
    for report in reports:
        shown = report.failed if verbosity.quiet else report.checks
        rows = [[check.name, check.verdict, as_sentences(check.summary)] for check in shown]
        screen.print(f"{report.kind} {report.name}", style="bold")
        if rows:
            console.show(screen, console.table(None, ["check", "verdict", "what was found"], rows))
        # What was skipped is no fault: `failed` does not hold it, and it is no success either.
        skipped = sum(check.verdict == "skipped" for check in report.checks)
        passed = len(report.checks) - len(report.failed) - skipped
        counts = f"{passed} passed, {len(report.failed)} failed, {skipped} skipped"
        screen.print(
            f"{'passed' if report.passed else 'failed'}: {console.count(len(report.checks), 'check')}, {counts}\n"
        )
