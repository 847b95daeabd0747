"""Derive the findings from the facts of all files: pure functions, one for each kind of problem.

Findings about single files are in `file_findings`. docs/data.md explains every finding; a test compares their codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from zoo.data.check import file_findings
from zoo.data.check.duplicates import (
    Copy,
    Progressed,
    across_splits,
    copies,
    nearest_earlier,
    nearest_in,
    under_two_labels,
    within_a_split,
)
from zoo.data.check.facts import FileFacts, Survey
from zoo.data.check.report import Case, Finding
from zoo.data.check.shortcut import Shortcut, find_shortcuts
from zoo.data.dataset import FEW_IMAGES, IMBALANCE_RATIO, ImageFile
from zoo.data.splits import similar
from zoo.specs.data import Split
from zoo.text import counted, exact

_Hashed = tuple[Split, ImageFile, FileFacts]
"""An image that has a perceptual hash."""


def find_all(survey: Survey, compared: Progressed | None = None) -> tuple[Finding, ...]:
    """All findings of a data set, faults first. `compared` is called while perceptual hashes are compared."""
    kinds: tuple[Callable[[Survey], Iterator[Finding]], ...] = (
        file_findings.unreadable,
        file_findings.lost_values,
        _classes_without_images,
        _copies,
        _shortcuts,
        lambda survey: _near_copies(survey, compared),
        file_findings.wrong_extensions,
        file_findings.not_used,
        file_findings.hidden,
        _similar_names,
        file_findings.storage,
        file_findings.extreme_sizes,
        _few_images,
        _imbalance,
    )
    findings = [finding for kind in kinds for finding in kind(survey)]
    # Sorting is stable: among faults, and among warnings, the order above stays.
    return tuple(sorted(findings, key=lambda finding: finding.severity != "fault"))


def _classes_without_images(survey: Survey) -> Iterator[Finding]:
    for split in survey.splits:
        empty = _names(survey, (label for label, count in enumerate(survey.counts(split)) if not count))
        if not empty:
            continue
        # A run refuses a class without images in train or val. In test it may be missing.
        effect = {
            "train": "there is nothing to learn from",
            "val": "there is nothing to validate on",
            "test": "there is nothing to test on",
        }[split]
        drawn = " (drawing val needs at least 2 images of every class)" if split == "val" and survey.split_note else ""
        yield Finding(
            code="class_without_images" if split != "test" else "class_without_test_images",
            severity="fault" if split != "test" else "warning",
            sentence=f"{counted(len(empty), 'class has', 'classes have')} no images in {split}{drawn}: {effect}.",
            next_step=f"add images to {split}, or remove the class from all splits.",
            classes=empty,
        )


def _copies(survey: Survey) -> Iterator[Finding]:
    pixels = {relative: facts.pixels for relative, facts in survey.facts.items()}
    groups = copies(survey.splits, pixels)
    if leaks := across_splits(groups):
        where = ", as zoo finetune splits this folder" if survey.split_note else ""
        yield Finding(
            code="leak",
            severity="fault",
            sentence=f"{counted(len(leaks), 'image appears', 'images appear')} in more than one split{where}, with "
            "identical pixels: the classifier is evaluated on images it was trained on, so its scores are too high.",
            # Nobody can keep images in one split where zoo draws it.
            next_step="keep one copy of each; or zoo finetune --folds 5, which keeps copies together."
            if survey.split_note
            else "keep each image in one split.",
            cases=_as_cases(survey, leaks),
        )
    if conflicts := under_two_labels(groups):
        yield Finding(
            code="two_labels",
            severity="fault",
            sentence=f"{counted(len(conflicts), 'image appears', 'images appear')} under more than one label, with "
            "identical pixels: at least one of the labels is wrong.",
            next_step="keep each image under the right label.",
            cases=_as_cases(survey, conflicts),
            classes=_names(survey, {copy.label for group in conflicts for copy in group}),
        )
    if repeated := within_a_split(groups):
        risk = "; with another seed, copies may be in both train and val" if survey.split_note else ""
        yield Finding(
            code="duplicates",
            severity="warning",
            sentence=f"{counted(len(repeated), 'image appears', 'images appear')} more than once in one split, with "
            f"identical pixels, and so {'counts' if len(repeated) == 1 else 'count'} more than others{risk}.",
            next_step="keep one copy of each.",
            cases=_as_cases(survey, repeated),
        )


def _near_copies(survey: Survey, compared: Progressed | None) -> Iterator[Finding]:
    """Pairs of each image and the one most like it; exact copies have findings of their own."""
    across, within = [], []
    earlier: list[_Hashed] = []
    for split in survey.splits:
        images = _hashed(survey, split)
        hashes = [_hash(facts) for _, _, facts in images]
        if earlier and images:
            nearest = nearest_in(hashes, [_hash(facts) for _, _, facts in earlier], compared)
            across += [_pair(survey, earlier[other], images[at], bits) for at, other, bits in _alike(*nearest)]
        nearest = nearest_earlier(hashes, compared)
        within += [_pair(survey, images[other], images[at], bits) for at, other, bits in _alike(*nearest)]
        # Each split is compared with all before it, so that every pair of splits comes once.
        earlier += images
    if across := [case for case in across if case is not None]:
        yield Finding(
            code="near_leak",
            severity="warning",
            sentence=f"{counted(len(across), 'image looks', 'images look')} much like one in another split: if they "
            "are the same shot, scores are too high.",
            next_step="look at the pairs, and keep images of the same shot in one split.",
            cases=tuple(across),
        )
    if within := [case for case in within if case is not None]:
        yield Finding(
            code="near_duplicates",
            severity="warning",
            sentence=f"{counted(len(within), 'image looks', 'images look')} much like another one in the same split.",
            next_step="look at the pairs, and keep one image of each.",
            cases=tuple(within),
        )


def _shortcuts(survey: Survey) -> Iterator[Finding]:
    # One of all exact copies: they are no evidence of their own, and the test of significance counts images.
    train = list({survey.facts[file.relative].pixels: file for file in survey.good("train")}.values())
    sizes = [(survey.facts[file.relative].width, survey.facts[file.relative].height) for file in train]
    shortcuts = find_shortcuts(sizes, [file.label for file in train], len(survey.classes))
    if shortcuts:
        cues = " or ".join(sorted({shortcut.cue for shortcut in shortcuts}, reverse=True))
        yield Finding(
            code="shortcut",
            severity="fault",
            sentence=f"Image {cues} alone reveals the label of {counted(len(shortcuts), 'class', 'classes')}: a "
            "classifier may learn that instead of what the images show.",
            next_step="take images of all classes from the same sources, or bring them to one size and shape.",
            cases=tuple(Case(files=(), detail=_accuracy(survey, shortcut)) for shortcut in shortcuts),
            classes=_names(survey, (shortcut.label for shortcut in shortcuts)),
        )


def _similar_names(survey: Survey) -> Iterator[Finding]:
    if groups := similar(survey.classes):
        yield Finding(
            code="similar_names",
            severity="warning",
            sentence=f"{sum(map(len, groups))} classes have names that are easily taken for one another.",
            next_step="merge the classes if they mean the same, or rename one.",
            cases=tuple(Case(files=(), detail=" and ".join(map(exact, group))) for group in groups),
            classes=tuple(name for group in groups for name in group),
        )


def _few_images(survey: Survey) -> Iterator[Finding]:
    for split in survey.splits:
        counts = survey.counts(split)
        few = [label for label, count in enumerate(counts) if 0 < count < FEW_IMAGES]
        if few:
            meaning = "too few to learn from" if split == "train" else "their accuracy is a matter of luck"
            yield Finding(
                code="few_images",
                severity="warning",
                sentence=f"{len(few)} of {len(survey.classes)} classes {'has' if len(few) == 1 else 'have'} fewer than "
                f"{FEW_IMAGES} images in {split}, {meaning}.",
                next_step="add images, or merge classes.",
                cases=tuple(
                    Case(files=(), detail=f"{survey.classes[label]}: {counted(counts[label], 'image')}")
                    for label in few
                ),
                classes=_names(survey, few),
            )


def _imbalance(survey: Survey) -> Iterator[Finding]:
    counts = survey.counts("train")
    # A class without images has a finding of its own.
    most, least = max(counts), min((count for count in counts if count), default=0)
    if most <= IMBALANCE_RATIO * least:
        return
    large, small = survey.classes[counts.index(most)], survey.classes[counts.index(least)]
    yield Finding(
        code="imbalance",
        severity="warning",
        sentence=f"Classes are imbalanced: {large} has {most:,} training images, {small} has {least:,} "
        f"({most / least:.0f} times fewer), so {small} may hardly ever be predicted.",
        next_step="train with class_weights=balanced (docs/recipes.md), and compare macro F1, not accuracy.",
        classes=(large, small),
    )


def _as_cases(survey: Survey, groups: Sequence[tuple[Copy, ...]]) -> tuple[Case, ...]:
    return tuple(Case(files=tuple(copy.relative for copy in group), detail=_places(survey, group)) for group in groups)


def _places(survey: Survey, group: tuple[Copy, ...]) -> str:
    # A dict keeps the order of the splits.
    splits, labels = {copy.split: None for copy in group}, {copy.label for copy in group}
    return f"{' and '.join(splits)}; {' and '.join(_names(survey, labels))}"


def _hashed(survey: Survey, split: Split) -> list[_Hashed]:
    """The images of a split that have a hash, one for all exact copies."""
    # A dictionary keeps the last of equal keys. Backwards and back again, that is the first copy, in the order of the
    # split.
    distinct = {survey.facts[file.relative].pixels: file for file in reversed(survey.good(split))}
    images = [(split, file, survey.facts[file.relative]) for file in reversed(distinct.values())]
    return [image for image in images if image[2].fingerprint is not None]


def _hash(facts: FileFacts) -> int:
    return facts.fingerprint or 0


def _alike(indices: NDArray[np.int64], distances: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Yield (image, the one most like it, differing bits) for near-duplicates."""
    for at in np.flatnonzero(indices >= 0).tolist():
        yield at, int(indices[at]), int(distances[at])


def _pair(survey: Survey, one: _Hashed, other: _Hashed, bits: int) -> Case | None:
    if one[2].pixels == other[2].pixels:
        return None
    labels = _names(survey, {one[1].label, other[1].label})
    conflict = f", under {' and '.join(labels)}" if len(labels) > 1 else ""
    return Case(files=(one[1].relative, other[1].relative), detail=f"{bits} of 64 bits of the hash differ{conflict}")


def _accuracy(survey: Survey, shortcut: Shortcut) -> str:
    return (
        f"{shortcut.cue} alone tells {survey.classes[shortcut.label]} from the other classes with a balanced accuracy "
        f"of {shortcut.accuracy:.0%} (50% is chance), in cross-validation on train"
    )


def _names(survey: Survey, labels: Iterable[int]) -> tuple[str, ...]:
    return tuple(survey.classes[label] for label in sorted(labels))
