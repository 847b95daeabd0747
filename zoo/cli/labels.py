"""`zoo data labels`: labels that are likely wrong, and a new table with the suggestions that a user accepts."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.document import print_document
from zoo.cli.options import Device, InputSize, Json, Offline, Seed, Weights, Workers, is_given
from zoo.display import console
from zoo.display.blocks import print_blocks
from zoo.display.console import Verbosity
from zoo.errors import OptionError
from zoo.planning.request import parse_input_size
from zoo.process import start_computing
from zoo.text import shell_word

if TYPE_CHECKING:
    from zoo.advice.label_check import LabelCheck
    from zoo.advice.relabel import Relabelled

_SHOWN = 10
"""Most changes that are listed without `-v`."""


def check_labels(
    ctx: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(
            help="Folder with train/ and val/, one folder of class folders, or other data as --data takes them.",
            show_default=False,
        ),
    ],
    backbone: Annotated[
        str,
        typer.Option(
            help="[provider/]architecture[.tag], or the folder of a finished run: its backbone and weights.",
            show_default=False,
        ),
    ] = "",
    weights: Weights = "default",
    out: Annotated[
        Path | None,
        typer.Option(
            help="A new folder for suspects.csv and the page (default: labels/, labels-2/, ...); with --apply, the "
            "new table.",
            show_default=False,
        ),
    ] = None,
    apply: Annotated[
        Path | None,
        typer.Option(
            help="A suspects.csv with yes (or drop) in its column accept: write a new table with that, --out TABLE.",
            show_default=False,
        ),
    ] = None,
    input_size: InputSize = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="auto (whichever is faster here), float32 or bfloat16.")] = "auto",
    workers: Workers = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Find labels that are likely wrong, in all splits.

    Each image is judged by probes on frozen features that were fitted without it. Nothing but the new folder, or with
    --apply the new table, is written.
    """
    if apply is not None:
        _refuse_beside_apply(ctx)
        _apply(ctx.obj, path, apply, out, as_json=as_json)
        return
    # Not a required option for typer: it must be left out beside --apply.
    if not backbone:
        raise OptionError(
            "Missing option '--backbone': [provider/]architecture[.tag], or the folder of a finished run.\n"
            "Next: zoo list backbones --pretrained"
        )
    # Only now: what is refused is refused before the seconds in which torch is imported.
    start_computing("zoo.advice.labels")
    import zoo
    from zoo.cli.display import RunDisplay
    from zoo.storage.atomic import json_text

    place = out if out is not None else _new_folder()
    # Progress goes to stderr even without --json, so that the first line on stdout is the summary.
    with RunDisplay(ctx.obj, as_json=True) as display:
        found = zoo.check_labels(
            path,
            backbone,
            weights=weights,
            out=place,
            input_size=None if input_size is None else parse_input_size(input_size),
            seed=seed,
            device=device,
            precision=precision,
            workers=workers,
            offline=offline,
            on_event=display.report,
        )
    if as_json:
        print_document(json_text(found.to_dict()))
    else:
        _print_check(found, path, ctx.obj)


def _apply(verbosity: Verbosity, path: Path, suspects: Path, out: Path | None, *, as_json: bool) -> None:
    import zoo
    from zoo.cli.display import RunDisplay
    from zoo.storage.atomic import json_text

    if out is None:
        raise OptionError(
            "--apply writes a new table, and needs to know where.\n"
            f"Next: zoo data labels {shell_word(path)} --apply {shell_word(suspects)} --out relabelled.csv"
        )
    with RunDisplay(verbosity, as_json=True) as display:
        made = zoo.apply_suspects(path, suspects, out, on_event=display.report)
    if as_json:
        print_document(json_text(made.to_dict()))
    else:
        _print_table(made, verbosity)


def _refuse_beside_apply(ctx: typer.Context) -> None:
    given = [
        f"--{name.replace('_', '-')}"
        for name in ctx.params
        if name not in ("path", "apply", "out", "as_json") and is_given(ctx, name)
    ]
    if given:
        raise OptionError(
            f"--apply takes --out alone, for it checks nothing anew; also given: {', '.join(given)}.\n"
            "Next: leave these out."
        )


def _new_folder() -> Path:
    names = ("labels" if number == 1 else f"labels-{number}" for number in itertools.count(1))
    # A link that leads nowhere does not exist, and is in the way all the same.
    return next(place for name in names if not ((place := Path(name)).exists() or place.is_symlink()))


def _print_check(check: LabelCheck, path: Path, verbosity: Verbosity) -> None:
    screen = console.out()
    print_blocks(screen, check.blocks(whole=verbosity.verbose, with_suspects=not verbosity.quiet))
    screen.print()
    screen.print(f"suspects: {check.csv}")
    screen.print(f"page: {check.page}")
    if check.suspects and not verbosity.quiet:
        screen.print(
            f"next: look at the page, write yes (or drop) into the column accept where you agree, then: zoo data "
            f"labels {shell_word(path)} --apply {shell_word(check.csv)} --out relabelled.csv"
        )


def _print_table(made: Relabelled, verbosity: Verbosity) -> None:
    screen = console.out()
    changed = console.count(len(made.changes), "label")
    dropped = f", {console.count(len(made.dropped), 'image')} left out" if made.dropped else ""
    screen.print(f"{changed} changed{dropped}: {console.count(made.images, 'image')} in the table", style="bold")
    for file, given, label in made.changes[: None if verbosity.verbose else _SHOWN]:
        screen.print(f"  {file}: {given} is now {label}")
    for file, given in made.dropped[: None if verbosity.verbose else _SHOWN]:
        screen.print(f"  {file}, {given}, is left out")
    if not verbosity.verbose and max(len(made.changes), len(made.dropped)) > _SHOWN:
        screen.print("  and more; zoo -v and --json list them all")
    screen.print(f"table: {made.table}")
    if not verbosity.quiet:
        screen.print(f"next: zoo finetune --backbone NAME --data {shell_word(made.table)}")
