"""What several processes compare before any trusts another: every name and label, and the content of some files."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zoo.data.dataset import Dataset, ImageFile
from zoo.data.manifest import ImageManifest, ImageRows
from zoo.distributed.group import ProcessGroup
from zoo.errors import Refused
from zoo.planning.same_files import SAMPLE, refuse_other_files


class OneOfTwo(ProcessGroup):
    """Process 0, whose companion has what is put in place of what it gathers itself."""

    count = 2

    def __init__(self, others: Callable[[Any], Any] = lambda value: value) -> None:
        self._others = others

    def gather(self, value: Any) -> list[Any]:
        return [value, self._others(value)]


def made_up(images: int) -> Dataset:
    """Images that nobody has."""
    manifest = ImageManifest.of_names((f"{n % 10}/{n}.jpg" for n in range(images)), Path("/nowhere"))
    rows = np.arange(images)
    classes = tuple(map(str, range(10)))
    splits = {"train": ImageRows(manifest, rows[:-100], rows[:-100] % 10, classes)}
    splits["val"] = ImageRows(manifest, rows[-100:], rows[-100:] % 10, classes)
    return Dataset(source="made up", classes=classes, splits=dict(splits))


def test_many_images_are_compared_without_an_object_for_each() -> None:
    dataset = made_up(30_000)
    tracemalloc.start()
    try:
        refuse_other_files(dataset, OneOfTwo())
        assert tracemalloc.get_traced_memory()[1] < 100 * 30_000
    finally:
        tracemalloc.stop()


def test_the_first_difference_is_named_whatever_holds_the_images(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number}.jpg").write_bytes(bytes([number]))
    files = tuple(ImageFile(tmp_path / f"{n}.jpg", f"{n}.jpg", n % 2, named="ab"[n % 2]) for n in range(200))
    dataset = Dataset(source="x", classes=("a", "b"), splits={"train": files[:150], "val": files[150:]})
    refuse_other_files(dataset, OneOfTwo())

    def relabelled(value: Any) -> Any:
        return "another digest" if isinstance(value, str) else {**value, "val": {**value["val"], "199.jpg": "a"}}

    with pytest.raises(Refused, match=r"199\.jpg is 'b' in process 0, and 'a' in process 1"):
        refuse_other_files(dataset, OneOfTwo(relabelled))
    drawn = sorted(random.Random("files of all processes").sample(range(200), SAMPLE))
    changed = OneOfTwo(lambda value: [*value[:-1], "other"] if isinstance(value, list) else value)
    with pytest.raises(Refused, match=rf"process 1 has other content in {drawn[-1]}\.jpg than process 0"):
        refuse_other_files(dataset, changed)
