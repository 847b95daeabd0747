"""`zoo shortlist`: which backbone, as a table, with the command that fine-tunes the winner."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from zoo.cli import console
from zoo.cli.console import Verbosity
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
from zoo.errors import INTERRUPTED
from zoo.process import finishing, start_computing
from zoo.storage.atomic import json_text
from zoo.text import duration, size

if TYPE_CHECKING:
    from rich.console import Console

    from zoo.advice.candidate_backbones import LeftOut
    from zoo.advice.ranking import Ranked, Shortlist
    from zoo.evaluation.significance import Interval

_LEFT_OUT = 10


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
    columns = ["backbone", "probe accuracy", "95 % interval", "points to the first", "as good", "ms", "ms in 32"]
    columns += ["params", "licence", "download"]
    rows = [_row(row, first=row is shortlist.best) for row in shortlist.ranked[:top]]
    images = console.count(shortlist.images, "training image")
    console.show(screen, console.table(f"Shortlist for {images}", columns, rows, right=[*columns[1:4], *columns[5:8]]))
    if len(shortlist.ranked) > top:
        screen.print(f"and {len(shortlist.ranked) - top:,} more: --top {len(shortlist.ranked)} shows them")
    if verbosity.quiet:
        return
    _print_remarks(shortlist, screen, verbosity)
    if page is not None:
        screen.print(f"page: {page}")
    screen.print(f"next: {shortlist.best.command}")
    cheapest = shortlist.cheapest_as_good
    if cheapest is not shortlist.best:
        screen.print(f"or, faster and not to be told from it on these images: {cheapest.command}")


def _print_remarks(shortlist: Shortlist, screen: Console, verbosity: Verbosity) -> None:
    screen.print()
    for row in shortlist.ranked:
        if row.out:
            screen.print(f"{row.candidate.label} was judged on {row.images:,} images: {row.out}")
    _print_left_out(shortlist.left_out, screen, verbosity)
    for note in shortlist.notes:
        screen.print(note)
    if shortlist.smallest_shown is not None:
        shown = f"{100 * shortlist.smallest_shown:.1f} points"
        screen.print(f"between the first two, these images could only have shown a difference of {shown} or more")
    stopped = ", interrupted: the same command goes on from the cache" if shortlist.interrupted else ""
    screen.print(f"time: {duration(shortlist.seconds)} of {duration(shortlist.budget)}{stopped}")
    screen.print(
        "A probe is a linear layer on pooled features, cross-validated on the training images. It says which backbone "
        "to fine-tune, not how good that will be."
    )


def _print_left_out(left_out: tuple[LeftOut, ...], screen: Console, verbosity: Verbosity) -> None:
    shown = left_out if verbosity.verbose else left_out[:_LEFT_OUT]
    for each in shown:
        screen.print(f"left out: {each.name}: {each.reason}")
    if len(shown) < len(left_out):
        screen.print(f"left out: {len(left_out) - len(shown):,} more; zoo -v and --json list them all")


def _difference(value: float, interval: Interval) -> str:
    """`-1.2 [-3.0, +0.6]`, in points."""
    return f"{100 * value:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def _row(row: Ranked, *, first: bool) -> list[str]:
    interval, latency = row.accuracy, row.latency
    download = row.candidate.download_bytes
    return [
        row.candidate.label,
        f"{interval.value:.3f}",
        f"{interval.low:.3f} to {interval.high:.3f}",
        "first" if first or row.interval is None else _difference(row.difference, row.interval),
        "" if first else "yes" if row.as_good else "no",
        "-" if latency is None else f"{latency.alone:.1f}",
        "-" if latency is None else f"{latency.in_batch:.1f}",
        "-" if row.candidate.parameters is None else f"{row.candidate.parameters / 1e6:.1f}M",
        row.candidate.licence or "-",
        size(download) if download else "here",
    ]
