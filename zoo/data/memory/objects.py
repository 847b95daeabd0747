"""Objects that stand for data: which kind each is, its splits, and the listing that everything after works with."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.data.memory.class_names import ClassNames
from zoo.data.memory.contents import Item, shared_folder
from zoo.data.memory.frames import frame_of, is_dataset_dict
from zoo.data.memory.mapped import is_mapped, read_mapped
from zoo.data.memory.pairs import is_pair, read_pairs
from zoo.data.memory.pictures import described, is_array, is_tensor
from zoo.data.memory.tables import Part, read_table
from zoo.errors import DataError, OptionError, OtherAnswer, meant
from zoo.events import Report
from zoo.registry.registry import Registry
from zoo.registry.session import SESSION, SessionRegistry
from zoo.specs.data import SPLIT_NAMES, DataSourceSpec, SourceImage, SourceListing, TableData, split_named

NAME = "data"
"""The name of the data source that an object becomes: `session/data`."""
ACCEPTED = (
    "a path; a table of pandas, polars or Hugging Face datasets; a list of pairs (image, label); a data set that gives "
    "(image, label) by its index; (train, val) or {'train': ..., 'val': ..., 'test': ...} of them"
)
"""What data may be, in words."""
_ARGUMENT = re.compile(r"\w+=")
"""How a message begins that is about an argument, such as `image='img'`."""


def is_path(data: object) -> bool:
    """Whether data are named by a path, or not given at all, and so are no object."""
    return data is None or isinstance(data, (str, os.PathLike))


def register(data: Any, registry: Registry, report: Report, *, described_as: str = "") -> tuple[Path, Registry]:
    """Return what a request names an object by, and a registry in which that is found.

    What cannot be read is refused here, before anything runs. Only the items of a data set that must all be asked for
    are listed later, when names and options of a run are known to be right.

    Args:
        data: See `ACCEPTED`, or a `TableData`. The images stay where they are, and are read when they are needed.
        registry: Where all other names are looked up.
        report: Called with Progress where labels are known only by reading every item.
        described_as: The words for the data of a run that goes on. Default: what the object is.

    Raises:
        DataError: It is nothing that can be data, or a part of it is not.
        OptionError: A column that is asked for does not exist.
        OtherAnswer: It gives other images each time that it is asked, as with random transforms.
    """
    with _sentences():
        parts = list(_parts(data, ClassNames(), report))
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))

    # Once for all that read this source: asking a data set for its items may take as long as decoding them.
    @functools.cache
    def listing() -> SourceListing:
        with _sentences():
            return SourceListing(images=_images([item for part in parts for item in part.items()]), notes=notes)

    words = described_as or "; ".join(part.what for part in parts)
    # No path leads here, only its name.
    spec = DataSourceSpec(name=NAME, summary=words, recognises=lambda path: False, read=lambda path: listing())
    return Path(f"{SESSION}/{NAME}:{words}"), SessionRegistry(registry, data_sources=[spec])


def with_columns(data: Any, *, image: str | None, label: str | None, split: str | None) -> Any:
    """Return the data with the names of columns, where any is given. Raises OptionError for what has no columns."""
    columns = {key: value for key, value in (("image", image), ("label", label), ("split", split)) if value is not None}
    if not columns:
        return data
    if isinstance(data, TableData):
        return replace(data, **columns)
    if is_dataset_dict(data) or (isinstance(data, Mapping) and data and all(map(_has_columns, data.values()))):
        return {key: with_columns(part, image=image, label=label, split=split) for key, part in data.items()}
    if isinstance(data, tuple) and data and all(map(_has_columns, data)):
        return tuple(with_columns(part, image=image, label=label, split=split) for part in data)
    if _has_columns(data):
        return TableData(data, **columns)
    given = ", ".join(f"{key}={value!r}" for key, value in columns.items())
    what = f"the path {str(data)!r}" if is_path(data) and data is not None else described(data)
    raise OptionError(
        f"{given} names columns of a table in memory, and data is {what}.\n"
        "Next: leave that out; a table in a file names its columns path, label and split."
    )


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    """Let messages, most of which begin with what the data are in words, begin with a capital."""
    try:
        yield
    except (DataError, OptionError, OtherAnswer) as error:
        text = str(error)
        if not _ARGUMENT.match(text):
            text = text[:1].upper() + text[1:]
        raise type(error)(text) from error.__cause__


def _has_columns(data: Any) -> bool:
    return isinstance(data, TableData) or frame_of(data) is not None


def _parts(data: Any, labels: ClassNames, report: Report) -> Iterator[Part]:
    if isinstance(data, Mapping):
        _refuse_no_splits(data)
        for key, part in data.items():
            read = _part(part, labels, report, key=str(key))
            yield replace(read, what=f"{key}: {read.what}")
    # A tuple of two may also be one pair (image, label), or hold two pairs.
    elif isinstance(data, tuple) and len(data) == 2 and not is_pair(data) and not all(map(is_pair, data)):
        _refuse_images_apart(data)
        for key, part in zip(("train", "val"), data, strict=True):
            read = _part(part, labels, report, key=key)
            yield replace(read, what=f"{key}: {read.what}")
    elif isinstance(data, tuple) and len(data) > 2 and all(map(_is_whole, data)):
        raise DataError(
            f"The data are {len(data)} in a tuple; two are (train, val).\n"
            "Next: name them, {'train': ..., 'val': ..., 'test': ...}."
        )
    elif isinstance(data, list) and len(data) > 1 and all(map(_is_whole, data)):
        # As `random_split` returns splits. Parts of one split come in lists, too, so that it is not guessed.
        in_order = "data=tuple(parts) takes them as (train, val)" if len(data) == 2 else "name them"
        named = ", ".join(
            f"'{split}': parts[{number}]" for number, split in enumerate(("train", "val", "test")[: len(data)])
        )
        raise DataError(
            f"The data are a list of {len(data)} data sets, and it does not say which of them is which split.\n"
            f"Next: {in_order}{', or name them' if len(data) == 2 else ''}: data={{{named}}}."
        )
    else:
        yield _part(data, labels, report, key=None)


def _is_whole(data: Any) -> bool:
    """Whether an object is a table, a list of pairs or a data set rather than a pair."""
    if isinstance(data, (list, tuple)):
        return not is_pair(data) and all(isinstance(each, (list, tuple)) for each in data[:1])
    return _has_columns(data) or (is_mapped(data) and not is_array(data) and not is_tensor(data))


def _part(data: Any, labels: ClassNames, report: Report, *, key: str | None) -> Part:
    table = data if isinstance(data, TableData) else TableData(data)
    frame = frame_of(table.frame)
    if frame is not None:
        return read_table(table, frame, labels, key=key)
    if isinstance(data, TableData):
        raise DataError(
            f"The table is {described(data.frame)}.\n"
            "Next: give one of pandas, polars or Hugging Face datasets; other libraries have to_pandas()."
        )
    if isinstance(data, (list, tuple)) and not is_pair(data):
        return read_pairs(data, labels, key=key)
    if is_mapped(data) and not isinstance(data, (list, tuple)) and not is_array(data) and not is_tensor(data):
        return read_mapped(data, labels, report, key=key)
    raise DataError(_no_data(data))


def _images(items: Sequence[Item]) -> list[SourceImage]:
    """The images in the order in which a folder of them is read: by the folders and names of their paths."""
    root = shared_folder(items)
    named = [(_name(item, root), item) for item in items]
    # Part by part, as folders are walked through: as a text, `a-b/1` would come before `a/1`.
    named.sort(key=lambda each: each[0].split("/"))
    return [SourceImage(name=name, label=item.label, content=item.content, split=item.split) for name, item in named]


def _name(item: Item, root: Path | None) -> str:
    """The path below the folder that all files share; the position of an image without one."""
    if isinstance(item.content, Path):
        return (item.content if root is None else item.content.relative_to(root)).as_posix()
    return item.position if item.key is None else f"{item.key}/{item.position}"


def _refuse_no_splits(data: Mapping[Any, Any]) -> None:
    if not data:
        raise DataError("The dictionary of data is empty.\nNext: give {'train': ..., 'val': ...}.")
    for key in data:
        if not isinstance(key, str) or split_named(key) is None:
            raise DataError(
                f"The data are a dictionary with the key {key!r}, which is no split.{meant(str(key), SPLIT_NAMES)}\n"
                "Next: its keys are train, val and test. Columns of images and labels are a table: "
                "pandas.DataFrame(data)."
            )


def _refuse_images_apart(data: tuple[Any, Any]) -> None:
    images, labels = data
    scalars = isinstance(labels, (list, tuple)) and labels and all(isinstance(each, (str, int)) for each in labels)
    if is_array(images) or is_tensor(images) or is_array(labels) or scalars:
        raise DataError(
            "The data are images and labels apart.\nNext: list(zip(images, labels)) makes pairs of them. Of two data "
            "sets, the first is to train on, the second to validate on."
        )


def _no_data(data: Any) -> str:
    if isinstance(data, (str, os.PathLike)):
        return (
            f"A part of the data is the path {os.fspath(data)!r}.\n"
            "Next: give the path alone, zoo finds train, val and test below it; or a list of pairs (image, label)."
        )
    if is_pair(data):
        return f"The data are a single pair (image, label).\nNext: give a list of pairs, such as [{data!r:.60}]."
    if is_array(data) or is_tensor(data):
        return (
            f"The data are an array of shape {[int(side) for side in data.shape]}, without labels.\n"
            "Next: list(zip(images, labels)) makes pairs (image, label)."
        )
    kinds = [kind.__qualname__ for kind in type(data).__mro__]
    if "DataLoader" in kinds:
        return "The data are a DataLoader, which gives batches.\nNext: give its data set: loader.dataset."
    what = f"The data are {described(data)}"
    if hasattr(data, "__iter__") or hasattr(data, "__getitem__"):
        return (
            f"{what}, without a length or without items by index, and zoo must see every image more than once.\n"
            "Next: list(...) makes a list of pairs (image, label) of it; a torch data set must be of the map style."
        )
    return f"{what}.\nNext: data are {ACCEPTED}."
