"""The library: everything that the command line does, with the same names.

A function imports what it needs when it is called, so that importing this module needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from zoo.errors import OptionError
from zoo.events import Report, silent
from zoo.planning.request import (
    AUTO,
    Request,
    check_input_size,
    given_arguments,
    make_request,
    parse_count,
    parse_duration,
)
from zoo.registry.catalogue import Filter, Listed, find_backbones
from zoo.registry.registry import Registry, default_registry
from zoo.specs.data import DataSourceSpec
from zoo.specs.head import HeadSpec

if TYPE_CHECKING:
    from zoo.advice.curve import CurveReport
    from zoo.advice.label_check import LabelCheck
    from zoo.advice.ranking import Shortlist
    from zoo.advice.relabel import Relabelled
    from zoo.artefact.classifier import Classifier
    from zoo.artefact.evaluate import Evaluation
    from zoo.comparing.comparison import Comparison
    from zoo.data.check.report import DataReport
    from zoo.exporting.export import Exported
    from zoo.model.model import ZooModel
    from zoo.specs.plan import Plan, ShortlistPlan
    from zoo.specs.recipe import RecipeSpec
    from zoo.training.result import Result
    from zoo.training.soup.outcome import Soup
    from zoo.training.verify import Verification
    from zoo.weights.inventory import CheckedWeights, HeldWeights


def list_backbones(
    pattern: str = "*",
    *,
    tag_pattern: str | None = None,
    provider: str | None = None,
    pretrained: bool = False,
    max_params: int | str | None = None,
    max_gmacs: float | None = None,
    licence: str | None = None,
    input_size: tuple[int, int] | None = None,
    head: str | None = None,
    sort: str | None = None,
    registry: Registry | None = None,
) -> list[Listed]:
    """List the architectures of every provider. Each argument narrows the list. Imports no torch.

    Args:
        pattern: Matches bare or qualified names, with `*` and `?`. Without either, the name must contain it.
        tag_pattern: The same for names of weights, `[provider/]architecture.tag`. Only these weights are listed.
        provider: `torchvision`, `timm` or another one that is installed.
        pretrained: Only backbones with published weights.
        max_params: Largest number of parameters, without the classifier, or a text such as `25M`.
        max_gmacs: Largest number of billion multiply-adds for one image of the default weights' size.
        licence: Only weights of this licence, as upstream states it; `unstated` for weights without one.
        input_size: Only weights made for (height, width) in pixels.
        head: Only backbones that can take this head.
        sort: `name`, `params`, `gmacs`, `features`, `input` or `top1` (best first). Default: by provider, then name.

    Raises:
        UnknownName: No such provider, licence or head. A pattern that matches nothing gives an empty list.
        OptionError: An unknown `sort`.
    """
    known = registry or default_registry()
    wanted = Filter(
        pattern=pattern or "*",
        tag_pattern=tag_pattern,
        provider=provider,
        pretrained=pretrained,
        max_params=None if max_params is None else parse_count("--max-params", max_params),
        max_gmacs=max_gmacs,
        licence=licence.lower() if licence is not None else None,
        input_size=None if input_size is None else check_input_size(input_size),
        head=known.head(head).spec if head is not None else None,
    )
    return find_backbones(known, wanted, sort=sort)


def list_heads(*, registry: Registry | None = None) -> list[HeadSpec]:
    """List every registered head."""
    return [head.spec for head in (registry or default_registry()).heads()]


def list_recipes(*, registry: Registry | None = None) -> list[RecipeSpec]:
    """List every registered recipe."""
    return [recipe.spec for recipe in (registry or default_registry()).recipes()]


def list_data_sources(*, registry: Registry | None = None) -> list[DataSourceSpec]:
    """List every registered data source: what `data` may be beside class folders, which zoo reads itself."""
    return [source.spec for source in (registry or default_registry()).data_sources()]


def list_weights(pattern: str = "", *, registry: Registry | None = None) -> list[HeldWeights]:
    """List the pretrained weights on this machine: in torchvision's folder, the hub's cache and zoo's own store.

    `pattern` matches `[provider/]architecture.tag`, with `*` and `?`; without either, the name must contain it. No file
    is read and no host is asked. Imports no torch.
    """
    from zoo.weights.inventory import held_weights

    return held_weights(registry or default_registry(), pattern)


def fetch_weights(
    names: str | Sequence[str],
    *,
    out: str | Path | None = None,
    report: Report = silent,
    registry: Registry | None = None,
) -> list[Path]:
    """Download pretrained weights that are not on this machine yet. Returns the files, in order.

    Args:
        names: One or several names, `[provider/]architecture[.tag]`.
        out: A new folder for a bundle of safetensors and `weights.json`, for `import_weights` on a machine without a
            network. The files in the bundle are returned then.
        report: Called with every event of `zoo.events`.

    Raises:
        UnknownName: No such backbone or tag.
        Refused: Nobody published weights for it, or `out` exists already.
        WeightsError: They cannot be downloaded (Unreachable, Offline).
    """
    from zoo.weights.bundle import fetch_weights as fetch_all

    several = [names] if isinstance(names, str) else names
    place = None if out is None else Path(out).expanduser()
    return [path for _, path in fetch_all(several, registry or default_registry(), report, out=place)]


def import_weights(
    path: str | Path, *, name: str | None = None, report: Report = silent, registry: Registry | None = None
) -> list[Path]:
    """Check weights that were copied to this machine and put them into zoo's store. Returns the files there.

    From then on every run finds them without a network.

    Args:
        path: A bundle made by `fetch_weights`, or one file as upstream publishes it.
        name: For one file, the weights that it holds: `[provider/]architecture[.tag]`. Not needed for files of
            torchvision, whose names say it.
        report: Told what could not be checked.

    Raises:
        WeightsError: A file is missing, damaged, differs from upstream's, or is not what this zoo looks for.
        Refused: `name` was given for a bundle, or is missing where the file's own name does not say it.
    """
    from zoo.weights.bundle import import_weights as take_in

    return [place for _, place in take_in(Path(path).expanduser(), registry or default_registry(), report, name=name)]


def verify_weights(
    name: str | None = None, *, report: Report = silent, registry: Registry | None = None
) -> list[CheckedWeights]:
    """Hash the pretrained weights on this machine and compare the digests with those that their publishers, the hub's
    cache and zoo's store recorded. `name`, `[provider/]architecture[.tag]`, limits it to one set of weights.

    Raises UnknownName, WeightsError where the named weights are not on this machine.
    """
    from zoo.weights.inventory import verify_weights as look

    return look(registry or default_registry(), name, report=report)


def shortlist(
    data: str | Path | None = None,
    *,
    backbones: str | Sequence[str] = (),
    budget: str | float | None = None,
    max_params: int | str | None = None,
    max_latency: str | float | None = None,
    licence: str | None = None,
    head: str = "dropout_linear",
    html: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    tune: bool = True,
    workers: int | None = None,
    offline: bool = False,
    report: Report = silent,
    registry: Registry | None = None,
) -> Shortlist:
    """Rank backbones for your images: the accuracy of a cross-validated probe, beside latency, size and licence.

    The probe is L2 logistic regression on pooled features, which are computed once and cached; up to 512 images a run
    with the backbone that wins finds them there. Only training images are looked at. What cannot win any more is
    dropped on the way (arXiv:1502.07943), by a paired test. docs/choose.md says what a probe can say and what not.

    Args:
        data: As for `finetune`.
        backbones: Candidates: `NAME`, `NAME=FILE`, `NAME=random` or patterns with `*` and `?`; one text may hold
            several with commas. Default: the weights on this machine and, unless `offline`, what can be fetched in
            time.
        budget: Seconds, or a text such as `10m`. Default: a fifth of what fine-tuning is estimated to take, at least
            a minute.
        max_params: Largest number of parameters, without the classifier, or a text such as `25M`.
        max_latency: Most milliseconds for one image on this machine, or a text such as `20ms`.
        licence: `permissive`, or a licence of weights as upstream states it.
        head: The head that a run is to have: candidates that cannot take it are left out. The probe stays linear.
        html: Path of a page with the ranking and a picture of accuracy against latency; it must not exist.
        seed: Draws the folds, the samples and, without a val split, the images that are left out as val.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: As for `finetune`.
        tune: Whether the fastest precision is measured.
        workers: Number of decoding threads. Default: one per core, at most eight.
        offline: Do not touch the network: weights that are not on this machine are left out.
        report: Called with every event of `zoo.events`.
        registry: Where names are looked up. Default: the installed plugins.

    Raises:
        OptionError: Limits that leave nothing, a budget that is too small for one candidate, or `html` exists.
        UnknownName: No such backbone, licence or head.
        WeightsError: No pretrained weights can be had.
        DataError: The data cannot be read, or a class has a single image.
    """
    from zoo.advice.candidate_backbones import Limits
    from zoo.advice.shortlist import Wanted, make_shortlist
    from zoo.advice.shortlist_page import write_shortlist_page
    from zoo.storage.atomic import refuse_existing

    page = None if html is None else Path(html).expanduser()
    if page is not None:
        refuse_existing(page)
    names = [backbones] if isinstance(backbones, str) else backbones
    largest = None if max_params is None else parse_count("--max-params", max_params)
    longest: float | None = None
    if isinstance(max_latency, str):
        longest = 1000 * parse_duration("--max-latency", max_latency, unit="", example="20ms or 0.5s")
    elif max_latency is not None:
        longest = 1000 * parse_duration("--max-latency", f"{max_latency / 1000:f}")
    wanted = Wanted(
        backbones=tuple(name.strip() for each in names for name in each.split(",") if name.strip()),
        budget=None if budget is None else parse_duration("--budget", budget),
        limits=Limits(max_params=largest, licence=licence, head=head),
        max_latency=longest,
    )
    request = make_request(
        backbone="auto",
        data=data,
        seed=seed,
        device=device,
        precision=precision,
        tune=tune,
        workers=workers,
        offline=offline,
    )
    found = make_shortlist(request, wanted, registry or default_registry(), report)
    if page is not None:
        write_shortlist_page(found, page)
    return found


def create_model(
    backbone: str,
    *,
    head: str = "dropout_linear",
    classes: int | Sequence[str],
    weights: str = "default",
    head_options: Mapping[str, Any] | None = None,
    input_size: tuple[int, int] | None = None,
    offline: bool = False,
    registry: Registry | None = None,
) -> ZooModel:
    """Build a backbone with a head: `images[N, 3, H, W]` -> `logits[N, classes]`.

    With `weights="random"` it honours `with torch.device("meta")`. The model carries `.preprocessing`.

    Args:
        backbone: `[provider/]architecture[.tag]`.
        head: `[plugin/]name`.
        classes: Number of classes, or their names in order.
        weights: `default`, a tag, `random`, or the path of a file. Of a training checkpoint that holds a moving average
            beside the raw weights, the average is taken.
        head_options: The head's options by name; the rest have their defaults.
        input_size: (height, width) in pixels. Default: that of the weights.
        offline: Do not touch the network. Weights that are not on this machine are an error then.

    Raises:
        ZooError: An unknown name, an option that cannot be, a head that this backbone cannot take, or weights that
            cannot be downloaded or do not fit.
    """
    from zoo.planning.resolved_model import resolve_model
    from zoo.weights.obtain import obtain_weights

    names = tuple(f"class{index}" for index in range(classes)) if isinstance(classes, int) else tuple(classes)
    if len(names) < 2 or len(set(names)) < len(names):
        raise OptionError(f"classes must be at least two different names, got {names!r}.")
    model = resolve_model(
        registry or default_registry(),
        backbone,
        head,
        head_options=head_options or {},
        weights=weights,
        input_size=None if input_size is None else check_input_size(input_size),
    )
    model.check_input_size()
    return model.build(
        names, obtain_weights(model.backbone, model.weights, model.architecture(), offline=offline).state
    )


def plan(
    request: Request | None = None,
    /,
    *,
    backbone: str | None = None,
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
    report: Report = silent,
    registry: Registry | None = None,
) -> Plan:
    """Say everything that `finetune` would do with the same arguments. Nothing is trained or written.

    Args:
        request: The arguments up to `offline` as one object, instead of them.
        backbone: `[provider/]architecture[.tag]`; the one argument without a default. `auto`: the best of a shortlist
            of all weights on this machine and, unless `offline`, of what can be fetched in time. The plan says what was
            compared.
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
        report: Called with every event of `zoo.events`.
        registry: Where names are looked up. Default: the installed plugins.

    Raises:
        ZooError: Something cannot be done as asked.
    """
    from zoo.training.run import make_plan

    arguments = {
        "backbone": backbone,
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
    asked, compared = _with_backbone(_asked(request, arguments), known, report)
    return make_plan(asked, known, report, measured=estimate, shortlist=compared)


def finetune(
    request: Request | None = None,
    /,
    *,
    backbone: str | None = None,
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
    resume: str | Path | None = None,
    page: bool = True,
    observers: Sequence[str] = (),
    report: Report = silent,
    registry: Registry | None = None,
) -> Result:
    """Fine-tune a pretrained backbone on your classes, check what was done, and save the classifier.

    Args:
        request: The arguments up to `offline` as one object, instead of them.
        backbone: `[provider/]architecture[.tag]`; the one argument without a default. `auto`: the best of a shortlist
            of all weights on this machine and, unless `offline`, of what can be fetched in time. The plan says what was
            compared.
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
        resume: The folder of a stopped run, which is resumed. It ends with the bytes of an unbroken run. The plan is in
            the folder, so no other argument goes with it but `observers`, `page` and `offline`. Where only
            `report.html` is missing, that is written.
        page: Whether `report.html` is written at the end. Where that fails, an event says so and the run stands.
        observers: Names of observers, `[plugin/]name`, that are told how the run goes. They cannot change it, and one
            that raises is dropped. They are not part of the plan.
        report: Called with every event of `zoo.events`.
        registry: Where names are looked up. Default: the installed plugins.

    Raises:
        ZooError: Something cannot be done as asked, or fails.
        CheckFailed: A check of the proof found a fault. Everything is written all the same.
    """
    arguments = {
        "backbone": backbone,
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
    finished = _report_writer(known, report) if page else _nothing
    if resume is not None:
        _refuse_beside_resume(resume, request, arguments)
        return _resume(Path(resume).expanduser(), known, report, observers, finished, page=page, offline=offline)
    asked = _asked(request, arguments)
    from zoo.training.observers import observed
    from zoo.training.run import finetune as carry_out

    asked, compared = _with_backbone(asked, known, report)
    with observed(observers, known, report) as told:
        return carry_out(asked, known, told, finished=finished, shortlist=compared)


def report(run: str | Path, *, registry: Registry | None = None) -> Path:
    """Write `report.html` of a finished run again and return its path.

    It is built from the run's folder and from its images, where they still exist. Nothing else in the folder changes.
    Raises RunError for anything but a finished run.
    """
    from zoo.reporting.page import write_report

    return write_report(Path(run).expanduser(), registry or default_registry())


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


def soup(
    runs: Sequence[str | Path],
    *,
    out: str | Path,
    data: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    report: Report = silent,
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
        report: Called with every event of `zoo.events`.

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
        report,
        data=None if data is None else Path(data).expanduser(),
        device=device,
        workers=workers,
    )


def verify(
    path: str | Path, *, offline: bool = False, report: Report = silent, registry: Registry | None = None
) -> Verification:
    """Check that a saved classifier, an artefact folder or a finished run, is unchanged since it was made.

    Of an artefact, its digests and class names are checked, and a few golden pictures that it carries: preprocessing
    and logits must be as they were. Neither training data nor network is needed. On the same machine, with the same
    versions, every bit must be equal. A logit that differs by up to 1e-4 of the largest one (trained in bfloat16: 5e-2)
    is a warning, more is a fault.

    Of a run, the first steps are repeated from its plan as well. Their losses must be equal, on another machine within
    1e-3. Where data or weights no longer exist, a warning says so; with `offline`, weights that are not on this machine
    count as such. Nothing is written.

    Raises RunError for a run that is not finished, ArtefactError for anything else that is not an artefact.
    """
    from zoo.training.verify import verify as look_again

    return look_again(_artefact(path), registry or default_registry(), report, offline=offline)


def load(
    path: str | Path,
    *,
    device: str = "auto",
    precision: str | None = None,
    compile: bool = False,
    report: Report = silent,
    registry: Registry | None = None,
) -> Classifier:
    """Open a saved classifier.

    Args:
        path: An artefact folder, a finished run, or `hf://OWNER/NAME[@REVISION]` on the Hugging Face hub.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `float32`, `bfloat16`, or `auto`: the precision and memory layout that were measured to be at least
            1.2 times faster on this machine, with batch norms folded into convolutions. Default: what it was trained
            with, for the very logits that were scored.
        compile: Whether torch.compile translates the backbone, for many images. It takes up to a minute first.
        report: Called with every event of `zoo.events`.

    Raises:
        ZooError: Not an artefact, a damaged one, or no such device or precision.
    """
    from zoo.artefact.classifier import Classifier

    return Classifier.load(
        _artefact(path), device=device, precision=precision, compile=compile, report=report, registry=registry
    )


def export(
    path: str | Path,
    *,
    to: str,
    out: str | Path | None = None,
    report: Report = silent,
    registry: Registry | None = None,
) -> Exported:
    """Export a saved classifier to a format that does not need zoo, in float32, for any batch size. Returns what was
    written.

    Before it is put in place, the export is read back and its logits are compared with the original's, on the golden
    images in batches of several sizes. The largest difference may be 1e-4 of the largest logit.

    Args:
        path: An artefact folder or a finished run.
        to: `onnx`: input `images[N, 3, H, W]`, output `logits[N, classes]`, without softmax; class names and
            preprocessing are its metadata. `pt2`: a program of torch.export.
            `timm`: a folder for `timm.create_model("local-dir:PATH", pretrained=True)`.
            `torchvision`: a state dict for `torchvision.models.NAME(num_classes=N)`.
            The last two are for that library's backbones with a head of one linear layer.
        out: Path to write, which must not exist. Default: beside the artefact.

    Raises:
        Refused: The format cannot hold this classifier, `out` exists, or a package of the extra `export` is missing.
        OptionError: No such format; for `pt2`, an `out` that does not end in .pt2.
        ArtefactError: Not an artefact, a damaged one, or one that the exporter cannot trace.
        CheckFailed: The export's logits differ from the original's.
    """
    from zoo.exporting.export import export as write

    place = None if out is None else Path(out).expanduser()
    return write(_artefact(path), to, place, registry or default_registry(), report)


def evaluate(
    artefact: str | Path,
    *,
    data: str | Path,
    device: str = "auto",
    precision: str | None = None,
    compile: bool = False,
    workers: int | None = None,
    report: Report = silent,
    registry: Registry | None = None,
) -> Evaluation:
    """Score a saved classifier on labelled images: the `test` split, else `val`, else all of them.

    `data` is given as for `finetune`, `precision` and `compile` as for `load`. Raises ArtefactError, DataError.
    """
    from zoo.artefact.evaluate import evaluate as score_folder

    classifier = load(artefact, device=device, precision=precision, compile=compile, report=report, registry=registry)
    known = registry or default_registry()
    return score_folder(classifier, Path(data).expanduser(), report, workers=workers, registry=known)


def check_data(
    path: str | Path,
    *,
    seed: int = 0,
    workers: int | None = None,
    report: Report = silent,
    registry: Registry | None = None,
) -> DataReport:
    """Open every file of a data set and report what is wrong with it. Imports no torch.

    `.faults` make results wrong (unreadable files, leaks across splits, one picture under two labels, a class without
    images, image sizes that reveal the label). `.warnings` are the rest. `.passed` says that there are no faults.
    docs/data.md lists every finding.

    Args:
        path: A folder, or other data, as for `finetune`.
        seed: Random seed of the split that is drawn where there is no `val/`, as for `finetune`.
        workers: Number of decoding threads. Default: one per core, at most eight.

    Raises:
        DataError: No such folder, no images, fewer than two classes, split folders without `train/`.
        OptionError: Fewer than one worker.
    """
    from zoo.data.check.survey import check

    known = registry or default_registry()
    return check(Path(path).expanduser(), seed=seed, workers=workers, report=report, registry=known)


def check_labels(
    path: str | Path,
    backbone: str | Path,
    *,
    weights: str = "default",
    out: str | Path | None = None,
    input_size: tuple[int, int] | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    offline: bool = False,
    report: Report = silent,
    registry: Registry | None = None,
) -> LabelCheck:
    """Find labels that are likely wrong: each image is judged by probes that were fitted without it. docs/labels.md.

    `.suspects` are images of which another class is more probable than the given one, the likeliest to be wrong first.

    Args:
        path: A folder, or other data, as for `finetune`. All splits are judged.
        backbone: `[provider/]architecture[.tag]`, or the folder of a finished run: its backbone and weights.
        weights: `default`, a tag, `random`, or the path of a file.
        out: A new folder for `suspects.csv` and a page of pictures. Default: nothing is written.
        input_size: (height, width) in pixels. Default: that of the weights.
        seed: Random seed of the split that is drawn where there is no `val/`, as for `finetune`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `float32`, `bfloat16`, or `auto`, as for `finetune`.
        workers: Number of decoding threads. Default: one per core, at most eight.
        offline: Do not touch the network. Weights that are not on this machine are an error then.

    Raises:
        Refused: `out` exists, or the backbone is that of a run that was trained on these images.
        DataError: Fewer than two classes have five different images.
        ZooError: Something else cannot be done as asked.
    """
    from zoo.advice.labels import check_labels as look

    request = make_request(
        backbone=str(backbone),
        weights=weights,
        data=path,
        input_size=input_size,
        seed=seed,
        device=device,
        precision=precision,
        workers=workers,
        offline=offline,
    )
    return look(request, registry or default_registry(), report, out=None if out is None else Path(out).expanduser())


def apply_suspects(
    path: str | Path,
    suspects: str | Path,
    out: str | Path,
    *,
    report: Report = silent,
    registry: Registry | None = None,
) -> Relabelled:
    """Write a new table of a data set with the suggestions of `check_labels` that you accepted. Imports no torch.

    No image changes. `finetune` reads the table as `data`.

    Args:
        path: The data that were checked.
        suspects: The `suspects.csv` of the check, with `yes` in its column `accept` where the suggestion is right,
            and `drop` where an image is to be left out.
        out: The new table, a `.csv`.

    Raises:
        Refused: `out` exists, nothing was accepted, a class is unknown, or the images are inside an archive.
        DataError: `suspects` is of other data.
    """
    from zoo.advice.relabel import apply_suspects as write

    data, file, table = (Path(each).expanduser() for each in (path, suspects, out))
    return write(data, file, table, registry or default_registry(), report)


def learning_curve(
    path: str | Path,
    backbone: str,
    *,
    weights: str | Path = "default",
    seed: int = 0,
    html: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    offline: bool = False,
    report: Report = silent,
    registry: Registry | None = None,
) -> CurveReport:
    """Measure how the accuracy of a linear probe grows with the number of training images, and extrapolate it.

    `.sentences` says what twice and four times as many images would bring, or that it cannot be said; `.record` has the
    points, the forecasts with the intervals that backtests earn, and every class. docs/curve.md explains them.

    Args:
        path: The images, as `data` of `finetune`. Only the training images are used.
        backbone: `[provider/]architecture[.tag]`; it stays frozen.
        weights: As for `finetune`.
        seed: Random seed of the split, where one is drawn, of folds and of draws.
        html: Path of a page with the chart, which must not exist. Default: no page.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        workers: Number of decoding threads. Default: one per core, at most eight.
        offline: Use no network.
        report: Called with every event of `zoo.events`.

    Raises:
        Refused: Names that do not exist, or `html` exists.
        DataError: No images, fewer than two classes, or no class with two different training images.
        WeightsError: The weights cannot be had.
    """
    from zoo.advice.curve import probe_curve, write_curve_page
    from zoo.storage.atomic import refuse_existing

    page = None if html is None else Path(html).expanduser()
    if page is not None:
        refuse_existing(page)
    request = make_request(
        backbone=backbone,
        data=path,
        weights=str(weights),
        seed=seed,
        device=device,
        workers=workers,
        offline=offline,
    )
    found = probe_curve(request, registry or default_registry(), report)
    if page is not None:
        write_curve_page(found, page)
    return found


def push(artefact: str | Path, repo: str, *, private: bool = False, revision: str | None = None) -> str:
    """Send a saved classifier to the Hugging Face hub, the artefact's files and nothing else. Returns its address.

    Args:
        artefact: An artefact folder or a finished run.
        repo: OWNER/NAME, created if it does not exist.
        private: Whether a repository that is created is private. Default: everybody sees it.
        revision: A branch, created if it does not exist. Default: main.

    Raises:
        ArtefactError: Not an artefact, a damaged one, or the hub cannot be reached.
        Refused: You are not logged in to the hub, or lack permission; or `repo` is not a name.
        Offline: The network is switched off.
    """
    from zoo.artefact.hub import push as send

    return send(Path(artefact).expanduser(), repo, private=private, revision=revision)


def pull(repo: str, out: str | Path, *, revision: str | None = None) -> Path:
    """Download a saved classifier from the Hugging Face hub into a new folder and check it. Returns the folder.

    Args:
        repo: OWNER/NAME, or `hf://OWNER/NAME[@REVISION]`.
        out: The folder to write, which must not exist.
        revision: A branch, tag or commit. Default: main.

    Raises ArtefactError where there is no such artefact, Refused where `out` exists, Offline.
    """
    from zoo.artefact.hub import pull as fetch

    return fetch(repo, Path(out).expanduser(), revision=revision)


def _artefact(path: str | Path) -> Path:
    """The folder on this machine of a path, or of an address on the hub, which is downloaded."""
    if not str(path).startswith("hf:/"):
        return Path(path).expanduser()
    from zoo.artefact.hub import local_folder

    return local_folder(path)


def _asked(request: Request | None, arguments: Mapping[str, Any]) -> Request:
    """The request, or the one that the arguments make. Raises OptionError for both, and for neither."""
    if request is None:
        return make_request(**arguments)
    if given := given_arguments(arguments):
        raise OptionError(f"A request goes alone; also given: {', '.join(given)}.\nNext: put them into the request.")
    return request


def _with_backbone(request: Request, registry: Registry, report: Report) -> tuple[Request, ShortlistPlan | None]:
    """The request with the best backbone of a shortlist in place of `auto`, and what was compared."""
    if request.backbone != AUTO and request.budget is None:
        return request, None  # without importing what a shortlist needs
    from zoo.advice.auto import choose_backbone

    return choose_backbone(request, registry, report)


def _refuse_beside_resume(run: str | Path, request: Request | None, arguments: Mapping[str, Any]) -> None:
    given = [name for name in given_arguments(arguments) if name != "offline"]
    if request is not None or given:
        also = ", ".join(given) or "a request"
        raise OptionError(f"resume goes alone, the plan is in {run}; also given: {also}.")


def _resume(
    run: Path,
    registry: Registry,
    report: Report,
    observers: Sequence[str],
    finished: Callable[[Path], None],
    *,
    page: bool,
    offline: bool,
) -> Result:
    from zoo.reporting.page import lacks_report
    from zoo.training.observers import observed
    from zoo.training.resume import finish
    from zoo.training.resume import resume as go_on

    if page and lacks_report(run):
        return finish(run, report, finished)
    with observed(observers, registry, report) as told:
        return go_on(run, registry, told, offline=offline, finished=finished)


def _report_writer(registry: Registry, report: Report) -> Callable[[Path], None]:
    """A function that writes a finished run's report. Where that fails, an event says so."""

    def write(run: Path) -> None:
        from zoo.reporting.page import write_or_note

        write_or_note(run, registry, report)

    return write


def _nothing(run: Path) -> None:
    """Does nothing, for a run that wants no report."""
