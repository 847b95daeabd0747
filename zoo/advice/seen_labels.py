"""Whether a trained backbone learned the labels of the images that probes on its features are to judge."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from zoo.comparing.pairing import Contents
from zoo.data.dataset import ImageFile
from zoo.registry.registry import Registry
from zoo.training.trained_backbone import Training


@dataclass(frozen=True, slots=True)
class Overlap:
    """What the images to be judged have in common with those of the runs that trained a backbone, in words."""

    refusal: str = ""
    """It was trained on some of them, as the beginning of a sentence; empty where it was not, as far as is known."""
    unknown: str = ""
    """Which images it saw, nobody knows; empty where that is known."""
    chosen: str = ""
    """A stage was chosen by some of them, which trained nothing; empty where none was."""

    @property
    def perhaps(self) -> str:
        """What nobody knows, as a warning."""
        more = " If these images are among them, its features know their labels, and what is said here is too good."
        return self.unknown and self.unknown + more


class SeenLabels:
    """Compares images by content, because files may have been renamed or copied to another folder since."""

    def __init__(self, registry: Registry) -> None:
        self._contents = Contents(registry)
        self._judged: tuple[Sequence[ImageFile], list[str]] = ((), [])

    def among(self, trainings: Sequence[Training], files: Sequence[ImageFile]) -> Overlap:
        """What these images have in common with those of the trainings."""
        refusal = unknown = chosen = ""
        for training in trainings:
            splits = None if training.plan is None else self._contents.by_split(training.plan)
            if training.plan is None or splits is None:
                unknown = unknown or _unknown(training)
                continue
            trained, val = (set(splits.get(split, {}).values()) for split in ("train", "val"))
            digests = self._digests(files)
            if common := sum(digest in trained for digest in digests):
                refusal = refusal or (
                    f"{training.place} trained its backbone in the stage {training.stage!r} on {common:,} of these "
                    f"{len(files):,} images: its features know their labels"
                )
            judged = sum(digest in val and digest not in trained for digest in digests)
            # A run that keeps its last stage chose nothing.
            if judged and training.plan.keep != "last":
                chosen = chosen or (
                    f"{training.place} chose which stage it keeps by {judged:,} of these {len(files):,} images, which "
                    "it did not train on: its features may fit them slightly better than new images."
                )
        return Overlap(refusal, unknown, chosen)

    def _digests(self, files: Sequence[ImageFile]) -> list[str]:
        """Those of the files, which are read once for all trainings."""
        if self._judged[0] is not files:
            self._judged = files, [hashlib.sha256(file.content()).hexdigest() for file in files]
        return self._judged[1]


def _unknown(training: Training) -> str:
    if training.plan is None:
        return (
            f"The backbone comes from {training.place}, and only the plan of the run that made it says whether it was "
            "trained, and on which images: that run is not there, or cannot be read."
        )
    return (
        f"{training.place} trained its backbone in the stage {training.stage!r}, and which images it saw is unknown: "
        f"those in {training.plan.data.path} are gone or have changed, or they are not class folders."
    )
