"""Evaluate a saved classifier on a folder of labelled images."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from torch import Tensor

from zoo.artefact.classifier import Classifier
from zoo.data.dataset import ImageFile
from zoo.data.prefetch import resolve_workers
from zoo.data.sources import find_data, read_evaluation_split
from zoo.data.store import ImageStore
from zoo.errors import DataError
from zoo.evaluation import inference
from zoo.evaluation.metrics import Assessment, Scores, assess, score
from zoo.evaluation.out_of_memory import MicroBatches
from zoo.evaluation.predictions import ImagePrediction, predictions_of
from zoo.events import Note, Progress, Report
from zoo.planning.build_plan import CHUNK
from zoo.registry.registry import Registry
from zoo.specs.run_result import OUT_OF_FOLD


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


def evaluate(
    classifier: Classifier, data: Path, report: Report, *, workers: int | None = None, registry: Registry
) -> Evaluation:
    """Score a classifier on labelled images.

    Args:
        classifier: The classifier.
        data: Class folders, or what an installed data source reads.
        report: Called with Note and Progress.
        workers: Decoding threads; default: one per core, at most eight.
        registry: The data sources.

    Raises:
        DataError: A class that the classifier does not know, or no image that can be read.
    """
    if classifier.fault:
        report(Note(text=classifier.fault, loud=True))
    split, dataset = read_evaluation_split(find_data(data, registry, report), classifier.classes)
    for note in dataset.notes:
        report(Note(text=note))
    if OUT_OF_FOLD in classifier.config.metrics and split != "test":
        where = "without splits" if split == "all" else f"of the split {split}"
        report(
            Note(
                text="This classifier was trained in folds, on the images of train and val alike. If these images "
                f"({where}) are among them, their scores are too good: its evaluation.json has the scores out of fold. "
                "Next: give images that it has not seen.",
                loud=True,
            )
        )
    (files,) = dataset.splits.values()
    unreadable: dict[str, str] = {}
    used: list[ImageFile] = []
    with contextlib.closing(ImageStore(classifier.model.preprocessing, workers=resolve_workers(workers))) as store:
        batches = _readable(store, files, used, unreadable, report)
        first = next(batches, None)
        if first is None:
            raise DataError(f"No image in {data} can be read.")

        def progress(done: int) -> None:
            report(Progress(task="evaluate", done=done + len(unreadable), total=len(files)))

        micro_batches = MicroBatches(CHUNK, work="evaluation", report=report, retries=[])
        logits = inference.logits_of_batches(
            classifier.model, chain([first], batches), len(files), micro_batches=micro_batches, progress=progress
        )
    targets = inference.targets_of(used)
    counts = Counter(file.label for file in used)
    correct = Counter(targets[logits.argmax(1) == targets].tolist())
    return Evaluation(
        split=split,
        images=len(used),
        scores=score(logits, targets),
        assessment=assess(logits, targets, classifier.classes),
        predictions=tuple(predictions_of(split, [file.relative for file in used], logits, targets, classifier.classes)),
        per_class={
            name: (correct[label], counts[label]) for label, name in enumerate(dataset.classes) if counts[label]
        },
        unreadable=unreadable,
    )


def _readable(
    store: ImageStore, files: Sequence[ImageFile], used: list[ImageFile], unreadable: dict[str, str], report: Report
) -> Iterator[Tensor]:
    """Batches images[N, 3, H, W] of the readable files, each decoded once; fills `used` and `unreadable`."""
    for batch in store.readable_batches(files, CHUNK):
        for relative, detail in batch.faults.items():
            report(Note(text=f"Left out, unreadable: {relative}: {detail}", loud=True))
        unreadable.update(batch.faults)
        used += batch.files
        if batch.files:
            yield batch.images
    # Files that are unreadable at the very end bring no batch, and so no progress of their own.
    if unreadable and files:
        report(Progress(task="evaluate", done=len(files), total=len(files)))
