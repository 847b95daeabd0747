"""Write a new table of a data set with the suggestions that a user accepted. No image and no other file changes."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.advice.suspects import Decision, read_decisions
from zoo.data.dataset import Dataset, ImageFile
from zoo.data.sources import find_data, read_dataset, read_unchecked
from zoo.data.splits import SPLITS, UncheckedData, to_dataset
from zoo.errors import DataError, Refused, nearest
from zoo.events import Report, silent
from zoo.registry.registry import Registry
from zoo.storage.atomic import clear_write_errors, new_path, try_new_path
from zoo.storage.csv_lines import csv_text
from zoo.text import counted, printable, shell_word, some

_SUFFIX = ".csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class Relabelled:
    """A table of a data set with other labels."""

    table: Path
    data: str
    images: int
    """How many are in the table."""
    changes: tuple[tuple[str, str, str], ...]
    """(file, old class, new class)."""
    dropped: tuple[tuple[str, str], ...]
    """(file, class) of images that are not in the table."""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        return {
            "format": 1,
            "table": str(self.table),
            "data": self.data,
            "images": self.images,
            "changes": [{"file": file, "given": given, "label": label} for file, given, label in self.changes],
            "dropped": [{"file": file, "given": given} for file, given in self.dropped],
        }


def apply_suspects(data: Path, suspects: Path, table: Path, registry: Registry, report: Report) -> Relabelled:
    """Write a new table of all images, with the suggested class where the user wrote yes, and without those to drop.

    Args:
        data: The data that were checked, as `--data` takes them.
        suspects: Their `suspects.csv`, with the column `accept` filled in.
        table: The new file, `.csv`, with the columns path, label and, where the data have splits, split.
        registry: Where data sources are looked up.
        report: Called with every event.

    Raises:
        Refused: `table` exists or is no `.csv`, nothing was accepted, a class is unknown or would lose all images, or
            the images are inside an archive, so that no table can name them.
        DataError: `suspects` is of other data: names, given classes or contents differ.
    """
    try_new_path(table, with_parents=True)
    if table.suffix.lower() != _SUFFIX:
        raise Refused(f"--out {table} is no {_SUFFIX} file, and the table is CSV.\nNext: --out {table.name}{_SUFFIX}")
    decisions = read_decisions(suspects)
    unchecked = read_unchecked(find_data(data, registry, report), report=report)
    # Any seed: a split that zoo would draw is not written into the table. And no class needs an image for val, as none
    # does for the check.
    dataset = to_dataset(unchecked, seed=0, val_needed=False)
    # Tables hold names in which bytes that are no UTF-8 are written out, so images are looked up by these.
    files = {printable(file.relative): file for each in dataset.splits.values() for file in each}
    _refuse_archive(data, files)
    _refuse_other_data(suspects, data, decisions, files, dataset.classes)
    accepted = [each for each in decisions if each.said == "yes" and each.suggested != each.given]
    dropped = {each.file: each.given for each in decisions if each.said == "drop"}
    if not accepted and not dropped:
        raise Refused(
            f"No suggestion is accepted in {suspects}, so the table would be the data as they are.\n"
            "Next: write yes into the column accept of the rows whose suggested class is right, or drop "
            "where the image shows none of the classes."
        )
    labels = {each.file: each.suggested for each in accepted}
    rows = _rows(dataset, labels, dropped, frozenset(unchecked.split_names), table)
    _write(rows, table, dataset, registry, val_needed=_has_val(unchecked))
    changes = tuple((each.file, each.given, each.suggested) for each in accepted)
    return Relabelled(table=table, data=str(data), images=len(rows), changes=changes, dropped=tuple(dropped.items()))


def _refuse_archive(data: Path, files: Mapping[str, ImageFile]) -> None:
    if inside := [name for name, file in files.items() if file.reader is not None]:
        raise Refused(
            f"{counted(len(inside), 'image')} of {data} are inside an archive or a table, such as {inside[0]}, so no "
            "row of a CSV table can name them.\nNext: extract the images into class folders, and check those."
        )


def _refuse_other_data(
    suspects: Path, data: Path, decisions: Sequence[Decision], files: Mapping[str, ImageFile], classes: Sequence[str]
) -> None:
    """Raise DataError for rows of files that the data lack, have under another class, or with other content."""
    again = f"zoo data labels {shell_word(data)} --backbone NAME"
    step = f"Next: give the data that {suspects} is about, or check these: {again}"
    unknown = [each for each in decisions if each.file not in files]
    if unknown:
        raise DataError(
            f"{suspects} is about other data: {len(unknown):,} of its {counted(len(decisions), 'file')} are not in "
            f"{data}: {some([each.file for each in unknown], 3)}.\n{step}"
        )
    for each in decisions:
        named = classes[files[each.file].label]
        if named != each.given:
            raise DataError(
                f"{each.where} of {suspects} says that {each.file} was given {each.given!r}; in {data} it is "
                f"{named!r}: the labels have changed since the check, or the column given was edited.\n{step}"
            )
        if each.said == "yes" and each.suggested not in classes:
            close = nearest(each.suggested, classes, count=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise Refused(
                f"{each.where} of {suspects} suggests {each.suggested!r}, which is no class of {data}.{hint}\n"
                f"Next: write one of its classes: {some(list(classes))}."
            )
        # Also where the answer is no: one file that was exchanged means that this is not the data that were checked.
        if hashlib.sha256(files[each.file].content()).hexdigest() != each.sha256.strip().lower():
            raise DataError(
                f"{each.where} of {suspects} is about another picture: the content of {each.file} in {data} differs "
                f"from that which was checked.\n{step}"
            )


def _rows(
    dataset: Dataset, labels: Mapping[str, str], dropped: Collection[str], own_splits: frozenset[str], table: Path
) -> list[tuple[str, str, str]]:
    """(path, label, split) of every image that is not dropped; images of a split that zoo drew are train's."""
    rows: list[tuple[str, str, str]] = []
    for split in (each for each in SPLITS if each in dataset.splits):
        for file in dataset.splits[split]:
            if printable(file.relative) in dropped:
                continue
            label = labels.get(printable(file.relative), dataset.classes[file.label])
            stated = (split if split in own_splits else "train") if own_splits else ""
            rows.append((_path(file, table), label, stated))
    return rows


def _path(file: ImageFile, table: Path) -> str:
    """The image as the table names it: relative where it lies below the table's folder, else absolute."""
    # Not resolved: the target of a link may have another name, and be no image to a table.
    place, folder = (Path(os.path.normpath(path.absolute())) for path in (file.path, table.parent))
    return place.relative_to(folder).as_posix() if place.is_relative_to(folder) else str(place)


def _has_val(data: UncheckedData) -> bool:
    """Whether val has every class, or can be drawn. The table must be as fit for training as the data."""
    try:
        to_dataset(data, seed=0)
    except DataError:
        return False
    return True


def _write(
    rows: Sequence[tuple[str, str, str]], table: Path, dataset: Dataset, registry: Registry, *, val_needed: bool
) -> None:
    """Write the table, once what zoo reads from it is what was meant."""
    width = 3 if any(split for _, _, split in rows) else 2
    text = csv_text(row[:width] for row in (("path", "label", "split"), *rows))
    # Paths need not be UTF-8; here they have to name the files, so their bytes are kept as they are.
    content = text.encode("utf-8", "surrogateescape")
    with clear_write_errors(table):
        table.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place to be, for its paths are relative to its folder.
        handle, trial = tempfile.mkstemp(prefix=f".{table.stem}-", suffix=_SUFFIX, dir=table.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            _refuse_read_otherwise(rows, Path(trial), table, dataset, registry, val_needed=val_needed)
        finally:
            Path(trial).unlink(missing_ok=True)
    with new_path(table) as draft:
        draft.write_bytes(content)


def _refuse_read_otherwise(
    rows: Sequence[tuple[str, str, str]],
    trial: Path,
    table: Path,
    dataset: Dataset,
    registry: Registry,
    *,
    val_needed: bool,
) -> None:
    """Raise Refused where a run could not read the table, or would read other labels than were written."""
    lost = sorted(set(dataset.classes) - {label for _, label, _ in rows})
    if lost:
        raise Refused(
            f"With these suggestions no image of {some(lost)} would be left.\n"
            "Next: accept fewer of them; to give up a class, remove its folder or rows."
        )
    try:
        read = read_dataset(find_data(trial, registry, silent), seed=0, val_needed=val_needed)
    except DataError as error:
        raise Refused(f"{table} could not be trained on: {str(error).replace(str(trial), str(table))}") from None
    # A path may lead through links, and the reader of tables need not spell it as it was written.
    found = {
        (Path(os.path.realpath(file.path)), read.classes[file.label]) for each in read.splits.values() for file in each
    }
    meant = {(Path(os.path.realpath(table.parent / path)), label) for path, label, _ in rows}
    if found != meant:
        (path, label), *_ = sorted(meant ^ found)
        raise Refused(
            f"A CSV table cannot say that {path} is {label!r}: it would be read as another path or class.\n"
            "Next: rename the file or the class without spaces at its ends or signs of other programs, and check again."
        )
