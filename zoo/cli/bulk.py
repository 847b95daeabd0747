"""`zoo predict` and `zoo embed` of very many files: parts in a folder, and how to go on where it was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cli import interrupt
from zoo.cli.document import print_document
from zoo.cli.options import Inference
from zoo.display import console
from zoo.display.console import Verbosity
from zoo.errors import OptionError
from zoo.process import start_computing
from zoo.storage.atomic import json_text
from zoo.text import counted

if TYPE_CHECKING:
    from zoo.bulk.carry_out import BulkResult


@dataclass(frozen=True, kw_only=True, slots=True)
class PartOptions:
    """The options of commands that write parts."""

    on: str | None
    """None: `local`."""
    out: Path | None
    part_size: int | None
    processes: int | None

    def given(self) -> dict[str, Any]:
        """The arguments of the library's functions. Raises OptionError without a folder."""
        if self.out is None:
            beside = f"--on {self.on}" if self.on is not None else "--processes"
            name = "--part-size" if self.part_size is not None else beside
            raise OptionError(f"{name} writes a folder of parts, and there is none.\nNext: --out FOLDER.")
        given = {"on": self.on or "local", "part_size": self.part_size, "processes": self.processes}
        return {"out": self.out, **{name: value for name, value in given.items() if value is not None}}


def predict_into_parts(
    artefact: Path,
    images: Sequence[Path],
    inference: Inference,
    parts: PartOptions,
    *,
    top: int,
    csv_file: Path | None,
    as_json: bool,
    verbosity: Verbosity,
) -> None:
    """Write the predictions for all images as parts. Raises OptionError for options that do not go with that."""
    for name, is_given in (
        ("--csv", csv_file is not None),
        ("--compile", inference.compile),
        ("-", Path("-") in images),
    ):
        if is_given:
            raise OptionError(f"{name} does not go with --on and --out.\nNext: leave {name} out.")
    given = parts.given()
    start_computing("zoo.bulk.rows")
    import zoo
    from zoo.cli.display import RunDisplay

    # Before the work: a signal may come at any time from here on.
    interrupt.remember_kept(_kept(parts))
    # On stderr even without --json, so that stdout has the result alone.
    with RunDisplay(verbosity, as_json=True) as display:
        made = zoo.predict_files(
            artefact,
            images,
            top=top,
            device=inference.device,
            precision=inference.precision,
            views=inference.views,
            workers=inference.workers,
            on_event=display.report,
            **given,
        )
    _print(made, as_json=as_json)


def embed_into_parts(
    backbone: str, data: Path, parts: PartOptions, *, as_json: bool, verbosity: Verbosity, **options: Any
) -> None:
    """Write the vectors of all images as parts."""
    given = parts.given()
    start_computing("zoo.bulk.rows")
    import zoo
    from zoo.cli.display import RunDisplay

    interrupt.remember_kept(_kept(parts))
    # On stderr, as above.
    with RunDisplay(verbosity, as_json=True) as display:
        made = zoo.embed_files(backbone, data, on_event=display.report, **options, **given)
    _print(made, as_json=as_json)


def _kept(parts: PartOptions) -> str:
    from zoo.bulk.addresses import address_of

    place = address_of(parts.out or "")
    return f"Finished parts are kept in {place}.\nNext: the same command goes on from there."


def _print(made: BulkResult, *, as_json: bool) -> None:
    if as_json:
        print_document(json_text(made.to_dict()))
        return
    screen = console.out()
    bad = f"; {made.unreadable:,} could not be read" if made.unreadable else ""
    screen.print(f"{counted(made.images, 'image')} in {counted(len(made.parts), 'part')}{bad}", style="bold")
    screen.print(f"parts: {made.out}")
    screen.print(f"manifest: {made.out}/{made.manifest}")
