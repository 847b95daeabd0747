"""`zoo shortlist`: which backbone, as a table, with the command that fine-tunes the winner."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from zoo.cli.document import print_document
from zoo.cli.options import (
    Budget,
    Candidates,
    Data,
    Device,
    Head,
    Json,
    MaxLatency,
    MaxParams,
    NoTune,
    Offline,
    Precision,
    Seed,
    ShortlistLicence,
    ShortlistPage,
    Top,
    Workers,
)
from zoo.display import console
from zoo.display.blocks import print_blocks
from zoo.display.console import Verbosity
from zoo.errors import INTERRUPTED
from zoo.process import finishing, start_computing
from zoo.storage.atomic import json_text

if TYPE_CHECKING:
    from zoo.advice.ranking import Shortlist


def shortlist(
    ctx: typer.Context,
    data: Data = None,
    backbones: Candidates = None,
    budget: Budget = None,
    max_params: MaxParams = None,
    max_latency: MaxLatency = None,
    licence: ShortlistLicence = None,
    head: Head = "dropout_linear",
    top: Top = 10,
    html: ShortlistPage = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    no_tune: NoTune = False,
    workers: Workers = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Rank backbones for your images, before you fine-tune one.

    Computes the features of the training images with each, and cross-validates a linear layer on them. Ctrl-C shows
    what is known so far.
    """
    start_computing("zoo.advice.shortlist")
    import zoo
    from zoo.cli.display import RunDisplay

    # After Ctrl-C the ranking so far is still to be made; a second one ends the process at once.
    with RunDisplay(ctx.obj, as_json=as_json) as display, finishing():
        found = zoo.shortlist(
            data,
            backbones=backbones or (),
            budget=budget,
            max_params=max_params,
            max_latency=max_latency,
            licence=licence,
            head=head,
            html=html,
            seed=seed,
            device=device,
            precision=precision,
            tune=not no_tune,
            workers=workers,
            offline=offline,
            on_event=display.report,
        )
    _print(found, ctx.obj, as_json=as_json, top=top, page=html)
    # Only now: the ranking so far is a result, and has been printed.
    if found.interrupted:
        raise typer.Exit(INTERRUPTED)


def _print(shortlist: Shortlist, verbosity: Verbosity, *, as_json: bool, top: int, page: Path | None = None) -> None:
    """Print the ranking, what was left out, and what to do next.

    Args:
        shortlist: What was found.
        verbosity: Whether only the ranking is wanted.
        as_json: Print everything as JSON instead.
        top: How many rows to show.
        page: Where the page is, if one was written.
    """
    if as_json:
        print_document(json_text(shortlist.to_dict()))
        return
    screen = console.out()
    print_blocks(screen, [shortlist.table(top)])
    if len(shortlist.ranked) > top:
        screen.print(f"and {len(shortlist.ranked) - top:,} more: --top {len(shortlist.ranked)} shows them")
    if verbosity.quiet:
        return
    screen.print()
    print_blocks(screen, shortlist.remarks(whole=verbosity.verbose))
    if page is not None:
        screen.print(f"page: {page}")
    print_blocks(screen, shortlist.next_steps())
