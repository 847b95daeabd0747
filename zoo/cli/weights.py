"""`zoo weights ...`: pretrained weights on this machine, and carrying them to another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo import text
from zoo.cli.command_group import Application
from zoo.cli.document import print_document
from zoo.cli.options import Json, Pattern
from zoo.display import console
from zoo.errors import FAULT_FOUND

if TYPE_CHECKING:
    from zoo.weights.inventory import CheckedWeights, HeldWeights

_PLACES = {"torch": "torchvision's folder", "hub": "the hub's cache", "zoo": "zoo's store"}
_DIGEST_DIGITS = 16
"""Digits of a SHA-256 that the table shows."""
_NO_WEIGHTS = "There are no pretrained weights{like} on this machine.\nNext: zoo weights fetch NAME"

weights_app = Application(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Keep pretrained weights on this machine, and copy them to another.",
)
_Names = Annotated[list[str], typer.Argument(help="[provider/]architecture[.tag], one or several.", show_default=False)]


@weights_app.command("list")
def list_held(pattern: Pattern = "", as_json: Json = False) -> None:
    """List the weights on this machine. zoo list weights lists all that can be downloaded."""
    import zoo
    from zoo.storage.atomic import json_text

    held = zoo.list_weights(pattern)
    if as_json:
        print_document(json_text([weights.to_dict() for weights in held]))
    else:
        _print_held(held, pattern)


@weights_app.command("fetch")
def fetch(
    ctx: typer.Context,
    names: _Names,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Also write a bundle for a machine without network: a folder; must not exist.", show_default=False
        ),
    ] = None,
) -> None:
    """Download the weights that are not on this machine yet, and check them."""
    import zoo
    from zoo.cli.display import RunDisplay

    with RunDisplay(ctx.obj, as_json=False) as display:
        files = zoo.fetch_weights(names, out=out, on_event=display.report)
    for file in files:
        print(file)
    if out is not None and not ctx.obj.quiet:
        print(f"Next: copy {out} to the other machine, and there: zoo weights import {out.name or out}")


@weights_app.command("import")
def import_(
    ctx: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(
            help="A bundle that zoo weights fetch --out wrote, or a published weights file.", show_default=False
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option("--as", help="For a file: which weights it holds, if its name does not tell."),
    ] = None,
) -> None:
    """Check weights that were copied to this machine, and store them where every run finds them."""
    import zoo
    from zoo.cli.display import RunDisplay

    with RunDisplay(ctx.obj, as_json=False) as display:
        files = zoo.import_weights(path, name=name, on_event=display.report)
    for file in files:
        print(file)


@weights_app.command("verify")
def verify(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="[provider/]architecture[.tag]. Default: all on this machine.")] = "",
    as_json: Json = False,
) -> None:
    """Read every byte of the weights on this machine and compare digests. Exits with 3 if a file is damaged."""
    import zoo
    from zoo.cli.display import RunDisplay
    from zoo.storage.atomic import json_text

    with RunDisplay(ctx.obj, as_json=as_json) as display:
        checked = zoo.verify_weights(name or None, on_event=display.report)
    if as_json:
        print_document(json_text([check.to_dict() for check in checked]))
    else:
        _print_checked(checked)
    if any(check.verdict == "damaged" for check in checked):
        raise typer.Exit(FAULT_FOUND)


def _print_held(held: Sequence[HeldWeights], pattern: str) -> None:
    """Print a row for each file, and the folders that they are in."""
    screen = console.out()
    if not held:
        screen.print(_NO_WEIGHTS.format(like=f" like {pattern!r}" if pattern else ""))
        return
    rows = [
        [weights.name, text.size(weights.size), _PLACES[weights.place], _digest(weights), weights.path.name]
        for weights in held
    ]
    columns = ["weights", "size", "where", "SHA-256", "file"]
    console.show(screen, console.table(None, columns, rows, right=("size",)))
    # A file counts once, even if several names share it.
    total = text.size(sum({weights.path: weights.size for weights in held}.values()))
    screen.print(f"\n{total} in all")
    for place, folder in dict.fromkeys((weights.place, _folder(weights)) for weights in held):
        screen.print(f"{_PLACES[place]}: {folder}")


def _print_checked(checked: Sequence[CheckedWeights]) -> None:
    """Print a row for each file, and below, what to do about the damaged ones."""
    screen = console.out()
    if not checked:
        screen.print(_NO_WEIGHTS.format(like=""))
        return
    rows = [[check.weights.name, check.verdict, _PLACES[check.weights.place], check.found] for check in checked]
    console.show(screen, console.table(None, ["weights", "verdict", "where", "found"], rows))
    for check in checked:
        if check.verdict == "damaged":
            screen.print(
                f"\n{check.weights.path} is damaged: expected {check.weights.digest}, found {check.found}.\n"
                f"Next: {check.next_step}"
            )
    if any(check.verdict == "unchecked" for check in checked):
        screen.print("\nunchecked: no digest was published, so there is nothing to compare with")


def _digest(weights: HeldWeights) -> str:
    # A column of whole digests would leave no room for the rest; --json has them.
    return (weights.digest or "-")[:_DIGEST_DIGITS]


def _folder(weights: HeldWeights) -> str:
    # The hub keeps files deep below its folder: models--OWNER--NAME/snapshots/COMMIT/FILE.
    return str(weights.path.parents[3] if weights.place == "hub" else weights.path.parent)
