"""The images of a sweep, divided once before it begins: to train on, to choose by, and to judge the winner by.

What the data do not divide themselves is drawn. Copies and near-duplicates of a picture stay together, for a picture
that was trained on judges nothing. The parts are written as tables, so that every trial is an ordinary run on a table,
in any process and on any machine that sees the same paths.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.data.check.similar import similar_images
from zoo.data.dataset import Dataset, ImageFile
from zoo.data.prefetch import prefetch, resolve_workers
from zoo.data.sources import find_data, read_evaluation_split, read_unchecked
from zoo.data.splits import VAL_SHARE, to_dataset
from zoo.errors import DataError
from zoo.events import Note, Progress, Report
from zoo.registry.registry import Registry
from zoo.specs.data import Skipped, is_image_name
from zoo.storage.atomic import clear_write_errors, write_text
from zoo.storage.csv_lines import csv_rows, csv_text, read_as_written
from zoo.text import counted, printable, some

DATA, JUDGED, CONTENTS = "data.csv", "judged.csv", "contents.tsv"
IMAGES = "images"
"""Folder of copies of images that have no file of their own that a table could name."""
READER = "table"
"""The data source that reads the tables."""
_PENDING = 4
"""Images that are read ahead, for each thread: their bytes are in memory."""


@dataclass(frozen=True, slots=True)
class Division:
    """How the images are divided."""

    train: tuple[ImageFile, ...]
    val: tuple[ImageFile, ...]
    judged: tuple[ImageFile, ...]
    classes: tuple[str, ...]
    judged_by: str
    """What the winner is judged by, in words."""
    chosen_by: str
    """What is selected on, in words."""
    skipped: tuple[Skipped, ...] = ()
    """Files that are not used."""

    def record(self) -> dict[str, Any]:
        """The counts and words that a sweep's record holds."""
        return {
            "train": len(self.train),
            "val": len(self.val),
            "judged": len(self.judged),
            "judged_by": self.judged_by,
            "chosen_by": self.chosen_by,
            "classes": list(self.classes),
            "skipped": len(self.skipped),
            "skipped_because": dict(Counter(each.reason for each in self.skipped)),
        }


def divide(data: Path, registry: Registry, report: Report, *, seed: int, workers: int | None = None) -> Division:
    """Find the images and divide them; `seed` draws what the data do not divide.

    Raises DataError for data that cannot be used, or a class with too few different images.
    """
    unchecked = read_unchecked(find_data(data, registry, report))
    drawn_val = "val" not in unchecked.splits
    # As for folds, no val is drawn here: it is drawn below, where copies stay together.
    dataset = to_dataset(unchecked, seed=seed, folds=drawn_val)
    train = tuple(dataset.splits["train"])
    val, judged = tuple(dataset.splits.get("val", ())), tuple(dataset.splits.get("test", ()))
    drawn = [name for name, there in (("judged", judged), ("val", val)) if not there]
    if drawn:
        # What looks like an image of a part that the data have is not drawn: who chose on val knows its copies.
        fixed = (*val, *judged)
        groups = similar_images((*train, *fixed), workers=workers, progress=_progress(report, "compare images"))
        of_fixed = frozenset(groups[len(train) :])
        parts = draw_parts(train, groups[: len(train)], dataset.classes, drawn, seed=seed, fixed=of_fixed)
        train, val, judged = parts[""], parts.get("val", val), parts.get("judged", judged)
    if dataset.skipped:
        report(Note(text=_in_words(dataset.skipped)))
    note = f"{VAL_SHARE:.0%} of every class, drawn from train with seed {seed} before the sweep began"
    return Division(
        train,
        val,
        judged,
        dataset.classes,
        judged_by=f"a holdout: {note}" if "judged" in drawn else "test, which the data have",
        chosen_by=f"val: {note}" if drawn_val else "val, which the data have",
        skipped=dataset.skipped,
    )


def _in_words(skipped: Sequence[Skipped]) -> str:
    reasons = Counter(each.reason for each in skipped)
    listed = "; ".join(f"{counted(count, 'file')} {reason}" for reason, count in reasons.items())
    return f"Not used: {listed}, such as {skipped[0].relative}."


def draw_parts(
    files: Sequence[ImageFile],
    groups: Sequence[Hashable],
    classes: Sequence[str],
    parts: Sequence[str],
    *,
    seed: int,
    fixed: Set[Hashable] = frozenset(),
) -> dict[str, tuple[ImageFile, ...]]:
    """Draw parts of a fifth of every class each -> the files of each part, and of what is left under an empty name.

    Args:
        files: What is drawn from.
        groups: What each file is a picture of; files with the same value stay together, with the label of the first.
        classes: The names of the labels.
        parts: The names of the parts.
        seed: Another seed draws others.
        fixed: What is in another part already: files of these groups are not drawn.

    Raises DataError for a class with too few different pictures.
    """
    members: dict[int, list[Hashable]] = {}
    seen: set[Hashable] = set()
    for file, group in zip(files, groups, strict=True):
        if group not in seen:
            seen.add(group)
            members.setdefault(file.label, []).append(group)
    part_of: dict[Hashable, str] = {}
    for label, name in enumerate(classes):
        own = members.get(label, [])
        free = [group for group in own if group not in fixed]
        # A fifth; at least one picture; and never the last one, which is left to train on.
        size = min(max(1, round(VAL_SHARE * len(own))), (len(own) - 1) // len(parts), len(free) // len(parts))
        if size < 1:
            copies = f", {len(own) - len(free)} of them like images of other splits" if len(free) < len(own) else ""
            raise DataError(
                f"The class {name!r} has {counted(len(own), 'different image')} to train on{copies}, and a sweep draws "
                f"{' and '.join(map(_WORDS.__getitem__, parts))} from {'the others' if copies else 'them'}: it needs "
                f"at least {len(parts) + 1}.\nNext: add images, or make the splits val and test yourself."
            )
        # Keyed by the class's name, so that adding a class does not change the draws of the others.
        order = random.Random(f"sweep/{seed}/{name}").sample(free, len(free))
        for number, part in enumerate(parts):
            part_of.update(dict.fromkeys(order[number * size : (number + 1) * size], part))
    found = {
        part: tuple(file for file, group in zip(files, groups, strict=True) if part_of.get(group, "") == part)
        for part in ("", *parts)
    }
    _refuse_lacking(found, classes)
    return found


_WORDS = {"judged": "a holdout to judge the winner by", "val": "val"}


def _refuse_lacking(found: Mapping[str, Sequence[ImageFile]], classes: Sequence[str]) -> None:
    """Refuse where copies with different labels leave a class without an image in train or val."""
    for part in ("", "val"):  # a judged part may lack a class: its scores are of what is there
        if part in found:
            there = {file.label for file in found[part]}
            lacking = [name for label, name in enumerate(classes) if label not in there]
            if lacking:
                raise DataError(
                    f"All images of {some(lacking)} look like images of other classes, so none is left for "
                    f"{part or 'train'}.\nNext: zoo data check lists copies with different labels."
                )


def write_tables(division: Division, folder: Path) -> None:
    """Write the tables of a division into the sweep's folder. Images without a file of their own are copied there."""
    copies = _Copies(folder / IMAGES)
    for name, parts in ((DATA, {"train": division.train, "val": division.val}), (JUDGED, {"": division.judged})):
        rows = [["path", "label", *(["split"] if name == DATA else [])]]
        for split, files in parts.items():
            for file in files:
                rows.append([copies.path_of(file), division.classes[file.label], *([split] if split else [])])
        write_text(folder / name, csv_text(rows))


class _Copies:
    """The paths of images as a table can name them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def path_of(self, file: ImageFile) -> str:
        path = str(file.path.absolute())
        suffix = Path(file.relative).suffix  # not that of `path`, which may be an archive
        # A table reads only what ends like an image, or has no ending, and is text.
        named = is_image_name(path) and printable(path) == path and "\n" not in path and path == path.strip()
        if file.reader is None and named:
            return path
        self._count += 1
        copy = self._folder / f"{self._count:07d}{suffix.lower() if is_image_name(file.relative) else ''}"
        with clear_write_errors(copy):
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(file.content())
        return copy.relative_to(self._folder.parent).as_posix()  # the sweep's folder may be moved


def read_tables(folder: Path, classes: Sequence[str], registry: Registry, report: Report) -> tuple[Dataset, Dataset]:
    """Read the tables of a sweep's folder -> (what trials train and choose on, what judges).

    Raises DataError for files that are gone, or where a table has other classes than the division had.
    """
    of_trials = to_dataset(read_unchecked(find_data(Path(location(folder, DATA)), registry, report)), seed=0)
    if of_trials.classes != tuple(classes):
        raise DataError(
            f"{folder / DATA} reads as the classes {some(of_trials.classes)}, and the data have {some(classes)}.\n"
            "Next: rename classes so that they are text without blanks around it."
        )
    _, judged = read_evaluation_split(find_data(Path(location(folder, JUDGED)), registry, report), of_trials.classes)
    return of_trials, judged


def location(folder: Path, table: str) -> str:
    """`--data` for one of a sweep's tables."""
    return f"{READER}:{folder.absolute() / table}"


def write_contents(folder: Path, datasets: Sequence[Dataset], report: Report) -> str:
    """Read every image once, and write the digest of each -> the digest of all."""
    contents = _contents(datasets, report)
    rows = [(digest, name) for name, digest in contents.items()]
    write_text(folder / CONTENTS, csv_text(rows, delimiter="\t"))
    return _whole(contents)


def _written_contents(folder: Path) -> dict[str, str]:
    """The digest of each image, by name, as `write_contents` wrote them. Raises OSError."""
    rows = csv_rows(read_as_written(folder / CONTENTS), delimiter="\t")
    return {name: digest for digest, name in rows}


def known_before(folder: Path, of_trials: Dataset, judged: Dataset) -> str:
    """How many judged images are copies of images that trials see, in words; empty where none is.

    The data's own splits may have some. `write_contents` wrote the digests that are compared.
    """
    content = _written_contents(folder)
    seen = {content.get(file.relative) for files in of_trials.splits.values() for file in files}
    files = [file for split in judged.splits.values() for file in split]
    copies = sum(content.get(file.relative) in seen for file in files)
    if not copies:
        return ""
    are = "is a copy" if copies == 1 else "are copies"
    return f"{copies:,} of {counted(len(files), 'image')} there {are} of images in train or val"


def refuse_changed(folder: Path, datasets: Sequence[Dataset], digest: str, report: Report) -> None:
    """Raise DataError, naming files, where the images are not those that the sweep began with."""
    found = _contents(datasets, report)
    if _whole(found) == digest:
        return
    try:
        before = _written_contents(folder)
    except OSError:
        before = {}
    changed = [name for name in dict.fromkeys([*before, *found]) if before.get(name) != found.get(name)]
    raise DataError(
        f"The images have changed since the sweep in {folder} began: {some(changed, 3) or 'their digest is another'}. "
        "Trials before and after would not be comparable.\nNext: restore these files, or start a new sweep."
    )


def _contents(datasets: Sequence[Dataset], report: Report) -> dict[str, str]:
    files = [file for dataset in datasets for split in dataset.splits.values() for file in split]
    threads = resolve_workers(None)
    progress, contents = _progress(report, "read images"), {}
    with ThreadPoolExecutor(threads, thread_name_prefix="zoo-read") as pool:
        digests = prefetch(pool, _digest, files, pending=_PENDING * threads)
        for done, (file, digest) in enumerate(zip(files, digests, strict=True), start=1):
            contents[file.relative] = digest
            progress(done, len(files))
    return contents


def _digest(file: ImageFile) -> str:
    return hashlib.sha256(file.content()).hexdigest()


def _whole(contents: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):  # a source may list the same images in another order
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def _progress(report: Report, task: str) -> Any:
    return lambda done, total: report(Progress(task=task, done=done, total=total))
