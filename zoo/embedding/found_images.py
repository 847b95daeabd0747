"""The images to embed: those of any data that zoo reads, labelled or not, in splits or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zoo.data.dataset import Dataset, ImageFile
from zoo.data.sources import DataLocation, find_data, read_unchecked
from zoo.data.splits import UncheckedData, no_images_message, to_dataset
from zoo.data.unused import unused_sentence
from zoo.errors import DataError
from zoo.events import Note, Report
from zoo.registry.registry import Registry
from zoo.specs.data import FOLDER, IMAGE_SUFFIXES, Skipped, is_image_name, not_an_image
from zoo.text import counted, file_named, some

_LOOSE = "not in a class folder"


@dataclass(frozen=True, slots=True)
class Described:
    """An image with what is known of it."""

    file: ImageFile
    label: str
    """The name of its class; empty where the data give it none."""
    split: str
    """`train`, `val` or `test`; empty where the data have no splits and cannot be trained on as they are."""


@dataclass(frozen=True, slots=True)
class ImagesFound:
    """Everything that is to be embedded, in the order in which a run takes it."""

    source: str
    """The data as people call them."""
    lists: tuple[tuple[Described, ...], ...]
    """One list for each split: images of different splits are never computed in one batch, as in a run."""
    skipped: tuple[Skipped, ...] = ()
    """Files that are not among them, with the reason."""

    def __len__(self) -> int:
        return sum(map(len, self.lists))

    def __iter__(self) -> Iterator[Described]:
        return (each for images in self.lists for each in images)


def find_images(data: Path, registry: Registry, report: Report, *, seed: int) -> ImagesFound:
    """Find every image of the data. None is opened.

    Data that can be trained on are read as `zoo.finetune` reads them, with the split that it would draw. Of anything
    else the images are listed with what is known of them: a folder without class folders has no labels. Images beside
    class folders have none either.

    Args:
        data: A folder, an image, or what a data source reads.
        registry: The data sources.
        report: Called with notes.
        seed: Draws val where the data have none.

    Raises:
        DataError: There is no such data, or no image in it.
    """
    # Unless a data source claims it: a file of its own kind may have any ending.
    if data.is_file() and is_image_name(data.name) and not registry.recognising(data):
        return ImagesFound(str(data), ((Described(ImageFile(data, data.name, 0), "", ""),),))
    location = find_data(data, registry, report)
    unchecked = read_unchecked(location, report=report)
    loose = _loose_images(unchecked, location)
    lists = [*_labelled(unchecked, report, seed=seed), loose]
    found = tuple(images for images in lists if images)
    if not found:
        if unchecked.reader == FOLDER:
            raise DataError(
                f"There are no images below {data}; they end in {', '.join(IMAGE_SUFFIXES)}.\n"
                "Next: give the folder that they are in, or one above it."
            )
        raise DataError(no_images_message(unchecked))
    if loose and len(found) > 1:
        names = some([each.file.relative for each in loose], 3)
        report(Note(text=f"{counted(len(loose), 'image')} beside the class folders: without a label ({names})."))
    skipped = _not_taken(unchecked, loose)
    if sentence := unused_sentence(skipped):
        report(Note(text=sentence, loud=True))
    return ImagesFound(unchecked.source, found, skipped)


def _not_taken(data: UncheckedData, loose: tuple[Described, ...]) -> tuple[Skipped, ...]:
    """Files that are not embedded. No file is left out for its folder, so the reason of a loose one is its name."""
    taken = {each.file.relative for each in loose}
    return tuple(
        not_an_image(file.relative) if file.reason == _LOOSE and not is_image_name(file.relative) else file
        for file in data.skipped
        if file.relative not in taken
    )


def _labelled(data: UncheckedData, report: Report, *, seed: int) -> Iterator[tuple[Described, ...]]:
    try:
        dataset = to_dataset(data, seed=seed)
    except DataError:  # it cannot be trained on, which nobody asked for
        for note in data.notes:
            report(Note(text=note))
        yield from _as_they_are(data)
        return
    for note in dataset.notes:
        report(Note(text=note))
    yield from _of_dataset(dataset)


def _of_dataset(dataset: Dataset) -> Iterator[tuple[Described, ...]]:
    for split, files in dataset.splits.items():
        yield tuple(Described(file, dataset.classes[file.label], split) for file in files)


def _as_they_are(data: UncheckedData) -> Iterator[tuple[Described, ...]]:
    for split, by_class in data.splits.items():
        yield tuple(
            # There are no classes to number: the label stands beside it as a name.
            Described(ImageFile(file.path, file.relative, 0, file.reader), name, split if data.split_names else "")
            for name, files in by_class.items()
            for file in files
        )


def _loose_images(data: UncheckedData, location: DataLocation) -> tuple[Described, ...]:
    """Images that lie in no class folder."""
    if data.reader != FOLDER:
        return ()
    names = [each.relative for each in data.skipped if each.reason == _LOOSE and is_image_name(each.relative)]
    return tuple(Described(ImageFile(file_named(location.path, name), name, 0), "", "") for name in names)
