"""What the labels of samples in tar shards mean: names of classes, or numbers of the lines of `classes.txt`.

Which of the two is decided once, over the labels of all shards: where names are numbers themselves, one label alone
does not tell.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import zoo

from zoo_sources.disk import exists
from zoo_sources.labels import Labels, refuse_one_name_twice, whole
from zoo_sources.shards import Shard

CLASSES = "classes.txt"
LABEL_BYTES = 1 << 20
"""No file with a label is larger."""
_DIGITS = 10
"""A label with this many digits counts more classes than there can be. Python refuses to read very long numbers."""
_MARK = b"\xef\xbb\xbf"

Names = tuple[str, ...]


def label_in(kind: str, content: bytes) -> str:
    """The label in a `cls` or `json` file; empty if there is none. Raises ValueError, with words, if it cannot be one.

    A JSON file that is damaged or holds something else has no label: such files lie beside images for other reasons.
    """
    if kind == "cls":
        try:
            text = content.removeprefix(_MARK).decode("utf-8").strip()
        except UnicodeDecodeError:
            raise ValueError("is no text in UTF-8") from None
        if len(text.splitlines()) > 1:
            raise ValueError("has several lines, and an image has one class here")
        return text
    try:
        stored = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    values = [stored.get(key) for key in ("label", "class")] if isinstance(stored, dict) else []
    names = [value.strip() for value in values if isinstance(value, str)]
    numbers = [_number(value) for value in values]
    found = next(iter([*filter(None, names), *filter(None, numbers)]), "")
    # A number that is not one is how some programs write that there is no label.
    other = [value for value in values if value is not None and not isinstance(value, str) and value == value]
    if not found and other:
        raise ValueError(f"has the label {json.dumps(other[0])[:60]}, which is no text and no whole number")
    return found


def _number(value: object) -> str:
    return (whole(value) or "") if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def list_of(folder: Path) -> Path:
    """The file that lists the classes of shards in a folder: in it, or above the folder of a split where there is none.

    So a shard means the same alone as with all others.
    """
    beside, above = folder / CLASSES, folder.absolute().parent / CLASSES
    return above if zoo.split_named(folder.absolute().name) and not exists(beside) and exists(above) else beside


def class_lists(beside: Path, inside: Mapping[Shard, bytes], shards: Mapping[Shard, object]) -> dict[Shard, Names]:
    """The classes that count for each shard: those of the file `beside` the shards, or of the files in them.

    Empty for shards without a list. Raises DataError for a list that cannot be read, and where it is unclear which one
    counts.
    """
    own = {shard: _names_in(content, f"{CLASSES} in {shard.path}") for shard, content in inside.items()}
    try:
        common = _names_in(beside.read_bytes(), str(beside))
    except FileNotFoundError:
        common = ()
    except OSError as error:
        raise zoo.DataError(
            f"{beside} cannot be read ({error.strerror}), so what the labels mean is unknown.\n"
            "Next: make it a file that you may read, or move it away if labels are names."
        ) from None
    different = dict.fromkeys([common, *own.values()] if common else own.values())
    if common and len(different) > 1:
        shard = next(shard for shard, names in own.items() if names != common)
        raise zoo.DataError(
            f"{beside} and {CLASSES} in {shard.path} list other classes.\nNext: keep the right one of the two."
        )
    if len(different) < 2:
        return dict.fromkeys(shards, next(iter(different), ()))
    lacking = next((shard for shard in shards if shard not in own), None)
    if lacking is not None:
        raise zoo.DataError(
            f"{lacking.path} has no {CLASSES}, and other shards have several with other classes.\n"
            f"Next: put one {CLASSES} for all of them beside the shards: {beside}"
        )
    return own


def _names_in(content: bytes, place: str) -> Names:
    try:
        lines = [line.strip() for line in content.removeprefix(_MARK).decode("utf-8").splitlines()]
    except UnicodeDecodeError:
        raise zoo.DataError(f"{place} is no text in UTF-8.\nNext: save it as UTF-8, one class per line.") from None
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise zoo.DataError(
            f"{place} is empty, so what the labels mean is unknown.\n"
            "Next: write one class per line, or remove the file if labels are names."
        )
    if "" in lines:
        raise zoo.DataError(
            f"{place} has a blank line, line {lines.index('') + 1}, so which line a number means is unclear.\n"
            "Next: remove the blank line, or write the class there."
        )
    refuse_one_name_twice(lines, place)
    return tuple(lines)


class _Listed:
    """Names of classes, looked up and told from other lists at once: a tuple's hash goes over all of its names."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.known = frozenset(names)
        self.plain = {_plain(name): name for name in names}


_Found = tuple[_Listed, str]
"""A label, and the classes that are listed for its shard."""


class SampleClasses:
    """The class of each label, read in one way in all shards.

    `labels` has the label of each image by its member. Raises DataError for a label that the list of classes lacks,
    where labels can be read as names and as numbers of lines and mean other classes then, and, where there is no list,
    for `0` beside `0.0` and for a list of labels.
    """

    def __init__(self, path: Path, lists: Mapping[Shard, Names], labels: Mapping[Shard, Mapping[str, str]]) -> None:
        known = {names: _Listed(names) for names in set(lists.values())}
        self._lists = {shard: known[names] for shard, names in lists.items()}
        self._places: dict[_Found, str] = {}
        unlisted = Labels(path)
        for shard, of_shard in labels.items():
            classes = self._lists[shard]
            for member, label in of_shard.items():
                if (classes, label) not in self._places:
                    self._places[classes, label] = f"{shard.path}: {member}"
                    if not classes.names:
                        unlisted.check(shard.qualified(member), label)
        listed = [found for found in self._places if found[0].names]
        self._refuse_unknown(listed)
        are_names = all(label in classes.known for classes, label in listed)
        # `1` may be meant as the name `01`, too.
        if all(_line(found) is not None and self._name(found) is not None for found in listed):
            self._refuse_two_readings(listed)
        if not are_names:
            self._refuse_mixed([found for found in listed if found[1].isdecimal()])
        # Texts beside numbers of lines are names.
        self._classes = {found: found[1] if are_names else _line(found) or found[1] for found in self._places}

    def of(self, shard: Shard, label: str) -> str:
        """The class of a label in a shard."""
        return self._classes[self._lists[shard], label]

    def _name(self, found: _Found) -> str | None:
        """The class of which a label is the name, with or without zeros in front."""
        classes, label = found
        return label if label in classes.known else classes.plain.get(_plain(label))

    def _refuse_unknown(self, listed: Iterable[_Found]) -> None:
        for found in listed:
            (classes, label), names = found, found[0].names
            if label not in classes.known and _line(found) is None:
                valid = f"from 0 to {len(names) - 1}" if label.isdecimal() else f"such as {names[0]!r}"
                raise zoo.DataError(
                    f"{self._places[found]} has the label {label!r}, and {CLASSES} has {len(names)} classes, "
                    f"{valid}.\nNext: correct {CLASSES}, which has one class per line, or the label."
                )

    def _refuse_two_readings(self, listed: Iterable[_Found]) -> None:
        """Refuse labels that are all names and all numbers of lines, if one is of another class then."""
        for found in listed:
            line, name = _line(found), self._name(found)
            if line != name:
                raise zoo.DataError(
                    f"{self._places[found]} has the label {found[1]!r}. As all labels are, it is the name of a class, "
                    f"{name!r}, and the number of a line of {CLASSES}, counted from 0, which is the class {line!r}."
                    f"\nNext: if labels are names, remove {CLASSES}; if they are numbers of lines, write names there "
                    f"that are no numbers, such as class-{line}."
                )

    def _refuse_mixed(self, numbers: Sequence[_Found]) -> None:
        """Refuse numbers of which one can only be a name, and another one only a line."""
        name = next((found for found in numbers if _line(found) is None), None)
        line = next((found for found in numbers if found[1] not in found[0].known), None)
        if name is not None and line is not None:
            raise zoo.DataError(
                f"{self._places[name]} has the label {name[1]!r}, which can only be the name of a class in {CLASSES}; "
                f"{self._places[line]} has {line[1]!r}, which can only be the number of a line of it, counted from 0.\n"
                "Next: write all labels in one way."
            )


def _plain(label: str) -> str:
    return label.lstrip("0") or "0" if label.isdecimal() else label


def _line(found: _Found) -> str | None:
    """The class on the line of which a label is the number, counted from 0."""
    names, label = found[0].names, found[1]
    return names[int(label)] if label.isdecimal() and len(label) < _DIGITS and int(label) < len(names) else None
