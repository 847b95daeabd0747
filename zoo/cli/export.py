"""`zoo export`: a saved classifier in a format that needs no zoo, and what it was compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoo.cli.document import print_document
from zoo.cli.options import Artefact, Json, MovedData
from zoo.display.console import Verbosity
from zoo.exporting.formats import FORMATS, MAX_LOSS
from zoo.process import start_computing
from zoo.storage.atomic import json_text

if TYPE_CHECKING:
    from zoo.exporting.export import Exported

ExportFormat = Annotated[str, typer.Option("--to", help=f"One of {', '.join(FORMATS)}.", show_default=False)]
ExportOut = Annotated[
    Path | None,
    typer.Option("--out", help="Where to; must not exist. Default: beside the artefact.", show_default=False),
]
ExportInput = Annotated[
    str,
    typer.Option("--input", help="tensor: preprocessed images. image, for ONNX: pictures of any size, as a folder."),
]
Int8 = Annotated[bool, typer.Option("--int8", help="ONNX in 8 bits, calibrated on the run's training images.")]
# No default of its own: given without --int8 it is refused, so it must be known whether it was given.
MaxLoss = Annotated[
    float | None,
    typer.Option(help=f"Points of accuracy that --int8 may lose. [default: {MAX_LOSS:g}]", show_default=False),
]


def export(
    ctx: typer.Context,
    artefact: Artefact,
    to: ExportFormat,
    out: ExportOut = None,
    input: ExportInput = "tensor",
    int8: Int8 = False,
    max_loss: MaxLoss = None,
    data: MovedData = None,
    as_json: Json = False,
) -> None:
    """Write a saved classifier in a format that needs no zoo.

    The file is kept only if its logits match those of the original. For ONNX, --input image puts the preprocessing into
    the graph, and --int8 makes it small; both are compared on images of the run.
    """
    start_computing("zoo.exporting.export")
    import zoo
    from zoo.cli.display import RunDisplay

    with RunDisplay(ctx.obj, as_json=as_json) as display:
        exported = zoo.export(
            artefact, to=to, out=out, input=input, int8=int8, max_loss=max_loss, data=data, on_event=display.report
        )
    _print(exported, ctx.obj, as_json=as_json)


def _print(exported: Exported, verbosity: Verbosity, *, as_json: bool) -> None:
    """Print where the export is, how far its logits are from the original's, and how to load it."""
    if as_json:
        print_document(json_text(exported.to_dict()))
        return
    sizes = ", ".join(map(str, exported.batches))
    print(f"written: {exported.path}")
    # The path alone is the result; all else says how far it can be trusted.
    if verbosity.quiet:
        return
    print(
        f"compared: batches of {sizes} images give the original's logits within {exported.largest_difference:.2g} "
        f"(they go up to {exported.largest_logit:.3g}; {exported.tolerance:g} of that is allowed)"
    )
    for name, compared in exported.comparisons().items():
        print(f"{name}: {compared}")
    print(f"load: {exported.how}")
