"""What a run, or a sweep, is to say of weights that an earlier run trained on the images that judge it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.data.dataset import Dataset, ImageFile
from zoo.distributed.group import ProcessGroup
from zoo.events import Report
from zoo.planning.request import Request
from zoo.registry.registry import Registry
from zoo.specs.plan import Plan
from zoo.specs.run_result import OUT_OF_FOLD
from zoo.text import counted
from zoo.training.curve import FEWEST
from zoo.training.seen_images import SeenByBackbone, seen_by_backbone
from zoo.training.trained_backbone import Training, trainings_of_weights

_STEP = "Next: leave --weights out, for a pretrained backbone that knows none of your labels, or judge by other images."
_CURVE = "curve"
"""The training images of a run without folds, where they judge its learning curve."""


@dataclass(frozen=True, slots=True)
class TrainedBefore:
    """What an earlier run saw of images that are to judge something."""

    counts: dict[str, int]
    """Part of the images -> how many of it trained the weights; parts of which none did are left out."""
    certain: bool
    """Whether the numbers are: the images of these runs have not changed in number since."""
    sentences: tuple[str, ...]
    """The same for people, and what nobody knows any more."""


def with_trained_before(
    plan: Plan, weights: Path | None, dataset: Dataset, registry: Registry, report: Report, group: ProcessGroup
) -> Plan:
    """Return the plan with what is known of earlier training on the images that judge it: numbers, and warnings.

    Args:
        plan: The plan.
        weights: The file that it begins with, as it was named; None for published weights and random ones, of which
            there is nothing to ask.
        dataset: Its images.
        registry: The data sources.
        report: Called with Progress.
        group: The processes of the run, of which the first looks for all. The rest of the plan stays each one's own, as
            they are compared later.
    """
    judged: dict[str, Sequence[ImageFile]] = {
        OUT_OF_FOLD: dataset.splits["train"] if plan.folds is not None else (),
        "val": dataset.splits.get("val", ()),
        "test": dataset.splits.get("test", ()),
        _CURVE: dataset.splits["train"] if plan.folds is None and _has_curve(plan) else (),
    }
    # Also where this process has nothing to ask: another one, given other weights, must not wait for ever.
    found = group.from_main(lambda: None if weights is None else trained_before(weights, judged, registry, report))
    if found is None:
        return plan
    counts = {split: count for split, count in found.counts.items() if split != _CURVE}
    described = plan.weights.model_copy(update={"trained_on": counts})
    return plan.model_copy(update={"weights": described, "warnings": (*plan.warnings, *found.sentences)})


def trained_before(
    weights: Path, judged: Mapping[str, Sequence[ImageFile]], registry: Registry, report: Report
) -> TrainedBefore | None:
    """What the runs behind a file of weights saw of images; None where there is no such run.

    Args:
        weights: The file.
        judged: The images, by part: `out_of_fold` or the name of a split.
        registry: The data sources.
        report: Called with Progress.
    """
    trainings = trainings_of_weights(weights)
    if not trainings:
        return None
    seen = seen_by_backbone(trainings, [file for files in judged.values() for file in files], registry, report)
    counts = {split: sum(file.relative in seen.images for file in files) for split, files in judged.items()}
    counts = {split: count for split, count in counts.items() if count}
    sentences = [_trained(counts, judged, seen)] if counts else []
    if seen.unknown:
        sentences.append(f"The backbone in {weights} {_unknown_in_words(seen.unknown)} {_STEP}")
    return TrainedBefore(counts, seen.certain, tuple(sentences))


def weights_file(request: Request, registry: Registry) -> Path | None:
    """The file that `--weights` names; None for a tag, and where there is no such file."""
    path = Path(request.weights).expanduser()
    if request.weights in ("default", "random") or not path.is_file():
        return None
    return None if request.weights in registry.backbone(request.backbone).spec.tags else path


def _runs_in_words(trainings: Sequence[Training]) -> str:
    """`in the run runs/one, stage 'all', and ...`."""
    return "in the run " + " and ".join(
        f"{each.place}, stage {each.stage!r}" if each.stage else str(each.place) for each in trainings
    )


def _unknown_in_words(trainings: Sequence[Training]) -> str:
    """The rest of a sentence on a backbone, and the next: what nobody knows of it."""
    alone = [each for each in trainings if each.plan is None]
    runs = [each for each in trainings if each.plan is not None]
    was = [f"was trained {_runs_in_words(runs)}, on images that are not there any more"] if runs else []
    if alone:
        places = " and ".join(str(each.place) for each in alone)
        was.append(f"comes from {places}, a saved classifier whose run is not there, which alone says what it saw")
    return f"{', and '.join(was)}. If images that judge are among them, scores on them are too good."


def _trained(counts: Mapping[str, int], judged: Mapping[str, Sequence[ImageFile]], seen: SeenByBackbone) -> str:
    numbers = " and ".join(
        f"{count:,} of the {counted(len(judged[split]), 'image')} of {_named(split)}" for split, count in counts.items()
    )
    changed = "" if seen.certain else "perhaps (their folders have changed since) "
    runs = _runs_in_words([training for training, _ in seen.counts])
    return (
        f"The backbone was trained before, {runs}, {changed}on {numbers}: its features "
        f"know their labels, so these scores are too good. {_STEP}"
    )


def _named(split: str) -> str:
    in_words = {OUT_OF_FOLD: "train, which the folds judge", _CURVE: "train, by which the learning curve is judged"}
    return in_words.get(split, split)


def _has_curve(plan: Plan) -> bool:
    """Whether the run makes a learning curve of its training images, unless its features turn out to be maps."""
    first = plan.stages[0]
    return first.head_alone and first.inputs == "features" and sum(plan.data.images["train"]) >= FEWEST
