"""Small random pictures for the inputs of this folder, and how zoo reads them: one file for each kind of fault."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from tests.packing import write_tar, write_zip
from zoo.data.dataset import Dataset
from zoo.data.sources import find_data, read_dataset, read_evaluation_split
from zoo.registry.registry import default_registry

CONTAINERS = ("folder", "zip", "tar")


def write_pictures(folder: Path, names: Iterable[str], *, side: int = 48) -> Path:
    """Write a random picture to every name below the folder. The same name always gives the same pixels."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def pictures_of(*folders: str, count: int = 6) -> list[str]:
    """`count` names of pictures in each of the folders, such as `train/cat/1.jpg`."""
    return [f"{folder}/{number}.jpg" for folder in folders for number in range(1, count + 1)]


def contain(container: str, place: Path, names: Iterable[str]) -> Path:
    """The files of these names in a folder, a zip or a tar. They are empty: listing does not open images."""
    members = dict.fromkeys(names, b"")
    if container != "folder":
        return (write_zip if container == "zip" else write_tar)(place / f"photos.{container}", members)
    for name in members:
        (place / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "photos" / name).touch()
    return place / "photos"


def read(path: Path) -> Dataset:
    """What `--data` makes of a path."""
    return read_dataset(find_data(path, default_registry(), lambda event: None), seed=0)


def read_for_evaluation(path: Path, *classes: str) -> tuple[str, Dataset]:
    """(split, data set) that a classifier of these classes is evaluated on."""
    return read_evaluation_split(find_data(path, default_registry(), lambda event: None), classes)


def by_class(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Split -> class -> number of images."""
    return {
        split: dict(zip(dataset.classes, counts, strict=True))
        for split, counts in dataset.counts().items()
        if any(counts)
    }
