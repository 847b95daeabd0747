"""A data source: pictures in one folder that are named by their label, such as `cat_001.jpg`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import zoo


def _recognises(path: Path) -> bool:
    return path.is_dir() and not any(each.is_dir() for each in path.iterdir()) and any(path.glob("*_*.jpg"))


def _read(path: Path) -> zoo.SourceListing:
    images: list[zoo.SourceImage] = []
    skipped: list[zoo.Skipped] = []
    for file in path.iterdir():
        label, _, _ = file.stem.rpartition("_")
        if not zoo.is_image_name(file.name):
            skipped.append(zoo.Skipped(file.name, "not an image"))
        elif not label:
            skipped.append(zoo.Skipped(file.name, "no label", "LABEL_NUMBER.jpg is expected"))
        else:
            images.append(zoo.SourceImage(name=file.name, label=label, content=file))
    return zoo.SourceListing(images=images, skipped=skipped)


@zoo.hookimpl
def zoo_data_sources() -> Iterable[zoo.DataSourceSpec]:
    summary = "One folder of pictures that are named by their label, such as cat_001.jpg."
    return [zoo.DataSourceSpec(name="flat", summary=summary, recognises=_recognises, read=_read)]
