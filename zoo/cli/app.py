"""The commands: each parses, calls the library and prints.

What a command needs is imported when it runs, so that `zoo --help` imports no torch. Options: `zoo.cli.options`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.cli.cache import cache_app
from zoo.cli.command_group import Application, Commands
from zoo.cli.data import data_app
from zoo.cli.document import print_document
from zoo.cli.embed import embed, similar
from zoo.cli.export import export
from zoo.cli.labels import check_labels
from zoo.cli.options import (
    LIST_KINDS,
    Artefact,
    ComparisonPage,
    Compile,
    Csv,
    Device,
    Estimate,
    EvaluationData,
    Images,
    Inference,
    Json,
    MovedData,
    NoReport,
    Observer,
    Offline,
    On,
    PartSize,
    Pattern,
    Processes,
    Resume,
    StoredPrecision,
    ViewsOption,
    Workers,
    with_run_options,
)
from zoo.cli.plugins import plugins_app
from zoo.cli.serve import serve
from zoo.cli.shortlist import shortlist
from zoo.cli.sweep import sweep
from zoo.cli.weights import weights_app
from zoo.display.console import Verbosity
from zoo.errors import FAULT_FOUND
from zoo.planning.request import Request
from zoo.process import prints_to_stderr, start_computing

app = Application(
    name="zoo",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a bug report needs the plain traceback
    rich_markup_mode=None,  # help starts without rich, and "[provider/]" in it is no markup
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Any pretrained backbone, any head, any freezing recipe: a classifier for your own images, and the proof.",
    epilog="Start with: zoo finetune --backbone resnet18 --classes 5",
)

data_app.command("labels")(check_labels)
app.add_typer(data_app, name="data")
app.add_typer(plugins_app, name="plugins")
app.add_typer(weights_app, name="weights")
app.add_typer(cache_app, name="cache")
app.command()(shortlist)
app.command()(sweep)
app.command()(embed)
app.command()(similar)
app.command()(serve)
app.command()(export)


def _print_version(wanted: bool) -> None:
    if wanted:
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
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    ctx.obj = Verbosity(quiet=quiet, verbose=verbose)


def _zoo_commands(ctx: typer.Context) -> list[str]:
    """Names of zoo's own commands, which no plugin can take."""
    group: Any = ctx.find_root().command
    return list(group.commands)


@app.command("list")
def list_(
    ctx: typer.Context,
    kind: Annotated[str, typer.Argument(help=f"{', '.join(LIST_KINDS)}. Default: an overview.")] = "",
    pattern: Pattern = "",
    provider: Annotated[str | None, typer.Option(help="Only backbones of this provider.")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only backbones with weights.")] = False,
    max_params: Annotated[str | None, typer.Option(help="At most this many parameters, such as 25M.")] = None,
    max_gmacs: Annotated[str | None, typer.Option(help="At most this many billion multiply-adds per image.")] = None,
    licence: Annotated[
        str | None, typer.Option(help="Only weights under this licence; unstated: those that name none.")
    ] = None,
    input_size: Annotated[str | None, typer.Option(help="Only weights for this image size: 384, or HxW.")] = None,
    head: Annotated[str | None, typer.Option(help="Only backbones that this head can use.")] = None,
    sort: Annotated[str | None, typer.Option(help="name, params, gmacs, features, input or top1.")] = None,
    as_json: Json = False,
) -> None:
    """List backbones, weights, heads, recipes, observers, data sources or plugins."""
    from zoo.cli.list import show_list

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
    show_list(kind, pattern, given=given, zoo_commands=_zoo_commands(ctx), verbosity=ctx.obj, as_json=as_json)


@app.command()
def show(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(help="A backbone, head, recipe, observer, data source, or a recipe file.", show_default=False),
    ],
    head: Annotated[
        str | None, typer.Option(help="For a backbone: the shapes from image to logits with this head.")
    ] = None,
    classes: Annotated[int | None, typer.Option(help="With --head: number of classes. Default: 5.")] = None,
    input_size: Annotated[str | None, typer.Option(help="With --head: image size, 384 or HxW.")] = None,
    as_json: Json = False,
) -> None:
    """Show everything known about one backbone, head, recipe, observer or data source."""
    from zoo.cli.show import show_name

    show_name(name, head=head, classes=classes, input_size=input_size, verbosity=ctx.obj, as_json=as_json)


@app.command()
@with_run_options
def plan(
    request: Request, verbosity: Verbosity, as_json: bool, *, estimate: Estimate = False, offline: Offline = False
) -> None:
    """Show what finetune would do: the dry run.

    Makes every choice that finetune would make. Begins no run, and downloads nothing but for --backbone auto, which
    tries candidates. Trains only a few steps, to measure, with --estimate.
    """
    start_computing("zoo.training.run")
    import zoo
    from zoo.cli.display import RunDisplay
    from zoo.display.plan import print_plan

    with RunDisplay(verbosity, as_json=as_json) as display:
        completed = zoo.plan(replace(request, offline=offline), estimate=estimate, on_event=display.report)
    if as_json:
        print_document(completed.model_dump_json(indent=2))
    else:
        print_plan(completed, verbosity)


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
    """Train a classifier on your images, and prove that it is right."""
    from zoo.planning.decode_ahead import decode_ahead

    decode_ahead(request)  # in another process, while this one imports torch
    start_computing("zoo.training.run")
    import zoo
    from zoo.cli.display import RunDisplay
    from zoo.cli.result import print_result

    with RunDisplay(verbosity, as_json=as_json) as display:
        shared: dict[str, Any] = {"report": not no_report, "observers": observer or (), "on_event": display.report}
        if resume is not None:
            result = zoo.resume(resume, offline=offline, **shared)
        else:
            assert request is not None, "the options make one, unless a run is resumed"
            result = zoo.finetune(replace(request, offline=offline), **shared)
    print_result(result, verbosity, as_json=as_json)


@app.command()
def evaluate(
    ctx: typer.Context,
    artefact: Artefact,
    data: EvaluationData,
    csv: Csv = None,
    device: Device = "auto",
    precision: StoredPrecision = None,
    compile: Compile = False,
    views: ViewsOption = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Score a saved classifier on labelled images."""
    from zoo.cli.evaluate import evaluate_and_print

    inference = Inference(device=device, precision=precision, compile=compile, workers=workers, views=views)
    evaluate_and_print(artefact, data, inference, csv_file=csv, as_json=as_json, verbosity=ctx.obj)


@app.command()
def predict(
    ctx: typer.Context,
    artefact: Artefact,
    images: Images,
    top: Annotated[int, typer.Option(min=1, help="Classes listed per image.")] = 3,
    csv: Csv = None,
    device: Device = "auto",
    precision: StoredPrecision = None,
    compile: Compile = False,
    views: ViewsOption = None,
    workers: Workers = None,
    on: On = None,
    out: Annotated[
        Path | None,
        typer.Option(help="With --on: the folder of parts, new or of the same job; or s3://...", show_default=False),
    ] = None,
    part_size: PartSize = None,
    processes: Processes = None,
    as_json: Json = False,
) -> None:
    """Classify images with a saved classifier.

    With --on and --out very many, into a folder of Parquet parts; images may be addresses such as s3://BUCKET/FOLDER.
    """
    inference = Inference(device=device, precision=precision, compile=compile, workers=workers, views=views)
    if on is not None or out is not None or part_size is not None or processes is not None:
        from zoo.cli.bulk import PartOptions, predict_into_parts

        into = PartOptions(on=on, out=out, part_size=part_size, processes=processes)
        predict_into_parts(artefact, images, inference, into, top=top, csv_file=csv, as_json=as_json, verbosity=ctx.obj)
        return
    start_computing("zoo.artefact.classifier")
    from zoo.cli.predict import predict_images

    predict_images(artefact, images, inference, top=top, csv_file=csv, as_json=as_json, verbosity=ctx.obj)


@app.command()
def verify(ctx: typer.Context, artefact: Artefact, offline: Offline = False, as_json: Json = False) -> None:
    """Check that a saved classifier is unchanged.

    Its files, class names, preprocessing and golden logits are compared with what was recorded when it was saved,
    without training data or network. Of a finished run, the first steps are repeated as well. Exits with 3 on a fault.
    """
    start_computing("zoo.training.verify")
    import zoo
    from zoo.cli.display import RunDisplay
    from zoo.cli.result import print_verification

    with RunDisplay(ctx.obj, as_json=as_json) as display:
        verification = zoo.verify(artefact, offline=offline, on_event=display.report)
    print_verification(verification, ctx.obj, as_json=as_json)
    if not verification.passed:
        raise typer.Exit(FAULT_FOUND)


@app.command()
def push(
    ctx: typer.Context,
    artefact: Annotated[
        Path, typer.Argument(help="An artefact folder, or the run folder that holds it.", show_default=False)
    ],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face hub; created if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="A repository that is created becomes private.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch. Default: main.", show_default=False)] = None,
) -> None:
    """Send a saved classifier to the Hugging Face hub."""
    import zoo

    print(zoo.push(artefact, repo, private=private, revision=revision))
    if not ctx.obj.quiet:
        print(f"next: zoo predict hf://{repo}{f'@{revision}' if revision else ''} IMAGE")


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face hub.")],
    out: Annotated[Path, typer.Option(help="Where to; must not exist.", show_default=False)],
    revision: Annotated[
        str | None, typer.Option(help="A branch, tag or commit. Default: main.", show_default=False)
    ] = None,
) -> None:
    """Download a saved classifier from the Hugging Face hub, and check it."""
    import zoo

    print(zoo.pull(repo, out, revision=revision))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Write the report.html of a finished run again."""
    start_computing("zoo.reporting.page")
    from zoo.cli.result import print_report
    from zoo.registry.registry import default_registry
    from zoo.reporting.page import write_report

    with prints_to_stderr():  # for overlays the model is built, by plugins that may print
        written = write_report(run.expanduser(), default_registry())
    print_report(written, as_json=as_json)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs; two or more.", show_default=False)],
    html: ComparisonPage = None,
    as_json: Json = False,
) -> None:
    """Compare finished runs with the first of them.

    Shows which choices differ, the metrics side by side, and whether a difference on the same images may be chance.
    """
    from zoo.cli.compare import compare_and_print

    compare_and_print(runs, html=html, as_json=as_json)


@app.command()
def soup(
    ctx: typer.Context,
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of finished runs that began from the same head; two or more.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Where to; must not exist.", show_default=False)],
    data: MovedData = None,
    device: Device = "auto",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Average the weights of runs, as far as that helps.

    Begins with the run that is best on validation, and adds each other one where the average is not worse there.
    """
    start_computing("zoo.training.soup.make")
    import zoo
    from zoo.cli.display import RunDisplay
    from zoo.cli.soup import print_soup

    with RunDisplay(ctx.obj, as_json=as_json) as display:
        made = zoo.soup(runs, out=out, data=data, device=device, workers=workers, on_event=display.report)
    print_soup(made, ctx.obj, as_json=as_json)


@app.command()
def doctor(ctx: typer.Context, as_json: Json = False) -> None:
    """Show what a bug report needs.

    Versions, devices, threads, caches, plugins.
    """
    from zoo.cli.doctor import print_doctor

    print_doctor(_zoo_commands(ctx), as_json=as_json)
