"""`zoo weights ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.cli.exit_codes import FAULT_FOUND
from zoo.cli.options import Json

weights_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Pretrained weights on this machine, and to another one."
)
_Names = Annotated[list[str], typer.Argument(help="[provider/]architecture[.tag], one or several.", show_default=False)]


@weights_app.command("list")
def list_held(
    pattern: Annotated[str, typer.Argument(help="Names that contain it, or a pattern with * and ?.")] = "",
    as_json: Json = False,
) -> None:
    """Show which weights are on this machine; zoo list weights shows which there are."""
    from zoo import api
    from zoo.cli.weights_text import print_held
    from zoo.files import json_text

    held = api.list_weights(pattern)
    if as_json:
        print(json_text([each.to_dict() for each in held]), end="")
    else:
        print_held(held, pattern)


@weights_app.command("fetch")
def fetch(
    ctx: typer.Context,
    names: _Names,
    out: Annotated[
        Path | None,
        typer.Option(help="Also write a bundle for a machine without a network: a new folder.", show_default=False),
    ] = None,
) -> None:
    """Download weights that are not on this machine, checked."""
    from zoo import api
    from zoo.cli.run_display import RunDisplay

    with RunDisplay(ctx.obj, as_json=False) as display:
        files = api.fetch_weights(names, out=out, report=display.report)
    for file in files:
        print(file)
    if out is not None:
        print(f"Next: carry {out} over; there: zoo weights import {out.name or out}")


@weights_app.command("import")
def import_(
    ctx: typer.Context,
    path: Annotated[
        Path, typer.Argument(help="A bundle of zoo weights fetch --out, or a file of upstream's.", show_default=False)
    ],
    name: Annotated[
        str | None,
        typer.Option("--as", help="Of a file, whose weights it holds, where its name does not tell."),
    ] = None,
) -> None:
    """Put weights that were carried here where every run finds them, checked."""
    from zoo import api
    from zoo.cli.run_display import RunDisplay

    with RunDisplay(ctx.obj, as_json=False) as display:
        files = api.import_weights(path, name=name, report=display.report)
    for file in files:
        print(file)


@weights_app.command("verify")
def verify(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="[provider/]architecture[.tag]; nothing: all that are here.")] = "",
    as_json: Json = False,
) -> None:
    """Read the weights on this machine to their last byte, and compare digests. Exits with 3 where one is damaged."""
    from zoo import api
    from zoo.cli.run_display import RunDisplay
    from zoo.cli.weights_text import print_checked
    from zoo.files import json_text

    with RunDisplay(ctx.obj, as_json=as_json) as display:
        checked = api.verify_weights(name or None, report=display.report)
    if as_json:
        print(json_text([each.to_dict() for each in checked]), end="")
    else:
        print_checked(checked)
    if any(each.verdict == "damaged" for each in checked):
        raise typer.Exit(FAULT_FOUND)
