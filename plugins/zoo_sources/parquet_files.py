"""Find the Parquet files of a data set, and their splits by name, in a folder as the Hugging Face hub lays it out."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import zoo

from zoo_sources.disk import is_folder
from zoo_sources.other_formats import refuse_empty, refuse_pointer

SUFFIX = ".parquet"
_PART = re.compile(r"(.*)-(\d+)-of-(\d+)")
_LOOKED, _ENTRIES = 32, 128
"""Folders that are looked into to recognise a data set, and entries of each."""
_SHOWN = 3
NO_PYARROW = (
    "a Parquet table needs the package pyarrow, which is not installed here.\n"
    "Next: pip install 'zoo-registry[hf]', or save the table as CSV."
)


@dataclass(frozen=True, slots=True)
class ParquetPart:
    """One Parquet file of a data set."""

    path: Path
    split: str | None
    """The first word of its name, or its folder, where the files are named by splits."""


def is_parquet_folder(path: Path) -> bool:
    """Whether a folder holds Parquet files and no class folders. Only the first entries are looked at."""
    if not is_folder(path):
        return False
    found, with_images = False, 0
    for folder in islice(_folders(path), _LOOKED):
        names = [entry.name for entry in islice(_entries(folder), _ENTRIES)]
        found = found or any(name.lower().endswith(SUFFIX) for name in names)
        with_images += any(map(zoo.is_image_name, names))
        if with_images > 1:
            return False  # class folders, which may hold millions of files
    return found


def find_parts(path: Path, notes: list[str]) -> tuple[list[ParquetPart], list[zoo.Skipped]]:
    """Return (the Parquet files in the order of their names, other files beside them) of a file or a folder.

    Raises DataError if files lie in several folders, some are missing, or only some are named by a split.
    """
    if not is_folder(path):
        match = _PART.fullmatch(path.stem)
        if match and int(match[3]) > 1:
            notes.append(f"only part {int(match[2]) + 1} of {int(match[3])}; give the folder to read all")
        return [ParquetPart(path, None)], []
    home, files = _home(path)
    _refuse_missing_parts(home, files)
    parts = [ParquetPart(file, _split_of(file, home)) for file in files]
    _refuse_other_names(home, parts)
    others = [*_files(path), *(_files(home) if home != path else [])]
    skipped = [
        zoo.Skipped(file.relative_to(path).as_posix(), "not an image", "no Parquet file")
        for file in others
        if file not in files
    ]
    return parts, skipped


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile`. Raises DataError if it cannot be read; ImportError without pyarrow."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ImportError(NO_PYARROW) from None
    refuse_empty(path, "download or save it again")
    try:
        with parquet.ParquetFile(path) as table:
            yield table
    except (pyarrow.ArrowException, OSError) as error:
        refuse_pointer(path)
        reason = str(error).rstrip(".")
        raise zoo.DataError(f"{path} cannot be read as Parquet: {reason}.\nNext: download or save it again.") from None


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, as it comes, so that the first of a million names cost nothing; not what is hidden."""
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
    except OSError:
        return


def _is(asked: Callable[[], bool]) -> bool:
    """The answer of an entry about its kind; False where it cannot be looked at, as a link that leads to itself."""
    try:
        return asked()
    except OSError:
        return False


def _folders(path: Path) -> Iterator[Path]:
    """The folder, those in it, and those in these: as deep as `CONFIGURATION/SPLIT/0000.parquet`."""
    yield path
    below = sorted(Path(entry) for entry in _entries(path) if _is(entry.is_dir))
    yield from below
    for folder in below:
        yield from sorted(Path(entry) for entry in _entries(folder) if _is(entry.is_dir))


def _files(folder: Path) -> list[Path]:
    return sorted(Path(entry) for entry in _entries(folder) if _is(entry.is_file))


def _home(path: Path) -> tuple[Path, list[Path]]:
    """The one folder below `path` in which all Parquet files lie, directly or in folders named by a split."""
    homes: dict[Path, list[Path]] = defaultdict(list)
    for folder in _folders(path):
        files = [file for file in _files(folder) if file.suffix.lower() == SUFFIX]
        if files:
            by_split = folder != path and zoo.split_named(folder.name) is not None
            homes[folder.parent if by_split else folder] += files
    if len(homes) > 1:
        names = [home.relative_to(path).as_posix() for home in homes]
        shown = ", ".join("the folder itself" if name == "." else name for name in names[:_SHOWN])
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise zoo.DataError(
            f"{path} has Parquet files in {len(names)} places, {shown}{more}, which may be different data sets.\n"
            f"Next: give one of them, such as {next(home for home in homes if home != path)}"
        )
    if not homes:
        raise zoo.DataError(f"There are no Parquet files in {path}.\nNext: give the folder that holds them.")
    return next(iter(homes.items()))


def _split_of(file: Path, home: Path) -> str | None:
    """The split by the file's folder, or by its name: the first word if that means a split, else the split it names."""
    if file.parent != home:
        return file.parent.name
    word = re.split(r"[-_.]", file.stem)[0]
    return word if zoo.split_named(word) else zoo.split_named(file.stem)


def _refuse_other_names(home: Path, parts: list[ParquetPart]) -> None:
    nameless = [part.path for part in parts if part.split is None]
    if nameless and len(nameless) < len(parts):
        splits = ", ".join(dict.fromkeys(part.split for part in parts if part.split))
        others = ", ".join(path.name for path in nameless[:_SHOWN])
        raise zoo.DataError(
            f"{home} has files of the splits {splits}, and others: {others}.\n"
            f"Next: move the others elsewhere; to train on one as well, rename it to train-{nameless[0].name}"
        )


def _refuse_missing_parts(home: Path, files: list[Path]) -> None:
    parts: dict[tuple[str, str], set[int]] = defaultdict(set)
    for file in files:
        if match := _PART.fullmatch(str(file.relative_to(home).with_suffix(""))):
            parts[match[1], match[3]].add(int(match[2]))
    for (name, total), numbers in parts.items():
        lacking = sorted(set(range(int(total))) - numbers)
        if lacking:
            first = f"{name}-{lacking[0]:0{len(total)}d}-of-{total}{SUFFIX}"
            more = f" and {len(lacking) - 1:,} more" if len(lacking) > 1 else ""
            raise zoo.DataError(
                f"{home} lacks {len(lacking):,} of the {int(total):,} parts of {name}: {first}{more}.\n"
                "Next: download the rest; or, to go without it, rename the files, for example to "
                f"{name}-a{SUFFIX}, {name}-b{SUFFIX}."
            )
