"""Runs: planned, carried out, resumed, reported, compared and averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from zoo.api.arguments import checked_arguments
from zoo.api.calls import asked_request, with_data, with_data_of_run, with_data_of_runs, with_objects_of_run
from zoo.api.progress import with_progress
from zoo.distributed.group import current, taking_part
from zoo.errors import OptionError
from zoo.events import Note, Report, silent
from zoo.planning.request import AUTO, Request
from zoo.registry.registry import Registry, default_registry

if TYPE_CHECKING:
    from torch import nn

    from zoo.comparing.comparison import Comparison
    from zoo.specs.backbone import BackboneSpec
    from zoo.specs.data import DataLike
    from zoo.specs.head import HeadCallable, HeadSpec
    from zoo.specs.plan import Plan, ShortlistPlan
    from zoo.specs.preprocessing import Decode
    from zoo.specs.recipe import RecipeSpec
    from zoo.training.result import Result
    from zoo.training.soup.outcome import Soup


@checked_arguments({"report": "on_event"})
@with_progress()
def plan(
    backbone: str | BackboneSpec | nn.Module | Request,
    *,
    head: str | HeadSpec | HeadCallable = "dropout_linear",
    classes: int | None = None,
    recipe: str | Path | RecipeSpec | Mapping[str, Any] | None = None,
    data: DataLike | None = None,
    image: str | None = None,
    label: str | None = None,
    split: str | None = None,
    weights: str = "default",
    head_options: Mapping[str, Any] = MappingProxyType({}),
    set: Sequence[str] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    input_size: int | tuple[int, int] | None = None,
    decode: Decode = "exact",
    out: str | Path | None = None,
    seed: int = 0,
    folds: int | None = None,
    every_stage: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tune: bool = True,
    workers: int | None = None,
    budget: str | float | None = None,
    examine: int = 1000,
    offline: bool = False,
    shard_backbone: bool = False,
    estimate: bool = False,
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> Plan:
    """Say everything that `finetune` would do with the same arguments. Nothing is trained or written.

    Args:
        backbone: `[provider/]architecture[.tag]`. `auto`: the best of a shortlist of all weights on this machine and,
            unless `offline`, of what can be fetched in time. The plan says what was compared. Also a `BackboneSpec`, or
            a torch module that states its preprocessing, as timm's do; `zoo.module_backbone` takes any other. A
            `Request` holds the arguments up to `offline` as one object, instead of them.
        head: `[plugin/]name`, a `HeadSpec`, or a function `(shape, classes)` that returns a torch module, which maps
            pooled `features[N, shape.pooled]` to `logits[N, classes]`. docs/objects.md says more.
        classes: Number of classes, which must agree with the data. Default: as many as there are.
        recipe: A registered name, the path of a TOML file, a `RecipeSpec`, or the content of such a file as a
            dictionary. Default: `staged`, or `head_only` for a closed-form head.
        data: A folder of class folders, or what a data source reads (`list_data_sources`): a table, tar shards, a zip,
            a saved Hugging Face data set. `NAME:PATH` says which source reads it. Or an object in memory: a table of
            pandas or polars, a list of (image, label), a Hugging Face or torch data set, `(train, val)` or a
            dictionary of splits (docs/data.md). Default: the generated sample set.
        image: The column of images of a table in memory. Default: `image`.
        label: Its column of labels. Default: `label`.
        split: Its column of splits. Default: `split`, where there is one.
        weights: `default`, a tag, `random`, or the path of a file.
        head_options: The head's options by name; the rest have their defaults.
        set: `STAGE.KEY=VALUE`, each over a value of the recipe.
        epochs: Epochs of the longest stage that trains the backbone. The others change by the same factor, with at
            least 1 each.
        batch_size: Batch size of all stages.
        input_size: (height, width) in pixels, or one number for both. Default: that of the weights.
        decode: `fast`: large JPEG files are decoded at a half, a quarter or an eighth of their sides, at least twice
            those after the resize: several times faster for photographs of 12 megapixels, to slightly other pixels.
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
        examine: Most images that are opened before the plan is shown, drawn by the seed over splits and classes: where
            there are more, unreadable files, copies and what decoding loses are looked for in these alone, which
            `plan.data.examined` says. A run opens the others before it trains, so its results are the same. In folds,
            all are opened at once. With the backbone `auto` and no budget, as many training images choose it (512 or
            ten of a class at least).
        offline: Do not touch the network. Weights that are not on this machine are an error then, on the sample set
            too.
        shard_backbone: With several processes: whether each holds a part of the layers that train, of their gradients
            and of the optimizer's state, for a backbone that does not fit into one (docs/distributed.md).
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
        "decode": decode,
        "out": out,
        "seed": seed,
        "folds": folds,
        "every_stage": every_stage,
        "device": device,
        "precision": precision,
        "tune": tune,
        "workers": workers,
        "budget": budget,
        "examine": examine,
        "offline": offline,
        "shard_backbone": shard_backbone,
    }
    asked, known = asked_request(
        backbone, arguments, registry or default_registry(), on_event, image=image, label=label, split=split
    )
    # Chosen first, so that the plan names the backbone: resuming and verifying must not choose again.
    asked, compared = _with_backbone(asked, known, on_event)
    return make_plan(asked, known, on_event, measured=estimate, shortlist=compared)


@checked_arguments()
@with_progress()
def resume(
    run: str | PathLike[str],
    *,
    data: DataLike | None = None,
    backbone: str | BackboneSpec | nn.Module | None = None,
    head: str | HeadSpec | HeadCallable | None = None,
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
        data: For a run on an object in memory: the same images again, as for `finetune`; of a table whose columns were
            named, a `TableData`. Default: they are found by their path.
        backbone: The object that the run began with, where its backbone was one.
        head: The object that the run began with, where its head was one. A recipe is in the plan.
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
    from zoo.training.processes import refuse_other_commands
    from zoo.training.resume import finish
    from zoo.training.resume import resume as go_on

    folder, known = Path(run).expanduser(), registry or default_registry()
    with taking_part() as group:
        refuse_other_commands("resume", None, group)
        # One process speaks for all, and tells observers, whose records would have everything several times.
        on_event, observers = (on_event, observers) if group.is_main else (silent, ())
        # Process 0 looks for all: where another saw the report a moment later, they would go two ways.
        only_report = report and group.from_main(lambda: lacks_report(folder))
        known = with_objects_of_run(folder, known, backbone, head, finished=False)
        known = with_data_of_run(folder, data, known, on_event, compared=only_report)
        finished = _report_writer(known, on_event) if report else _nothing
        if only_report:
            return group.from_main(lambda: finish(folder, on_event, finished))
        with observed(observers, known, on_event) as told:
            return go_on(folder, known, told, offline=offline, finished=finished)


# `resume` stands above, as the decorator calls it for `finetune(resume=RUN)`, which was its name before.
@checked_arguments({"report": "on_event", "page": "report"}, moved={"resume": resume})
@with_progress()
def finetune(
    backbone: str | BackboneSpec | nn.Module | Request,
    *,
    head: str | HeadSpec | HeadCallable = "dropout_linear",
    classes: int | None = None,
    recipe: str | Path | RecipeSpec | Mapping[str, Any] | None = None,
    data: DataLike | None = None,
    image: str | None = None,
    label: str | None = None,
    split: str | None = None,
    weights: str = "default",
    head_options: Mapping[str, Any] = MappingProxyType({}),
    set: Sequence[str] = (),
    epochs: int | None = None,
    batch_size: int | None = None,
    input_size: int | tuple[int, int] | None = None,
    decode: Decode = "exact",
    out: str | Path | None = None,
    seed: int = 0,
    folds: int | None = None,
    every_stage: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tune: bool = True,
    workers: int | None = None,
    budget: str | float | None = None,
    examine: int = 1000,
    offline: bool = False,
    shard_backbone: bool = False,
    report: bool = True,
    observers: Sequence[str] = (),
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> Result:
    """Fine-tune a pretrained backbone on your classes, check what was done, and save the classifier.

    In processes that `torchrun` or `accelerate launch` started, all of them call it with the same arguments and share
    the work; the first one alone writes, and tells `on_event` and the observers (docs/distributed.md).

    Args:
        backbone: `[provider/]architecture[.tag]`. `auto`: the best of a shortlist of all weights on this machine and,
            unless `offline`, of what can be fetched in time. The plan says what was compared. Also a `BackboneSpec`, or
            a torch module that states its preprocessing, as timm's do; `zoo.module_backbone` takes any other. A
            `Request` holds the arguments up to `offline` as one object, instead of them.
        head: `[plugin/]name`, a `HeadSpec`, or a function `(shape, classes)` that returns a torch module, which maps
            pooled `features[N, shape.pooled]` to `logits[N, classes]`. docs/objects.md says more.
        classes: Number of classes, which must agree with the data. Default: as many as there are.
        recipe: A registered name, the path of a TOML file, a `RecipeSpec`, or the content of such a file as a
            dictionary. Default: `staged`, or `head_only` for a closed-form head.
        data: A folder of class folders, or what a data source reads (`list_data_sources`): a table, tar shards, a zip,
            a saved Hugging Face data set. `NAME:PATH` says which source reads it. Or an object in memory: a table of
            pandas or polars, a list of (image, label), a Hugging Face or torch data set, `(train, val)` or a
            dictionary of splits (docs/data.md). Default: the generated sample set.
        image: The column of images of a table in memory. Default: `image`.
        label: Its column of labels. Default: `label`.
        split: Its column of splits. Default: `split`, where there is one.
        weights: `default`, a tag, `random`, or the path of a file.
        head_options: The head's options by name; the rest have their defaults.
        set: `STAGE.KEY=VALUE`, each over a value of the recipe.
        epochs: Epochs of the longest stage that trains the backbone. The others change by the same factor, with at
            least 1 each.
        batch_size: Batch size of all stages.
        input_size: (height, width) in pixels, or one number for both. Default: that of the weights.
        decode: `fast`: large JPEG files are decoded at a half, a quarter or an eighth of their sides, at least twice
            those after the resize: several times faster for photographs of 12 megapixels, to slightly other pixels.
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
        examine: Most images that are opened before the plan is shown, drawn by the seed over splits and classes: where
            there are more, unreadable files, copies and what decoding loses are looked for in these alone, which
            `plan.data.examined` says. A run opens the others before it trains, so its results are the same. In folds,
            all are opened at once. With the backbone `auto` and no budget, as many training images choose it (512 or
            ten of a class at least).
        offline: Do not touch the network. Weights that are not on this machine are an error then, on the sample set
            too.
        shard_backbone: With several processes: whether each holds a part of the layers that train, of their gradients
            and of the optimizer's state, for a backbone that does not fit into one (docs/distributed.md).
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
        "decode": decode,
        "out": out,
        "seed": seed,
        "folds": folds,
        "every_stage": every_stage,
        "device": device,
        "precision": precision,
        "tune": tune,
        "workers": workers,
        "budget": budget,
        "examine": examine,
        "offline": offline,
        "shard_backbone": shard_backbone,
    }
    from zoo.training.divisible import refuse_one_process
    from zoo.training.observers import observed
    from zoo.training.processes import refuse_other_commands
    from zoo.training.run import finetune as carry_out

    asked, known = asked_request(
        backbone, arguments, registry or default_registry(), on_event, image=image, label=label, split=split
    )
    with taking_part() as group:
        refuse_other_commands("finetune", asked, group)
        refuse_one_process(asked, group)
        on_event, observers = (on_event, observers) if group.is_main else (silent, ())
        asked, compared = _with_backbone(asked, known, on_event)
        # Handed down, as the run lies below what writes reports, and must not fail with it.
        finished = _report_writer(known, on_event) if report else _nothing
        with observed(observers, known, on_event) as told:
            return carry_out(asked, known, told, finished=finished, shortlist=compared)


def _with_backbone(request: Request, registry: Registry, report: Report) -> tuple[Request, ShortlistPlan | None]:
    """The request with the best backbone of a shortlist in place of `auto`, and what was compared."""
    if request.backbone != AUTO and request.budget is None:
        return request, None  # without importing what a shortlist needs
    from zoo.advice.auto import choose_backbone

    def choose() -> tuple[str, str, ShortlistPlan | None]:
        chosen, compared = choose_backbone(request, registry, report)
        return chosen.backbone, chosen.weights, compared

    # One process chooses for all: a ranking within a budget depends on the time that its machine takes.
    backbone, weights, compared = current().from_main(choose)
    return replace(request, backbone=backbone, weights=weights, budget=None), compared


def _report_writer(registry: Registry, report: Report) -> Callable[[Path], None]:
    """A function that writes a finished run's report. Where that fails, an event says so."""

    def write(run: Path) -> None:
        from zoo.reporting.page import write_or_note

        write_or_note(run, registry, report)

    return write


def _nothing(run: Path) -> None:
    """Does nothing, for a run that wants no report."""


@checked_arguments()
@with_progress()
def report(
    run: str | PathLike[str],
    *,
    data: DataLike | None = None,
    backbone: str | BackboneSpec | nn.Module | None = None,
    head: str | HeadSpec | HeadCallable | None = None,
    on_event: Report = silent,
    verbose: bool | None = None,
    registry: Registry | None = None,
) -> Path:
    """Write `report.html` of a finished run again and return its path.

    It is built from the run's folder and from its images, where they still exist. Nothing else in the folder changes.
    Images that have changed since the run are marked in it, and a loud note says how many they are.

    Args:
        run: The run folder.
        data: For a run on an object in memory: the same images again, as for `resume`. Without them, the report has no
            pictures.
        backbone: The object that the run began with, where its backbone was one. It is needed for overlays alone.
        head: The same of its head.
        on_event: Called with every event of `zoo.events`.
        verbose: As for `finetune`.
        registry: Where names are looked up. Default: the installed plugins.

    Raises:
        RunError: It is anything but a finished run.
        DataError: The data are others than those of the run.
        OptionError: An object is given that the run does not need.
    """
    from zoo.reporting.page import write_report

    folder = Path(run).expanduser()
    known = with_objects_of_run(folder, registry or default_registry(), backbone, head)
    # Compared here, as a report only draws: pictures of other images would stand in it without a word.
    written = write_report(folder, with_data_of_run(folder, data, known, on_event, compared=True))
    for text in written.remarks():
        on_event(Note(text=text, loud=True))
    return written.path


@checked_arguments()
def compare(
    *runs: str | PathLike[str],
    data: DataLike | None = None,
    html: str | Path | None = None,
    registry: Registry | None = None,
) -> Comparison:
    """Compare finished runs with the first one: choices that differ, metrics, and paired tests on their common images.

    `.conclusions` says for each run, in plain words, what may be concluded and what may not. `.against` has the numbers
    behind it, `.to_dict()` has everything. docs/compare.md explains them.

    Args:
        runs: Two run folders or more, or results of `finetune`.
        data: For runs on an object in memory with different splits: the same images again, as for `resume`.
        html: Path of an HTML page with the curves, which must not exist. Default: no page.

    Raises:
        Refused: A run is given twice, predictions are missing, the classes differ, no image is known to be in both
            runs, or `html` exists.
        RunError: A folder is not a finished run, or cannot be read.
        OptionError: The runs are in a list; or data are given, and no run needs them.
    """
    from zoo.comparing.compare import compare_runs
    from zoo.comparing.page import write_page
    from zoo.storage.atomic import try_new_path

    page = None if html is None else Path(html).expanduser()
    # Before the work, so that none is lost.
    if page is not None:
        try_new_path(page)
    # `soup` takes a list. Here pathlib would raise, and not say what to do.
    if any(isinstance(run, (list, tuple)) for run in runs):
        raise OptionError("compare takes the runs one by one, not as a list.\nNext: zoo.compare(*runs)")
    folders = [Path(run).expanduser() for run in runs]
    found = compare_runs(folders, with_data_of_runs(folders, data, registry or default_registry()))
    if page is not None:
        write_page(found, page)
    return found


@checked_arguments({"report": "on_event"})
@with_progress()
def soup(
    runs: Sequence[str | PathLike[str]],
    *,
    out: str | Path,
    data: DataLike | None = None,
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
        data: Where the images of the runs are now, or an object in memory, as for `finetune`. Default: where the runs
            found them. They must be the same images.
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

    place, known = with_data(data, registry or default_registry(), on_event)
    # To Python a text is a sequence of letters.
    several = [Path(run).expanduser() for run in ([runs] if isinstance(runs, (str, PathLike)) else runs)]
    return make_soup(
        several,
        Path(out).expanduser(),
        known,
        on_event,
        data=place,
        device=device,
        workers=workers,
    )
