"""From the facts of all files to what is wrong with the data set: pure functions, one for each kind of trouble."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from PIL import Image

from zoo.data.checking.copies import Copy, across_splits, copies, under_two_labels, within_a_split
from zoo.data.checking.facts import FileFacts
from zoo.data.checking.fingerprint import nearest_earlier, nearest_in
from zoo.data.checking.report import Case, Finding
from zoo.data.checking.shortcut import Shortcut, find_shortcuts
from zoo.data.checking.survey import Survey
from zoo.data.dataset import ImageFile
from zoo.data.limits import FEW_IMAGES, UNEQUAL, UNREADABLE_SHARE
from zoo.source_listing import IMAGE_SUFFIXES, Skipped, Split

TINY = 32
"""Pixels of the shorter side; what is smaller shows next to nothing, and less than backbones look at."""
HUGE = 50_000_000
"""Pixels."""
ALIKE = 6
"""Bits of 64 in which the hashes of near-duplicates differ at most. Of 1,097 real photos different ones differ in at
least 12; copies of 183 of them, half as large, compressed again at quality 40 or a tenth brighter, in at most 4."""


def find_all(survey: Survey) -> tuple[Finding, ...]:
    """Everything that is wrong with a data set, faults first."""
    kinds: tuple[Callable[[Survey], Iterator[Finding]], ...] = (
        _unreadable,
        _classes_without_images,
        _copies,
        _shortcuts,
        _near_copies,
        _wrong_extensions,
        _unused,
        _storage,
        _extreme_sizes,
        _few_images,
        _imbalance,
    )
    found = [finding for kind in kinds for finding in kind(survey)]
    return tuple(sorted(found, key=lambda each: each.severity != "fault"))


def _unreadable(survey: Survey) -> Iterator[Finding]:
    bad = [facts for facts in survey.facts.values() if facts.fault]
    if not bad:
        return
    share = len(bad) / len(survey.facts)
    too_many = share > UNREADABLE_SHARE
    rest = f"over {UNREADABLE_SHARE:.0%}, so zoo finetune refuses" if too_many else "zoo finetune leaves them out"
    yield Finding(
        code="unreadable",
        severity="fault" if too_many else "warning",
        sentence=f"{_files(len(bad))} of {len(survey.facts):,} cannot be decoded ({share:.1%}): {rest}.",
        next_step="get these files anew, or remove them.",
        cases=tuple(Case(files=(facts.relative,), detail=facts.fault) for facts in bad),
    )


def _classes_without_images(survey: Survey) -> Iterator[Finding]:
    for split in survey.splits:
        empty = _names(survey, (label for label, count in enumerate(survey.counts(split)) if not count))
        if not empty:
            continue
        meaning = {
            "train": "nothing can be learnt",
            "val": "nobody sees how well a classifier does there",
            "test": "the test says nothing of it",
        }[split]
        drawn = " (drawing val takes at least 2 of every class)" if split == "val" and survey.drawn else ""
        yield Finding(
            code="class_without_images" if split != "test" else "class_without_test_images",
            severity="fault" if split != "test" else "warning",
            sentence=f"{_count(len(empty), 'class has', 'classes have')} no image in {split}{drawn}: {meaning}.",
            next_step=f"add images to {split}, or remove the class from all splits.",
            classes=empty,
        )


def _copies(survey: Survey) -> Iterator[Finding]:
    pixels = {relative: facts.pixels for relative, facts in survey.facts.items()}
    groups = copies(survey.splits, pixels)
    if leaks := across_splits(groups):
        where = " as zoo finetune splits this folder" if survey.drawn else ""
        yield Finding(
            code="leak",
            severity="fault",
            sentence=f"{_count(len(leaks), 'picture is', 'pictures are')} in more than one split{where}, to the pixel: "
            "what was trained on is judged again, and scores are too good.",
            next_step="keep each in one split.",
            cases=_as_cases(survey, leaks),
        )
    if conflicts := under_two_labels(groups):
        yield Finding(
            code="two_labels",
            severity="fault",
            sentence=f"{_count(len(conflicts), 'picture is', 'pictures are')} under more than one label, to the pixel: "
            "at least one of them is wrong.",
            next_step="keep it under the label that is right.",
            cases=_as_cases(survey, conflicts),
            classes=_names(survey, {each.label for group in conflicts for each in group}),
        )
    if repeated := within_a_split(groups):
        luck = ", and with another seed they may lie on both sides of the split" if survey.drawn else ""
        yield Finding(
            code="duplicates",
            severity="warning",
            sentence=f"{_count(len(repeated), 'picture is', 'pictures are')} more than once in one split, to the "
            f"pixel, and count more than others{luck}.",
            next_step="keep one of each.",
            cases=_as_cases(survey, repeated),
        )


def _near_copies(survey: Survey) -> Iterator[Finding]:
    """Each picture beside the one most like it; copies to the pixel have their own findings."""
    across, within = [], []
    seen: list[tuple[Split, ImageFile, FileFacts]] = []
    for split in survey.splits:
        found = _hashed(survey, split)
        hashes = [_hash(facts) for _, _, facts in found]
        if seen and found:
            indices, distances = nearest_in(hashes, [_hash(facts) for _, _, facts in seen])
            across += [_pair(survey, seen[i], found[at], d) for at, (i, d) in _alike(indices, distances)]
        indices, distances = nearest_earlier(hashes)
        within += [_pair(survey, found[i], found[at], d) for at, (i, d) in _alike(indices, distances)]
        seen += found
    if across := [case for case in across if case is not None]:
        yield Finding(
            code="near_leak",
            severity="warning",
            sentence=f"{_count(len(across), 'picture looks', 'pictures look')} much like one in another split: where "
            "it is the same shot, scores are too good.",
            next_step="look at the pairs, and keep what belongs together in one split.",
            cases=tuple(across),
        )
    if within := [case for case in within if case is not None]:
        yield Finding(
            code="near_duplicates",
            severity="warning",
            sentence=f"{_count(len(within), 'picture looks', 'pictures look')} much like another one in its split.",
            next_step="look at the pairs, and keep one of each.",
            cases=tuple(within),
        )


def _shortcuts(survey: Survey) -> Iterator[Finding]:
    train = list({survey.facts[file.relative].pixels: file for file in survey.good("train")}.values())
    sizes = [(survey.facts[file.relative].width, survey.facts[file.relative].height) for file in train]
    found = find_shortcuts(sizes, [file.label for file in train], len(survey.classes))
    if found:
        yield Finding(
            code="shortcut",
            severity="fault",
            sentence=f"The {_by(found)} of a picture gives its label away for "
            f"{_count(len(found), 'class', 'classes')}, without a look at it: a classifier may learn that "
            "instead of what is shown.",
            next_step="take pictures of all classes from the same sources, or bring them to one size and shape.",
            cases=tuple(Case(files=(), detail=_told(survey, each)) for each in found),
            classes=_names(survey, (each.label for each in found)),
        )


def _wrong_extensions(survey: Survey) -> Iterator[Finding]:
    named = Image.registered_extensions()
    wrong = [
        Case(files=(facts.relative,), detail=f"the content is {facts.format}")
        for _, _, facts in survey.good_files()
        # A row of a table may have no name to be wrong.
        if _suffix(facts) and named.get(_suffix(facts)) != _named_as(facts.format)
    ]
    unread = [
        Case(files=(facts.relative,), detail=f"{_content(facts)}; no run uses it")
        for skipped, facts in survey.unused
        if _is_unread_picture(skipped, facts)
    ]
    if wrong or unread:
        yield Finding(
            code="wrong_extension",
            severity="warning",
            sentence=f"{_count(len(wrong) + len(unread), 'picture has', 'pictures have')} an extension that is not "
            f"its format's, or that zoo does not read: {', '.join(IMAGE_SUFFIXES)}.",
            next_step="rename or convert those that belong to the data, remove the others.",
            cases=(*unread, *wrong),
        )


def _unused(survey: Survey) -> Iterator[Finding]:
    cases = tuple(
        Case(files=(skipped.relative,), detail=f"{skipped.reason}{f', {skipped.detail}' if skipped.detail else ''}")
        for skipped, facts in survey.unused
        if not _is_unread_picture(skipped, facts)
    )
    if cases:
        yield Finding(
            code="not_used",
            severity="warning",
            sentence=f"{_files(len(cases))} that no run uses: no image, or in no class folder.",
            next_step="remove them, or move images to the folder of their class.",
            cases=cases,
        )


def _storage(survey: Survey) -> Iterator[Finding]:
    """Colours and orientations that another program may read differently."""
    kinds: tuple[tuple[str, Callable[[FileFacts], str], str, str], ...] = (
        ("cmyk", lambda facts: facts.mode if facts.mode == "CMYK" else "", "in CMYK", "converted without profiles"),
        ("alpha", lambda facts: facts.mode if facts.transparent else "", "with transparency", "laid over white"),
        ("deep", lambda facts: f"{facts.bits} bits" if facts.bits > 8 else "", "with over 8 bits a sample", "narrowed"),
        ("palette", lambda facts: facts.mode if facts.mode in ("P", "PA") else "", "with a palette", "expanded"),
        ("rotated", _turned, "turned by EXIF alone", "stood upright by zoo, not by every program"),
    )
    for code, why, what, treatment in kinds:
        cases = [(facts, why(facts)) for _, _, facts in survey.good_files()]
        found = tuple(Case(files=(facts.relative,), detail=detail) for facts, detail in cases if detail)
        if found:
            yield Finding(
                code=code,
                severity="warning",
                sentence=f"{_count(len(found), 'picture is', 'pictures are')} {what}: {treatment}.",
                next_step="see docs/preprocessing.md; where it is not what you want, save them as upright 8-bit RGB.",
                cases=found,
            )


def _extreme_sizes(survey: Survey) -> Iterator[Finding]:
    good = [facts for _, _, facts in survey.good_files()]
    tiny = _sized(facts for facts in good if min(facts.width, facts.height) < TINY)
    huge = _sized(facts for facts in good if facts.width * facts.height > HUGE)
    if tiny:
        yield Finding(
            code="tiny",
            severity="warning",
            sentence=f"{_count(len(tiny), 'picture has', 'pictures have')} a side below {TINY} pixels: enlarged to "
            "what a backbone takes, they show next to nothing.",
            next_step="get larger ones, or remove them.",
            cases=tiny,
        )
    if huge:
        yield Finding(
            code="huge",
            severity="warning",
            sentence=f"{_count(len(huge), 'picture has', 'pictures have')} over {HUGE // 1_000_000} megapixels: "
            "decoding is slow, takes much memory, and most of it is thrown away.",
            next_step="save them smaller, such as 1,000 pixels a side.",
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
    there = [count for count in counts if count]
    if not there or max(there) <= UNEQUAL * min(there):
        return
    large, small = survey.classes[counts.index(max(there))], survey.classes[counts.index(min(there))]
    yield Finding(
        code="imbalance",
        severity="warning",
        sentence=f"Classes are very unequal: {large} has {max(there):,} training images, {small} {min(there):,} "
        f"({max(there) / min(there):.0f} times fewer), so {small} is easily never answered.",
        next_step="train with class_weights=balanced (docs/recipes.md), and judge by macro F1, not by accuracy.",
        classes=(large, small),
    )


def _as_cases(survey: Survey, groups: Sequence[tuple[Copy, ...]]) -> tuple[Case, ...]:
    return tuple(Case(files=tuple(each.relative for each in group), detail=_places(survey, group)) for group in groups)


def _places(survey: Survey, group: tuple[Copy, ...]) -> str:
    splits, labels = {each.split: None for each in group}, {each.label for each in group}
    return f"{' and '.join(splits)}; {' and '.join(_names(survey, labels))}"


def _hashed(survey: Survey, split: Split) -> list[tuple[Split, ImageFile, FileFacts]]:
    """The pictures of a split that have a hash, one for all copies to the pixel."""
    facts = {survey.facts[file.relative].pixels: file for file in reversed(survey.good(split))}
    files = [(split, file, survey.facts[file.relative]) for file in reversed(facts.values())]
    return [each for each in files if each[2].fingerprint is not None]


def _hash(facts: FileFacts) -> int:
    return facts.fingerprint or 0


def _alike(indices: Iterable[int], distances: Iterable[int]) -> Iterator[tuple[int, tuple[int, int]]]:
    for at, (index, distance) in enumerate(zip(indices, distances, strict=True)):
        if index >= 0 and distance <= ALIKE:
            yield at, (int(index), int(distance))


def _pair(
    survey: Survey,
    one: tuple[Split, ImageFile, FileFacts],
    other: tuple[Split, ImageFile, FileFacts],
    distance: int,
) -> Case | None:
    if one[2].pixels == other[2].pixels:
        return None
    labels = _names(survey, {one[1].label, other[1].label})
    conflict = f", under {' and '.join(labels)}" if len(labels) > 1 else ""
    return Case(
        files=(one[1].relative, other[1].relative), detail=f"{distance} of 64 bits of the hash differ{conflict}"
    )


def _told(survey: Survey, shortcut: Shortcut) -> str:
    return (
        f"{shortcut.by} tells {survey.classes[shortcut.label]} from the rest with a balanced accuracy of "
        f"{shortcut.accuracy:.0%} (50% is chance), in cross-validation on train"
    )


def _by(shortcuts: Sequence[Shortcut]) -> str:
    return " or ".join(sorted({each.by for each in shortcuts}, reverse=True))


def _turned(facts: FileFacts) -> str:
    return f"orientation {facts.orientation}" if facts.orientation != 1 else ""


def _is_unread_picture(skipped: Skipped, facts: FileFacts) -> bool:
    return skipped.reason == "not an image" and bool(facts.format)


def _content(facts: FileFacts) -> str:
    return f"the content is {facts.format}, {facts.width} x {facts.height}"


def _suffix(facts: FileFacts) -> str:
    return PurePosixPath(facts.relative).suffix.lower()


def _named_as(format: str) -> str:
    # Several pictures of one camera shot in a file that is called .jpg everywhere.
    return "JPEG" if format == "MPO" else format


def _sized(files: Iterable[FileFacts]) -> tuple[Case, ...]:
    return tuple(Case(files=(facts.relative,), detail=f"{facts.width} x {facts.height}") for facts in files)


def _names(survey: Survey, labels: Iterable[int]) -> tuple[str, ...]:
    return tuple(survey.classes[label] for label in sorted(labels))


def _files(number: int) -> str:
    return _count(number, "file")


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
