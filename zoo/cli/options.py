"""Options and arguments, each declared once: those that several commands share, and those too long for `app.py`.

This module is read by `zoo --help`, so it imports neither torch nor any registry.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.errors import OptionError
from zoo.planning.request import Request, make_request, parse_input_size
from zoo.text import shell_word

# Names for help texts. They stand here because the modules that give them meaning are too heavy to import for help.
LIST_KINDS = ("backbones", "weights", "heads", "recipes", "observers", "sources", "plugins")
"""What `zoo list` lists."""

_DEFAULT = Request(backbone="")
"""The defaults of plan and finetune, which the library has as well."""

# Many commands.
Json = Annotated[bool, typer.Option("--json", help="Print only JSON on stdout.")]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Use no network: what is not on this machine is an error. Same as ZOO_OFFLINE=1."),
]
Artefact = Annotated[
    Path,
    typer.Argument(help="An artefact folder, the run folder that holds it, or hf://OWNER/NAME.", show_default=False),
]
Pattern = Annotated[str, typer.Argument(help="Names that contain it, or a pattern with * and ?.")]

# plan and finetune.
Backbone = Annotated[
    str,
    typer.Option(
        help="[provider/]architecture[.tag]; see zoo list backbones. auto: the best of a shortlist.", show_default=False
    ),
]
Head = Annotated[str, typer.Option(help="See zoo list heads.")]
Classes = Annotated[
    int | None, typer.Option(help="Number of classes; must match the data. Default: as many as the data has.")
]
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
Set = Annotated[list[str] | None, typer.Option("--set", help="STAGE.K=V, replaces a value of the recipe; repeatable.")]
Epochs = Annotated[
    int | None,
    typer.Option(
        help="Epochs of the longest stage that trains the backbone; the others by the same factor, at least 1 each."
    ),
]
BatchSize = Annotated[int | None, typer.Option(help="Batch size of all stages.")]
InputSize = Annotated[
    str | None,
    typer.Option(help="Image size in pixels: 384, or HxW. Default: that of the weights.", show_default=False),
]
Out = Annotated[Path | None, typer.Option(help="The run folder; must not exist. Default: a new one under runs/.")]
Seed = Annotated[int, typer.Option(help="Random seed for the split, initialisation, order and augmentation.")]
Folds = Annotated[
    int | None,
    typer.Option(
        help="Instead of a validation split: train on every image, and predict each by a fit to the other folds.",
        show_default=False,
    ),
]
EveryStage = Annotated[
    bool,
    typer.Option(
        "--every-stage", help="With --folds: also repeat stages that train the backbone. K folds take K times as long."
    ),
]
DecodeOption = Annotated[
    str,
    typer.Option(
        "--decode",
        help="exact, or fast: large JPEG files at a part of their size. Faster; pixels differ a little.",
    ),
]
Precision = Annotated[str, typer.Option(help="auto (whichever is faster on this machine), float32 or bfloat16.")]
NoTune = Annotated[
    bool, typer.Option("--no-tune", help="Take the default precision and memory layout, not the fastest ones.")
]
Estimate = Annotated[
    bool, typer.Option("--estimate", help="Run a few steps of each stage to estimate time and memory.")
]
Resume = Annotated[
    Path | None,
    typer.Option(help="Folder of a stopped run to continue; its plan is stored there.", show_default=False),
]
ShardBackbone = Annotated[
    bool,
    typer.Option(
        "--shard-backbone",
        help="With several processes: each holds a part of the layers that train, of their gradients and of the "
        "optimizer's state, for backbones that do not fit.",
    ),
]
NoReport = Annotated[bool, typer.Option("--no-report", help="Do not write report.html; zoo report RUN does it later.")]
Observer = Annotated[
    list[str] | None, typer.Option(help="A plugin that follows the run; see zoo list observers. Repeatable.")
]

# evaluate and predict; plan and finetune take the first two as well.
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Workers = Annotated[int | None, typer.Option(help="Decoding threads. Default: one per core, at most eight.")]
StoredPrecision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help="float32, bfloat16, or auto (whichever is faster on this machine). Default: the precision of training.",
        show_default=False,
    ),
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the backbone by torch.compile first; pays off for many images.")
]
ViewsOption = Annotated[
    str | None,
    typer.Option(
        "--views",
        help="Average probabilities over views of each image: flip (and its mirror image; 2 passes) or five (centre "
        "and corners; 5 passes).",
        show_default=False,
    ),
]
Csv = Annotated[Path | None, typer.Option(help="Write the prediction for each image to a CSV file.")]
EvaluationData = Annotated[
    Path, typer.Option(help="Labelled images, as finetune takes them. Uses test, else val, else all of them.")
]
Images = Annotated[
    list[Path],
    typer.Argument(
        help="Image files, folders of them, quoted patterns such as 'shots/**/*.jpg', or - for paths from stdin.",
        show_default=False,
    ),
]

# predict and embed, of very many files.
On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="PLACE",
        help="Write a folder of Parquet parts: local (this process), ray (all cores or GPUs of this machine), or a Ray "
        "cluster: auto, HOST:PORT, ray://HOST:PORT.",
        show_default=False,
    ),
]
PartSize = Annotated[int | None, typer.Option(help="With --on: images in a part. Default: 1024.", show_default=False)]
Processes = Annotated[
    int | None,
    typer.Option(help="With --on ray: worker processes. Default: one a GPU, or one a core.", show_default=False),
]

# plan, finetune and shortlist.
Budget = Annotated[
    str | None,
    typer.Option(
        help="Most time for choosing the backbone: 90s, 10m, 2h. Default: a fifth of an estimated run, at least a "
        "minute."
    ),
]

Examine = Annotated[
    int,
    typer.Option(help="Most images that are opened before the plan is shown; finetune opens the others after that."),
]

# shortlist.
Candidates = Annotated[
    list[str] | None,
    typer.Option(
        help="Names, NAME=FILE, NAME=random or patterns, with commas; repeatable. Default: what is on this machine, "
        "and what can be fetched in time.",
        show_default=False,
    ),
]
MaxParams = Annotated[str | None, typer.Option(help="At most this many parameters, such as 25M.")]
MaxLatency = Annotated[str | None, typer.Option(help="At most this long for one image on this machine: 20ms.")]
ShortlistLicence = Annotated[
    str | None, typer.Option("--licence", help="permissive, or a licence of weights as upstream states it.")
]
Top = Annotated[int, typer.Option(min=1, help="Rows to show.")]
ShortlistPage = Annotated[
    Path | None,
    typer.Option("--html", help="Write a page with a picture of accuracy against latency; must not exist."),
]

# compare, soup and export.
MovedData = Annotated[
    Path | None,
    typer.Option("--data", help="Where the images are now. Default: where the runs found them.", show_default=False),
]
ComparisonPage = Annotated[
    Path | None,
    typer.Option(
        help="The page; must not exist. Default: a new comparison.html beside the first run; none with --json.",
        show_default=False,
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Inference:
    """How a saved classifier computes: the options that evaluate and predict share."""

    device: str
    precision: str | None
    """None: the precision that it was trained in."""
    compile: bool
    workers: int | None
    """Decoding threads. None: one per core, at most eight."""
    views: str | None = None
    """The views over which probabilities are averaged. None: the image alone."""


def _run_options(
    ctx: typer.Context,
    backbone: Backbone = _DEFAULT.backbone,
    head: Head = _DEFAULT.head,
    classes: Classes = _DEFAULT.classes,
    recipe: Recipe = _DEFAULT.recipe,
    data: Data = _DEFAULT.data,
    weights: Weights = _DEFAULT.weights,
    head_option: HeadOption = None,
    set_: Set = None,
    epochs: Epochs = _DEFAULT.epochs,
    batch_size: BatchSize = _DEFAULT.batch_size,
    input_size: InputSize = None,
    decode: DecodeOption = _DEFAULT.decode,
    out: Out = _DEFAULT.out,
    seed: Seed = _DEFAULT.seed,
    folds: Folds = _DEFAULT.folds,
    every_stage: EveryStage = _DEFAULT.every_stage,
    device: Device = _DEFAULT.device,
    precision: Precision = _DEFAULT.precision,
    no_tune: NoTune = not _DEFAULT.tune,
    workers: Workers = _DEFAULT.workers,
    budget: Budget = None,
    examine: Examine = _DEFAULT.examine,
    shard_backbone: ShardBackbone = _DEFAULT.shard_backbone,
    as_json: Json = False,
) -> None:
    """The options that plan and finetune share. Only the signature is used."""


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `_run_options`, and beside them its own keyword-only arguments.

    `command` is called with the Request that they make (None for `--resume`), the verbosity, and whether JSON is
    wanted.
    """
    signature = inspect.signature(_run_options, eval_str=True)
    parameters = inspect.signature(command, eval_str=True).parameters
    own = {name: parameter for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}

    @functools.wraps(_run_options)
    def run(ctx: typer.Context, **given: Any) -> None:
        resumed = given.get("resume")
        if resumed is not None:
            _refuse_beside_resume(ctx, resumed)
        # A resumed run takes everything from its stored plan.
        request = None if resumed is not None else _request(given)
        command(request, ctx.obj, given["as_json"], **{name: given[name] for name in own})

    # typer reads options from the signature and its annotations, so both are put together here: shared, own, --json.
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    annotations = {name: parameter.annotation for name, parameter in own.items()}
    run.__annotations__ = {**_run_options.__annotations__, **annotations}
    *shared, as_json = signature.parameters.values()
    own_options = [parameter.replace(kind=parameter.POSITIONAL_OR_KEYWORD) for parameter in own.values()]
    run.__signature__ = signature.replace(parameters=[*shared, *own_options, as_json])  # type: ignore[attr-defined]
    return run


def _request(given: dict[str, Any]) -> Request:
    from zoo.specs.options import parse_assignments

    # Not a required option for typer: it must be left out beside --resume.
    if not given["backbone"]:
        raise OptionError("Missing option '--backbone': [provider/]architecture[.tag].\nNext: zoo list backbones")
    # Without input_size, which is a text on the command line.
    same_name = (given.keys() & Request.__dataclass_fields__.keys()) - {"input_size"}
    return make_request(
        **{name: given[name] for name in same_name},
        tune=not given["no_tune"],
        head_options=parse_assignments(given["head_option"] or []),
        set=given["set_"] or (),
        input_size=parse_input_size(given["input_size"]) if given["input_size"] is not None else None,
    )


def _refuse_beside_resume(ctx: typer.Context, resumed: Path) -> None:
    given = [
        f"--{name.rstrip('_').replace('_', '-')}"
        for name in ctx.params
        if name not in ("resume", "no_report", "as_json", "observer", "offline") and is_given(ctx, name)
    ]
    if given:
        raise OptionError(
            f"--resume goes alone, the plan is in {resumed}; also given: {', '.join(given)}.\n"
            f"Next: zoo finetune --resume {shell_word(resumed)}"
        )


def is_given(ctx: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line, also where it says no more than the default."""
    # By the name of the source: typer may hold click inside, and the enumeration with it.
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
