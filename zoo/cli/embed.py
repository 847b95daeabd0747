"""`zoo embed` and `zoo similar`: vectors of images, and the images nearest to one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.document import print_document
from zoo.cli.options import Device, InputSize, Json, Offline, On, PartSize, Processes, Seed, Weights, Workers
from zoo.display import console
from zoo.display.console import Verbosity
from zoo.planning.request import parse_input_size
from zoo.process import start_computing
from zoo.text import printable

if TYPE_CHECKING:
    from zoo.embedding.nearest import SimilarImages

Subject = Annotated[
    str,
    typer.Argument(
        metavar="BACKBONE|RUN",
        help="[provider/]architecture[.tag]; or a run, a saved classifier, hf://OWNER/NAME: its backbone as trained.",
        show_default=False,
    ),
]
Embedded = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="Data as --data of finetune takes them, or any folder of images.", show_default=False
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        help="A group of the backbone (zoo show BACKBONE): its mean output. Default: the pooled features.",
        show_default=False,
    ),
]
EmbedPrecision = Annotated[
    str,
    typer.Option(
        "--precision", help="auto (whichever is faster here; for a run, that of its training), float32 or bfloat16."
    ),
]


def embed(
    ctx: typer.Context,
    backbone: Subject,
    data: Embedded,
    out: Annotated[
        Path,
        typer.Option(
            help="A new file: .parquet, .safetensors, or .npy with a .csv of its rows and a .json beside it; "
            "with --on a folder of parts, or s3://...",
            show_default=False,
        ),
    ],
    group: Group = None,
    normalise: Annotated[
        bool, typer.Option("--normalise", help="Divide each vector by its length, so that products are cosines.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="float32, or float16 for half the size.")] = "float32",
    weights: Weights = "default",
    input_size: InputSize = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: EmbedPrecision = "auto",
    workers: Workers = None,
    offline: Offline = False,
    on: On = None,
    part_size: PartSize = None,
    processes: Processes = None,
    as_json: Json = False,
) -> None:
    """Write a vector for every image, from a frozen backbone.

    With --on very many, into a folder of Parquet parts; DATA may be a pattern, or an address such as s3://BUCKET/FOLDER.
    """
    options: dict[str, Any] = {
        "group": group,
        "normalise": normalise,
        "dtype": dtype,
        "weights": weights,
        "input_size": None if input_size is None else parse_input_size(input_size),
        "seed": seed,
        "device": device,
        "precision": precision,
        "workers": workers,
        "offline": offline,
    }
    if on is not None or part_size is not None or processes is not None:
        from zoo.cli.bulk import PartOptions, embed_into_parts

        parts = PartOptions(on=on, out=out, part_size=part_size, processes=processes)
        embed_into_parts(backbone, data, parts, as_json=as_json, verbosity=ctx.obj, **options)
        return
    start_computing("zoo.embedding.embed")
    import zoo
    from zoo.cli.display import RunDisplay
    from zoo.embedding.vectors import describe
    from zoo.storage.atomic import json_text

    # On stderr even without --json, so that stdout has the result alone.
    with RunDisplay(ctx.obj, as_json=True) as display:
        made = zoo.embed(backbone, data, out=out, on_event=display.report, **options)
    if as_json:
        print_document(json_text(made.to_dict()))
        return
    screen = console.out()
    screen.print(describe(made), style="bold")
    screen.print(f"vectors: {out}")
    # NumPy's format has room for numbers alone.
    if out.suffix == ".npy":
        screen.print(f"rows: {out.with_suffix('.csv')}")
        screen.print(f"metadata: {out.with_suffix('.json')}")


def similar(
    ctx: typer.Context,
    backbone: Subject,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The image to find others for.", show_default=False)],
    data: Embedded,
    top: Annotated[int, typer.Option(min=1, help="Images to show.")] = 10,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page with the pictures; must not exist.", show_default=False)
    ] = None,
    group: Group = None,
    weights: Weights = "default",
    input_size: InputSize = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: EmbedPrecision = "auto",
    workers: Workers = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Find the images that are nearest to one image, as a frozen backbone sees them."""
    start_computing("zoo.embedding.nearest")
    import zoo
    from zoo.cli.display import RunDisplay
    from zoo.storage.atomic import json_text

    # On stderr, as above.
    with RunDisplay(ctx.obj, as_json=True) as display:
        found = zoo.similar(
            backbone,
            image,
            data,
            top=top,
            html=html,
            group=group,
            weights=weights,
            input_size=None if input_size is None else parse_input_size(input_size),
            seed=seed,
            device=device,
            precision=precision,
            workers=workers,
            offline=offline,
            on_event=display.report,
        )
    if as_json:
        print_document(json_text({**found.to_dict(), "page": None if html is None else str(html)}))
        return
    _print_similar(found, html, ctx.obj)


def _print_similar(found: SimilarImages, html: Path | None, verbosity: Verbosity) -> None:
    from zoo.embedding.similar_page import labels_in_words

    screen = console.out()
    rows = [
        [f"{each.similarity:.4f}", printable(each.file), each.label, each.split, each.remark]
        for each in found.neighbours
    ]
    columns = ["similarity", "image", "label", "split", ""]
    console.show(screen, console.table(None, columns, rows, right=columns[:1]))
    # Copies of the image say nothing about what lies near it.
    words = labels_in_words([each.label for each in found.neighbours if not each.remark])
    if words and not verbosity.quiet:
        screen.print(f"labels of the others: {words}")
    if html is not None:
        screen.print(f"page: {html}")
