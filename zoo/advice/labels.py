"""Check the labels of a data set: which disagree with what a probe, fitted to the other images, says of each.

Every image is judged by fits that have seen neither it nor a near-duplicate, on the features of a frozen backbone that
was trained on none of the images. The ranking is that of confident learning (`zoo.probes.confident_learning`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from zoo.advice.features import ProbeFeatures, probe_features, similar_groups
from zoo.advice.frozen_backbone import clean_backbone
from zoo.advice.label_check import JudgedLabels, LabelCheck
from zoo.advice.labels_page import render
from zoo.advice.suspects import Suspect, suspects_csv
from zoo.data.dataset import FEW_IMAGES
from zoo.errors import DataError
from zoo.events import Note, Progress, Report
from zoo.planning.request import Request
from zoo.planning.resolve import dataset_of
from zoo.probes.confident_learning import label_issues, label_margins, suggested_classes, wrong_labels
from zoo.probes.cross_validation import cross_validate
from zoo.probes.folds import make_folds
from zoo.registry.registry import Registry
from zoo.storage.atomic import clear_write_errors, new_numbered_folder, try_new_path
from zoo.text import counted, escaping_errors, some

SUSPECTS, PAGE = "suspects.csv", "labels.html"
"""Files of the folder that a check writes."""
DRAWS = 3
"""Cross-validations with other folds, over which probabilities are averaged: so a label is not suspected because of the
neighbours that one draw left out."""


def check_labels(request: Request, registry: Registry, report: Report, *, out: Path | None = None) -> LabelCheck:
    """Judge every label of a data set by probes that have not seen its image.

    Args:
        request: Names the data, and the backbone: by name, or as the path of a run. What it says of head and recipe is
            not used.
        registry: Where names are looked up.
        report: Called with every event.
        out: A new folder for `suspects.csv` and the page; `out-2` and so on where another process makes it meanwhile.
            None: nothing is written.

    Raises:
        Refused: `out` exists, or the backbone, or its file of weights, was trained on these images by a run.
        DataError: Fewer than two classes have five different images.
        ZooError: As `zoo.finetune` with the same request, before it trains.
    """
    if out is not None:
        try_new_path(out, with_parents=True)
    dataset = dataset_of(request, registry, report, val_needed=False)
    every = [file for files in dataset.splits.values() for file in files]
    _refuse_few(dataset.source, dataset.classes, Counter(file.label for file in every))
    asked, notes = clean_backbone(request, lambda: every, registry, report)
    found = probe_features(asked, registry, report, dataset=dataset)
    groups = similar_groups(found.files, report, workers=asked.workers)
    rows, kept = judged_rows(found.targets.tolist(), groups, len(found.classes))
    # Asked again: only now that every image was opened is it known which are copies.
    if len(kept) < 2:
        raise _too_few(dataset.source, "different images", found.classes, _different(found.targets.tolist(), groups))
    judged, suspects, wrong = _judge(found, groups, rows, kept, report)
    labels = Counter(found.targets.tolist())
    check = LabelCheck(
        data=dataset.source,
        data_digest=found.plan.data.digest,
        backbone=found.backbone,
        weights=found.plan.weights.label,
        images=len(rows),
        classes=judged.classes,
        left_out=tuple((name, labels[label]) for label, name in enumerate(found.classes) if label not in kept),
        estimated_wrong=wrong,
        suspects=suspects,
        conflicts=_conflicts(found, groups),
        unreadable=found.unreadable,
        seconds=found.seconds,
        notes=notes,
    )
    return check if out is None else _write(check, judged, out, report)


def out_of_fold(
    features: Tensor,
    labels: Tensor,
    classes: int,
    groups: Sequence[int],
    *,
    draws: int = DRAWS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Return what probes say of images that they have not seen: probabilities[N, classes], the mean of several draws.

    Args:
        features: features[N, F].
        labels: Given class indices[N]; every class has five groups or more.
        classes: How many classes there are.
        groups: A number for each image; images with the same one are never in two folds.
        draws: How many cross-validations, each with folds of its own.
        progress: Called with how many strengths were tried in all draws, of how many at most.
    """
    mean = torch.zeros(len(labels), classes, dtype=torch.float64)
    for draw in range(draws):
        # Seeded by the draw, not by the request: the same images have the same suspects.
        folds = make_folds(labels.tolist(), groups, seed=draw)

        def told(done: int, total: int, draw: int = draw) -> None:
            progress(draw * total + done, draws * total)

        # Told of each strength: with thousands of classes, a draw takes minutes.
        mean += cross_validate(features, labels, classes, folds, progress=told).probabilities() / draws
    return mean


def judged_rows(labels: Sequence[int], groups: Sequence[int], classes: int) -> tuple[list[int], list[int]]:
    """Return the rows that can be judged, and their classes: those with five different images or more.

    Near-duplicates count once, for the label of the first of them, as folds count them.
    """
    kept = set(range(classes))
    # A group with several labels counts for another class once the class of its first image is out.
    while True:
        rows = [row for row, label in enumerate(labels) if label in kept]
        counts = _different([labels[row] for row in rows], [groups[row] for row in rows])
        small = {label for label in kept if counts[label] < FEW_IMAGES}
        if not small:
            return rows, sorted(kept)
        kept -= small


def _different(labels: Iterable[int], groups: Iterable[int]) -> Counter[int]:
    """Label -> how many different pictures it has."""
    first: dict[int, int] = {}
    for label, group in zip(labels, groups, strict=True):
        first.setdefault(group, label)
    return Counter(first.values())


def _judge(
    found: ProbeFeatures, groups: Sequence[int], rows: list[int], kept: list[int], report: Report
) -> tuple[JudgedLabels, tuple[Suspect, ...], float]:
    """Return the judged images, the suspects in order, and the estimated number of wrong labels."""
    # Probabilities have columns for the judged classes alone, so these are numbered anew.
    number = {label: index for index, label in enumerate(kept)}
    labels = torch.tensor([number[label] for label in found.targets[rows].tolist()])
    features, of_rows = found.features[rows], tuple(groups[row] for row in rows)

    def progress(done: int, total: int) -> None:
        report(Progress(task="judge labels", done=done, total=total, unit="strengths"))

    probabilities = out_of_fold(features, labels, len(kept), of_rows, progress=progress)
    margins, issues = label_margins(probabilities, labels), label_issues(probabilities, labels)
    # Stable, so that equal margins stay in the order of the files.
    order = torch.sort(margins, stable=True).indices
    judged = JudgedLabels(
        files=tuple(found.files[row] for row in rows),
        features=features,
        labels=labels,
        classes=tuple(found.classes[label] for label in kept),
        groups=of_rows,
        suggested=suggested_classes(probabilities, labels),
        issues=issues,
        ranked=tuple(row for row in order.tolist() if margins[row] < 0),
    )
    suspects = tuple(
        Suspect(
            file=judged.files[row].relative,
            split=found.splits[rows[row]],
            given=judged.classes[int(labels[row])],
            suggested=judged.classes[int(judged.suggested[row])],
            probability_given=float(probabilities[row, labels[row]]),
            probability_suggested=float(probabilities[row, judged.suggested[row]]),
            margin=float(margins[row]),
            issue=bool(issues[row]),
            # The table may be applied much later, when there may be another picture under this name.
            sha256=hashlib.sha256(judged.files[row].content()).hexdigest(),
        )
        for row in judged.ranked
    )
    return judged, suspects, wrong_labels(probabilities, labels)


def _conflicts(found: ProbeFeatures, groups: Sequence[int]) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Groups of copies and near-duplicates whose labels differ, in all classes: no probe is needed to doubt these."""
    members: dict[int, list[tuple[str, str]]] = {}
    for file, label, group in zip(found.files, found.targets.tolist(), groups, strict=True):
        members.setdefault(group, []).append((file.relative, found.classes[label]))
    return tuple(tuple(each) for each in members.values() if len({name for _, name in each}) > 1)


def _write(check: LabelCheck, judged: JudgedLabels, out: Path, report: Report) -> LabelCheck:
    with clear_write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    table, page = suspects_csv(check.suspects), render(check, judged, report)

    def write(draft: Path) -> None:
        (draft / SUSPECTS).write_text(table, "utf-8", escaping_errors(), newline="")
        (draft / PAGE).write_text(page, "utf-8", errors=escaping_errors())

    # It was not there at the beginning, but another check may have ended meanwhile: this one's work must not be lost.
    place = new_numbered_folder(out, write)
    if place != out:
        report(Note(text=f"{out} was made by another process meanwhile, so this check is in {place}.", loud=True))
    return replace(check, csv=place / SUSPECTS, page=place / PAGE)


def _refuse_few(source: str, classes: tuple[str, ...], counts: Counter[int]) -> None:
    """Raise DataError where fewer than two classes have so many images that they can be judged: before any work."""
    if sum(counts[label] >= FEW_IMAGES for label in range(len(classes))) < 2:
        raise _too_few(source, "images", classes, counts)


def _too_few(source: str, what: str, classes: tuple[str, ...], counts: Counter[int]) -> DataError:
    has = some([f"{name} {counts[label]:,}" for label, name in enumerate(classes)])
    enough = sum(counts[label] >= FEW_IMAGES for label in range(len(classes)))
    return DataError(
        f"The labels of {source} cannot be checked: of {counted(len(classes), 'class', 'classes')}, {enough} "
        f"{'has' if enough == 1 else 'have'} {FEW_IMAGES} {what} or more, and two must, so that each image is judged "
        f"by others of its class. There are: {has}.\n"
        f"Next: add images until two classes have {FEW_IMAGES}; of so few, look at each yourself."
    )
