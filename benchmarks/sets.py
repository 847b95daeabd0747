"""Sets of images by name, or by the folders to train on and to be judged on."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.data.dataset import Dataset

from benchmarks.programs import used
from benchmarks.splits import Drawn, few, halve, unseen

UNCHOSEN = ", no validation images"


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Two folders of class folders."""

    name: str
    """What rows call it."""
    train: Path
    judged: Path
    halved: bool
    """zoo chooses on one half of `judged`, drawn by the seed, and all are judged on the other. Else all are judged on
    the whole of it, and zoo draws what it chooses by from `train`."""

    def read(self) -> Dataset:
        """The images that zoo's plan uses, at their real places. Raises programs.Failed."""
        with tempfile.TemporaryDirectory() as folder:
            for split, there in (("train", self.train), ("val" if self.halved else "test", self.judged)):
                (Path(folder) / split).symlink_to(there.resolve(), target_is_directory=True)
            dataset = used(Path(folder))
            files = {
                split: tuple(replace(file, path=file.path.resolve()) for file in found)
                for split, found in dataset.splits.items()
            }
        return replace(dataset, splits=files)

    def drawn(self, dataset: Dataset, *, seed: int, per_class: int) -> Drawn:
        """The images of one run, `dataset` being what `read` found. Raises ValueError where a class has too few."""
        images = halve(dataset, seed) if self.halved else unseen(dataset)
        return few(images, per_class, seed) if per_class else images


def named(folder: Path, name: str, *, halved: bool = True) -> ImageSet:
    """The set `name` below the folder of sets, with train/ and val/. Raises ValueError where it is not there."""
    place = folder / name
    missing = [split for split in ("train", "val") if not (place / split).is_dir()]
    if missing:
        sets = sorted(each.name for each in folder.iterdir() if (each / "val").is_dir()) if folder.is_dir() else []
        there = f"; there are: {', '.join(sets)}" if sets else ""
        raise ValueError(
            f"{place} has no folder {missing[0]}/{there}. Next: name one of these, or give --train and --test"
        )
    return ImageSet(name if halved else name + UNCHOSEN, place / "train", place / "val", halved)


def given(train: Path, test: Path) -> ImageSet:
    """A set of two folders anywhere, the second of which nobody chooses by. Raises ValueError for what is no folder."""
    for folder in (train, test):
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder. Next: give one that holds a folder for each class")
    if train.resolve() == test.resolve():
        raise ValueError(f"{train} is given to train on and to be judged on. Next: give --test another folder")
    return ImageSet(f"{train.resolve()}, judged on {test.resolve()}", train, test, halved=False)
