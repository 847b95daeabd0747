"""Runs: planned, carried out, resumed, reported, compared and averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from zoo.api.arguments import checked_arguments, with_progress
from zoo.errors import OptionError
from zoo.events import Report, silent
from zoo.planning.request import AUTO, Request, given_arguments, make_request
from zoo.registry.registry import Registry, default_registry

if TYPE_CHECKING:
    from zoo.comparing.comparison import Comparison
    from zoo.specs.plan import Plan, ShortlistPlan
    from zoo.training.result import Result
    from zoo.training.soup.outcome import Soup


@checked_arguments({"report": "on_event"})
@with_progress
def plan(
    backbone: str | Request,
    *,
    head: str = "dropout_linear",
    classes: int | None = None,
    recipe: str | None = None,
    data: str | Path | None = None,
    weights: str = "default",
    head_options: Mapping[str, Any] = MappingProxyType({}),
    set: Sequence[str] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    input_size: tuple[int, int] | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    folds: int | None = None,
    every_stage: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tune: bool = True,
    workers: int | None = None,
    budget: str | float | None = None,
    offline: bool = False,
    estimate: bool = False,
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> Plan:
    """Say everything that `finetune` would do with the same arguments. Nothing is trained or written.

    Args:
        backbone: `[provider/]architecture[.tag]`. `auto`: the best of a shortlist of all weights on this machine and,
            unless `offline`, of what can be fetched in time. The plan says what was compared. A `Request` holds the
            arguments up to `offline` as one object, instead of them.
        head: `[plugin/]name`.
        classes: Number of classes, which must agree with the data. Default: as many as there are.
        recipe: A registered name, or the path of a TOML file. Default: `staged`, or `head_only` for a closed-form head.
        data: A folder of class folders, or what a data source reads (`list_data_sources`): a table, tar shards, a zip,
            a saved Hugging Face data set. `NAME:PATH` says which source reads it. Default: the generated sample set.
        weights: `default`, a tag, `random`, or the path of a file.
        head_options: The head's options by name; the rest have their defaults.
        set: `STAGE.KEY=VALUE`, each over a value of the recipe.
        epochs: Scales all stages so that the longest one has this many.
        batch_size: Batch size of all stages.
        input_size: (height, width) in pixels. Default: that of the weights.
        out: The run folder. Default: a new one under `runs/`.
        seed: Random seed for the split, initialisation, order and augmentation.
        folds: So many folds in place of a validation split: every image of train and val is trained on, and predicted
            by a fit to the other folds, which near-duplicates never divide. Default: none.
        every_stage: Whether folds may repeat stages that train the backbone. K folds then take about K times as long.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `float32`, `bfloat16`, or `auto`: the precision and memory layout that were measured to be at least
            1.2 times faster on this machine for this model.
        tune: Whether that is measured. If not, `auto` means `float32`.
        workers: Number of decoding threads. Default: one per core, at most eight.
        budget: With the backbone `auto`: most seconds for choosing it, or a text such as `2m`. Default: a fifth of what
            the run is estimated to take, at least a minute.
        offline: Do not touch the network. Weights that are not on this machine are an error then, on the sample set
            too.
        estimate: Whether a few steps of each stage are measured on this machine, for `.estimate`: seconds and bytes.
            Nothing is downloaded for it.
        on_event: Called with every event of `zoo.events`.
        verbose: As for `finetune`.
        registry: Where names are looked up. Default: the installed plugins.

    Raises:
        ZooError: Something cannot be done as asked.
    """
    from zoo.training.run import make_plan

    arguments: dict[str, Any] = {
        "head": head,
        "classes": classes,
        "recipe": recipe,
        "data": data,
        "weights": weights,
        "head_options": head_options,
        "set": set,
        "epochs": epochs,
        "batch_size": batch_size,
        "input_size": input_size,
        "out": out,
        "seed": seed,
        "folds": folds,
        "every_stage": every_stage,
        "device": device,
        "precision": precision,
        "tune": tune,
        "workers": workers,
        "budget": budget,
        "offline": offline,
    }
    known = registry or default_registry()
    asked, compared = _with_backbone(_asked(backbone, arguments), known, on_event)
    return make_plan(asked, known, on_event, measured=estimate, shortlist=compared)


@checked_arguments()
@with_progress
def resume(
    run: str | Path,
    *,
    offline: bool = False,
    report: bool = True,
    observers: Sequence[str] = (),
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> Result:
    """Train a stopped run to its end. It ends with the bytes of an unbroken run.

    The plan is in the folder. Where only `report.html` is missing, that is written.

    Args:
        run: The folder of the stopped run.
        offline: Do not touch the network. Weights that are not on this machine are an error then.
        report: Whether `report.html` is written at the end. Where that fails, an event says so and the run stands.
        observers: Names of observers, `[plugin/]name`, that are told how the run goes.
        on_event: Called with every event of `zoo.events`.
        verbose: As for `finetune`.
        registry: Where names are looked up. Default: the installed plugins.

    Raises:
        Refused: The run is finished, or this machine would continue it otherwise than it began.
        RunError: `run` is not a run folder, or another process writes it.
        ZooError: As `finetune`.
    """
    from zoo.reporting.page import lacks_report
    from zoo.training.observers import observed
    from zoo.training.resume import finish
    from zoo.training.resume import resume as go_on

    folder, known = Path(run).expanduser(), registry or default_registry()
    finished = _report_writer(known, on_event) if report else _nothing
    if report and lacks_report(folder):
        return finish(folder, on_event, finished)
    with observed(observers, known, on_event) as told:
        return go_on(folder, known, told, offline=offline, finished=finished)


@checked_arguments({"report": "on_event", "page": "report"}, moved={"resume": resume})
@with_progress
def finetune(
    backbone: str | Request,
    *,
    head: str = "dropout_linear",
    classes: int | None = None,
    recipe: str | None = None,
    data: str | Path | None = None,
    weights: str = "default",
    head_options: Mapping[str, Any] = MappingProxyType({}),
    set: Sequence[str] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    input_size: tuple[int, int] | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    folds: int | None = None,
    every_stage: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tune: bool = True,
    workers: int | None = None,
    budget: str | float | None = None,
    offline: bool = False,
    report: bool = True,
    observers: Sequence[str] = (),
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> Result:
    """Fine-tune a pretrained backbone on your classes, check what was done, and save the classifier.

    Args:
        backbone: `[provider/]architecture[.tag]`. `auto`: the best of a shortlist of all weights on this machine and,
            unless `offline`, of what can be fetched in time. The plan says what was compared. A `Request` holds the
            arguments up to `offline` as one object, instead of them.
        head: `[plugin/]name`.
        classes: Number of classes, which must agree with the data. Default: as many as there are.
        recipe: A registered name, or the path of a TOML file. Default: `staged`, or `head_only` for a closed-form head.
        data: A folder of class folders, or what a data source reads (`list_data_sources`): a table, tar shards, a zip,
            a saved Hugging Face data set. `NAME:PATH` says which source reads it. Default: the generated sample set.
        weights: `default`, a tag, `random`, or the path of a file.
        head_options: The head's options by name; the rest have their defaults.
        set: `STAGE.KEY=VALUE`, each over a value of the recipe.
        epochs: Scales all stages so that the longest one has this many.
        batch_size: Batch size of all stages.
        input_size: (height, width) in pixels. Default: that of the weights.
        out: The run folder. Default: a new one under `runs/`.
        seed: Random seed for the split, initialisation, order and augmentation.
        folds: So many folds in place of a validation split: every image of train and val is trained on, and predicted
            by a fit to the other folds, which near-duplicates never divide. Default: none.
        every_stage: Whether folds may repeat stages that train the backbone. K folds then take about K times as long.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `float32`, `bfloat16`, or `auto`: the precision and memory layout that were measured to be at least
            1.2 times faster on this machine for this model.
        tune: Whether that is measured. If not, `auto` means `float32`.
        workers: Number of decoding threads. Default: one per core, at most eight.
        budget: With the backbone `auto`: most seconds for choosing it, or a text such as `2m`. Default: a fifth of what
            the run is estimated to take, at least a minute.
        offline: Do not touch the network. Weights that are not on this machine are an error then, on the sample set
            too.
        report: Whether `report.html` is written at the end. Where that fails, an event says so and the run stands.
        observers: Names of observers, `[plugin/]name`, that are told how the run goes. They cannot change it, and one
            that raises is dropped. They are not part of the plan.
        on_event: Called with every event of `zoo.events`.
        verbose: None shows progress in a notebook, and on stderr where that is a terminal, unless you listen with
            `on_event`. True shows it everywhere, with a line for every epoch; False nowhere.
        registry: Where names are looked up. Default: the installed plugins.

    Raises:
        ZooError: Something cannot be done as asked, or fails.
        CheckFailed: A check of the proof found a fault. Everything is written all the same.
    """
    arguments: dict[str, Any] = {
        "head": head,
        "classes": classes,
        "recipe": recipe,
        "data": data,
        "weights": weights,
        "head_options": head_options,
        "set": set,
        "epochs": epochs,
        "batch_size": batch_size,
        "input_size": input_size,
        "out": out,
        "seed": seed,
        "folds": folds,
        "every_stage": every_stage,
        "device": device,
        "precision": precision,
        "tune": tune,
        "workers": workers,
        "budget": budget,
        "offline": offline,
    }
    from zoo.training.observers import observed
    from zoo.training.run import finetune as carry_out

    known = registry or default_registry()
    asked, compared = _with_backbone(_asked(backbone, arguments), known, on_event)
    finished = _report_writer(known, on_event) if report else _nothing
    with observed(observers, known, on_event) as told:
        return carry_out(asked, known, told, finished=finished, shortlist=compared)


def _asked(backbone: str | Request, arguments: Mapping[str, Any]) -> Request:
    """The request, or the one that the arguments make. Raises OptionError for both."""
    if not isinstance(backbone, Request):
        return make_request(backbone=backbone, **arguments)
    if given := given_arguments(arguments):
        raise OptionError(f"A request goes alone; also given: {', '.join(given)}.\nNext: put them into the request.")
    return backbone


def _with_backbone(request: Request, registry: Registry, report: Report) -> tuple[Request, ShortlistPlan | None]:
    """The request with the best backbone of a shortlist in place of `auto`, and what was compared."""
    if request.backbone != AUTO and request.budget is None:
        return request, None  # without importing what a shortlist needs
    from zoo.advice.auto import choose_backbone

    return choose_backbone(request, registry, report)


def _report_writer(registry: Registry, report: Report) -> Callable[[Path], None]:
    """A function that writes a finished run's report. Where that fails, an event says so."""

    def write(run: Path) -> None:
        from zoo.reporting.page import write_or_note

        write_or_note(run, registry, report)

    return write


def _nothing(run: Path) -> None:
    """Does nothing, for a run that wants no report."""


@checked_arguments()
def report(run: str | Path, *, registry: Registry | None = None) -> Path:
    """Write `report.html` of a finished run again and return its path.

    It is built from the run's folder and from its images, where they still exist. Nothing else in the folder changes.
    Raises RunError for anything but a finished run.
    """
    from zoo.reporting.page import write_report

    return write_report(Path(run).expanduser(), registry or default_registry())


@checked_arguments()
def compare(*runs: str | Path, html: str | Path | None = None, registry: Registry | None = None) -> Comparison:
    """Compare finished runs with the first one: choices that differ, metrics, and paired tests on their common images.

    `.conclusions` says for each run, in plain words, what may be concluded and what may not. `.against` has the numbers
    behind it, `.to_dict()` has everything. docs/compare.md explains them.

    Args:
        runs: Two run folders or more.
        html: Path of an HTML page with the curves, which must not exist. Default: no page.

    Raises:
        Refused: A run is given twice, predictions are missing, the classes differ, no image is known to be in both
            runs, or `html` exists.
        RunError: A folder is not a finished run, or cannot be read.
    """
    from zoo.comparing.compare import compare_runs
    from zoo.comparing.page import write_page
    from zoo.storage.atomic import refuse_existing

    page = None if html is None else Path(html).expanduser()
    if page is not None:
        refuse_existing(page)
    found = compare_runs([Path(run).expanduser() for run in runs], registry or default_registry())
    if page is not None:
        write_page(found, page)
    return found


@checked_arguments({"report": "on_event"})
@with_progress
def soup(
    runs: Sequence[str | Path],
    *,
    out: str | Path,
    data: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> Soup:
    """Average the weights of finished runs that began from the same head, as far as that helps (a greedy soup).

    The run with the best validation accuracy comes first. Each further one is added where the average with it is not
    worse on the validation images. So the soup is never below its best ingredient there; it may be that one alone,
    and a loud note says so. `out` becomes a folder like a run's, with the classifier in `model/`, `proof.json`,
    `evaluation.json`, `predictions.csv`, and `soup.json` in place of plan and result.

    Args:
        runs: Two run folders or more: the same model, data and first stages that train the head alone, with the same
            outcome bit for bit. What comes after may differ.
        out: The folder to write, which must not exist.
        data: Where the images of the runs are now. Default: where the runs found them. They must be the same images.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        workers: Number of decoding threads. Default: one per core, at most eight.
        on_event: Called with every event of `zoo.events`.
        verbose: As for `finetune`.

    Raises:
        Refused: The runs cannot be averaged, are not finished, failed their proof, or are all the same; or `out`
            exists.
        DataError: The images are not there, or not those of the runs.
        CheckFailed: A check of the soup's proof found a fault. Everything is written all the same.
    """
    from zoo.training.soup.make import make_soup

    several = [Path(run).expanduser() for run in ([runs] if isinstance(runs, (str, Path)) else runs)]
    return make_soup(
        several,
        Path(out).expanduser(),
        registry or default_registry(),
        on_event,
        data=None if data is None else Path(data).expanduser(),
        device=device,
        workers=workers,
    )
