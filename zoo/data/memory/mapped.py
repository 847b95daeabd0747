"""Read a data set that gives (image, label) by its index, as those of torch and torchvision do.

What its items say is known only by asking for them, so each is asked for once here. Nothing says that an object may be
used by several threads, so items are asked for under a lock, one after the other. Files that an ImageFolder lists are
read without it: no lock, and by zoo itself.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.data.memory.class_names import ClassNames
from zoo.data.memory.contents import Cell, Content, Item, content_of, refuse_missing_files
from zoo.data.memory.pictures import described, is_picture
from zoo.data.memory.tables import Part
from zoo.errors import DataError, OtherAnswer
from zoo.events import Progress, Report
from zoo.registry.entry_points import one_line
from zoo.text import counted

_ASKED_TWICE = 32
"""Items that are asked for twice before anything else. Later every item is compared with what it was at first."""


def is_mapped(data: Any) -> bool:
    """Whether an object gives items by their index and knows how many there are."""
    return not isinstance(data, (str, bytes, Mapping)) and hasattr(data, "__getitem__") and _length(data) is not None


def read_mapped(dataset: Any, labels: ClassNames, report: Report, *, key: str | None) -> Part:
    """Read the labels of a data set; its images stay where they are.

    Args:
        dataset: Gives (image, label) for every index: a PIL image, an array uint8[H, W, 3] or a tensor uint8[3, H, W].
            All are asked for when the items are listed.
        labels: Makes class names.
        report: Called with Progress.
        key: The split that the whole data set is; None: it has no splits.

    Raises:
        OtherAnswer: An item is another one when it is asked for twice, as with random transforms.
        DataError: There is no item, or one is no pair, or has nothing that can be an image or a label.
    """
    length = _length(dataset)
    what = f"a data set {type(dataset).__name__} of {counted(length or 0, 'image')}"
    if not length:
        raise DataError(f"{what}: it is empty.\nNext: give one with images.")
    files = _files(dataset)
    if files is not None:
        paths, numbers, classes, name = files
        items = [
            Item(content_of(path, paths.__getitem__, index, data=what, where=_where(index)), label, "", key, key)
            for index, (path, label) in enumerate(
                zip(paths, labels.of(numbers, data=what, where=_where, names=classes), strict=True)
            )
        ]
        refuse_missing_files(items, _where, what)
        return Part(lambda: items, f"an {name} of {counted(length, 'image')}")
    asked = _Asked(dataset, what)
    asked.first(0)  # before anything else is looked at: most faults are those of all items
    return Part(lambda: _read_all(dataset, asked, length, labels, report, key), what)


def _read_all(
    dataset: Any, asked: _Asked, length: int, labels: ClassNames, report: Report, key: str | None
) -> list[Item]:
    what = asked.what
    contents: list[Content] = []
    given: list[Any] = []
    for index in range(length):
        content, label = asked.first(index)
        contents.append(content)
        given.append(label)
        report(Progress(task="read labels", done=index + 1, total=length))
    names = _class_names(dataset, what)
    named = labels.of(given, data=what, where=_where, names=None if names and _are_texts(given) else names)
    # Spread over all of it. One that is read from a file by zoo is the same every time.
    for index in range(0, length, max(1, length // _ASKED_TWICE)):
        if isinstance(contents[index], Cell):
            asked.again(index)
    items = [
        Item(content, label, f"{index:07d}", key, key)
        for index, (content, label) in enumerate(zip(contents, named, strict=True))
    ]
    refuse_missing_files(items, _where, what)
    return items


class _Asked:
    """The items of a data set, and what each was when it was first asked for."""

    def __init__(self, dataset: Any, what: str) -> None:
        self._dataset = dataset
        self.what = what
        self._digests: dict[int, bytes] = {}
        self._lock = threading.Lock()

    def first(self, index: int) -> tuple[Content, Any]:
        """Return an item's content and its label. Raises DataError for what cannot be one."""
        image, label = self._pair(index)
        content = content_of(image, lambda _: image, index, data=self.what, where=_where(index))
        if not isinstance(content, Cell):
            return content, label
        self._digests[index] = _digest(content(), label)
        return Cell(self.again, index), label

    def again(self, index: int) -> bytes:
        """Return the bytes of an item's image. Raises OtherAnswer if it is another one than at first."""
        image, label = self._pair(index)
        content = Cell(lambda _: image, index)()
        if _digest(content, label) != self._digests[index]:
            raise OtherAnswer(
                f"{self.what} gives something else for {_where(index)} each time it is asked, as with a random "
                "transform. zoo keeps what it computes of an image, so images must be the same every time.\n"
                "Next: leave the random transforms out; recipes bring augmentation (zoo.list_recipes())."
            )
        return content

    def _pair(self, index: int) -> tuple[Any, Any]:
        try:
            with self._lock:
                item = self._dataset[index]
        except Exception as error:
            raise DataError(
                f"{self.what}: asked for {_where(index)}, it raised {one_line(error)}.\n"
                "Next: mend the data set, or leave this image out: torch.utils.data.Subset(dataset, indices)."
            ) from error
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            of = f" of {len(item)}" if isinstance(item, (tuple, list)) else ""
            keys = f" with {', '.join(map(str, item))}" if isinstance(item, Mapping) else ""
            raise DataError(
                f"{self.what}: {_where(index)} is {described(item)}{of}{keys}, and no pair (image, label).\n"
                "Next: let it give a tuple of two, (image, label)."
            )
        image, label = item
        if is_picture(label) and not is_picture(image) and label.shape != ():
            raise DataError(
                f"{self.what}: {_where(index)} is (label, image).\nNext: let it give a tuple (image, label)."
            )
        return image, label


def _files(dataset: Any) -> tuple[Sequence[str], Sequence[int], Sequence[str], str] | None:
    """(paths, class numbers, class names, type) of an ImageFolder without transforms, or of a part of one."""
    # By name: nothing of torch or torchvision is imported here, which the data set has done already.
    kinds: dict[str, Any] = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in type(dataset).__mro__}
    if type(dataset) is kinds.get("torch.utils.data.dataset.Subset"):
        whole = _files(dataset.dataset)
        if whole is None:
            return None
        paths, numbers, classes, name = whole
        chosen = [int(index) for index in dataset.indices]
        return [paths[index] for index in chosen], [numbers[index] for index in chosen], classes, f"{name} (a part)"
    folder = kinds.get("torchvision.datasets.folder.DatasetFolder")
    # A subclass that gives its items itself may give anything else than these files.
    if folder is None or type(dataset).__getitem__ is not folder.__getitem__:
        return None
    transforms = (getattr(dataset, name, None) for name in ("transform", "target_transform", "transforms"))
    loader = getattr(dataset.loader, "__name__", "")
    # These loaders give the whole picture of an image file. Any other may crop it, or read files of another kind.
    if any(each is not None for each in transforms) or loader not in ("default_loader", "pil_loader"):
        return None
    paths, numbers = zip(*dataset.samples, strict=True)
    # ImageNet has several words for a class.
    names = [name if isinstance(name, str) else ", ".join(name) for name in dataset.classes]
    return paths, numbers, names, type(dataset).__name__


def _class_names(dataset: Any, what: str) -> list[str] | None:
    """The names that a data set has for its numbers; None where it has none, or changes the numbers.

    Raises DataError for one that is put together of others which mean different classes by the same number.
    """
    kinds = {kind.__qualname__ for kind in type(dataset).__mro__}
    # Its numbers are no longer those that `classes` names.
    if getattr(dataset, "target_transform", None) is not None:
        return None
    if "Subset" in kinds:
        return _class_names(dataset.dataset, what)
    if "ConcatDataset" in kinds:
        first, *others = (_class_names(part, what) for part in dataset.datasets)
        if any(other != first for other in others):
            raise DataError(
                f"{what} is put together of data sets with other classes, so the same number means different ones.\n"
                "Next: give lists of pairs (image, class name)."
            )
        return first
    names = getattr(dataset, "classes", None)
    if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
        return list(names)
    return None


def _are_texts(labels: Sequence[Any]) -> bool:
    return any(isinstance(label, str) for label in labels)


def _digest(content: bytes, label: Any) -> bytes:
    return hashlib.sha256(content + repr(label).encode()).digest()


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except (TypeError, NotImplementedError, AttributeError):
        return None


def _where(index: int) -> str:
    return f"item {index}"
