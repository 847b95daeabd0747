"""Folds in place of a validation split: what recipes they can be had with, and which image is in which fold.

Every image is trained on, and predicted by a fit to the folds that it is not in. So nothing may be chosen on it before.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zoo.data.check.similar import similar_images
from zoo.data.dataset import Dataset, ImageFile, labels_of, names_of
from zoo.errors import DataError, OptionError, Refused
from zoo.events import Progress, Report
from zoo.planning.request import CLOSED_FORM_RECIPE, Request
from zoo.probes.folds import Folds, make_folds
from zoo.specs.plan import FoldsPlan
from zoo.specs.recipe import RecipeSpec, Stage
from zoo.specs.selectors import Selection
from zoo.text import counted, some

_CHOOSING: tuple[tuple[str, Callable[[Stage], bool], str], ...] = (
    ("lr", lambda stage: stage.lr == "auto", "tries learning rates on them; give it a number"),
    ("patience", lambda stage: stage.patience > 0, "ends early by them; leave it out"),
    ("keep_epoch", lambda stage: stage.keep_epoch == "best", "picks its best epoch by them; set it to 'last'"),
)
"""Knobs that choose by validation images within a stage."""


@dataclass(frozen=True, slots=True)
class PlannedFolds:
    """The folds of a data set's training images."""

    folds: Folds
    plan: FoldsPlan


def recipe_in_folds(recipe: RecipeSpec, source: str, selections: Sequence[Selection], request: Request) -> RecipeSpec:
    """The recipe as it runs in folds: no stage is given up early, for that is decided on validation images.

    Raises:
        OptionError: A knob chooses on validation images, which folds do not have.
        Refused: A stage trains the backbone, and the request does not say that it may take so long.
    """
    for stage in recipe.stages:
        for key, is_set, how in _CHOOSING:
            if is_set(stage):
                raise OptionError(
                    f"--folds {request.folds} leaves no validation images, and {key} of stage {stage.name!r} {how}.\n"
                    f"Next: --set {stage.name}.{key}={_USUAL[key]}, or leave --folds out."
                )
    longer = [stage.name for stage, selection in zip(recipe.stages, selections, strict=True) if selection.backbone]
    if longer and not request.every_stage:
        raise _too_long(source, longer, request)
    # So all folds have all candidates, and what is chosen among them is judged on every image.
    stages = tuple(stage.model_copy(update={"abandon": False}) for stage in recipe.stages)
    return recipe.model_copy(update={"stages": stages})


# The values with which these knobs choose nothing.
_USUAL = {"lr": "3e-3", "patience": "0", "keep_epoch": "last"}


def _too_long(source: str, stages: Sequence[str], request: Request) -> Refused:
    count = request.folds or 0
    verb = "trains" if len(stages) == 1 else "train"
    return Refused(
        f"--folds {count} with the recipe {source} would repeat {some(stages)}, which {verb} the backbone, for every "
        f"fold and once more on all images: {count + 1} runs, which take about {count} times as long as one on all "
        f"images. With a recipe that trains the head alone, folds take seconds.\n"
        f"Next: --recipe {CLOSED_FORM_RECIPE}; or --every-stage, if {count} times as long is meant (zoo plan with "
        "--every-stage --estimate says how long that is)."
    )


def plan_folds(dataset: Dataset, request: Request, report: Report, *, workers: int) -> PlannedFolds | None:
    """Divide the training images into folds; None where the request asks for none.

    Copies and near-duplicates, as `zoo data check` finds them, are never in two folds. Every file is opened once.

    Args:
        dataset: Without files that cannot be read.
        request: How many folds, and the seed that draws them.
        report: Called with every event.
        workers: Number of threads.

    Raises:
        OptionError: There are more folds than any class has images.
        DataError: A fold would leave no image of some class to train on.
    """
    if request.folds is None:
        return None
    files = dataset.splits["train"]

    def progress(done: int, total: int) -> None:
        report(Progress(task="compare images", done=done, total=total))

    def compared(done: int, total: int) -> None:
        report(Progress(task="compare hashes", done=done, total=total, unit="hashes"))

    groups = similar_images(files, workers=workers, progress=progress, compared=compared)
    folds = make_folds(list(labels_of(files)), groups, most=request.folds, seed=request.seed)
    # This first: a class with one picture can be in no folds, however few, so a smaller number is no advice for it.
    _refuse_what_is_never_seen(dataset, files, folds, groups)
    _refuse_fewer(folds, request.folds, files, groups, dataset.classes)
    sizes = Counter(groups)
    return PlannedFolds(
        folds,
        FoldsPlan(
            count=folds.count,
            every_stage=request.every_stage,
            images=tuple(len(folds.held_out(fold)) for fold in range(folds.count)),
            kept_together=sum(1 for group in groups if sizes[group] > 1),
            digest=_digest(files, folds),
        ),
    )


def _digest(files: Sequence[ImageFile], folds: Folds) -> str:
    lines = (f"{name}\0{fold}\n" for name, fold in zip(names_of(files), folds.of_rows, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _refuse_what_is_never_seen(
    dataset: Dataset, files: Sequence[ImageFile], folds: Folds, groups: Sequence[int]
) -> None:
    """Every class needs an image in the training part of every fold, and every image a fold that holds it out."""
    rows_of: list[list[int]] = [[] for _ in dataset.classes]
    for row, label in enumerate(labels_of(files)):
        rows_of[label].append(row)
    outside = [{folds.of_rows[row] for row in rows} for rows in rows_of]
    lacking = [label for label, of_class in enumerate(outside) if len(of_class) < 2 or -1 in of_class]
    if not lacking:
        return
    # The one with the fewest pictures: others may lack a fold only for a picture that they share with it.
    pictures = {label: {groups[row] for row in rows_of[label]} for label in lacking}
    label = min(lacking, key=lambda label: len(pictures[label]))
    name, count = dataset.classes[label], len(rows_of[label])
    if len(pictures[label]) > 1:
        raise DataError(
            f"Pictures of the class {name!r} have copies or near-duplicates in another class, which folds do not "
            "divide. So no folds can hold out every image and leave one of each class to train on.\n"
            "Next: zoo data check lists them; correct their labels, or keep one of each; or leave --folds out and make "
            "the split val yourself."
        )
    alike, such = count > 1, [dataset.classes[each] for each, shown in pictures.items() if len(shown) == 1]
    more = f" Of {len(such):,} classes there is one picture alone: {some(such)}." if len(such) > 1 else ""
    why = ", all copies or near-duplicates of one picture, which folds do not divide" if alike else ""
    raise DataError(
        f"The class {name!r} has {counted(count, 'image')}{why}: a fit without {'them' if alike else 'it'} cannot know "
        f"the class. Folds need two different pictures of every class.{more}\n"
        "Next: add images, merge the class with another one, or leave --folds out and make the split val yourself."
    )


def _refuse_fewer(
    folds: Folds, asked: int, files: Sequence[ImageFile], groups: Sequence[int], classes: Sequence[str]
) -> None:
    if folds.count == asked:
        return
    # The class with the most different pictures decides: K folds can all hold a class out only if it has K of them.
    # A picture with copies in several classes counts for the first of them, as where folds are made.
    pictures: dict[int, int] = {}
    for label, group in zip(labels_of(files), groups, strict=True):
        pictures.setdefault(group, label)
    (most, different), images = Counter(pictures.values()).most_common(1)[0], Counter(labels_of(files))
    apart = f", {different} of them different pictures" if different < images[most] else ""
    raise OptionError(
        f"--folds {asked} needs a class of {asked} different pictures, and {classes[most]!r}, which has the most, has "
        f"{counted(images[most], 'image')}{apart}.\nNext: --folds {folds.count}, or fewer."
    )
