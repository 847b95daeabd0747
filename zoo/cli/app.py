"""The commands and their options. What a command needs is imported when it runs: `zoo --help` imports no torch."""

from __future__ import annotations

import gc

# Importing makes thousands of objects, none of them garbage: collecting would be a fifth of the time. Back on below.
_COLLECTING = gc.isenabled()
gc.disable()

import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from zoo.cli.console import Verbosity, quiet_libraries
from zoo.errors import OptionError, Terminated, ZooError, either, nearest
from zoo.planning.request import Request, parse_input_size

INTERRUPTED, TERMINATED = 130, 143
FAULT_FOUND = 3
_LOOKING = ("list", "show", "--help", "-h", "--version")


class _Commands(TyperGroup):
    """zoo's commands, then those of plugins.

    Ctrl-C becomes a message and exit code 130, a closed pipe a quiet end, before click makes its own of them.
    """

    @functools.cached_property
    def _extra(self) -> dict[str, Any]:
        from zoo.cli.extra_commands import extra_commands

        return dict(extra_commands(self.commands))

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *self._extra]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        # Plugins are looked for only under names that zoo does not have.
        return super().get_command(ctx, cmd_name) or self._extra.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing and not name.startswith("-"):
            close = nearest(name, self.list_commands(ctx))
            ctx.fail(f"No such command {name!r}.{f' Did you mean {either(close)}?' if close else ''}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return self._invoke_attributed(ctx)
        except KeyboardInterrupt:
            print(
                "\nInterrupted. No artefact was written half; what was finished is in the run folder.", file=sys.stderr
            )
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader (`| head`) has enough: not an error. What is still buffered must not be flushed into it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit from None

    def _invoke_attributed(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            name = ctx.invoked_subcommand
            if name is not None and name not in self.commands and name in self._extra:
                self._extra[name].attribute(error)
            raise


app = typer.Typer(
    name="zoo",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Any pretrained backbone, any head, any freezing recipe: a classifier for your own images, and the proof.",
    epilog="Start with: zoo finetune --backbone resnet18 --classes 5",
)

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at your images before you train.")
app.add_typer(data_app, name="data")
plugins_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Write a plugin of your own, and check one."
)
app.add_typer(plugins_app, name="plugins")
cache_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What zoo keeps on this machine, to be fast.")
app.add_typer(cache_app, name="cache")

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
    typer.Option(help="Folder with train/ and val/, or one folder of class folders. Default: a sample set."),
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
Workers = Annotated[int | None, typer.Option(help="Decoding threads. Default: one per core, at most eight.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout.")]
Measure = Annotated[
    bool, typer.Option("--estimate", help="Measure a few steps of each stage here: how long, how much memory.")
]
_DEFAULT = Request(backbone="")
Artefact = Annotated[
    Path, typer.Argument(help="An artefact folder, or the run folder that holds it.", show_default=False)
]


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"zoo {version('zoo-registry')}")
        raise typer.Exit


@app.callback()
def _options(
    ctx: typer.Context,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only results and errors.")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Every epoch, every skipped file, every check.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    ctx.obj = Verbosity(quiet=quiet, verbose=verbose)


def _own_commands(ctx: typer.Context) -> list[str]:
    group: Any = ctx.find_root().command
    return list(group.commands)


@app.command("list")
def list_(
    ctx: typer.Context,
    kind: Annotated[
        str, typer.Argument(help="backbones, weights, heads, recipes, observers or plugins; nothing: an overview.")
    ] = "",
    pattern: Annotated[str, typer.Argument(help="Names that contain it, or a pattern with * and ?.")] = "",
    provider: Annotated[str | None, typer.Option(help="Backbones of one provider only.")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only backbones with weights.")] = False,
    max_params: Annotated[str | None, typer.Option(help="At most so many parameters, such as 25M.")] = None,
    max_gmacs: Annotated[str | None, typer.Option(help="At most so many billion multiply-adds an image.")] = None,
    licence: Annotated[str | None, typer.Option(help="Only weights of this licence; unstated: of none.")] = None,
    input_size: Annotated[str | None, typer.Option(help="Only weights made for images of 384, or HxW.")] = None,
    head: Annotated[str | None, typer.Option(help="Only backbones that can take this head.")] = None,
    sort: Annotated[str | None, typer.Option(help="name, params, gmacs, features, input or top1.")] = None,
    as_json: Json = False,
) -> None:
    """What there is: backbones, weights, heads, recipes, observers, plugins."""
    from zoo.cli.listing import show_list

    given = {
        "provider": provider,
        "pretrained": pretrained,
        "max_params": max_params,
        "max_gmacs": max_gmacs,
        "licence": licence,
        "input_size": input_size,
        "head": head,
        "sort": sort,
    }
    show_list(kind, pattern, given=given, zoo_commands=_own_commands(ctx), as_json=as_json)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A backbone, head or recipe, or a recipe file.", show_default=False)],
    head: Annotated[
        str | None, typer.Option(help="With a backbone: the way of an image to this head's logits.")
    ] = None,
    classes: Annotated[int | None, typer.Option(help="With --head: how many. Default: 5.")] = None,
    input_size: Annotated[str | None, typer.Option(help="With --head: 384, or HxW.")] = None,
    as_json: Json = False,
) -> None:
    """Everything known about one backbone, head or recipe."""
    from zoo.cli.showing import show_name

    show_name(name, head=head, classes=classes, input_size=input_size, as_json=as_json)


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
    out: Out = _DEFAULT.out,
    seed: Seed = _DEFAULT.seed,
    device: Device = _DEFAULT.device,
    precision: Precision = _DEFAULT.precision,
    no_tune: NoTune = not _DEFAULT.tune,
    workers: Workers = _DEFAULT.workers,
    as_json: Json = False,
) -> None:
    """The options that plan and finetune share, declared once."""


def _with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with `_run_options`, called with (the request that they make, the verbosity, whether JSON is asked).

    Its own keyword-only arguments are options beside them.
    """
    signature = inspect.signature(_run_options, eval_str=True)
    parameters = inspect.signature(command, eval_str=True).parameters
    own = {name: each for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY}

    @functools.wraps(_run_options)
    def run(ctx: typer.Context, **given: Any) -> None:
        from zoo.options import parse_assignments

        resumed = given.get("resume")
        if resumed is not None:
            _refuse_beside_resume(ctx, resumed)
            command(None, ctx.obj, given["as_json"], **{name: given[name] for name in own})
            return
        if not given["backbone"]:
            raise OptionError("Missing option '--backbone': [provider/]architecture[.tag].\nNext: zoo list backbones")
        arguments = {
            name: value
            for name, value in given.items()
            if name in Request.__dataclass_fields__ and name != "input_size"
        }
        request = Request(
            **arguments,
            tune=not given["no_tune"],
            head_options=parse_assignments(given["head_option"] or []),
            set=tuple(given["set_"] or []),
            input_size=parse_input_size(given["input_size"]) if given["input_size"] is not None else None,
        )
        command(request, ctx.obj, given["as_json"], **{name: given[name] for name in own})

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {**_run_options.__annotations__, **{name: each.annotation for name, each in own.items()}}
    *shared, as_json = signature.parameters.values()
    own_options = [each.replace(kind=each.POSITIONAL_OR_KEYWORD) for each in own.values()]
    run.__signature__ = signature.replace(parameters=[*shared, *own_options, as_json])  # type: ignore[attr-defined]
    return run


def _refuse_beside_resume(ctx: typer.Context, resumed: Path) -> None:
    given = [
        f"--{name.rstrip('_').replace('_', '-')}"
        for name in ctx.params
        if name not in ("resume", "no_report", "as_json", "observer") and _is_given(ctx, name)
    ]
    if given:
        raise OptionError(
            f"--resume goes alone, the plan is in {resumed}; also given: {', '.join(given)}.\n"
            f"Next: zoo finetune --resume {resumed}"
        )


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@app.command()
@_with_run_options
def plan(request: Request, verbosity: Verbosity, as_json: bool, *, estimate: Measure = False) -> None:
    """Show what finetune would do: the dry run.

    Every choice is resolved; nothing is downloaded or written, and trained only by --estimate, to measure.
    """
    from zoo import api
    from zoo.cli.plan_text import print_plan
    from zoo.cli.run_display import RunDisplay

    with RunDisplay(verbosity, as_json=as_json) as display:
        made = api.plan(request, estimate=estimate, report=display.report)
    if as_json:
        print(made.model_dump_json(indent=2))
    else:
        print_plan(made, verbosity)


@app.command()
@_with_run_options
def finetune(
    request: Request | None,
    verbosity: Verbosity,
    as_json: bool,
    *,
    resume: Resume = None,
    no_report: NoReport = False,
    observer: Observer = None,
) -> None:
    """Train a classifier on your images, and prove it."""
    from zoo import api
    from zoo.cli.result_text import print_result
    from zoo.cli.run_display import RunDisplay

    with RunDisplay(verbosity, as_json=as_json) as display:
        result = api.finetune(
            request, resume=resume, page=not no_report, observers=observer or (), report=display.report
        )
    print_result(result, verbosity, as_json=as_json)


@app.command()
def evaluate(
    ctx: typer.Context,
    artefact: Artefact,
    data: Annotated[Path, typer.Option(help="Folder of labelled images: its test/, else its val/, else all of it.")],
    csv: Annotated[Path | None, typer.Option(help="Write what was said about each image to a CSV file.")] = None,
    device: Device = "auto",
    precision: AnyPrecision = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Score a saved classifier on labelled images."""
    from zoo import api
    from zoo.cli.result_text import print_evaluation, write_predictions
    from zoo.cli.run_display import RunDisplay

    with RunDisplay(ctx.obj, as_json=as_json) as display:
        found = api.evaluate(
            artefact, data=data, device=device, precision=precision, workers=workers, report=display.report
        )
    if csv is not None:  # first: whoever reads stdout may have enough of it
        write_predictions(csv, found)
    print_evaluation(found, as_json=as_json)


@app.command()
def predict(
    ctx: typer.Context,
    artefact: Artefact,
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files, folders of them, quoted patterns such as 'shots/**/*.jpg', or - for paths from stdin.",
            show_default=False,
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="Classes listed per image.")] = 3,
    csv: Annotated[Path | None, typer.Option(help="Write the predictions to a CSV file as well.")] = None,
    device: Device = "auto",
    precision: AnyPrecision = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Say what is on images, with a saved classifier."""
    from zoo.cli.predicting import predict_images

    predict_images(
        artefact,
        images,
        top=top,
        csv_file=csv,
        device=device,
        precision=precision,
        workers=workers,
        as_json=as_json,
        verbosity=ctx.obj,
    )


@app.command()
def export(
    ctx: typer.Context,
    artefact: Artefact,
    to: Annotated[str, typer.Option(help="onnx, pt2, timm or torchvision.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Where to; must not exist. Default: beside the artefact.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a saved classifier in a format that needs no zoo.

    It is compared with the original's logits before it is there.
    """
    from zoo import api
    from zoo.cli.result_text import print_export
    from zoo.cli.run_display import RunDisplay

    with RunDisplay(ctx.obj, as_json=as_json) as display:
        made = api.export(artefact, to=to, out=out, report=display.report)
    print_export(made, as_json=as_json)


@app.command()
def verify(
    ctx: typer.Context,
    artefact: Artefact,
    as_json: Json = False,
) -> None:
    """See whether a saved classifier is what it was.

    Its files, class names, preprocessing and golden logits are compared with what was noted when it was made, without
    training data or network. Of a finished run, the first steps are repeated as well. Exits with 3 for a fault.
    """
    from zoo import api
    from zoo.cli.result_text import print_verification
    from zoo.cli.run_display import RunDisplay

    with RunDisplay(ctx.obj, as_json=as_json) as display:
        found = api.verify(artefact, report=display.report)
    print_verification(found, as_json=as_json)
    if not found.passed:
        raise typer.Exit(FAULT_FOUND)


@data_app.command("check")
def check_data(
    ctx: typer.Context,
    path: Annotated[
        Path, typer.Argument(help="Folder with train/ and val/, or one folder of class folders.", show_default=False)
    ],
    as_json: Json = False,
) -> None:
    """Open every file and say what is wrong with the data; exits with 3 for what makes results wrong."""
    from zoo import api
    from zoo.cli.data_text import print_report
    from zoo.cli.run_display import RunDisplay

    # Progress goes to stderr, as with --json: the first line on stdout is the summary.
    with RunDisplay(ctx.obj, as_json=True) as display:
        found = api.check_data(path, report=display.report)
    print_report(found, ctx.obj, as_json=as_json)
    if not found.passed:
        raise typer.Exit(FAULT_FOUND)


@plugins_app.command("new")
def new_plugin(
    kind: Annotated[str, typer.Argument(help="head, backbone or recipe.", show_default=False)],
    name: Annotated[str, typer.Argument(help="What to call it, such as sharp_linear.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="The folder to write; must not exist. Default: zoo-NAME, here.")
    ] = None,
) -> None:
    """Write an installable package with a head, backbone or recipe that works, and its tests."""
    from zoo.cli.plugins_text import print_written
    from zoo.scaffold import write_plugin

    print_written(kind, name, write_plugin(kind, name, out=out))


@plugins_app.command("check")
def check_plugin(
    name: Annotated[str, typer.Argument(help="A head, backbone or recipe, bare or qualified.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Check all that zoo relies on in a head, backbone or recipe; exits with 3 where something is wrong."""
    from zoo.cli.plugins_text import print_reports
    from zoo.testing import examine

    reports = examine(name)
    print_reports(reports, as_json=as_json)
    if not all(report.passed for report in reports):
        raise typer.Exit(FAULT_FOUND)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Build a finished run's report.html again."""
    from zoo import api
    from zoo.cli.result_text import print_report
    from zoo.streams import prints_to_stderr

    with prints_to_stderr():
        page = api.report(run)
    print_report(page, as_json=as_json)


@cache_app.command("show")
def show_cache(as_json: Json = False) -> None:
    """List what the cache folder holds, with sizes."""
    import json

    from zoo import housekeeping
    from zoo.caches import cache_folder
    from zoo.cli.cache_text import print_kept
    from zoo.features.folder import size_limit

    found = housekeeping.kept()
    if as_json:
        print(json.dumps([each.to_dict() for each in found], indent=2, ensure_ascii=False))
    else:
        print_kept(found, cache_folder(), size_limit())


@cache_app.command("clear")
def clear_cache(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(help="features (the default), measurements, sample, or all.", show_default=False),
    ] = None,
) -> None:
    """Remove what can be made again."""
    from zoo import housekeeping
    from zoo.cli.cache_text import print_cleared

    print_cleared(housekeeping.clear(kinds or ["features"]))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show what a bug report needs.

    Versions, devices, threads, caches, plugins.
    """
    from zoo.cli.doctor import print_doctor

    print_doctor(as_json=as_json)


def _end(*_: object) -> None:
    raise Terminated(TERMINATED)


def main() -> None:
    """Entry point of the `zoo` command: the one place where a ZooError becomes a message and an exit code."""
    quiet_libraries()
    # As Ctrl-C does, it lets a run say how to go on; services and clusters end programs this way.
    signal.signal(signal.SIGTERM, _end)
    collecting = gc.isenabled()
    if len(sys.argv) < 2 or sys.argv[1] in _LOOKING:
        # Thousands of small objects, none of them garbage, and soon done: collecting is a fifth of the time.
        gc.disable()
    try:
        app()
    except ZooError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    finally:
        if collecting:
            gc.enable()


if _COLLECTING:
    gc.enable()

__all__ = ["app", "main"]
