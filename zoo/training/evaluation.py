"""A saved classifier on a folder of labelled images."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from zoo.artefact.classifier import Classifier
from zoo.data.dataset import Dataset, ImageFile
from zoo.data.folder import read_labelled
from zoo.data.store import ImageStore, default_workers
from zoo.errors import DataError
from zoo.evaluation.assessment import Assessment, assess
from zoo.evaluation.predictions import ImagePrediction, predictions_of
from zoo.events import Note, Progress, Report
from zoo.planning.resolve import CHUNK
from zoo.training import inference
from zoo.training.memory import Pieces
from zoo.training.metrics import Scores, score


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What `zoo evaluate` found."""

    split: str
    """`val` or `test` of the folder, or `all` where it has no splits."""
    images: int
    scores: Scores
    assessment: Assessment
    """All that was counted, intervals included."""
    predictions: tuple[ImagePrediction, ...]
    """One for every image, in the order of the files."""
    per_class: dict[str, tuple[int, int]]
    """Class -> (correct, images)."""
    unreadable: dict[str, str]
    """Relative path -> what is wrong; these images are in no number."""


def evaluate(classifier: Classifier, data: Path, report: Report, *, workers: int | None = None) -> Evaluation:
    """Score a classifier. Raises DataError for classes that it does not know and for a folder without images."""
    if classifier.fault:
        report(Note(text=classifier.fault, loud=True))
    split, dataset = read_labelled(data, classifier.classes)
    (files,) = dataset.splits.values()
    with contextlib.closing(ImageStore(classifier.model.preprocessing, workers=workers or default_workers())) as store:
        unreadable = _examine(store, files, report)
        files = tuple(file for file in files if file.relative not in unreadable)
        if not files:
            raise DataError(f"No image in {data} can be read.")

        def progress(done: int) -> None:
            report(Progress(task="evaluate", done=done, total=len(files)))

        pieces = Pieces(CHUNK, work="evaluation", report=report, halvings=[])
        logits = inference.logits(classifier.model, store, files, pieces=pieces, progress=progress)
    targets = inference.targets_of(files)
    correct = Counter(targets[logits.argmax(1) == targets].tolist())
    return Evaluation(
        split=split,
        images=len(files),
        scores=score(logits, targets),
        assessment=assess(logits, targets, classifier.classes),
        predictions=tuple(
            predictions_of(split, [file.relative for file in files], logits, targets, classifier.classes)
        ),
        per_class={
            name: (correct[label], count) for label, (name, count) in enumerate(_counted(dataset, files)) if count
        },
        unreadable=unreadable,
    )


def _examine(store: ImageStore, files: tuple[ImageFile, ...], report: Report) -> dict[str, str]:
    def progress(done: int) -> None:
        report(Progress(task="decode", done=done, total=len(files)))

    _, unreadable = store.examine(files, progress=progress)
    for relative, detail in unreadable.items():
        report(Note(text=f"Left out, unreadable: {relative}: {detail}", loud=True))
    return unreadable


def _counted(dataset: Dataset, files: tuple[ImageFile, ...]) -> list[tuple[str, int]]:
    counts = Counter(file.label for file in files)
    return [(name, counts[label]) for label, name in enumerate(dataset.classes)]
