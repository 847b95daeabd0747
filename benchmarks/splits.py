"""What a run trains on, may choose by and is judged on, drawn by its seed."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.data.dataset import Dataset, ImageFile, class_counts
from zoo.data.folder import read_folder

from benchmarks.peers.task import Labelled, Task


@dataclass(frozen=True, slots=True)
class Drawn:
    """The images of one run."""

    classes: tuple[str, ...]
    train: tuple[ImageFile, ...]
    selection: tuple[ImageFile, ...]
    """zoo chooses its stage by them. Without any, it draws its own from `train`, as it does for a user without val/."""
    comparison: tuple[ImageFile, ...]
    """All programs are judged on them, and nobody chooses by them."""

    def link(self, into: Path) -> Path:
        """Make `into` a folder for zoo: `train/`, `val/` where there is a selection, and `test/`, all of it links."""
        for split, files in self._splits().items():
            for file in files:
                link = into / split / Path(file.relative).relative_to(Path(file.relative).parts[0])
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file.path.resolve())
        return into

    def task(self, *, backbone: str, weights: str, seed: int) -> Task:
        """What a peer is given."""
        return Task(
            classes=list(self.classes),
            train=labelled(self.train),
            test=labelled(self.comparison),
            weights=weights,
            seed=seed,
            backbone=backbone,
        )

    def counts(self) -> dict[str, list[int]]:
        """Images per class, under the names of the folders that `link` makes."""
        return {split: class_counts(files, len(self.classes)) for split, files in self._splits().items()}

    def are_used(self, images: Mapping[str, Sequence[int]]) -> bool:
        """Whether a plan's images per split and class are these."""
        if self.selection:
            return images == self.counts()
        trained = [sum(both) for both in zip(images["train"], images["val"], strict=True)]
        return {"train": trained, "test": images.get("test")} == self.counts()

    def _splits(self) -> dict[str, tuple[ImageFile, ...]]:
        splits = {"train": self.train, "val": self.selection, "test": self.comparison}
        return {split: files for split, files in splits.items() if files}


def read_used(folder: Path, skipped: Collection[str]) -> Dataset:
    """The data set without the files that zoo's plan skips (paths relative to `folder`)."""
    dataset = read_folder(folder, seed=0)
    return dataset.without(dict.fromkeys(skipped, "skipped by the plan"))


def halve(dataset: Dataset, seed: int) -> Drawn:
    """Halve the validation images by `seed`, class by class; of an odd number the comparison gets one more."""
    selection: list[ImageFile] = []
    comparison: list[ImageFile] = []
    for drawn in _shuffled(dataset.splits["val"], dataset.classes, f"{seed}"):
        selection += drawn[: len(drawn) // 2]
        comparison += drawn[len(drawn) // 2 :]
    return Drawn(dataset.classes, dataset.splits["train"], _ordered(selection), _ordered(comparison))


def unseen(dataset: Dataset) -> Drawn:
    """Train on everything but the test images; `dataset` has train and test, and a validation split drawn of train."""
    train = [*dataset.splits["train"], *dataset.splits["val"]]
    return Drawn(dataset.classes, _ordered(train), (), dataset.splits["test"])


def few(drawn: Drawn, per_class: int, seed: int) -> Drawn:
    """With `per_class` training images of each class, drawn by `seed`; fewer of them are among more of them.

    Raises ValueError where a class has not as many.
    """
    kept: list[ImageFile] = []
    for name, files in zip(drawn.classes, _shuffled(drawn.train, drawn.classes, f"{seed}/train"), strict=True):
        if len(files) < per_class:
            raise ValueError(f"{per_class} training images a class were asked for; {name!r} has {len(files)}")
        kept += files[:per_class]
    return replace(drawn, train=_ordered(kept))


def _shuffled(files: Sequence[ImageFile], classes: Sequence[str], seed: str) -> list[list[ImageFile]]:
    """The files of each class in an order of their own."""
    found = []
    for label, name in enumerate(classes):
        of_class = sorted((file for file in files if file.label == label), key=_by_name)
        random.Random(f"{seed}/{name}").shuffle(of_class)
        found.append(of_class)
    return found


def _by_name(file: ImageFile) -> str:
    return file.relative


def _ordered(files: Iterable[ImageFile]) -> tuple[ImageFile, ...]:
    return tuple(sorted(files, key=_by_name))


def labelled(files: Sequence[ImageFile]) -> list[Labelled]:
    """As a task names them."""
    return [Labelled(str(file.path.resolve()), file.label) for file in files]
