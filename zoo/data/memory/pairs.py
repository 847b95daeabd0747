"""Read a list of pairs (image, label)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.data.memory.class_names import ClassNames
from zoo.data.memory.contents import KINDS, Item, content_of, looks_like_path, refuse_missing_files
from zoo.data.memory.pictures import described, is_array, is_picture, is_tensor
from zoo.data.memory.tables import Part
from zoo.errors import DataError
from zoo.text import counted


def is_pair(value: Any) -> bool:
    """Whether a value is a tuple or list of two that can be an image and a label, in either order."""
    # Two paths of images are two images: neither is the label of the other.
    if not isinstance(value, (tuple, list)) or len(value) != 2 or all(map(looks_like_path, value)):
        return False
    return any(_may_be_image(one) and not _is_data(other) for one, other in (value, value[::-1]))


def read_pairs(pairs: Sequence[Any], labels: ClassNames, *, key: str | None) -> Part:
    """Read a list of (image, label), whose images stay where they are.

    Args:
        pairs: An image is a path, the bytes of a file, a PIL image, an array or a tensor.
        labels: Makes class names.
        key: The split that they are all in; None: they have no split.

    Raises:
        DataError: The list is empty; an entry is no pair, is the wrong way round or has nothing that can be an image or
            a label; or a path leads to no file.
    """
    what = f"a list of {counted(len(pairs), 'image')}"
    if not pairs:
        raise DataError("The list of images is empty.\nNext: give one pair (image, label) for every image.")
    for index, pair in enumerate(pairs):
        _refuse_no_pair(pair, index, what)
    names = labels.of([pair[1] for pair in pairs], data=what, where=_where)

    def read(index: int) -> Any:
        return pairs[index][0]

    items = [
        Item(content_of(pair[0], read, index, data=what, where=_where(index)), names[index], f"{index:07d}", key, key)
        for index, pair in enumerate(pairs)
    ]
    refuse_missing_files(items, _where, what)
    return Part(lambda: items, what)


def _where(index: int) -> str:
    return f"entry {index}"


def _refuse_no_pair(pair: Any, index: int, what: str) -> None:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        of = f" of {len(pair)}" if isinstance(pair, (tuple, list)) else ""
        raise DataError(
            f"{what}: {_where(index)} is {described(pair)}{of}, and no pair (image, label).\n"
            f"Next: give a tuple of two for every image. An image is {KINDS}, a label a text or a whole number."
        )
    image, label = pair
    if _in_memory(label) or looks_like_path(label):
        if _in_memory(image) or looks_like_path(image):
            return  # what is no label is refused as one
        raise DataError(
            f"{what}: {_where(index)} is (label, image), with {described(image)} first.\n"
            "Next: turn every pair round: (image, label)."
        )


def _in_memory(value: Any) -> bool:
    return isinstance(value, bytes) or (is_picture(value) and not _scalar(value))


def _may_be_image(value: Any) -> bool:
    return isinstance(value, (str, bytes)) or hasattr(value, "__fspath__") or is_picture(value)


def _is_data(value: Any) -> bool:
    """Whether a value has a length as data have, and is no text, bytes, path or number."""
    return hasattr(value, "__len__") and not isinstance(value, (str, bytes)) and not _scalar(value)


def _scalar(value: Any) -> bool:
    return (is_array(value) or is_tensor(value)) and value.shape == ()
