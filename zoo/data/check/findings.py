"""Derive the findings from the facts of all files: pure functions, one for each kind of problem.

docs/data.md explains every finding; a test compares its codes with those of this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from PIL import Image

from zoo.data.check.duplicates import (
    Copy,
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
from zoo.data.dataset import FEW_IMAGES, IMBALANCE_RATIO, UNREADABLE_SHARE, ImageFile
from zoo.data.splits import similar
from zoo.specs.data import IMAGE_SUFFIXES, Skipped, Split, is_image_name, is_system_name
from zoo.text import exact

TINY = 32
"""Pixels; an image with a shorter side than this shows almost nothing, and is far smaller than a backbone's input."""
HUGE = 50_000_000
"""Pixels in all; decoding more is slow."""
ALIKE = 6
"""Hashes of near-duplicates differ in at most this many of 64 bits. Of 1,097 real photos, different ones differ in at
least 12; copies of 183 of them, half as large, compressed again at quality 40 or a tenth brighter, in at most 4."""

_Hashed = tuple[Split, ImageFile, FileFacts]
"""An image that has a perceptual hash."""


def find_all(survey: Survey) -> tuple[Finding, ...]:
    """All findings of a data set, faults first."""
    kinds: tuple[Callable[[Survey], Iterator[Finding]], ...] = (
        _unreadable,
        _classes_without_images,
        _copies,
        _shortcuts,
        _near_copies,
        _wrong_extensions,
        _not_used,
        _hidden,
        _similar_names,
        _storage,
        _extreme_sizes,
        _few_images,
        _imbalance,
    )
    findings = [finding for kind in kinds for finding in kind(survey)]
    return tuple(sorted(findings, key=lambda finding: finding.severity != "fault"))


def _unreadable(survey: Survey) -> Iterator[Finding]:
    bad = [facts for facts in survey.facts.values() if facts.fault]
    if not bad:
        return
    share = len(bad) / len(survey.facts)
    too_many = share > UNREADABLE_SHARE
    effect = f"over {UNREADABLE_SHARE:.0%}, so zoo finetune refuses" if too_many else "zoo finetune leaves them out"
    yield Finding(
        code="unreadable",
        severity="fault" if too_many else "warning",
        sentence=f"{_count(len(bad), 'file')} of {len(survey.facts):,} cannot be decoded ({share:.1%}): {effect}.",
        next_step="replace these files, or remove them.",
        cases=tuple(Case(files=(facts.relative,), detail=facts.fault) for facts in bad),
    )


def _classes_without_images(survey: Survey) -> Iterator[Finding]:
    for split in survey.splits:
        empty = _names(survey, (label for label, count in enumerate(survey.counts(split)) if not count))
        if not empty:
            continue
        effect = {
            "train": "there is nothing to learn from",
            "val": "there is nothing to validate on",
            "test": "there is nothing to test on",
        }[split]
        drawn = " (drawing val needs at least 2 images of every class)" if split == "val" and survey.split_note else ""
        yield Finding(
            code="class_without_images" if split != "test" else "class_without_test_images",
            severity="fault" if split != "test" else "warning",
            sentence=f"{_count(len(empty), 'class has', 'classes have')} no images in {split}{drawn}: {effect}.",
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
            sentence=f"{_count(len(leaks), 'image appears', 'images appear')} in more than one split{where}, with "
            "identical pixels: the classifier is evaluated on images it was trained on, so its scores are too high.",
            next_step="keep each image in one split.",
            cases=_as_cases(survey, leaks),
        )
    if conflicts := under_two_labels(groups):
        yield Finding(
            code="two_labels",
            severity="fault",
            sentence=f"{_count(len(conflicts), 'image appears', 'images appear')} under more than one label, with "
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
            sentence=f"{_count(len(repeated), 'image appears', 'images appear')} more than once in one split, with "
            f"identical pixels, and so counts more than others{risk}.",
            next_step="keep one copy of each.",
            cases=_as_cases(survey, repeated),
        )


def _near_copies(survey: Survey) -> Iterator[Finding]:
    """Pairs of each image and the one most like it; exact copies have findings of their own."""
    across, within = [], []
    earlier: list[_Hashed] = []
    for split in survey.splits:
        images = _hashed(survey, split)
        hashes = [_hash(facts) for _, _, facts in images]
        if earlier and images:
            nearest = nearest_in(hashes, [_hash(facts) for _, _, facts in earlier])
            across += [_pair(survey, earlier[other], images[at], bits) for at, other, bits in _alike(*nearest)]
        nearest = nearest_earlier(hashes)
        within += [_pair(survey, images[other], images[at], bits) for at, other, bits in _alike(*nearest)]
        earlier += images
    if across := [case for case in across if case is not None]:
        yield Finding(
            code="near_leak",
            severity="warning",
            sentence=f"{_count(len(across), 'image looks', 'images look')} much like one in another split: if they are "
            "the same shot, scores are too high.",
            next_step="look at the pairs, and keep images of the same shot in one split.",
            cases=tuple(across),
        )
    if within := [case for case in within if case is not None]:
        yield Finding(
            code="near_duplicates",
            severity="warning",
            sentence=f"{_count(len(within), 'image looks', 'images look')} much like another one in the same split.",
            next_step="look at the pairs, and keep one image of each.",
            cases=tuple(within),
        )


def _shortcuts(survey: Survey) -> Iterator[Finding]:
    train = list({survey.facts[file.relative].pixels: file for file in survey.good("train")}.values())
    sizes = [(survey.facts[file.relative].width, survey.facts[file.relative].height) for file in train]
    shortcuts = find_shortcuts(sizes, [file.label for file in train], len(survey.classes))
    if shortcuts:
        cues = " or ".join(sorted({shortcut.cue for shortcut in shortcuts}, reverse=True))
        yield Finding(
            code="shortcut",
            severity="fault",
            sentence=f"Image {cues} alone reveals the label of {_count(len(shortcuts), 'class', 'classes')}: a "
            "classifier may learn that instead of what the images show.",
            next_step="take images of all classes from the same sources, or bring them to one size and shape.",
            cases=tuple(Case(files=(), detail=_accuracy(survey, shortcut)) for shortcut in shortcuts),
            classes=_names(survey, (shortcut.label for shortcut in shortcuts)),
        )


def _wrong_extensions(survey: Survey) -> Iterator[Finding]:
    formats = Image.registered_extensions()
    wrong = [
        Case(files=(facts.relative,), detail=f"the content is {facts.format}")
        for _, _, facts in survey.good_files()
        # A row of a table may have a name without an extension.
        if _suffix(facts) and formats.get(_suffix(facts)) != _usual_format(facts.format)
    ]
    unsupported = [
        Case(files=(facts.relative,), detail=f"{_content(facts)}; no run uses it")
        for skipped, facts in survey.unused
        if _is_unsupported_image(skipped, facts)
    ]
    if wrong or unsupported:
        yield Finding(
            code="wrong_extension",
            severity="warning",
            sentence=f"{_count(len(wrong) + len(unsupported), 'image has', 'images have')} an extension that does not "
            f"match the format, or that zoo does not read (it reads {', '.join(IMAGE_SUFFIXES)}).",
            next_step="rename or convert the images that belong to the data, and remove the others.",
            cases=(*unsupported, *wrong),
        )


def _not_used(survey: Survey) -> Iterator[Finding]:
    cases = tuple(
        Case(files=(skipped.relative,), detail=f"{skipped.reason}{f', {skipped.detail}' if skipped.detail else ''}")
        for skipped, facts in survey.unused
        if not _is_unsupported_image(skipped, facts)
    )
    if cases:
        yield Finding(
            code="not_used",
            severity="warning",
            sentence=f"{_count(len(cases), 'file is', 'files are')} not used: not an image, or not in a class folder.",
            next_step="remove them, or move images to the folder of their class.",
            cases=cases,
        )


def _hidden(survey: Survey) -> Iterator[Finding]:
    """Images that a person may have meant: what an operating system or a NAS made is only counted."""
    cases = tuple(
        Case(files=(skipped.relative,), detail="a name begins with a dot")
        for skipped in survey.passed_over
        if skipped.reason == "hidden"
        and is_image_name(skipped.relative)
        and not any(map(is_system_name, PurePosixPath(skipped.relative).parts))
    )
    if cases:
        yield Finding(
            code="hidden_images",
            severity="warning",
            sentence=f"{_count(len(cases), 'image is', 'images are')} not used, because a name begins with a dot.",
            next_step="rename the folders or files if they belong to the data.",
            cases=cases,
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


def _storage(survey: Survey) -> Iterator[Finding]:
    """How images are stored, where another program may read them differently."""
    kinds: tuple[tuple[str, Callable[[FileFacts], str], str, str], ...] = (
        ("cmyk", lambda facts: facts.mode if facts.mode == "CMYK" else "", "in CMYK", "colour profiles are ignored"),
        ("alpha", lambda facts: facts.mode if facts.transparent else "", "with transparency", "composited on white"),
        ("deep", _depth, "deeper than 8 bits a sample", "reduced to 8 bits"),
        ("palette", lambda facts: facts.mode if facts.mode in ("P", "PA") else "", "with a palette", "expanded to RGB"),
        ("rotated", _orientation, "rotated by EXIF alone", "turned upright by zoo, but not by every program"),
    )
    for code, detail_of, what, treatment in kinds:
        details = [(facts, detail_of(facts)) for _, _, facts in survey.good_files()]
        cases = tuple(Case(files=(facts.relative,), detail=detail) for facts, detail in details if detail)
        if cases:
            yield Finding(
                code=code,
                severity="warning",
                sentence=f"{_count(len(cases), 'image is', 'images are')} {what}: {treatment}.",
                next_step="see docs/preprocessing.md; if this is not what you want, save them as upright 8-bit RGB.",
                cases=cases,
            )


def _extreme_sizes(survey: Survey) -> Iterator[Finding]:
    good = [facts for _, _, facts in survey.good_files()]
    tiny = _sized(facts for facts in good if min(facts.width, facts.height) < TINY)
    huge = _sized(facts for facts in good if facts.width * facts.height > HUGE)
    if tiny:
        yield Finding(
            code="tiny",
            severity="warning",
            sentence=f"{_count(len(tiny), 'image has', 'images have')} a side below {TINY} pixels: enlarged to the "
            "backbone's input size, there is almost nothing to see.",
            next_step="use larger images, or remove these.",
            cases=tiny,
        )
    if huge:
        yield Finding(
            code="huge",
            severity="warning",
            sentence=f"{_count(len(huge), 'image has', 'images have')} over {HUGE // 1_000_000} megapixels: "
            "decoding is slow and takes much memory, and resizing discards most of the pixels.",
            next_step="save them smaller, for example with 1,000 pixels a side.",
            cases=huge,
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
                    Case(files=(), detail=f"{survey.classes[label]}: {_count(counts[label], 'image')}") for label in few
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
    distinct = {survey.facts[file.relative].pixels: file for file in reversed(survey.good(split))}
    images = [(split, file, survey.facts[file.relative]) for file in reversed(distinct.values())]
    return [image for image in images if image[2].fingerprint is not None]


def _hash(facts: FileFacts) -> int:
    return facts.fingerprint or 0


def _alike(indices: Iterable[int], distances: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (image, the one most like it, differing bits) for near-duplicates."""
    for at, (index, distance) in enumerate(zip(indices, distances, strict=True)):
        if index >= 0 and distance <= ALIKE:
            yield at, int(index), int(distance)


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


def _depth(facts: FileFacts) -> str:
    return f"{facts.bits} bits" if facts.bits > 8 else ""


def _orientation(facts: FileFacts) -> str:
    return f"orientation {facts.orientation}" if facts.orientation != 1 else ""


def _is_unsupported_image(skipped: Skipped, facts: FileFacts) -> bool:
    return skipped.reason == "not an image" and bool(facts.format)


def _content(facts: FileFacts) -> str:
    return f"the content is {facts.format}, {facts.width} x {facts.height}"


def _suffix(facts: FileFacts) -> str:
    return PurePosixPath(facts.relative).suffix.lower()


def _usual_format(format: str) -> str:
    # MPO is a JPEG file with several pictures of one shot; cameras name it .jpg.
    return "JPEG" if format == "MPO" else format


def _sized(files: Iterable[FileFacts]) -> tuple[Case, ...]:
    return tuple(Case(files=(facts.relative,), detail=f"{facts.width} x {facts.height}") for facts in files)


def _names(survey: Survey, labels: Iterable[int]) -> tuple[str, ...]:
    return tuple(survey.classes[label] for label in sorted(labels))


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
