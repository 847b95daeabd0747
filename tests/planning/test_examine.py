"""Images are opened in parts, and too many that cannot be read end that as early as they are too many."""

from __future__ import annotations

import gc
import hashlib
import random
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from zoo.data.dataset import Dataset, ImageFile
from zoo.data.decoded import DecodedFiles
from zoo.data.manifest import ImageManifest, ImageRows
from zoo.data.readings import PLAIN, Readings
from zoo.data.sample import sample_image
from zoo.data.store import ImageStore
from zoo.data.text_column import column_of
from zoo.errors import DataError
from zoo.events import Event, Progress
from zoo.planning.examine import PART_DIGEST, examine, examine_part, examine_rest
from zoo.specs.preprocessing import Preprocessing

SMALL = Preprocessing(input_size=(3, 8, 8), resize_size=(8, 8), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def many(folder: Path, count: int, bad: range) -> Dataset:
    """So many names for one small picture, in two classes; of those in `bad`, for a file that is none."""
    good, broken = folder / "good.png", folder / "broken.png"
    sample_image(0, 2, "train", 0).resize((12, 12)).save(good)
    broken.write_bytes(b"no picture")
    files = tuple(ImageFile(broken if number in bad else good, f"{number}.png", number % 2) for number in range(count))
    half = count // 2
    return Dataset(source=str(folder), classes=("a", "b"), splits={"train": files[:half], "val": files[half:]})


@pytest.fixture
def store() -> ImageStore:
    return ImageStore(SMALL, workers=2, budget=0)


class Counting:
    def __init__(self) -> None:
        self.opened: list[int] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress):
            self.opened.append(event.done)


def test_a_part_and_the_rest_are_the_whole(tmp_path: Path, store: ImageStore) -> None:
    dataset = many(tmp_path, 600, range(300, 304))
    whole = examine(dataset, ImageStore(SMALL, workers=1, budget=0), Counting())
    part = examine_part(dataset, store, Counting(), most=50, seed=0)
    assert part.digest.startswith(PART_DIGEST) and len(part.contents) <= 50 and part.scale == 12
    counting = Counting()
    rest = examine_rest(dataset, part, store, counting)
    assert counting.opened == list(range(51, 601))
    assert (rest.digest, rest.dataset, rest.contents) == (whole.digest, whole.dataset, whole.contents)
    assert rest.faults == whole.faults and len(rest.faults) == 4


def test_too_many_bad_files_end_it_before_all_are_opened(tmp_path: Path, store: ImageStore) -> None:
    dataset = many(tmp_path, 5_000, range(1_000, 1_060))
    part = examine_part(dataset, store, Counting(), most=10, seed=0)
    counting = Counting()
    with pytest.raises(DataError, match=r"60 of 5000 images cannot be read, among the first 2,010 that were opened;"):
        examine_rest(dataset, part, store, counting)
    assert counting.opened[-1] == 2_010


def test_all_are_opened_in_parts_too_and_end_as_early(tmp_path: Path, store: ImageStore) -> None:
    dataset, counting = many(tmp_path, 5_000, range(1_000, 1_060)), Counting()
    with pytest.raises(DataError, match=r"60 of 5000 images cannot be read, among the first 2,000 that were opened;"):
        examine(dataset, store, counting)
    assert counting.opened[-1] == 2_000


@dataclass(frozen=True)
class Member:
    """The bytes of an image in a shard, which notes where it was read."""

    content: bytes
    place: tuple[str, int, int]
    read: list[tuple[str, int, int]]

    def __call__(self) -> bytes:
        self.read.append(self.place)
        return self.content


def test_shards_are_walked_through_once_however_few_images_are_opened_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(tmp_path, 1, range(0))
    content, read = (tmp_path / "good.png").read_bytes(), list[tuple[str, int, int]]()
    places = random.Random(0).sample([(f"{shard}.tar", at, 0) for shard in range(3) for at in range(20)], 60)
    files = [ImageFile(Path("x"), f"{n}", n % 2, Member(content, place, read)) for n, place in enumerate(places)]
    dataset = Dataset(source="x", classes=("a", "b"), splits={"train": files[:40], "val": files[40:]})
    monkeypatch.setattr("zoo.planning.examine.AT_ONCE", 7)
    whole = examine(dataset, ImageStore(SMALL, workers=1, budget=0), Counting())
    assert read == sorted(places)
    read.clear()
    store = ImageStore(SMALL, workers=1, budget=0)
    part = examine_part(dataset, store, Counting(), most=12, seed=0)
    assert read == sorted(read) and len(read) == 12
    rest = examine_rest(dataset, part, store, Counting())
    assert read[12:] == sorted(read[12:]) and len(read) == 60 and rest.digest == whole.digest


def test_a_part_of_which_nothing_to_train_on_can_be_read_is_refused(tmp_path: Path, store: ImageStore) -> None:
    dataset = many(tmp_path, 5_000, range(0))
    drawn = examine_part(dataset, store, Counting(), most=10, seed=0).opened["train"]
    places = {file.relative for file in drawn}
    broken = tmp_path / "broken.png"
    splits = {
        split: tuple(
            ImageFile(broken, file.relative, file.label) if file.relative in places else file for file in files
        )
        for split, files in dataset.splits.items()
    }
    dataset = Dataset(source=dataset.source, classes=dataset.classes, splits=splits)
    with pytest.raises(DataError, match=r"None of 5 training images, drawn from 5,000 images, can be read:"):
        examine_part(dataset, ImageStore(SMALL, workers=1), Counting(), most=10, seed=0)


def test_sizes_of_files_that_were_not_opened_are_in_the_digest(tmp_path: Path, store: ImageStore) -> None:
    dataset = many(tmp_path, 100, range(99, 100))
    (last,) = [file for file in dataset.splits["val"] if file.relative == "99.png"]
    seed = next(
        seed
        for seed in range(20)
        if last not in examine_part(dataset, ImageStore(SMALL, workers=1), Counting(), most=10, seed=seed).opened["val"]
    )
    before = examine_part(dataset, store, Counting(), most=10, seed=seed).digest
    last.path.write_bytes(b"no picture either")
    after = examine_part(dataset, ImageStore(SMALL, workers=1), Counting(), most=10, seed=seed).digest
    assert before != after


@dataclass(frozen=True)
class Content:
    """Reads the bytes of an image that is no file of its own."""

    content: bytes

    def __call__(self) -> bytes:
        return self.content


def listed(folder: Path, count: int, bad: range = range(0)) -> Dataset:
    """So many names as columns, each of a file of its own content; of those in `bad`, of no picture."""
    many(folder, 1, range(0))
    picture = (folder / "good.png").read_bytes()
    contents = [b"no picture" if number in bad else picture + b"%d" % number for number in range(count)]
    names = column_of(f"class{number % 2}/{number:07}.png" for number in range(count))
    in_one_file, readers = column_of([""] * count), [Content(content) for content in contents]
    manifest = ImageManifest(names, folder, in_one_file, readers=readers)
    order = np.random.default_rng(0).permutation(count)  # splits have another order than the manifest
    classes = ("class0", "class1")
    train, val = (ImageRows(manifest, rows, rows % 2, classes) for rows in np.split(order, [count // 2]))
    return Dataset(source=str(folder), classes=classes, splits={"train": train, "val": val})


def silent(event: Event) -> None:
    """Do nothing."""


@pytest.mark.long
@pytest.mark.parametrize("count, decoded_before", [(10_000, True), (1_000, False)])
def test_what_a_run_knows_of_an_image_takes_a_hundred_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, decoded_before: bool
) -> None:
    """Beside the list: that it is there, its digest, that it can be decoded, where its pixels are on the disk."""
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    dataset = listed(tmp_path, count)
    if decoded_before:
        files = [file for files in dataset.splits.values() for file in files]
        DecodedFiles(SMALL).add(Readings.of({hashlib.sha256(file.content()).hexdigest(): PLAIN for file in files}))
        del files
    # What is imported and made once is no matter of how many images there are.
    examine(listed(tmp_path, 10), ImageStore(SMALL, workers=1, budget=0), silent)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        store = ImageStore(SMALL, workers=1, budget=0, disk_budget=1 << 30, known=DecodedFiles(SMALL))
        examined = examine(dataset, store, silent)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    store.close()
    # Of fewer images, what is there once counts for more of each.
    assert len(examined.contents) == count and held / count < (100 if decoded_before else 200)
