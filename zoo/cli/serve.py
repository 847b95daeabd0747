"""`zoo serve`: the address goes to stdout as soon as requests are answered."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.cli.options import Artefact, Device, StoredPrecision
from zoo.process import start_computing
from zoo.serving.packages import refuse_without_packages


def serve(
    ctx: typer.Context,
    artefact: Artefact,
    port: Annotated[int, typer.Option(help="The port; 0: any free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="The address to listen on. 0.0.0.0: for all that can reach this machine.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="A host name that requests may be for, as of a proxy, beside addresses and localhost; repeatable.",
            show_default=False,
        ),
    ] = None,
    max_images: Annotated[int, typer.Option(min=1, max=10_000, help="Most images in a request.")] = 32,
    max_megabytes: Annotated[
        float,
        typer.Option(min=0.001, max=10_000, help="Most MB of an image file; a request may have five times as many."),
    ] = 20.0,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, max=10_000, help="Most million pixels of an image.")
    ] = 64.0,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="Seconds for a request to arrive, and again to be answered.")
    ] = 30.0,
    device: Device = "auto",
    precision: StoredPrecision = None,
) -> None:
    """Answer HTTP requests with a saved classifier, and show a page to try it.

    Only for this machine, unless --host says otherwise. Ctrl-C lets the requests under way be answered.
    """
    refuse_without_packages()
    start_computing("zoo.serving.server")
    import zoo
    from zoo.cli.display import RunDisplay

    with RunDisplay(ctx.obj, as_json=False) as display:
        zoo.serve(
            artefact,
            host=host,
            port=port,
            allow_hosts=allow_host or (),
            device=device,
            precision=precision,
            max_images=max_images,
            max_bytes=round(1e6 * max_megabytes),
            max_pixels=round(1e6 * max_megapixels),
            timeout=timeout,
            on_event=display.report,
            # Flushed: a program that started the server may wait for this line.
            on_ready=lambda serving: print(serving.url, flush=True),
        )
