"""Images as columns: the same data set as with a record for each image, bit for bit, in a fraction of the memory."""

from __future__ import annotations

import hashlib
import pickle
import random
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from zoo.data.dataset import Dataset, ImageFile, class_counts, labels_of, names_of, natural_key
from zoo.data.digests import DigestColumn, manifest_of
from zoo.data.listing import to_unchecked
from zoo.data.manifest import ImageManifest, ImageRows
from zoo.data.splits import SPLITS, split_stratified, to_dataset
from zoo.data.text_column import TextIndex, column_of
from zoo.errors import DataError
from zoo.specs.data import SourceImage, SourceListing, Split, split_named
from zoo.text import composed, printable
from zoo.training.proof import check_classes

ODD_NAMES = ("", "a", "/", "a/", "/a", "b/a", "b/ä", "b/한", "b/\udcff.jpg", "b/\ud800", "x" * 300, "b//a", "a\0b")
WORDS: dict[Split, str] = {"train": "training", "val": "valid", "test": "test"}


def naive_dataset(images: Sequence[SourceImage], place: Path, *, seed: int, folds: bool) -> Dataset:
    """The rules of splits as they are written down, with a record for each image."""
    by_split: dict[Split, dict[str, list[SourceImage]]] = {}
    for image in sorted(images, key=lambda image: image.name):
        split = split_named(image.split) if image.split else "train"
        assert split is not None
        by_split.setdefault(split, {}).setdefault(composed(printable(image.label)), []).append(image)
    classes = tuple(sorted(by_split["train"], key=natural_key))
    splits = {
        split: tuple(
            ImageFile(
                image.content if isinstance(image.content, Path) else place,
                printable(image.name),
                label,
                None if isinstance(image.content, Path) else image.content,
                name,
            )
            for label, name in enumerate(classes)
            for image in of_split.get(name, [])
        )
        for split, of_split in by_split.items()
    }
    notes: tuple[str, ...] = ()
    if folds:
        notes = ("val joins train: with folds every image is trained on",) if "val" in splits else ()
        joined = (*splits["train"], *splits.pop("val", ()))
        splits["train"] = tuple(sorted(joined, key=lambda file: file.label))
    elif "val" not in splits:
        held_out: set[str] = set()
        for name in classes:
            names = [file.relative for file in splits["train"] if file.named == name]
            order = random.Random(f"split/{seed}/{name}").sample(names, len(names))
            held_out.update(order[: max(1, round(0.2 * len(order)))])
        splits["val"] = tuple(file for file in splits["train"] if file.relative in held_out)
        splits["train"] = tuple(file for file in splits["train"] if file.relative not in held_out)
        notes = (f"val: 20% of every class, drawn from train with seed {seed}",)
    ordered = {split: splits[split] for split in SPLITS if split in splits}
    return Dataset(source="made up", folder=place, reader="own/made", classes=classes, splits=ordered, notes=notes)


def naive_digest(dataset: Dataset, contents: dict[str, str]) -> str:
    digest = hashlib.sha256("\0".join(dataset.classes).encode())
    for split, files in sorted(dataset.splits.items()):
        for file in files:
            digest.update(f"\n{split}\0{file.relative}\0{file.label}\0{contents[file.relative]}".encode())
    return digest.hexdigest()


def random_images(draw: random.Random) -> list[SourceImage]:
    """A listing as a data source may give it: any order, files or functions, classes written in two ways."""
    splits = draw.choice([[None], ["training"], ["training", "valid"], ["training", "test"], list(WORDS.values())])
    classes = draw.sample(
        ["cat", "class2", "class10", "Caf\u00e9", "Cafe\u0301", "d\udcff", "한", "0"], draw.randint(2, 6)
    )
    images = []
    for split in splits:
        for name in classes:
            for number in range(draw.randint(2, 9)):
                stem = f"{split}/{draw.choice(['', 'deep/', 'ä/'])}{name}-{number}{draw.choice(['', 'é', chr(0xDCFE)])}"
                content = draw.choice([Path("/data") / f"{stem}.jpg", Path("/data"), stem.swapcase, Path()])
                images.append(SourceImage(name=stem, label=name, content=content, split=split))  # type: ignore[arg-type]
    draw.shuffle(images)
    return images


def read(images: Sequence[SourceImage], *, seed: int = 0, folds: bool = False) -> Dataset:
    listing = SourceListing(images=images)
    unchecked = to_unchecked(listing, source="made up", path=Path("/made/up"), reader="own/made")
    return to_dataset(unchecked, seed=seed, folds=folds)


def content_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def without_readers(files: Sequence[ImageFile]) -> list[ImageFile]:
    """The records, with the function that reads each image in place of zoo's cover of it."""
    return [replace(file, reader=getattr(file.reader, "read", file.reader)) for file in files]


@pytest.mark.parametrize("seed", range(60))
def test_columns_give_the_data_set_of_the_rules_bit_for_bit(seed: int) -> None:
    draw = random.Random(seed)
    images, folds = random_images(draw), draw.random() < 0.3
    expected = naive_dataset(images, Path("/made/up"), seed=seed, folds=folds)
    dataset = read(images, seed=seed, folds=folds)
    assert dataset.classes == expected.classes and list(dataset.splits) == list(expected.splits)
    for split, files in expected.splits.items():
        found = dataset.splits[split]
        assert without_readers(found) == list(files) == without_readers([found[at] for at in range(len(found))])
        assert list(names_of(found)) == [file.relative for file in files]
        assert list(labels_of(found)) == [file.label for file in files]
        assert class_counts(found, len(dataset.classes)) == class_counts(files, len(dataset.classes))
        begin, step = draw.randint(-9, 9), draw.choice([-2, -1, 1, 2])
        assert without_readers(found[begin::step]) == list(files[begin::step])
    assert dataset.counts() == expected.counts()
    names = [file.relative for files in expected.splits.values() for file in files]
    contents = {name: content_of(name) for name in names}
    manifest = manifest_of(dataset)
    assert manifest is not None and manifest_of(expected) is None
    column = DigestColumn(manifest)
    for name in draw.sample(names, len(names)):
        column[name] = contents[name]
    assert dict(column) == contents
    digest = naive_digest(expected, contents)
    assert dataset.digest(contents) == dataset.digest(column) == expected.digest(contents) == digest
    left_out = {name: "broken" for name in draw.sample(names, draw.randint(0, 4))}
    fewer, expected_fewer = dataset.without(left_out), expected.without(left_out)
    assert fewer.skipped == expected_fewer.skipped
    assert fewer.digest(column) == naive_digest(expected_fewer, contents)


@pytest.mark.parametrize(
    "second, says",
    [
        (("cat", "training"), "x/1 is listed twice in made up"),
        (("dog", "training"), "x/1 is under two labels in made up, cat and dog"),
        (("dog", "test"), "x/1 is in two splits of made up, training and test"),
    ],
)
def test_a_repeated_name_is_refused_among_thousands(second: tuple[str, str], says: str) -> None:
    images = [
        SourceImage(name=f"x/{number}", label="dog" if number % 2 == 0 else "cat", content=Path(), split="training")
        for number in range(3000)
    ]
    label, split = second
    images.append(SourceImage(name="x/1", label=label, content=Path(), split=split))
    images.append(SourceImage(name="x/0", label="dog", content=Path(), split="training"))  # said later
    with pytest.raises(DataError, match=f"^{says}"):
        read(images)


def test_a_view_is_a_sequence_like_the_tuple_before() -> None:
    dataset = read(random_images(random.Random(1)))
    files = dataset.splits["train"]
    records = tuple(files)
    assert files == records and files == files[:] and files != records[1:] and files != list(records)
    assert files[-1] == records[-1] and files.index(records[1]) == 1 and records[2] in files
    assert list(reversed(files)) == list(reversed(records)) and files[:0] == ()
    with pytest.raises(IndexError):
        files[len(files)]
    with pytest.raises(TypeError):
        hash(files)
    made = ImageManifest.of_names(["a/1", "b/1"])
    assert pickle.loads(pickle.dumps(ImageRows(made, np.arange(2), np.arange(2)))) == ImageRows(
        made, np.arange(2), np.arange(2)
    )
    assert dataset == replace(dataset) and dataset.without({}).splits == dataset.splits


def test_an_image_knows_the_label_that_was_given_apart_from_the_one_it_has() -> None:
    images = [
        SourceImage(name=f"{number}", label="cat" if number < 9 else "dog", content=Path()) for number in range(20)
    ]
    dataset = read(images)
    assert check_classes(dataset, ("cat", "dog")).verdict == "passed"
    val = dataset.splits["val"]
    assert isinstance(val, ImageRows)
    moved = ImageRows(val.manifest, val.rows, 1 - val.label_of, val.classes)
    check = check_classes(replace(dataset, splits={**dataset.splits, "val": moved}), ("cat", "dog"))
    assert check.verdict == "failed" and len(check.evidence["mislabelled"]) == len(val)


def test_a_digest_that_is_not_known_is_no_digest() -> None:
    manifest = ImageManifest.of_names(["a/1", "a/2", "b/1"])
    files = ImageRows(manifest, np.arange(3), np.array([0, 0, 1]), ("a", "b"))
    column = DigestColumn(manifest)
    column["a/1"] = "ab" * 32
    assert column["a/1"] == "ab" * 32 and len(column) == 1 and "a/2" not in column
    with pytest.raises(KeyError, match="a/2"):
        list(column.of(files))
    with pytest.raises(KeyError, match="b/2"):
        column["b/2"] = "ab" * 32
    for wrong in ("ab", "ab" * 33, "no hexadecimal digits"):
        with pytest.raises(ValueError, match="hexadecimal"):
            column["b/1"] = wrong
    assert "b/1" not in column


def test_texts_come_back_as_they_were_given() -> None:
    draw = random.Random(0)
    texts = [draw.choice(ODD_NAMES) + "".join(draw.choices(ODD_NAMES, k=2)) for _ in range(40_000)]
    column = column_of(iter(texts))
    assert list(column) == texts and column[17] == texts[17] and column[-3:] == texts[-3:]
    rows = np.array(draw.choices(range(len(texts)), k=100))
    assert list(column.pick(rows)) == [texts[row] for row in rows]
    index = TextIndex(column)
    assert all(index.row(text) == texts.index(text) for text in draw.sample(texts, 50)) and index.row("none") is None
    seen: dict[str, int] = {}
    again = next((row, first) for row, text in enumerate(texts) if (first := seen.setdefault(text, row)) != row)
    assert index.repeated() == again and TextIndex(column_of(dict.fromkeys(texts))).repeated() is None
    assert list(column_of([])) == [] and TextIndex(column_of([])).row("a") is None


def synthetic(images: int, classes: int = 1000) -> Iterator[str]:
    for number in range(images):
        name = f"n{number * classes // images:08}"
        yield f"train/{name}/{name}_{number}.JPEG"


@pytest.mark.parametrize("images", [100_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_an_image_takes_at_most_200_bytes(images: int) -> None:
    manifest = ImageManifest.of_names(synthetic(images), Path("/data"))
    classes = tuple(f"n{label:08}" for label in range(1000))
    files = ImageRows(manifest, np.arange(images), np.arange(images) * 1000 // images, classes)
    train, val = split_stratified(files, classes, 0)
    dataset = Dataset(source="made up", classes=classes, splits={"train": train, "val": val})
    assert len(train) + len(val) == images and manifest.index.row(val[0].relative) == val.rows[0]
    stored = pickle.dumps((dataset, DigestColumn(manifest)))  # made again below, so that only what stays is counted
    tracemalloc.start()
    try:
        resident = pickle.loads(stored)
        traced, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert resident[0].splits["val"][0] == val[0]
    assert (traced + manifest.index.nbytes) / images < 120
