"""`zoo sweep`: many trials, as a table, with the winner and what judged it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.document import print_document
from zoo.cli.options import Json, Offline
from zoo.display import console
from zoo.display.blocks import print_blocks
from zoo.display.console import Verbosity
from zoo.process import start_computing
from zoo.storage.atomic import json_text

if TYPE_CHECKING:
    from zoo.sweeping.sweep_record import Sweep

File = Annotated[Path | None, typer.Argument(help="A sweep file (TOML); options replace what it says.")]
Over = Annotated[
    list[str] | None,
    typer.Option(
        help="KNOB=A,B tries each value, KNOB=LOW..HIGH draws from a range; repeatable. Knobs: head, recipe, "
        "STAGE.KEY, keep and choose_by as for --set, head_option.NAME, epochs, batch_size, input_size, weights.",
        show_default=False,
    ),
]
Backbones = Annotated[
    str | None, typer.Option(help="Names with commas; NAME=FILE and NAME=random too.", show_default=False)
]
Heads = Annotated[str | None, typer.Option(help="Names with commas. Default: dropout_linear.", show_default=False)]
Recipes = Annotated[
    str | None,
    typer.Option(help="Names or TOML files with commas. Default: staged; head_only for closed-form heads."),
]
Images = Annotated[Path | None, typer.Option(help="Images, as finetune takes them.", show_default=False)]
Seeds = Annotated[int | None, typer.Option(help="Trials of each candidate, with seeds 0, 1, ... Default: 1.")]
Trials = Annotated[
    int | None, typer.Option(help="Most trials; drawn from the grid where there are more.", show_default=False)
]
On = Annotated[str, typer.Option(help="Where runs are trained: local, ray, auto, HOST:PORT or ray://HOST:PORT.")]
AtOnce = Annotated[
    int | None,
    typer.Option(help="Runs trained at once, with equal shares of the cores. Default: one for 2 cores, or one a GPU."),
]
SweepOut = Annotated[Path | None, typer.Option(help="The folder; must not exist. Default: a new one under sweeps/.")]
ResumeSweep = Annotated[
    Path | None, typer.Option(help="Folder of a stopped sweep to continue; its settings are there.", show_default=False)
]
SweepSeed = Annotated[int | None, typer.Option(help="Draws candidates, values, and the images that judge. Default: 0.")]
# No default here, as the device that the sweep file names stands where none is given: `auto` replaces it.
SweepDevice = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps, for all trials. Default: auto.")]
SweepPrecision = Annotated[str | None, typer.Option(help="float32 or bfloat16, for all trials. Default: float32.")]


def sweep(
    ctx: typer.Context,
    file: File = None,
    data: Images = None,
    backbone: Backbones = None,
    head: Heads = None,
    recipe: Recipes = None,
    over: Over = None,
    seeds: Seeds = None,
    trials: Trials = None,
    on: On = "local",
    at_once: AtOnce = None,
    out: SweepOut = None,
    resume: ResumeSweep = None,
    seed: SweepSeed = None,
    device: SweepDevice = None,
    precision: SweepPrecision = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Try many settings, and judge the best once on images that chose nothing.

    Trials that train the head alone share their features in one process; others are runs, each in a worker.
    """
    start_computing("zoo.sweeping.run_sweep")
    import zoo
    from zoo.cli.display import RunDisplay

    with RunDisplay(ctx.obj, as_json=as_json) as display:
        found = zoo.sweep(
            file,
            data=data,
            backbone=backbone,
            head=head,
            recipe=recipe,
            over=over or (),
            seeds=seeds,
            trials=trials,
            on=on,
            at_once=at_once,
            out=out,
            resume=resume,
            seed=seed,
            device=device,
            precision=precision,
            offline=offline,
            on_event=display.report,
        )
    _print(found, ctx.obj, as_json=as_json)


def _print(found: Sweep, verbosity: Verbosity, *, as_json: bool) -> None:
    if as_json:
        print_document(json_text(found.to_dict()))
        return
    screen = console.out()
    shown = len(found.candidates) if verbosity.verbose else 15
    print_blocks(screen, [found.table(shown)])
    if len(found.candidates) > shown:
        screen.print(f"and {len(found.candidates) - shown:,} more: zoo -v sweep shows them, and the page")
    screen.print()
    print_blocks(screen, found.conclusion())
