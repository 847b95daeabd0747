"""`zoo data curve`: accuracy against the number of training images, and what more of them would bring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.document import print_document
from zoo.cli.options import Device, Json, Offline, Weights, Workers
from zoo.display import console
from zoo.display.blocks import print_blocks
from zoo.display.console import Verbosity
from zoo.process import start_computing

if TYPE_CHECKING:
    from zoo.advice.curve import CurveReport


def data_curve(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(help="Images, as --data of finetune takes them.", show_default=False)],
    backbone: Annotated[
        str,
        typer.Option(
            help="[provider/]architecture[.tag], or the folder of a finished run; see zoo list backbones.",
            show_default=False,
        ),
    ],
    weights: Weights = "default",
    seed: Annotated[int, typer.Option(help="Random seed for the split, folds and draws.")] = 0,
    html: Annotated[
        Path | None, typer.Option(help="Write the curve as a page; must not exist.", show_default=False)
    ] = None,
    device: Device = "auto",
    workers: Workers = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Would more pictures help? The accuracy of a linear probe against the number of training images, extrapolated."""
    start_computing("zoo.advice.curve")
    import zoo
    from zoo.cli.display import RunDisplay
    from zoo.storage.atomic import json_text

    # On stderr even without --json, so that stdout has the result alone.
    with RunDisplay(ctx.obj, as_json=True) as display:
        report = zoo.learning_curve(
            path,
            backbone=backbone,
            weights=weights,
            seed=seed,
            html=html,
            device=device,
            workers=workers,
            offline=offline,
            on_event=display.report,
        )
    if as_json:
        print_document(json_text({**report.to_dict(), "page": None if html is None else str(html)}))
        return
    print_curve(report, ctx.obj)
    if html is not None:
        console.out().print(f"page: {html}")


def print_curve(report: CurveReport, verbosity: Verbosity) -> None:
    """Print what the curve says, then its points, forecasts and classes."""
    screen = console.out()
    # Off a terminal the table is complete: there it is read by grep, not by people.
    every = verbosity.verbose or not screen.is_terminal
    print_blocks(screen, report.blocks(with_tables=not verbosity.quiet, all_classes=every))
