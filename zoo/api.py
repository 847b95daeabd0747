"""The library: everything the command line does, with the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import OptionError
from zoo.events import Report, silent
from zoo.imports import collector_resting
from zoo.planning.request import Request, check_input_size
from zoo.registry import Registry, default_registry
from zoo.registry.catalogue import Filter, Listed, find_backbones
from zoo.specs import DataSourceSpec, HeadSpec

if TYPE_CHECKING:
    from zoo.artefact.classifier import Classifier
    from zoo.comparing.comparison import Comparison
    from zoo.data.checking.report import DataReport
    from zoo.exporting.export import Exported
    from zoo.model.model import ZooModel
    from zoo.planning.plan import Plan
    from zoo.recipes import RecipeSpec
    from zoo.training.evaluation import Evaluation
    from zoo.training.result import Result
    from zoo.training.verify import Verification
    from zoo.weights.inventory import CheckedWeights, HeldWeights


def list_backbones(
    pattern: str = "*",
    *,
    tag_pattern: str | None = None,
    provider: str | None = None,
    pretrained: bool = False,
    max_params: int | None = None,
    max_gmacs: float | None = None,
    licence: str | None = None,
    input_size: tuple[int, int] | None = None,
    head: str | None = None,
    sort: str | None = None,
    registry: Registry | None = None,
) -> list[Listed]:
    """Architectures of every provider; each argument narrows. Imports no torch.

    Args:
        pattern: Of bare or qualified names: `*` and `?`; without either, contained in the name.
        tag_pattern: The same for names of weights, `[provider/]architecture.tag`; keeps only these weights.
        provider: `torchvision`, `timm` or another that is installed.
        pretrained: Only those with published weights.
        max_params: At most so many parameters, without the classifier.
        max_gmacs: At most so many billions of multiply-adds for one image of the default weights' size.
        licence: Only weights of this licence, as upstream states it; `unstated` where it does not.
        input_size: Only weights made for (height, width) in pixels.
        head: Only those that can take this head.
        sort: `name`, `params`, `gmacs`, `features`, `input` or `top1` (best first). Default: by provider, then name.

    Raises:
        UnknownName: No such provider, licence or head. A pattern without a match gives an empty list.
        OptionError: An unknown `sort`.
    """
    known = registry or default_registry()
    wanted = Filter(
        pattern=pattern or "*",
        tag_pattern=tag_pattern,
        provider=provider,
        pretrained=pretrained,
        max_params=max_params,
        max_gmacs=max_gmacs,
        licence=licence.lower() if licence is not None else None,
        input_size=None if input_size is None else check_input_size(input_size),
        head=known.head(head).spec if head is not None else None,
    )
    return find_backbones(known, wanted, sort=sort)


def list_heads(*, registry: Registry | None = None) -> list[HeadSpec]:
    """Every registered head."""
    return [each.spec for each in (registry or default_registry()).heads()]


def list_recipes(*, registry: Registry | None = None) -> list[RecipeSpec]:
    """Every registered recipe."""
    return [each.spec for each in (registry or default_registry()).recipes()]


def list_data_sources(*, registry: Registry | None = None) -> list[DataSourceSpec]:
    """Every registered data source: what `data` may be beside class folders, which zoo reads itself."""
    return [each.spec for each in (registry or default_registry()).data_sources()]


def list_weights(pattern: str = "", *, registry: Registry | None = None) -> list[HeldWeights]:
    """The pretrained weights that are on this machine: in torchvision's checkpoint folder, the hub's cache and zoo's
    own store. No file is read and no host asked; imports no torch.

    `pattern`: of `[provider/]architecture.tag`: `*` and `?`; without either, contained in the name.
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
    """Download pretrained weights that are not on this machine -> the files, in order.

    Args:
        names: `[provider/]architecture[.tag]`, one or several.
        out: Also write a bundle, a new folder with safetensors and `weights.json`, for `import_weights` on a machine
            without a network; the files are then those in it.
        report: Called with every event of `zoo.events`.

    Raises:
        UnknownName: No such backbone or tag.
        Refused: Nobody published weights for it, or `out` exists.
        WeightsError: They cannot be had; Unreachable, Offline.
    """
    from zoo.weights.bundle import fetch_weights as fetch_all

    several = [names] if isinstance(names, str) else names
    place = None if out is None else Path(out).expanduser()
    return [path for _, path in fetch_all(several, registry or default_registry(), report, out=place)]


def import_weights(
    path: str | Path, *, name: str | None = None, report: Report = silent, registry: Registry | None = None
) -> list[Path]:
    """Check weights that were carried here and put them into zoo's store -> the files there. From then on every run
    finds them without a network.

    Args:
        path: A bundle of `fetch_weights`, or one file as upstream publishes it.
        name: Of a file, whose weights it holds, `[provider/]architecture[.tag]`; not needed for torchvision's, whose
            names tell.
        report: Told what could not be checked.

    Raises:
        WeightsError: A file is missing, damaged, another one than upstream's, or not what this zoo looks for.
        Refused: `name` beside a bundle, or no `name` where the file's own does not tell.
    """
    from zoo.weights.bundle import import_weights as take_in

    return [place for _, place in take_in(Path(path).expanduser(), registry or default_registry(), report, name=name)]


def verify_weights(
    name: str | None = None, *, report: Report = silent, registry: Registry | None = None
) -> list[CheckedWeights]:
    """Hash the pretrained weights on this machine, all or those of `[provider/]architecture[.tag]`, and compare with
    the digests that their publishers, the hub's cache and zoo's store note.

    Raises UnknownName, WeightsError where the named weights are not on this machine.
    """
    from zoo.weights.inventory import verify_weights as look

    return look(registry or default_registry(), name, report=report)


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
    """A backbone with a head: `images[N, 3, H, W]` -> `logits[N, classes]`.

    With `weights="random"` it honours `with torch.device("meta")`. The model carries `.preprocessing`.

    Args:
        backbone: `[provider/]architecture[.tag]`.
        head: `[plugin/]name`.
        classes: How many, or their names in order.
        weights: `default`, a tag, `random`, or the path of a file.
        head_options: By name; the rest have their defaults.
        input_size: (height, width) in pixels; default: that of the weights.
        offline: Do not touch the network: weights that are not on this machine are an error.

    Raises:
        ZooError: An unknown name, an option that cannot be, a head that this backbone cannot take, weights that cannot
            be had or do not fit.
    """
    with collector_resting():
        from zoo.model.build import build_model, choose_weights
        from zoo.options import build_options
        from zoo.planning.input_size import refuse_input_size
        from zoo.planning.pairs import refuse_pair
        from zoo.weights.obtain import obtain_weights

    known = registry or default_registry()
    names = tuple(f"class{index}" for index in range(classes)) if isinstance(classes, int) else tuple(classes)
    if len(names) < 2 or len(set(names)) < len(names):
        raise OptionError(f"classes must be at least two different names, got {names!r}.")
    resolved = known.backbone(backbone)
    found = known.head(head)
    refuse_pair(resolved, found, known)
    options = build_options(found.spec.name, found.spec.options, head_options or {})
    choice = choose_weights(resolved, weights)
    if input_size is not None:
        input_size = check_input_size(input_size)
        refuse_input_size(resolved, choice.tag, input_size)
    state = obtain_weights(resolved, choice, offline=offline).state
    return build_model(resolved, found, options, classes=names, tag=choice.tag, state=state, input_size=input_size)


def plan(
    request: Request | None = None,
    /,
    *,
    estimate: bool = False,
    report: Report = silent,
    registry: Registry | None = None,
    **arguments: Any,
) -> Plan:
    """Everything that `finetune` would do, and nothing done: takes the same arguments. Raises ZooError.

    `estimate`: measure a few steps of each stage on this machine, for `.estimate`: seconds and bytes. Nothing is
    downloaded for it.
    """
    with collector_resting():
        from zoo.training.run import make_plan

    return make_plan(request or _request(arguments), registry or default_registry(), report, measured=estimate)


def finetune(
    request: Request | None = None,
    /,
    *,
    resume: str | Path | None = None,
    page: bool = True,
    observers: Sequence[str] = (),
    report: Report = silent,
    registry: Registry | None = None,
    **arguments: Any,
) -> Result:
    """Fine-tune a pretrained backbone on the user's classes, check what was done, and save the classifier.

    Args:
        backbone: `[provider/]architecture[.tag]`; the one argument without a default.
        resume: The folder of a run that was stopped: it goes on, to the bytes that it would have come to unbroken.
            The plan is in the folder, so no other argument goes with it but `observers`, `page` and `offline`. Where
            the result is there and only `report.html` is missing, that is written.
        observers: `[plugin/]name` of those that are told how the run goes; they cannot change it, and one that
            raises is dropped. They are no part of the plan.
        head: `[plugin/]name`; default `dropout_linear`. `head_options`: its options by name.
        classes: How many; must agree with the data. Default: as many as there are.
        recipe: A registered name or a TOML file's path; default `staged`, or `head_only` for a closed-form head.
            `set`: `STAGE.KEY=VALUE` over it; `epochs`, `batch_size`: shorthands.
        data: Folder of class folders, or what a data source reads (`list_data_sources`): a table, tar shards, a zip, a
            saved Hugging Face data set. `NAME:PATH` says which one reads it. Default: the generated sample set.
        weights: `default`, a tag, `random`, or the path of a file.
        input_size: (height, width) in pixels; default: that of the weights.
        out: The run folder; default: a new one under `runs/`.
        seed: Default 0. `device`: default `auto`. `workers`: decoding threads.
        precision: `float32`, `bfloat16`, or `auto` (the default): with the memory layout, what was measured to be at
            least 1.2 times faster on this machine for this model. `tune=False`: nothing is measured.
        offline: Do not touch the network: weights that are not on this machine are an error, on the sample set too.
            Default False.
        page: Whether `report.html` is written at the end; where that fails, an event says so and the run stands.
        report: Called with every event of `zoo.events`.

    Raises:
        ZooError: Anything that cannot be or fails; CheckFailed, after everything was written, where a check of the
            proof found a fault.
    """
    with collector_resting():
        from zoo.training.observing import observed
        from zoo.training.run import finetune as carry_out
        from zoo.training.run import resume as go_on

    known = registry or default_registry()

    def finished(run: Path) -> None:
        if page:
            from zoo.reporting.write import write_or_say

            write_or_say(run, known, report)

    if resume is not None:
        from zoo.reporting.write import lacks_report
        from zoo.training.finish import finish

        offline = bool(arguments.pop("offline", False))
        if request is not None or arguments:
            given = ", ".join(arguments) or "a request"
            raise OptionError(f"resume goes alone, the plan is in {resume}; also given: {given}.")
        run = Path(resume).expanduser()
        if page and lacks_report(run):
            return finish(run, report, finished)
        with observed(observers, known, report) as told:
            return go_on(run, known, told, offline=offline, finished=finished)
    asked = request or _request(arguments)
    with observed(observers, known, report) as told:
        return carry_out(asked, known, told, finished=finished)


def report(run: str | Path, *, registry: Registry | None = None) -> Path:
    """Build `report.html` of a finished run again, from its folder and, where they are still there, its images.

    Nothing else in the folder changes. -> the page's path. Raises RunError for what is no finished run.
    """
    with collector_resting():
        from zoo.reporting.write import write_report

    return write_report(Path(run).expanduser(), registry or default_registry())


def compare(*runs: str | Path, html: str | Path | None = None, registry: Registry | None = None) -> Comparison:
    """Compare finished runs with the first of them: choices that differ, metrics, and paired tests on the images that
    both judged.

    `.conclusions` says of each run against the first, in plain words, what may be concluded and what may not;
    `.against` has the numbers behind it, `.to_dict()` all of it. docs/compare.md explains them.

    Args:
        runs: Two run folders or more.
        html: Where to write the page with the curves; must not exist. Default: no page.

    Raises:
        Refused: One run is given twice, predictions are missing, the classes differ, no image is known to be in both,
            or `html` exists.
        RunError: No finished run, or one that cannot be read.
    """
    from zoo.comparing.compare import compare_runs
    from zoo.comparing.page import refuse_existing_page, write_page

    page = None if html is None else Path(html).expanduser()
    if page is not None:
        refuse_existing_page(page)
    found = compare_runs([Path(run).expanduser() for run in runs], registry or default_registry())
    if page is not None:
        write_page(found, page)
    return found


def verify(
    path: str | Path, *, offline: bool = False, report: Report = silent, registry: Registry | None = None
) -> Verification:
    """Compare a saved classifier with what it was when it was made: an artefact folder or a finished run.

    The artefact: its digests, its class names, and a few golden pictures that it carries, whose preprocessing and
    logits must come out as then; neither training data nor network is needed. On the same machine, with the same
    versions, every bit must be equal; a logit that differs by 1e-4 of the largest (trained in bfloat16: 5e-2) is a
    warning, more is a fault.

    A run: also its first steps, repeated from its plan, whose losses must be equal, or elsewhere within 1e-3. Where
    data or weights are gone, a warning says so; with `offline`, weights that are not on this machine are gone. Nothing
    is written.

    Raises RunError for a run that is not finished, ArtefactError for what is neither.
    """
    with collector_resting():
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
        precision: `float32`, `bfloat16`, or `auto`: with the memory layout, what was measured to be at least 1.2 times
            faster on this machine, and batch norms folded into convolutions. Default: what it was trained with, for the
            very logits that were judged.
        compile: Have torch.compile translate the backbone, for many images: it takes up to a minute first.
        report: Called with every event of `zoo.events`.

    Raises:
        ZooError: No artefact, a damaged one, no such device or precision.
    """
    with collector_resting():
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
    """Write a saved classifier in a format that needs no zoo, in float32, for any number of images at a time.

    It is read again and its logits compared with the original's, on the golden images in batches of several sizes,
    before it is there: the largest difference may be 1e-4 of the largest logit.

    Args:
        path: An artefact folder or a finished run.
        to: `onnx`: input `images`, output `logits`, without softmax; class names and preprocessing are its metadata.
            `pt2`: a program of torch.export.
            `timm`: a folder for `timm.create_model("local-dir:PATH", pretrained=True)`.
            `torchvision`: a state dict for `torchvision.models.NAME(num_classes=N)`.
            The last two are for that library's backbones with a head of one linear layer.
        out: Where to; must not exist. Default: beside the artefact.

    Raises:
        Refused: The format cannot hold this classifier, `out` exists, or a package of the extra `export` is missing.
        OptionError: No such format; for `pt2`, an `out` that does not end in .pt2.
        ArtefactError: No artefact, a damaged one, or one that the exporter cannot trace.
        CheckFailed: Its logits are not the original's.
    """
    with collector_resting():
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
    """Score a saved classifier on labelled images: their `test`, else their `val`, else all of them.

    `data` as in `finetune`, `precision` and `compile` as in `load`. Raises ArtefactError, DataError.
    """
    with collector_resting():
        from zoo.training.evaluation import evaluate as score_folder

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
    """Open every file of a data set and say what is wrong with it. Imports no torch.

    `.faults` make results wrong (unreadable files, leaks across splits, one picture under two labels, a class without
    images, a size that gives the label away), `.warnings` are the rest, `.passed` says that there are no faults.
    docs/data.md has every finding.

    Args:
        path: A folder, or other data, as `finetune` takes it.
        seed: Of the split that is drawn where there is no `val/`, as in `finetune`.
        workers: Decoding threads; default: one per core, at most eight.

    Raises:
        DataError: No such folder, no images, fewer than two classes, split folders without `train/`.
        OptionError: Fewer than one worker.
    """
    from zoo.data.checking.check import check

    known = registry or default_registry()
    return check(Path(path).expanduser(), seed=seed, workers=workers, report=report, registry=known)


def push(artefact: str | Path, repo: str, *, private: bool = False, revision: str | None = None) -> str:
    """Send a saved classifier to the Hugging Face hub: the artefact's files and nothing else -> its address.

    Args:
        artefact: An artefact folder or a finished run.
        repo: OWNER/NAME; made where it is not there.
        private: Of a repository that is made. Default: everybody sees it.
        revision: A branch, made where it is not there. Default: main.

    Raises:
        ArtefactError: No artefact, a damaged one, or the hub cannot be reached.
        Refused: The hub does not know you, or you may not; `repo` is no name. Offline: the network is switched off.
    """
    from zoo.hub import push as send

    return send(Path(artefact).expanduser(), repo, private=private, revision=revision)


def pull(repo: str, out: str | Path, *, revision: str | None = None) -> Path:
    """Fetch a saved classifier from the Hugging Face hub into a new folder, checked -> the folder.

    Args:
        repo: OWNER/NAME, or `hf://OWNER/NAME[@REVISION]`.
        out: Must not exist.
        revision: A branch, tag or commit. Default: main.

    Raises ArtefactError for what is not there or no artefact, Refused where `out` exists, Offline.
    """
    from zoo.hub import pull as fetch

    return fetch(repo, Path(out).expanduser(), revision=revision)


def _artefact(path: str | Path) -> Path:
    """A folder on this machine, of what may be an address of the hub."""
    if not str(path).startswith("hf:/"):
        return Path(path).expanduser()
    from zoo.hub import local

    return local(path)


def _request(arguments: Mapping[str, Any]) -> Request:
    known = Request.__dataclass_fields__
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise TypeError(f"unknown argument {unknown[0]!r}; known: {', '.join(known)}")
    paths = {
        name: Path(value).expanduser()
        for name, value in arguments.items()
        if name in ("data", "out") and value is not None
    }
    several: dict[str, Any] = {"set": tuple(arguments["set"])} if "set" in arguments else {}
    if arguments.get("input_size") is not None:
        several["input_size"] = check_input_size(arguments["input_size"])
    return Request(**{**arguments, **paths, **several})
