"""A data folder looked at: which files lie where, and the facts of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from zoo.data.ahead import map_ahead
from zoo.data.checking.facts import FileFacts, read_facts
from zoo.data.dataset import FOLDER, ImageFile, class_counts, natural_key
from zoo.data.found import SPLITS, Found, drawn_note, labelled, no_images, one_class, stratified
from zoo.errors import DataError
from zoo.source_listing import Skipped, Split


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What the findings are drawn from."""

    path: Path
    classes: tuple[str, ...]
    """Of all splits, also those that one of them lacks."""
    splits: Mapping[Split, tuple[ImageFile, ...]]
    facts: Mapping[str, FileFacts]
    """Of every image, by relative path."""
    unused: tuple[tuple[Skipped, FileFacts], ...] = ()
    """Files that no run uses, but hidden ones."""
    drawn: str = ""
    """How val was drawn where the folder has none."""

    def good(self, split: Split) -> list[ImageFile]:
        """The images of a split that can be decoded."""
        return [file for file in self.splits.get(split, ()) if not self.facts[file.relative].fault]

    def good_files(self) -> Iterator[tuple[Split, ImageFile, FileFacts]]:
        """Every image that can be decoded."""
        for split in self.splits:
            for file in self.good(split):
                yield split, file, self.facts[file.relative]

    def counts(self, split: Split) -> list[int]:
        """Images that can be decoded, per class."""
        return class_counts(self.good(split), len(self.classes))


def survey(found: Found, *, seed: int, workers: int, progress: Callable[[int, int], None]) -> Survey:
    """Open every file; `progress` gets (done, total). Raises DataError where there is no data set at all."""
    classes, splits, drawn = _splits(found, seed)
    unused = [each for each in found.skipped if each.reason != "hidden"]
    used = [file for files in splits.values() for file in files]
    known = _read(used + _unused_files(found, unused), workers, progress)
    return Survey(
        path=found.path,
        classes=classes,
        splits=splits,
        facts={file.relative: known[file.relative] for file in used},
        unused=tuple((each, known.get(each.relative, FileFacts(relative=each.relative))) for each in unused),
        drawn=drawn,
    )


def _splits(found: Found, seed: int) -> tuple[tuple[str, ...], dict[Split, tuple[ImageFile, ...]], str]:
    """Classes and splits as `finetune` makes them, but also those that it refuses."""
    classes = tuple(sorted({name for by_class in found.found.values() for name in by_class}, key=natural_key))
    splits = {split: labelled(found, split, classes) for split in found.found}
    if not any(splits.values()):
        raise DataError(no_images(found))
    if "train" not in splits:
        raise DataError(f"{found.source} has no train.\nNext: name the split to train on train.")
    if len(classes) < 2:
        raise DataError(one_class(found, classes[0]))
    drawn = ""
    if "val" not in splits:
        splits["train"], splits["val"] = stratified(splits["train"], classes, seed)
        drawn = drawn_note(seed)
    return classes, {split: splits[split] for split in SPLITS if split in splits}, drawn


def _unused_files(found: Found, unused: list[Skipped]) -> list[ImageFile]:
    """A data source says why it left a file out, and not how to read it."""
    return [ImageFile(found.path / each.relative, each.relative, 0) for each in unused if found.reader == FOLDER]


def _read(files: list[ImageFile], workers: int, progress: Callable[[int, int], None]) -> dict[str, FileFacts]:
    known: dict[str, FileFacts] = {}
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="zoo-check") as pool:
        for facts in map_ahead(pool, read_facts, files, ahead=4 * workers):
            known[facts.relative] = facts
            progress(len(known), len(files))
    return known
