"""Pair the predictions of two runs for the same image, matched by file name and file content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.data.dataset import ImageFile
from zoo.errors import Refused, ZooError
from zoo.evaluation.predictions import ImagePrediction
from zoo.evaluation.significance import Outcomes
from zoo.planning.images_of_plan import listed_as_then
from zoo.registry.names import qualified_name
from zoo.registry.registry import Registry
from zoo.registry.session import of_session
from zoo.reporting.record import RunRecord
from zoo.specs.plan import Plan
from zoo.specs.run_result import OUT_OF_FOLD

SPLITS = ("test", "val", OUT_OF_FOLD)
"""The most telling split first: nothing was chosen on `test`. A run has `val`, or with folds `out_of_fold`."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The predictions of two runs for one image, under the same true class."""

    first: ImagePrediction
    second: ImagePrediction


@dataclass(frozen=True, slots=True)
class Paired:
    """What two runs said of the images that both judged."""

    splits: dict[str, tuple[Pair, ...]]
    """Split -> pairs, `test` first; splits without any are left out."""
    relabelled: dict[str, int]
    """Split -> how many images both judged under different true classes. They are in no pair; splits without any are
    left out."""


class Contents:
    """SHA-256 digests of the images that runs used.

    Plans store one digest of all images together. So the files are read again, and their digests are trusted only if
    they give the plan's digest.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._digests: dict[tuple[Path, str], str] = {}
        self._of_plan: dict[tuple[str, str, int], dict[str, str] | None] = {}

    def finds(self, plan: Plan) -> bool:
        """Whether what read the data of a run is there; an object may be another one than the run's."""
        return any(qualified_name(source) == plan.data.reader for source in self._registry.data_sources())

    def of(self, plan: Plan) -> dict[str, str] | None:
        """Relative path -> SHA-256 of every image in every split; None if images are missing or have changed."""
        # The seed is part of the key because a split may be drawn from it.
        key = plan.data.digest, plan.data.path, plan.seed
        if key not in self._of_plan:
            self._of_plan[key] = self._read(plan)
        return self._of_plan[key]

    def _read(self, plan: Plan) -> dict[str, str] | None:
        try:
            # The plan's digest covers the splits, and readable files only.
            dataset = listed_as_then(plan, self._registry)
            files = [file for split in dataset.splits.values() for file in split]
            contents = {file.relative: self._digest(file) for file in files}
        except (ZooError, OSError):
            return None
        return contents if dataset.digest(contents) == plan.data.digest else None

    def _digest(self, file: ImageFile) -> str:
        # Files in an archive or a table share its path, and differ only by their names in it.
        place = file.path, file.relative if file.reader else ""
        if place not in self._digests:
            self._digests[place] = hashlib.sha256(file.content()).hexdigest()
        return self._digests[place]


def pairs_of(first: RunRecord, second: RunRecord, contents: Contents) -> Paired:
    """Pair the predictions for the images that both runs judged under the same true class.

    If the data digests of the plans are equal, so are all images. Otherwise the files are read again, and an image is
    paired only if it has the same name and the same bytes in both. Raises Refused if no image can be paired.
    """
    same = _same_images(first, second, contents)
    paired: dict[str, tuple[Pair, ...]] = {}
    relabelled: dict[str, int] = {}
    for split in SPLITS:
        of_first, of_second = (_by_file(run.predictions, split) for run in (first, second))
        both = [
            Pair(prediction, of_second[file])
            for file, prediction in of_first.items()
            if file in of_second and (same is None or file in same)
        ]
        # Under other labels, one run would be called wrong for saying what the other is called right for.
        if pairs := tuple(pair for pair in both if pair.first.label == pair.second.label):
            paired[split] = pairs
        if others := len(both) - len(pairs):
            relabelled[split] = others
    if not paired:
        raise Refused(_no_pair(first, second, sum(relabelled.values())))
    return Paired(paired, relabelled)


def outcomes_of(pairs: Sequence[Pair]) -> Outcomes:
    """Count the pairs by which of the two runs is right; at least one pair is required."""
    right = [(pair.first.right, pair.second.right) for pair in pairs]
    return Outcomes(
        both_right=right.count((True, True)),
        only_first=right.count((True, False)),
        only_second=right.count((False, True)),
        both_wrong=right.count((False, False)),
    )


def _same_images(first: RunRecord, second: RunRecord, contents: Contents) -> set[str] | None:
    """Relative paths of the images that are the same in both runs; None if all are."""
    if first.plan.data.digest == second.plan.data.digest:
        return None
    digests: list[Mapping[str, str]] = []
    for run in (first, second):
        of_run = contents.of(run.plan)
        if of_run is None:
            raise Refused(
                f"{first.path} and {second.path} have different data or other splits, and it is unknown which images "
                f"they have in common: {_gone(run, contents.finds(run.plan))}"
            )
        digests.append(of_run)
    return {file for file, digest in digests[0].items() if digests[1].get(file) == digest}


def _no_pair(first: RunRecord, second: RunRecord, relabelled: int) -> str:
    """Why no image can be paired, and the next step."""
    if relabelled:
        return (
            f"{first.path} and {second.path} judged {relabelled:,} images in common, all of them under different "
            "labels, so their results cannot be compared.\nNext: train both on the same labels."
        )
    if (first.plan.folds is None) != (second.plan.folds is None):
        folded, other = (second, first) if first.plan.folds is None else (first, second)
        assert folded.plan.folds is not None
        return (
            f"{folded.path} was judged out of fold, on the images that it is trained on, and {other.path} on a "
            "validation split, so they judged no image in the same way and their results cannot be compared.\n"
            f"Next: train both with --folds {folded.plan.folds.count}, or both without. A test split would serve both."
        )
    return (
        f"{first.path} and {second.path} judged no image in common, so their results cannot be compared.\n"
        "Next: train both on the same data; if val is drawn from train, give both the same --seed."
    )


def _gone(run: RunRecord, found: bool) -> str:
    """Why the images of a run cannot be read again, as the end of a sentence, and the next step.

    `found`: data were given for a run that was trained on an object.
    """
    if of_session(run.plan.data.reader):
        why = "and the data given are others" if found else "which no name finds again"
        return (
            f"the images of {run.path} were an object in Python ({run.plan.data.path}), {why}.\n"
            "Next: give the object of both in Python, zoo.compare(RUN, RUN, data=...), or train both with one seed."
        )
    return (
        f"the images of {run.path} in {run.plan.data.path} are gone or have changed.\n"
        "Next: put them back, or train both on the same images."
    )


def _by_file(predictions: Sequence[ImagePrediction], split: str) -> dict[str, ImagePrediction]:
    return {prediction.file: prediction for prediction in predictions if prediction.split == split}
