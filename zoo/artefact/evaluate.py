"""Evaluate a saved classifier on a folder of labelled images."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from zoo.artefact.classifier import Classifier
from zoo.artefact.views_effect import ViewsEffect, views_effect
from zoo.data.dataset import ImageFile
from zoo.data.prefetch import resolve_workers
from zoo.data.sources import find_data, read_evaluation_split
from zoo.data.store import ImageStore
from zoo.data.unused import unused_sentence
from zoo.errors import CheckFailed, DataError
from zoo.evaluation import inference
from zoo.evaluation.copies import Copies, copies_among
from zoo.evaluation.metrics import Assessment, Scores, assess, score
from zoo.evaluation.out_of_memory import MicroBatches
from zoo.evaluation.predictions import ImagePrediction, predictions_of
from zoo.evaluation.probabilities import have_probabilities, mean_of_views
from zoo.events import Note, Progress, Report
from zoo.planning.build_plan import CHUNK
from zoo.registry.registry import Registry
from zoo.specs.data import Skipped
from zoo.specs.run_result import OUT_OF_FOLD
from zoo.specs.views import Views, passes
from zoo.text import printable, shell_word


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """Images to be judged on which the classifier was trained, by its run or by those that its backbone comes from."""

    images: int
    """How many they are; 0 only where `unknown` names a run."""
    scores: Path | None
    """The file with the scores on images that it has not seen; None where there is none."""
    certain: bool
    """Whether the training data have as many images now as then, so that none was drawn otherwise."""
    backbone: Mapping[str, int] = field(default_factory=dict)
    """Run -> how many of the images it trained the backbone on that the classifier's run began with."""
    unknown: tuple[str, ...] = ()
    """Runs that trained that backbone, too, on images that nobody knows any more."""

    def warning(self, of: int) -> str:
        """Say that the scores of so many images are too good, or may be, and why."""
        return " ".join(filter(None, (self._seen(of) if self.images else "", self._perhaps_seen())))

    def _perhaps_seen(self) -> str:
        if not self.unknown:
            return ""
        return (
            f"The backbone of this classifier was trained before, in {' and '.join(self.unknown)}, on images that are "
            "not known any more. If some of these are among them, its scores on them are too good. Next: give images "
            "that are surely new."
        )

    def _seen(self, of: int) -> str:
        number = f"{self.images:,} of these {of:,} images" if self.images < of else f"These {of:,} images"
        if not self.certain:
            number = f"The training data have changed since. Perhaps {number[0].lower()}{number[1:]}"
        before = "".join(
            f" {count:,} of them trained its backbone in {run}, whose weights its run began with."
            for run, count in self.backbone.items()
        )
        # What the run's own scores are worth is unsure, too, where its backbone knew images before.
        where = "" if self.scores is None or before else f" What it scored on such images is in {self.scores}."
        return (
            f"{number} trained this classifier, so its scores on them are too good.{before} "
            f"Next: give images that it has not seen.{where}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The result of `zoo evaluate`."""

    split: str
    """`val` or `test` of the folder, or `all` if it has no splits."""
    images: int
    """Number of images that were classified."""
    scores: Scores
    """Accuracy, macro F1 and loss."""
    assessment: Assessment
    """Every metric, with intervals."""
    predictions: tuple[ImagePrediction, ...]
    """One for every image, in the order of the files."""
    per_class: dict[str, tuple[int, int]]
    """Class -> (correct, images)."""
    unreadable: dict[str, str]
    """Relative path -> error; these images count in no metric."""
    trained_on: int = 0
    """How many of the images the classifier's run trained on, or one before it that trained its backbone, as far as is
    known: their scores are too good."""
    perhaps_trained_on: tuple[str, ...] = ()
    """Runs that trained its backbone before, on images that nobody knows any more."""
    views: ViewsEffect | None = None
    """What the classifier's views brought, and what they cost; None for a classifier without."""
    skipped: tuple[Skipped, ...] = ()
    """Files of the data, in whatever split, that are not used, with the reason."""

    def __repr__(self) -> str:
        seen = f", {self.trained_on:,} of the images trained the classifier" if self.trained_on else ""
        return (
            f"Evaluation({self.images:,} images of {self.split}: accuracy {self.scores.accuracy:.3f}, "
            f"macro F1 {self.scores.macro_f1:.3f}{seen})"
        )


def evaluate(
    classifier: Classifier,
    data: Path,
    report: Report,
    *,
    workers: int | None = None,
    registry: Registry,
    trained_on: Callable[[Sequence[ImageFile]], TrainedOn | None] = lambda files: None,
) -> Evaluation:
    """Score a classifier on labelled images.

    Args:
        classifier: The classifier.
        data: Class folders, or what an installed data source reads.
        report: Called with Note and Progress.
        workers: Decoding threads; default: one per core, at most eight.
        registry: The data sources.
        trained_on: Called with the images -> how many of them the classifier was trained on, which is a loud note.

    Raises:
        DataError: A class that the classifier does not know, or no image that can be read.
        CheckFailed: Logits are not finite.
    """
    if classifier.fault:
        report(Note(text=classifier.fault, loud=True))
    split, dataset = read_evaluation_split(find_data(data, registry, report), classifier.classes, report=report)
    for note in dataset.notes:
        report(Note(text=note))
    if sentence := unused_sentence(dataset.skipped):
        report(Note(text=sentence, loud=True))
    (files,) = dataset.splits.values()
    seen = trained_on(files)
    if seen is not None:
        report(Note(text=seen.warning(len(files)), loud=True))
    if (seen is None or not seen.images) and OUT_OF_FOLD in classifier.config.metrics and split != "test":
        report(Note(text=_perhaps_trained_on(split), loud=True))
    reading = _Reading(classifier.views, files, report)
    began = time.perf_counter()
    with contextlib.closing(ImageStore(classifier.model.preprocessing, workers=resolve_workers(workers))) as store:
        batches = reading.batches(store)
        # Read before anything is computed: there may be no image that can be read.
        first = next(batches, None)
        if first is None:
            raise DataError(
                f"No image in {data} can be read; what is wrong with each was said before.\n"
                "Next: repair these files, or give others."
            )
        all_logits = inference.logits_of_batches(
            classifier.model,
            chain([first], batches),
            passes(classifier.views) * len(files),
            micro_batches=MicroBatches(CHUNK, work="evaluation", report=report, retries=[]),
            progress=reading.told,
        )
    seconds = time.perf_counter() - began
    used, unreadable = reading.used, reading.unreadable
    plain, logits = reading.apart(all_logits)
    _refuse_not_finite(logits, used, classifier.path)
    # Only now: which files can be read is known when all were.
    targets, copies = inference.targets_of(used), copies_among(reading.digests)
    counts = Counter(file.label for file in used)
    correct = Counter(targets[logits.argmax(1) == targets].tolist())
    return Evaluation(
        split=split,
        images=len(used),
        scores=score(logits, targets),
        assessment=assess(logits, targets, classifier.classes, copies=copies),
        predictions=tuple(predictions_of(split, [file.relative for file in used], logits, targets, classifier.classes)),
        per_class={
            name: (correct[label], counts[label]) for label, name in enumerate(dataset.classes) if counts[label]
        },
        unreadable=unreadable,
        trained_on=0 if seen is None else seen.images,
        perhaps_trained_on=() if seen is None else seen.unknown,
        views=reading.effect(plain, logits, targets, seconds, copies),
        skipped=dataset.skipped,
    )


def _refuse_not_finite(logits: Tensor, files: Sequence[ImageFile], artefact: Path) -> None:
    """Raise CheckFailed where rows of logits[N, classes] have no probabilities: the first class would count as named.

    They are not left out, as unreadable files are: the scores of the others alone would be too good.
    """
    without = have_probabilities(logits).logical_not().nonzero()[:, 0].tolist()
    if without:
        raise CheckFailed(
            f"The classifier's logits are not finite for {len(without):,} of {len(files):,} images, such as "
            f"{printable(files[without[0]].relative)}: these have no class, so there is no score.\n"
            f"Next: zoo verify {shell_word(artefact)} tells whether it is the classifier that was saved. If it is, it "
            "cannot judge such images; a score of the others alone needs data without them."
        )


def _perhaps_trained_on(split: str) -> str:
    """The warning for a classifier of a run in folds, which may have been trained on the images of this split."""
    where = "without splits" if split == "all" else f"of the split {split}"
    return (
        f"This classifier was trained in folds, on the images of train and val alike. If these images ({where}) are "
        "among them, their scores are too good: its evaluation.json has the scores out of fold. Next: give images that "
        "it has not seen."
    )


class _Reading:
    """The images of an evaluation as they are read: each decoded once, and given to the model in every view."""

    def __init__(self, views: Views | None, files: Sequence[ImageFile], report: Report) -> None:
        self._views = views
        self._files = files
        self._report = report
        self._sizes: list[int] = []
        self._seconds = [0.0] * passes(views)
        self.used: list[ImageFile] = []
        self.digests: list[str] = []
        """The SHA-256 of each of them."""
        self.unreadable: dict[str, str] = {}

    def batches(self, store: ImageStore) -> Iterator[Tensor]:
        """Yield images[N, 3, H, W] of the readable files: a batch, then the further views of the same batch."""
        for batch in store.readable_batches(self._files, CHUNK, views=self._views):
            for relative, detail in batch.faults.items():
                self._report(Note(text=f"Left out, unreadable: {relative}: {detail}", loud=True))
            self.unreadable.update(batch.faults)
            self.used += batch.files
            self.digests += batch.digests
            if batch.files:
                self._sizes.append(len(batch.files))
                for number, images in enumerate((batch.images, *batch.others)):
                    began = time.perf_counter()
                    yield images
                    self._seconds[number] += time.perf_counter() - began  # the model's, which has computed meanwhile
        # Files that are unreadable at the very end bring no batch, and so no progress of their own.
        if self.unreadable and self._files:
            self._report(Progress(task="evaluate", done=len(self._files), total=len(self._files)))

    def told(self, done: int) -> None:
        """Report how many images are done, of which the model has seen `done` views."""
        images = done // passes(self._views) + len(self.unreadable)
        self._report(Progress(task="evaluate", done=images, total=len(self._files)))

    def apart(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Divide the logits[M, classes] of all batches -> those of the images alone, and of all views, [N, classes]."""
        if self._views is None:
            return logits, logits
        alone, averaged, begin = [], [], 0
        for size in self._sizes:
            of_views = torch.split(logits[begin : begin + size * passes(self._views)], size)
            alone.append(of_views[0])
            averaged.append(mean_of_views(of_views))
            begin += size * passes(self._views)
        return torch.cat(alone), torch.cat(averaged)

    def effect(
        self, plain: Tensor, logits: Tensor, targets: Tensor, seconds: float, copies: Copies | None
    ) -> ViewsEffect | None:
        """Compare plain[N, classes] with the logits[N, classes] of all views; the evaluation took `seconds`."""
        if self._views is None:
            return None
        # What further views took is the model's time on them: each image was read and decoded once for all views.
        without = seconds - sum(self._seconds[1:])
        return views_effect(self._views, plain, logits, targets, seconds=(without, seconds), copies=copies)
