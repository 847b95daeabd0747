"""A saved classifier on a folder of labelled images."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from torch import Tensor

from zoo.artefact.classifier import Classifier
from zoo.data.ahead import workers_of
from zoo.data.dataset import Dataset, ImageFile
from zoo.data.sources import find_data, read_judged
from zoo.data.store import ImageStore
from zoo.errors import DataError
from zoo.evaluation.assessment import Assessment, assess
from zoo.evaluation.predictions import ImagePrediction, predictions_of
from zoo.events import Note, Progress, Report
from zoo.planning.resolve import CHUNK
from zoo.registry import Registry
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


def evaluate(
    classifier: Classifier, data: Path, report: Report, *, workers: int | None = None, registry: Registry
) -> Evaluation:
    """Score a classifier. Raises DataError for classes that it does not know and for a folder without images."""
    if classifier.fault:
        report(Note(text=classifier.fault, loud=True))
    split, dataset = read_judged(find_data(data, registry, report), classifier.classes)
    (files,) = dataset.splits.values()
    unreadable: dict[str, str] = {}
    used: list[ImageFile] = []
    with contextlib.closing(ImageStore(classifier.model.preprocessing, workers=workers_of(workers))) as store:
        batches = _readable(store, files, used, unreadable, report)
        first = next(batches, None)
        if first is None:
            raise DataError(f"No image in {data} can be read.")

        def progress(done: int) -> None:
            report(Progress(task="evaluate", done=done + len(unreadable), total=len(files)))

        pieces = Pieces(CHUNK, work="evaluation", report=report, halvings=[])
        logits = inference.logits_of(
            classifier.model, chain([first], batches), len(files), pieces=pieces, progress=progress
        )
    targets = inference.targets_of(used)
    correct = Counter(targets[logits.argmax(1) == targets].tolist())
    return Evaluation(
        split=split,
        images=len(used),
        scores=score(logits, targets),
        assessment=assess(logits, targets, classifier.classes),
        predictions=tuple(predictions_of(split, [file.relative for file in used], logits, targets, classifier.classes)),
        per_class={
            name: (correct[label], count) for label, (name, count) in enumerate(_counted(dataset, used)) if count
        },
        unreadable=unreadable,
    )


def _readable(
    store: ImageStore, files: Sequence[ImageFile], used: list[ImageFile], unreadable: dict[str, str], report: Report
) -> Iterator[Tensor]:
    """Batches of what can be read, each file decoded once; notes their files and what is wrong with others."""
    for batch in store.readable_batches(files, CHUNK):
        for relative, detail in batch.faults.items():
            report(Note(text=f"Left out, unreadable: {relative}: {detail}", loud=True))
        unreadable.update(batch.faults)
        used += batch.files
        if batch.files:
            yield batch.images
    if unreadable and files:
        report(Progress(task="evaluate", done=len(files), total=len(files)))


def _counted(dataset: Dataset, files: Sequence[ImageFile]) -> list[tuple[str, int]]:
    counts = Counter(file.label for file in files)
    return [(name, counts[label]) for label, name in enumerate(dataset.classes)]
