"""The options and arguments that several commands take, or that take a line of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Backbone = Annotated[
    str, typer.Option(help="[provider/]architecture[.tag]; see zoo list backbones.", show_default=False)
]
Head = Annotated[str, typer.Option(help="See zoo list heads.")]
Classes = Annotated[int | None, typer.Option(help="How many; must agree with the data. Default: as many as there are.")]
Recipe = Annotated[
    str | None,
    typer.Option(help="A name (zoo list recipes) or a TOML file. Default: staged; head_only for a closed-form head."),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder with train/ and val/, or one folder of class folders; or a CSV or Parquet table, tar shards, a "
        "zip, a saved Hugging Face data set. [NAME:]PATH; see zoo list sources. Default: a sample set."
    ),
]
Weights = Annotated[str, typer.Option(help="default, a tag, random, or a file (.safetensors, .pth).")]
HeadOption = Annotated[list[str] | None, typer.Option("--head-option", help="K=V, an option of the head; repeatable.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="STAGE.K=V, a value of the recipe; repeatable.")]
Epochs = Annotated[int | None, typer.Option(help="Scale the stages so that the longest has this many.")]
BatchSize = Annotated[int | None, typer.Option(help="For all stages.")]
InputSize = Annotated[
    str | None, typer.Option(help="384, or HxW, in pixels. Default: that of the weights.", show_default=False)
]
Resume = Annotated[
    Path | None,
    typer.Option(help="Go on with a stopped run, given by its folder; alone, its plan is there.", show_default=False),
]
NoReport = Annotated[bool, typer.Option("--no-report", help="Do not write report.html; zoo report RUN does it later.")]
Observer = Annotated[
    list[str] | None, typer.Option(help="Tells a plugin how the run goes; see zoo list observers. Repeatable.")
]
Out = Annotated[Path | None, typer.Option(help="The run folder; must not exist. Default: a new one under runs/.")]
Seed = Annotated[int, typer.Option(help="Of everything drawn: split, initialisation, order, augmentation.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[str, typer.Option(help="auto (what is faster here), float32 or bfloat16.")]
AnyPrecision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help="float32, bfloat16, or auto (what is faster here). Default: what it was trained with.",
        show_default=False,
    ),
]
NoTune = Annotated[
    bool, typer.Option("--no-tune", help="Do not measure which precision and memory layout are fastest.")
]
Compile = Annotated[
    bool, typer.Option("--compile", help="For many images: translate the backbone by torch.compile first.")
]
Workers = Annotated[int | None, typer.Option(help="Decoding threads. Default: one per core, at most eight.")]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline", help="Do not touch the network; what is not on this machine is an error. As ZOO_OFFLINE=1."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout.")]
Measure = Annotated[
    bool, typer.Option("--estimate", help="Measure a few steps of each stage here: how long, how much memory.")
]
Artefact = Annotated[
    Path,
    typer.Argument(help="An artefact folder, the run folder that holds it, or hf://OWNER/NAME.", show_default=False),
]
