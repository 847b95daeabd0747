"""The commands. What a command needs is imported when it runs: `zoo --help` imports no torch."""

from __future__ import annotations

import gc

# Importing makes thousands of objects, none of them garbage: collecting would be a fifth of the time. Back on below.
_COLLECTING = gc.isenabled()
gc.disable()

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.cli.cache_commands import cache_app
from zoo.cli.command_group import Commands
from zoo.cli.console import Verbosity, escape_names, quiet_libraries
from zoo.cli.data_commands import data_app
from zoo.cli.exit_codes import FAULT_FOUND, TERMINATED
from zoo.cli.options import (
    AnyPrecision,
    Artefact,
    Compile,
    Device,
    Json,
    Measure,
    NoReport,
    Observer,
    Offline,
    Resume,
    Workers,
)
from zoo.cli.plugin_commands import plugins_app
from zoo.cli.run_options import with_run_options
from zoo.cli.weights_commands import weights_app
from zoo.errors import Terminated, ZooError
from zoo.planning.request import Request

_LOOKING = ("list", "show", "--help", "-h", "--version")


app = typer.Typer(
    name="zoo",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Any pretrained backbone, any head, any freezing recipe: a classifier for your own images, and the proof.",
    epilog="Start with: zoo finetune --backbone resnet18 --classes 5",
)

app.add_typer(data_app, name="data")
app.add_typer(plugins_app, name="plugins")
app.add_typer(weights_app, name="weights")
app.add_typer(cache_app, name="cache")


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
        str,
        typer.Argument(help="backbones, weights, heads, recipes, observers, sources, plugins; nothing: overview."),
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
    """What there is: backbones, weights, heads, recipes, observers, data sources, plugins."""
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
    name: Annotated[
        str,
        typer.Argument(help="A backbone, head, recipe, observer, data source, or a recipe file.", show_default=False),
    ],
    head: Annotated[
        str | None, typer.Option(help="With a backbone: the way of an image to this head's logits.")
    ] = None,
    classes: Annotated[int | None, typer.Option(help="With --head: how many. Default: 5.")] = None,
    input_size: Annotated[str | None, typer.Option(help="With --head: 384, or HxW.")] = None,
    as_json: Json = False,
) -> None:
    """Everything known about one backbone, head, recipe, observer or data source."""
    from zoo.cli.showing import show_name

    show_name(name, head=head, classes=classes, input_size=input_size, as_json=as_json)


@app.command()
@with_run_options
def plan(
    request: Request, verbosity: Verbosity, as_json: bool, *, estimate: Measure = False, offline: Offline = False
) -> None:
    """Show what finetune would do: the dry run.

    Every choice is resolved; nothing is downloaded or written, and trained only by --estimate, to measure.
    """
    from zoo import api
    from zoo.cli.plan_text import print_plan
    from zoo.cli.run_display import RunDisplay

    with RunDisplay(verbosity, as_json=as_json) as display:
        made = api.plan(replace(request, offline=offline), estimate=estimate, report=display.report)
    if as_json:
        print(made.model_dump_json(indent=2))
    else:
        print_plan(made, verbosity)


@app.command()
@with_run_options
def finetune(
    request: Request | None,
    verbosity: Verbosity,
    as_json: bool,
    *,
    resume: Resume = None,
    no_report: NoReport = False,
    observer: Observer = None,
    offline: Offline = False,
) -> None:
    """Train a classifier on your images, and prove it."""
    from zoo import api
    from zoo.cli.result_text import print_result
    from zoo.cli.run_display import RunDisplay

    with RunDisplay(verbosity, as_json=as_json) as display:
        told: dict[str, Any] = {"page": not no_report, "observers": observer or (), "report": display.report}
        if request is None:
            result = api.finetune(resume=resume, offline=offline, **told)
        else:
            result = api.finetune(replace(request, offline=offline), **told)
    print_result(result, verbosity, as_json=as_json)


@app.command()
def evaluate(
    ctx: typer.Context,
    artefact: Artefact,
    data: Annotated[
        Path,
        typer.Option(help="Labelled images, as finetune takes them: their test, else val, else all of them."),
    ],
    csv: Annotated[Path | None, typer.Option(help="Write what was said about each image to a CSV file.")] = None,
    device: Device = "auto",
    precision: AnyPrecision = None,
    compile: Compile = False,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Score a saved classifier on labelled images."""
    from zoo import api
    from zoo.cli.result_text import print_evaluation, write_predictions
    from zoo.cli.run_display import RunDisplay

    with RunDisplay(ctx.obj, as_json=as_json) as display:
        found = api.evaluate(
            artefact,
            data=data,
            device=device,
            precision=precision,
            compile=compile,
            workers=workers,
            report=display.report,
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
    compile: Compile = False,
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
        compile=compile,
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
    offline: Offline = False,
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
        found = api.verify(artefact, offline=offline, report=display.report)
    print_verification(found, as_json=as_json)
    if not found.passed:
        raise typer.Exit(FAULT_FOUND)


@app.command()
def push(
    artefact: Artefact,
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face hub; made where it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Of a repository that is made: for you alone.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch. Default: main.", show_default=False)] = None,
) -> None:
    """Send a saved classifier to the Hugging Face hub."""
    from zoo import api

    print(api.push(artefact, repo, private=private, revision=revision))
    print(f"next: zoo predict hf://{repo}{f'@{revision}' if revision else ''} IMAGE")


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face hub.")],
    out: Annotated[Path, typer.Option(help="Where to; must not exist.", show_default=False)],
    revision: Annotated[
        str | None, typer.Option(help="A branch, tag or commit. Default: main.", show_default=False)
    ] = None,
) -> None:
    """Fetch a saved classifier from the Hugging Face hub, checked."""
    from zoo import api

    print(api.pull(repo, out, revision=revision))


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


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs; two or more.", show_default=False)],
    html: Annotated[
        Path | None,
        typer.Option(
            help="The page; must not exist. Default: a new comparison.html beside the first run; none with --json.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare finished runs with the first of them.

    Which choices differ, metrics side by side, and whether a difference is more than chance on the same images.
    """
    from zoo.cli.comparing import compare_and_print

    compare_and_print(runs, html=html, as_json=as_json)


@app.command()
def doctor(ctx: typer.Context, as_json: Json = False) -> None:
    """Show what a bug report needs.

    Versions, devices, threads, caches, plugins.
    """
    from zoo.cli.doctor import print_doctor

    print_doctor(_own_commands(ctx), as_json=as_json)


def _end(*_: object) -> None:
    raise Terminated(TERMINATED)


def main() -> None:
    """The `zoo` command: the one place where a ZooError becomes a message and an exit code."""
    quiet_libraries()
    escape_names()
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
