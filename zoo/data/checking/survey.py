"""A data folder looked at: which files lie where, and the facts of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from zoo.data.ahead import map_ahead
from zoo.data.checking.facts import FileFacts, read_facts
from zoo.data.dataset import ImageFile, Skipped, Split, class_counts, natural_key
from zoo.data.folder import Tree, drawn_note, labelled, no_images, read_tree, stratified
from zoo.errors import DataError


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


def survey(path: Path, *, seed: int, workers: int, progress: Callable[[int, int], None]) -> Survey:
    """Find and open every file; `progress` gets (done, total). Raises DataError where there is no data set at all."""
    tree = read_tree(path)
    classes, splits, drawn = _splits(tree, seed)
    unused = [each for each in tree.skipped if each.reason != "hidden"]
    used = [(file.path, file.relative) for files in splits.values() for file in files]
    known = _read(used + [(path / each.relative, each.relative) for each in unused], workers, progress)
    return Survey(
        path=path,
        classes=classes,
        splits=splits,
        facts={relative: known[relative] for _, relative in used},
        unused=tuple((each, known[each.relative]) for each in unused),
        drawn=drawn,
    )


def _splits(tree: Tree, seed: int) -> tuple[tuple[str, ...], dict[Split, tuple[ImageFile, ...]], str]:
    """Classes and splits as `finetune` makes them, but also those that it refuses."""
    classes = tuple(sorted({name for by_class in tree.found.values() for name in by_class}, key=natural_key))
    splits = {split: labelled(by_class, classes, tree.path) for split, by_class in tree.found.items()}
    if not any(splits.values()):
        raise DataError(no_images(tree.path, tree.skipped))
    if len(classes) < 2:
        raise DataError(
            f"{tree.path} has only the class {classes[0]!r}; a classifier needs at least two class folders."
        )
    drawn = ""
    if "val" not in splits:
        splits["train"], splits["val"] = stratified(splits["train"], classes, seed)
        drawn = drawn_note(seed)
    names: tuple[Split, ...] = ("train", "val", "test")
    return classes, {split: splits[split] for split in names if split in splits}, drawn


def _read(files: list[tuple[Path, str]], workers: int, progress: Callable[[int, int], None]) -> dict[str, FileFacts]:
    known: dict[str, FileFacts] = {}
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="zoo-check") as pool:
        for facts in map_ahead(pool, lambda file: read_facts(*file), files, ahead=4 * workers):
            known[facts.relative] = facts
            progress(len(known), len(files))
    return known
