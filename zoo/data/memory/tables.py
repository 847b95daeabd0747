"""Read a table in memory: which columns hold images, labels and splits, and what every row says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.data.memory.class_names import ClassNames, is_missing, refuse_missing
from zoo.data.memory.contents import Item, content_of, refuse_missing_files
from zoo.data.memory.frames import ColumnTable
from zoo.errors import DataError, OptionError, meant
from zoo.specs.data import TableData, split_named

_PATHS_TOO = ("path", "file_name")
"""Columns that hold images where there is no column `image`: those of zoo's own tables in files."""
_MOST_WORDS = 8
"""No column of splits holds more words."""


@dataclass(frozen=True, slots=True)
class Part:
    """Images of one object: a table, a list, a data set."""

    items: Callable[[], list[Item]]
    """Lists them. Where that takes time, it is done when it is first called."""
    what: str
    """The object in words."""
    notes: list[str] = field(default_factory=list)
    """How it was read."""


def read_table(table: TableData, frame: ColumnTable, labels: ClassNames, *, key: str | None) -> Part:
    """Read every row but its image.

    Args:
        table: Which columns are meant.
        frame: The table.
        labels: Makes class names.
        key: The split that the whole table is; None: a column may say it.

    Raises:
        OptionError: A column that is asked for does not exist.
        DataError: A column is missing, or a row has no image, label or split, or none that can be one.
    """
    if not frame.rows:
        raise DataError(f"{frame.what} has no images.\nNext: give one with a row for every image.")
    image = _column(frame, "image", table.image, frame.image_columns(), ["image", *_PATHS_TOO])
    label = _column(frame, "label", table.label, [name for name in frame.label_columns() if name != image], ["label"])
    split = _split_column(frame, table.split, key)
    _refuse_one_column_twice({"image": image, "label": label, "split": split})
    names = labels.of(
        frame.values(label),
        data=frame.what,
        where=_where,
        names=frame.class_names(label),
        step=frame.drop_step.format(label=label),
    )
    splits = _splits(frame, split, key, used=(image, label))
    read = frame.reader(image)
    items = []
    empty = []
    for index, (name, value) in enumerate(zip(names, frame.peek(image), strict=True)):
        # Whether there is an image is all that the message needs; the image itself is let go.
        empty.append(None if _is_empty(value) else 0)
        if empty[-1] is None:
            continue
        content = content_of(value, read, index, data=frame.what, where=_where(index))
        items.append(Item(content, name, f"{index:07d}", splits[index], key))
    refuse_missing(empty, "image", _where, frame.what, "leave these rows out, or give their images.")
    refuse_missing_files(items, _where, frame.what)
    taken = f"image from column {image}, label from column {label}"
    notes = [taken + (f", split from column {split}" if split and key is None else "")]
    if unused := [name for name in dict.fromkeys(frame.names) if name not in (image, label, split)]:
        notes.append(f"columns not used: {', '.join(unused)}")
    return Part(lambda: items, frame.what, notes)


def _where(index: int) -> str:
    return f"row {index}"


def _is_empty(value: Any) -> bool:
    if isinstance(value, dict):
        return value.get("bytes") is None and not value.get("path")
    return is_missing(value) or (isinstance(value, str) and not value)


def _column(frame: ColumnTable, kind: str, asked: str | None, by_type: Sequence[str], usual: Sequence[str]) -> str:
    """The column of one kind: the one asked for, else the only one of its type, else the first that is usual."""
    there = ", ".join(dict.fromkeys(frame.names))
    if asked is not None:
        _refuse_no_text(kind, asked, f"{frame.what} has: {there}")
        if asked not in frame.names:
            raise OptionError(
                f"{kind}={asked!r}: {frame.what} has no such column; it has: {there}.{meant(asked, frame.names)}\n"
                f"Next: {kind}=NAME with the name of a column."
            )
        return _once(frame, asked)
    named = [name for name in usual if name in frame.names]
    # The type of a column says more than its name; the name decides between several of the type.
    candidates = [name for name in by_type if name in named] or list(by_type)
    if len(candidates) == 1:
        return _once(frame, candidates[0])
    if len(candidates) > 1:
        raise DataError(
            f"{frame.what} has several columns of {kind}s: {', '.join(candidates)}.\n"
            f"Next: say which one holds the {kind}s: {_naming(kind, repr(candidates[0]))}."
        )
    if not named:
        hint = meant(kind, frame.names)
        raise DataError(
            f"{frame.what} has no column {kind!r}; it has: {there}.{hint}\n"
            f"Next: say which one holds the {kind}s: {_naming(kind, 'NAME')}."
        )
    return _once(frame, named[0])


def _naming(kind: str, name: str) -> str:
    """How a column is named in a call. Only plan and finetune have arguments for it."""
    return f"{kind}={name}, or data=zoo.TableData(table, {kind}={name})"


def _refuse_no_text(kind: str, asked: object, there: str) -> None:
    if isinstance(asked, str):
        return
    if kind == "split":
        step = "split=NAME with the name of a column that holds train, val or test; without one, zoo draws val"
    else:
        step = f"{kind}={str(asked)!r}, the name as a text"
    raise OptionError(f"{kind}={asked!r} names no column, for a name is a text; {there}.\nNext: {step}.")


def _once(frame: ColumnTable, name: str) -> str:
    if frame.names.count(name) > 1:
        raise DataError(f"{frame.what} has the column {name!r} more than once.\nNext: rename or drop one.")
    return name


def _refuse_one_column_twice(columns: dict[str, str | None]) -> None:
    given: dict[str, str] = {}
    for kind, name in columns.items():
        if name is not None and (other := given.setdefault(name, kind)) != kind:
            raise OptionError(f"The column {name!r} cannot hold {other}s and {kind}s.\nNext: name two columns.")


def _split_column(frame: ColumnTable, asked: str | None, key: str | None) -> str | None:
    if asked is not None and key is not None:
        raise OptionError(
            f"split={asked!r} names a column of splits, and this table is the split {key!r} as a whole.\n"
            "Next: leave split out, or give one table with all splits."
        )
    if asked is not None:
        return _column(frame, "split", asked, [], [])
    return _once(frame, "split") if "split" in frame.names else None


def _splits(frame: ColumnTable, split: str | None, key: str | None, *, used: Sequence[str]) -> list[str | None]:
    """The split of every row. Raises DataError where columns say that they are others than those that were read."""
    words = [] if split is None else list(frame.values(split))
    if split is None:
        if key is None:
            _refuse_other_splits(frame, used)
        return [key] * frame.rows
    if key is not None:
        # The key says what the table is. A column may repeat that, or say nothing of it, but not contradict.
        other = {word for word in words if isinstance(word, str) and split_named(word) not in (None, split_named(key))}
        if other:
            raise DataError(
                f"{frame.what} is given as {key}, and its column {split!r} says {', '.join(sorted(other))}.\n"
                "Next: give the whole table alone, or leave these rows out."
            )
        return [key] * frame.rows
    refuse_missing(words, "split", _where, frame.what, "give every row train, val or test, or drop the column.")
    odd = next((index for index, word in enumerate(words) if not isinstance(word, str)), None)
    if odd is not None:
        raise DataError(
            f"{frame.what}: the split of {_where(odd)} is {words[odd]!r}, and no text.\n"
            f"Next: write train, val or test into the column {split!r}."
        )
    return [str(word) for word in words]


def _refuse_other_splits(frame: ColumnTable, used: Sequence[str]) -> None:
    """Refuse a column of another name that holds splits: the images of test would be trained on."""
    for name in dict.fromkeys(frame.names):
        if name in used or name in frame.image_columns() or frame.names.count(name) > 1:
            continue
        # Cell by cell: nearly every column is ruled out by its first one, and none is read whole for nothing.
        read = frame.reader(name)
        words: set[str] = set()
        for index in range(frame.rows):
            word = read(index)
            if not isinstance(word, str) or split_named(word) is None or len(words) > _MOST_WORDS:
                words.clear()
                break
            words.add(word)
        splits = {split_named(word) for word in words}
        if "train" in splits and len(splits) > 1:
            raise DataError(
                f"The column {name!r} of {frame.what} holds splits ({', '.join(sorted(words))}).\n"
                f"Next: {_naming('split', repr(name))} uses them; or drop the column, and zoo draws val."
            )
