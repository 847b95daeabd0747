"""The columns of a table that hold paths, labels and splits, and what to do where they have other names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import zoo

REQUIRED, SPLIT = ("path", "label"), "split"
_PATH_TOO = "file_name"
"""The column of paths in the metadata files of Hugging Face's ImageFolder, relative to the file as ours are."""
_USUAL = {
    "path": (
        *(
            "filename",
            "file",
            "filepath",
            "file_path",
            "image_path",
            "img_path",
            "image",
            "img",
            "images",
            "image_name",
        ),
        *("image_file", "image_id", "imageid", "picture", "photo", "name", "id"),
    ),
    "label": (
        *("labels", "class", "class_name", "classname", "classes", "category", "target", "class_label", "class_id"),
        *("label_name", "species", "breed", "diagnosis", "kind", "type", "y"),
    ),
}
"""What people call these columns elsewhere, the likeliest first. These names are offered, never read."""
_MOST_WORDS = 8
"""No column of splits holds more words."""


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of one row as text, and its position in the table, such as `Line 3`."""

    where: str
    path: str
    label: str
    split: str


class Columns:
    """The places of the columns path, label and split in a header, in any case.

    Raises DataError if one of the first two is missing, or one of the three is there twice. `step` gets the new name of
    every column for which there is a guess, and says how to change the header.
    """

    def __init__(self, table: Path, names: Sequence[str], step: Callable[[Mapping[str, str]], str]) -> None:
        self._table, self._names = table, names
        found = {wanted: self._place(wanted) for wanted in (*REQUIRED, SPLIT)}
        other = self._place(_PATH_TOO) if found["path"] is None else None
        self.notes = [] if other is None else [f"path from column {names[other]}"]
        if other is not None:
            found["path"] = other
        missing = [wanted for wanted in REQUIRED if found[wanted] is None]
        if missing:
            raise zoo.DataError(self._no_column(missing, step))
        self.places = found
        self.unused = [index for index in range(len(names)) if index not in found.values()]
        self._words: dict[int, set[str]] = {} if found[SPLIT] is not None else {index: set() for index in self.unused}
        self._note_unused()

    def cells(self, cells: Sequence[str]) -> list[str]:
        """The cells of path, label and split of one row; the split is empty if the table has no such column."""
        for index, words in list(self._words.items()):
            words.add(cells[index].strip().lower())
            if len(words) > _MOST_WORDS or not all(map(zoo.split_named, words)):
                del self._words[index]
        return [cells[place].strip() if place is not None else "" for place in self.places.values()]

    def refuse_splits_under_another_name(self) -> None:
        """Raise DataError if a column that is not used holds splits: the images of test would be trained on.

        Call it after the last row.
        """
        for index, words in self._words.items():
            refuse_splits_in(self._table, self._names[index], words)

    def _place(self, wanted: str) -> int | None:
        exact = [index for index, name in enumerate(self._names) if name == wanted]
        alike = [index for index, name in enumerate(self._names) if name.strip().casefold() == wanted]
        places = exact or alike
        if len(places) > 1:
            written = " and as ".join(repr(name) for name in dict.fromkeys(self._names[place] for place in places))
            as_ = "" if written == repr(wanted) else f", as {written}"
            raise zoo.DataError(f"{self._table} has the column {wanted!r} more than once{as_}.\nNext: keep one.")
        return places[0] if places else None

    def _note_unused(self) -> None:
        named = [self._names[index] for index in self.unused if self._names[index]]
        nameless = len(self.unused) - len(named)
        said = [*named, f"{nameless} without a name"] if nameless else named
        if said:
            self.notes.append(f"columns not used: {', '.join(said)}")

    def _no_column(self, missing: Sequence[str], step: Callable[[Mapping[str, str]], str]) -> str:
        taken = {name for name in self._names if name.strip().casefold() in (*REQUIRED, SPLIT, _PATH_TOO)}
        guesses: dict[str, str] = {}
        for wanted in missing:
            guess = _guess(wanted, [name for name in self._names if name not in taken and name not in guesses])
            if guess:
                guesses[guess] = wanted
        hint = f" Did you mean {' and '.join(map(repr, guesses))}?" if guesses else ""
        shown = ", ".join(self._names)
        no_column = " and no column ".join(map(repr, missing))
        complete = guesses if len(guesses) == len(missing) else {}
        return f"{self._table} has no column {no_column}; it has: {shown}.{hint}\n{step(complete)}"


def refuse_splits_in(table: Path, column: str, words: Collection[str]) -> None:
    """Raise DataError if these are all the words of a column that is not used, and they are train and other splits."""
    splits = {zoo.split_named(word) for word in words}
    if None not in splits and "train" in splits and len(splits) > 1:
        raise zoo.DataError(
            f"The column {column!r} of {table} holds splits ({', '.join(sorted(words))}), "
            "but splits are read from the column 'split' alone.\n"
            f"Next: rename the column {column} to split, or remove it if val is to be drawn anew."
        )


GENERAL_STEP = "Next: name the columns path, label and, if the data are split already, split."


def _guess(wanted: str, names: Iterable[str]) -> str | None:
    """The column that probably holds what is wanted: by its usual names, or else by a similar spelling."""
    by_key = {name.strip().casefold().replace(" ", "_").replace("-", "_"): name for name in names}
    usual = next((by_key[name] for name in _USUAL[wanted] if name in by_key), None)
    if usual is not None:
        return usual
    close = get_close_matches(wanted, by_key, n=1, cutoff=0.6)
    return by_key[close[0]] if close else None
