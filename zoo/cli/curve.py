"""`zoo data curve`: accuracy against the number of training images, and what more of them would bring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli import console
from zoo.cli.console import Verbosity
from zoo.cli.document import print_document
from zoo.cli.options import Device, Json, Offline, Weights, Workers
from zoo.process import start_computing

if TYPE_CHECKING:
    from zoo.advice.curve import CurveReport
    from zoo.probes.curve_record import Range


def data_curve(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(help="Images, as --data of finetune takes them.", show_default=False)],
    backbone: Annotated[
        str, typer.Option(help="[provider/]architecture[.tag]; see zoo list backbones.", show_default=False)
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
    for number, sentence in enumerate(report.sentences):
        screen.print(sentence, style=None if number else "bold")
    if verbosity.quiet:
        return
    screen.print()
    rows = [
        [f"{100 * each.share:.3g} %", f"{each.images:,}", *_percent(each.accuracy), "", ""]
        for each in report.record.points
    ]
    rows += [
        [f"{100 * each.times} %", f"{each.images:,}", *_percent(each.accuracy), *_points(each.gain)]
        for each in report.record.forecasts
    ]
    columns = ["share", "images", "accuracy %", "interval", "gain", "80 % interval"]
    console.show(screen, console.table(None, columns, rows, right=columns))
    screen.print()
    classes = [
        [each.name, f"{each.images:,}", f"{100 * each.recalls[-1]:.0f}", *_points(each.gain)]
        for each in report.record.classes
    ]
    columns = ["class", "images", "recall %", "gain with twice as many", "80 % interval"]
    console.show(screen, console.table(None, columns, classes, right=columns[1:]))
    screen.print()
    screen.print("Up to 100 %: measured, with 95 % intervals. Above: extrapolated, 80 %. A probe is not fine-tuning.")
    for note in report.notes:
        screen.print(note)


def _percent(found: Range | None) -> list[str]:
    return (
        ["-", "-"]
        if found is None
        else [f"{100 * found.value:.1f}", f"{100 * found.low:.1f} to {100 * found.high:.1f}"]
    )


def _points(found: Range | None) -> list[str]:
    if found is None:
        return ["-", "cannot be said"]
    return [f"{100 * found.value:+.1f}", f"{100 * found.low + 0.0:+.1f} to {100 * found.high + 0.0:+.1f}"]
