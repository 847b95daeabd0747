"""A request looked up: names, weights, recipe, device and data, checked against one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from zoo.data.dataset import Dataset
from zoo.data.folder import read_folder
from zoo.data.prefetch import resolve_workers
from zoo.data.sample import sample_classes, sample_folder
from zoo.data.sources import find_data, read_dataset
from zoo.errors import OptionError, Refused
from zoo.events import Note, Progress, Report
from zoo.frozen.decision import stream_above
from zoo.model.devices import choose_device
from zoo.model.measure import feature_shape, idle_parameters
from zoo.model.model import HEAD, ZooModel
from zoo.planning.fold_plan import recipe_in_folds
from zoo.planning.precision import check_precision
from zoo.planning.request import CLOSED_FORM_RECIPE, DEFAULT_RECIPE, SAMPLE_CLASSES, Request
from zoo.planning.resolved_model import ResolvedModel, resolve_model
from zoo.planning.solver import asking_options
from zoo.planning.stages import select_groups
from zoo.registry.names import qualified_name
from zoo.registry.plugins import Contribution
from zoo.registry.registry import Registry
from zoo.specs.assignments import override
from zoo.specs.data import FOLDER
from zoo.specs.head import HeadSpec
from zoo.specs.recipe import RecipeSpec, Stage, recipe_from_file
from zoo.specs.selectors import Selection
from zoo.storage.cache import cache_folder
from zoo.storage.eviction import size_limit
from zoo.text import printable, some


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """A request whose names are all known and fit together. The images are found but not opened."""

    request: Request
    model: ResolvedModel
    recipe: RecipeSpec
    recipe_name: str
    """Qualified, or the path of a file."""
    dataset: Dataset
    outline: ZooModel
    """The model on the meta device."""
    selections: tuple[Selection, ...]
    """Of each stage, in order."""
    feature_shape: tuple[int, ...]
    """Shape of the features that the head gets, for one image."""
    device: str
    gradient_asked: Mapping[str, str] = field(default_factory=dict)
    """Stage -> the option that asks for gradient steps where the recipe left the solver open."""


def resolve(
    request: Request,
    registry: Registry,
    report: Report,
    *,
    recipe: tuple[RecipeSpec, str] | None = None,
    dataset: Dataset | None = None,
) -> Resolved:
    """Look up everything that can be refused cheaply, in the order of cost.

    Args:
        request: What is asked for.
        registry: Where names are looked up.
        report: Called with every event.
        recipe: (recipe, name) in place of the one that the request names.
        dataset: Images that were found already, in place of those that the request names.

    Raises:
        Refused: Something that cannot be.
        DataError: The folders do not hold a data set.
    """
    model = resolve_model(
        registry,
        request.backbone,
        request.head,
        head_options=request.head_options,
        weights=request.weights,
        input_size=request.input_size,
        decode=request.decode,
    )
    chosen, recipe_name, asked = (*recipe, {}) if recipe else find_recipe(request, registry, model.head)
    _refuse_bad_numbers(request)
    device = choose_device(request.device)
    dataset = dataset or dataset_of(request, registry, report)
    _refuse_unprintable_paths(dataset.folder, model.weights.path, recipe_name)
    # This builds the architecture, and several times for the sizes in the message: after all that names and files tell.
    model.check_input_size()
    outline = model.outline(dataset.classes)
    # Before anything is frozen, and before selectors count groups: a group that takes no part is not counted.
    if any(set(stage.train) != {HEAD} for stage in chosen.stages):
        outline.idle = idle_parameters(outline)
    selections = select_groups(chosen, recipe_name, outline, model.backbone)
    if request.folds is not None:
        chosen = recipe_in_folds(chosen, recipe_name, selections, request)
    return Resolved(
        request=request,
        model=model,
        recipe=chosen,
        recipe_name=recipe_name,
        dataset=dataset,
        outline=outline,
        selections=selections,
        feature_shape=feature_shape(outline),
        device=device,
        gradient_asked=asked,
    )


def find_recipe(
    request: Request, registry: Registry, head: Contribution[HeadSpec]
) -> tuple[RecipeSpec, str, dict[str, str]]:
    """-> (recipe with the options applied, its name, what asks for gradient steps in which stage)."""
    asked = request.recipe or (CLOSED_FORM_RECIPE if head.spec.fit else DEFAULT_RECIPE)
    path = Path(asked).expanduser()
    # By the suffix alone, so that a file that is missing is reported as a file, not as an unknown name.
    if path.suffix == ".toml":
        recipe, name = recipe_from_file(path), str(path)
    else:
        found = registry.recipe(asked)
        recipe, name = found.spec, qualified_name(found)
    if head.spec.fit:
        _refuse_settings(request, head.spec.name)
        return recipe.model_copy(update={"stages": tuple(_one_pass(stage) for stage in recipe.stages)}), name, {}
    changed = override(recipe, request.set, epochs=request.epochs, batch_size=request.batch_size)
    return changed, name, asking_options(recipe, changed, request.set, epochs=request.epochs)


def _refuse_settings(request: Request, head: str) -> None:
    given = {"--set": request.set or None, "--epochs": request.epochs, "--batch-size": request.batch_size}
    for option, value in given.items():
        if value is not None:
            raise OptionError(
                f"{option} changes how gradients train, and head {head!r} is fitted in closed form, in one pass.\n"
                f"Next: leave {option} out, or take a head that is trained, such as --head linear."
            )


def _one_pass(stage: Stage) -> Stage:
    return stage.model_copy(update={"epochs": 1})


def _refuse_bad_numbers(request: Request) -> None:
    if request.classes is not None and request.classes < 2:
        raise OptionError(
            f"--classes must be at least 2, got {request.classes}: one class leaves nothing to tell apart.\n"
            "Next: leave --classes out, for as many as the data have."
        )
    # These read options and environment variables that are used much later, for the errors that they raise.
    check_precision(request.precision)
    resolve_workers(request.workers)
    size_limit()
    stream_above()


def dataset_of(request: Request, registry: Registry, report: Report, *, val_needed: bool = True) -> Dataset:
    """Find and read the images of a request; none is opened. `val_needed`: whether val must have every class.

    Raises OptionError, DataError, and as `find_data` does.
    """
    if request.data is None:
        count = request.classes or SAMPLE_CLASSES
        # For its error: a number of classes that cannot be drawn is refused before a folder is made.
        sample_classes(count)

        def progress(done: int, total: int) -> None:
            report(Progress(task="draw sample", done=done, total=total))

        folder = sample_folder(cache_folder(), count, progress=progress)
        report(Note(text=f"No --data given: using the generated sample set of {count} classes ({folder})."))
        return read_folder(folder, seed=request.seed, folds=request.folds is not None)
    location = find_data(request.data, registry, report)
    folds = request.folds is not None
    dataset = read_dataset(location, seed=request.seed, folds=folds, val_needed=val_needed, report=report)
    if request.classes is not None and request.classes != len(dataset.classes):
        kind, where = ("class folders", "folders") if dataset.reader == FOLDER else ("classes", "labels")
        raise OptionError(
            f"--classes says {request.classes}, {request.data} has {len(dataset.classes)} {kind}: "
            f"{some(dataset.classes)}.\nNext: leave --classes out, or check the {where}."
        )
    return dataset


def _refuse_unprintable_paths(data: Path, weights: Path | None, recipe: str) -> None:
    """The plan holds these paths, and resuming a run finds the files by them."""
    file = str(weights.resolve()) if weights else ""
    for what, name in (("data folder", str(data.absolute())), ("weights file", file), ("recipe", recipe)):
        if printable(name) != name:
            raise Refused(
                f"The path of the {what}, {printable(name)}, holds bytes that are not UTF-8, and the plan cannot "
                "store it. (Names of images may have such bytes.)\nNext: rename what is escaped there."
            )
