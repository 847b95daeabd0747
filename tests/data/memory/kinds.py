"""The images of a folder as each kind of object that stands for data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from zoo.data.decode import read_image

datasets.disable_progress_bars()

Row = tuple[Path, str, str]
"""(file, label, split)."""


class Mapped(torch.utils.data.Dataset[tuple[Any, Any]]):
    """A data set of torch that gives whatever a function makes of an index."""

    def __init__(self, give: Callable[[int], Any], length: int, classes: list[str] | None = None) -> None:
        self.give, self.length = give, length
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.give(index)


def rows_of(root: Path) -> list[Row]:
    """The images of split folders with class folders, in the folder's order."""
    return [(path, path.parent.name, path.parts[-3]) for path in sorted(root.glob("*/*/*.jpg"))]


def with_paths(root: Path) -> dict[str, Any]:
    """Objects that name the files, in another order than the folder's."""
    rows = rows_of(root)[::-1]
    names = sorted({label for _, label, _ in rows})
    columns = {
        "image": [str(path) for path, *_ in rows],
        "label": [row[1] for row in rows],
        "split": [r[2] for r in rows],
    }
    splits = {row[2]: [each for each in rows if each[2] == row[2]] for row in rows}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    return {
        "list": {split: [(str(path), label) for path, label, _ in of] for split, of in splits.items()},
        "pandas": pd.DataFrame(columns, index=[7] * len(rows)),
        "polars": pl.DataFrame(columns),
        "hugging face": datasets.DatasetDict(
            {
                split: datasets.Dataset.from_dict(
                    {"image": [str(path) for path, *_ in of], "label": [names.index(label) for _, label, _ in of]},
                    features=features,
                )
                for split, of in splits.items()
            }
        ),
        "image folder": (ImageFolder(root / "train"), ImageFolder(root / "val")),
        "parts of one": {
            split: torch.utils.data.Subset(ImageFolder(root / split), range(len(of))) for split, of in splits.items()
        },
    }


def without_paths(root: Path) -> dict[str, Any]:
    """Objects that hold the images themselves, in the folder's order."""
    rows = rows_of(root)
    names = sorted({label for _, label, _ in rows})
    splits = {split: [row for row in rows if row[2] == split] for split in ("train", "val")}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    columns = {
        "image": [row[0].read_bytes() for row in rows],
        "label": [r[1] for r in rows],
        "split": [r[2] for r in rows],
    }
    pictures = {**columns, "image": [read_image(row[0]) for row in rows]}

    def pixels(path: Path) -> np.ndarray[Any, Any]:
        return np.asarray(read_image(path))

    def mapped(split: str) -> Mapped:
        of = splits[split]
        return Mapped(lambda index: (Image.open(of[index][0]), names.index(of[index][1])), len(of), names)

    return {
        "bytes in pandas": pd.DataFrame(columns),
        "bytes in polars": pl.DataFrame(columns),
        "stored by hugging face": pd.DataFrame(
            {**columns, "image": [{"bytes": content, "path": "a.jpg"} for content in columns["image"]]}
        ),
        "pictures in pandas": pd.DataFrame(pictures),
        "arrays": tuple([(pixels(path), label) for path, label, _ in splits[split]] for split in ("train", "val")),
        "tensors": {
            split: [(torch.from_numpy(pixels(path).copy()).permute(2, 0, 1), label) for path, label, _ in of]
            for split, of in splits.items()
        },
        "bytes in hugging face": datasets.DatasetDict(
            {
                split: datasets.Dataset.from_dict(
                    {
                        "image": [{"bytes": path.read_bytes(), "path": None} for path, *_ in of],
                        "label": [names.index(label) for _, label, _ in of],
                    },
                    features=features,
                ).with_format("torch")
                for split, of in splits.items()
            }
        ),
        "torch": (mapped("train"), mapped("val")),
    }
