"""The tiny image set."""

from __future__ import annotations

from pathlib import Path


def draw(folder: Path, *, classes: int, train: int, val: int) -> Path:
    """Draw it into a new folder, from the generator of the sample set."""
    from zoo.data.sample import sample_image

    folder.mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        for index in range(classes):
            of_class = folder / split / f"class{index}"
            of_class.mkdir(parents=True)
            for number in range(count):
                sample_image(index, classes, split, number).save(of_class / f"{number}.png")
    return folder
