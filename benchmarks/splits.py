"""The validation folder halved: one half chooses, on the other everybody is compared."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.data.dataset import Dataset, ImageFile
from zoo.data.folder import read_folder

from benchmarks.peers.task import Labelled, Task


@dataclass(frozen=True, slots=True)
class Halved:
    """A data set with its validation images in two halves."""

    classes: tuple[str, ...]
    train: tuple[ImageFile, ...]
    selection: tuple[ImageFile, ...]
    comparison: tuple[ImageFile, ...]

    def link(self, train: Path, into: Path) -> Path:
        """Make `into` a folder for zoo: `train/` as it is, the halves as `val/` and `test/`, all of it links."""
        into.mkdir(parents=True)
        (into / "train").symlink_to(train.resolve(), target_is_directory=True)
        for split, files in (("val", self.selection), ("test", self.comparison)):
            for file in files:
                link = into / split / Path(file.relative).relative_to(Path(file.relative).parts[0])
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file.path.resolve())
        return into

    def task(self, *, weights: Path, seed: int) -> Task:
        """What a peer is given."""
        return Task(
            classes=list(self.classes),
            train=labelled(self.train),
            test=labelled(self.comparison),
            weights=str(weights.resolve()),
            seed=seed,
        )

    def counts(self) -> dict[str, list[int]]:
        """Images per class, under the names of the folders that `link` makes."""
        splits = {"train": self.train, "val": self.selection, "test": self.comparison}
        return {
            split: [sum(file.label == label for file in files) for label in range(len(self.classes))]
            for split, files in splits.items()
        }


def read_used(folder: Path, skipped: Collection[str]) -> Dataset:
    """The data set without the files that zoo's plan skips (paths relative to `folder`)."""
    dataset = read_folder(folder, seed=0)
    return dataset.without(dict.fromkeys(skipped, "skipped by the plan"))


def halve(dataset: Dataset, seed: int) -> Halved:
    """Halve the validation images by `seed`, class by class; of an odd number the comparison gets one more."""
    selection: list[ImageFile] = []
    comparison: list[ImageFile] = []
    for label, name in enumerate(dataset.classes):
        drawn = sorted((file for file in dataset.splits["val"] if file.label == label), key=_by_name)
        random.Random(f"{seed}/{name}").shuffle(drawn)
        selection += drawn[: len(drawn) // 2]
        comparison += drawn[len(drawn) // 2 :]
    return Halved(dataset.classes, dataset.splits["train"], _ordered(selection), _ordered(comparison))


def _by_name(file: ImageFile) -> str:
    return file.relative


def _ordered(files: Iterable[ImageFile]) -> tuple[ImageFile, ...]:
    return tuple(sorted(files, key=_by_name))


def labelled(files: Sequence[ImageFile]) -> list[Labelled]:
    """As a task names them."""
    return [Labelled(str(file.path.resolve()), file.label) for file in files]
