"""Resolve `--data` to a data source and read it: class folders, which zoo reads itself, or a plugin's data source.

What a plugin raises becomes an error that names the plugin; a broken one never keeps zoo from reading other data.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.data.class_folders import read_class_folders
from zoo.data.dataset import Dataset, ImageFile
from zoo.data.folder import holds_class_folders, list_folder, no_folder_message
from zoo.data.listing import to_unchecked
from zoo.data.split_folders import LayoutError
from zoo.data.splits import UncheckedData, evaluation_split, to_dataset
from zoo.errors import DataError, NameConflict, PluginError, Refused, Terminated, UnknownName, ZooError, with_step
from zoo.events import Note, Report, silent
from zoo.process import prints_to_stderr
from zoo.registry.entry_points import one_line
from zoo.registry.names import qualified_name
from zoo.registry.plugins import Contribution
from zoo.registry.registry import Registry
from zoo.registry.session import of_session
from zoo.specs.data import FOLDER, ClassFolders, DataSourceSpec, SourceListing
from zoo.text import file_named

if TYPE_CHECKING:
    from zoo.data.listed_images import ListedImages

FOLDER_SUMMARY = "A folder of class folders, with or without train/, val/ and test/ above them."
_LIKE_TABLES = (".xlsx", ".xlsm", ".xls", ".ods", ".json", ".jsonl", ".ndjson")
"""Tables of other programs. No data source claims them, because a plugin may."""
_WHOLE = "check that it is whole, that you may read it, and that it is of the kind that zoo list sources names."
_NAMED = re.compile(r"((?:[A-Za-z0-9][\w\-]*/)?[A-Za-z0-9][\w\-]+):(.+)", re.DOTALL)
"""`NAME:PATH`. A name has at least two characters, because one letter before the colon is a drive on Windows."""


@dataclass(frozen=True, slots=True)
class DataLocation:
    """Where the data are, and which data source reads them."""

    argument: str
    """`--data` as it was given."""
    path: Path
    """A folder, a file, or a pattern of files."""
    source: Contribution[DataSourceSpec] | None
    """None: class folders, which zoo reads itself."""

    @property
    def reader(self) -> str:
        """`folder`, or the data source's qualified name, which reads the same path in the same way again."""
        return FOLDER if self.source is None else qualified_name(self.source)


def find_data(argument: Path, registry: Registry, report: Report) -> DataLocation:
    """Find the data source that reads `PATH` or `NAME:PATH`.

    What zoo can read itself is never read by a third party's plugin, unless its NAME is given. A note is reported if
    such a plugin recognises the path as well, or reads it. Raises UnknownName for a NAME, NameConflict if several
    plugins recognise the path, DataError if nothing reads it.
    """
    named = _named(str(argument), registry)
    if named is not None:
        source, path = named
        of_object = source is not None and of_session(qualified_name(source))
        return DataLocation(str(path) if of_object else str(argument), path, source)
    claims = registry.recognising(argument)
    own = [source for source in claims if source.plugin.own]
    foreign = [source for source in claims if not source.plugin.own]
    if len(own) > 1 or (not own and len(foreign) > 1 and not holds_class_folders(argument)):
        raise _conflict(argument, own or foreign)
    if own or holds_class_folders(argument):
        location = DataLocation(str(argument), argument, own[0] if own else None)
        if foreign:
            report(Note(text=_also_recognised(location, foreign)))
        return location
    if foreign:
        report(Note(text=f"{argument} is read by the data source {_describe(foreign[0])}."))
        return DataLocation(str(argument), argument, foreign[0])
    if os.path.isdir(argument):
        return DataLocation(str(argument), argument, None)
    raise DataError(_nothing_reads(argument, registry))


def read_dataset(
    location: DataLocation, *, seed: int, folds: bool = False, val_needed: bool = True, report: Report = silent
) -> Dataset:
    """Read the data set to train on; every file is used or listed as skipped. `seed` draws val if there is none.

    With `folds` nothing is drawn, and val joins train; `val_needed` is that of `to_dataset`. `report` is called with
    Progress where listing takes a while.

    Raises DataError for data that cannot be used, Refused if a package is missing, PluginError for a broken source.
    """
    return to_dataset(read_unchecked(location, report=report), seed=seed, folds=folds, val_needed=val_needed)


def read_unchecked(location: DataLocation, *, classes: Collection[str] = (), report: Report = silent) -> UncheckedData:
    """Read everything at the location, before classes and splits are checked. Raises as `read_dataset` does.

    `classes` are names of classes that are known already: a folder of such a name is a class.
    """
    source = location.source
    try:
        if source is None:
            found: SourceListing | ListedImages = list_folder(location.path, classes=classes, report=report)
        else:
            listing = _listing(location, source)
            found = read_class_folders(listing, classes=classes) if isinstance(listing, ClassFolders) else listing
    except LayoutError as error:
        raise DataError(f"{location.argument} {error}") from None
    return to_unchecked(
        found,
        source=location.argument,
        path=location.path,
        reader=location.reader,
        described=_describe(source) if source is not None else "",
    )


def read_evaluation_split(
    location: DataLocation, classes: tuple[str, ...], *, report: Report = silent
) -> tuple[str, Dataset]:
    """The images to evaluate a trained classifier on: (name of the split, data set with that one split).

    The split is test, else val, else, where there are no splits, everything (`all`). Labels are mapped by name to
    `classes`. Raises DataError for a class that the classifier does not know, and as `read_dataset` does.
    """
    return evaluation_split(read_unchecked(location, classes=classes, report=report), classes)


def read_again(reader: str, path: Path, names: Iterable[str], registry: Registry) -> Mapping[str, ImageFile]:
    """The images with these names, of a data set that was read before.

    Images that a source no longer lists are left out. A file of a folder is looked for only when it is opened.
    """
    if reader == FOLDER:
        # Names are paths below the folder. Any other source must be listed to know where its images are.
        return {name: ImageFile(file_named(path, name), name, 0) for name in names}
    try:
        images = read_unchecked(DataLocation(str(path), path, registry.data_source(reader))).manifest
    except ZooError:
        return {}
    rows = {name: row for name in names if (row := images.index.row(name)) is not None}
    files = {name: images.at(row) for name, row in rows.items()}
    return {name: ImageFile(file.path, name, 0, file.reader) for name, file in files.items()}


def data_exists(path: Path) -> bool:
    """Whether the folder or file with the data still exists; for a pattern of files, its folder."""
    return os.path.exists(path) or (_is_pattern(path) and os.path.isdir(path.parent))


def _named(argument: str, registry: Registry) -> tuple[Contribution[DataSourceSpec] | None, Path] | None:
    match = _NAMED.fullmatch(argument)
    if match is None:
        return None
    name, path = match[1], Path(match[2]).expanduser()
    if name == FOLDER:
        return None, path
    try:
        return registry.data_source(name), path
    except UnknownName:
        # A path may contain a colon.
        if os.path.exists(argument):
            return None
        if of_session(name):
            raise Refused(object_missing(str(path))) from None
        hint = "" if os.path.exists(path) else f"There is no {argument!r} either."
        raise UnknownName("data source", name, _source_names(registry), hint=hint, step="zoo list sources") from None


def object_missing(described: str) -> str:
    """The message for the data of a run that were an object in Python, and are not given again."""
    return (
        f"The data were an object in Python ({described}), which no name finds again.\n"
        "Next: give the same object in Python: zoo.resume(RUN, data=...), zoo.verify(RUN, data=...) or "
        "zoo.report(RUN, data=...)."
    )


def _listing(location: DataLocation, source: Contribution[DataSourceSpec]) -> SourceListing | ClassFolders:
    try:
        with prints_to_stderr():
            listing = source.spec.read(location.path)
    except (KeyboardInterrupt, Terminated, ZooError):
        raise
    except ImportError as error:
        # A source that needs a package says in its own message how to install it, most of the time.
        step = "install the package that is named here, into the environment of zoo."
        raise Refused(with_step(f"{location.argument} cannot be read here: {error}", step)) from error
    except ValueError as error:
        raise DataError(with_step(f"{location.argument} cannot be read: {error}", _WHOLE)) from error
    except OSError as error:
        raise DataError(
            with_step(f"{error.filename or location.argument}: {error.strerror or error}", _WHOLE)
        ) from None
    except BaseException as error:  # sys.exit too: it must not end zoo
        raise PluginError(
            f"The data source {_describe(source)} cannot read {location.argument}: {one_line(error)}"
        ) from error
    if not isinstance(listing, (SourceListing, ClassFolders)):
        raise PluginError(
            f"The data source {_describe(source)} must read {location.argument} to a SourceListing or ClassFolders, "
            f"gave {type(listing).__name__}."
        )
    return listing


def _conflict(argument: Path, claims: Iterable[Contribution[DataSourceSpec]]) -> NameConflict:
    choices = "\n".join(f"  {_choice(source, argument)}" for source in claims)
    return NameConflict(
        f"{argument} is recognised by more than one data source:\n{choices}\nNext: name one, as shown above."
    )


def _also_recognised(location: DataLocation, foreign: Iterable[Contribution[DataSourceSpec]]) -> str:
    choices = "; ".join(_choice(source, location.path) for source in foreign)
    return f"{location.argument} is read by zoo itself, as {location.reader!r}. It is also recognised by {choices}"


def _choice(source: Contribution[DataSourceSpec], path: Path) -> str:
    return f"{_distribution(source)}: --data {qualified_name(source)}:{path}"


def _nothing_reads(argument: Path, registry: Registry) -> str:
    if os.path.exists(argument):
        step = (
            "give the folder that holds one folder per class, or say what reads it: --data NAME:PATH (zoo list sources)"
        )
        if argument.suffix.lower() in _LIKE_TABLES:
            step = f"if it lists images and labels, --data table:{argument} says how to make it a table that zoo reads"
        return (
            f"The data {str(argument)!r} is a file that no data source recognises; there are: "
            f"{', '.join(_source_names(registry))}.\nNext: {step}."
        )

    def reads(path: Path) -> bool:
        return os.path.isdir(path) or any(source.plugin.own for source in registry.recognising(path))

    return no_folder_message(argument, reads=reads)


def _source_names(registry: Registry) -> list[str]:
    return [FOLDER, *(source.spec.name for source in registry.data_sources())]


def _is_pattern(path: Path) -> bool:
    return glob.has_magic(str(path)) or "{" in path.name


def _describe(source: Contribution[DataSourceSpec]) -> str:
    return f"{qualified_name(source)!r} of {_distribution(source)}"


def _distribution(source: Contribution[DataSourceSpec]) -> str:
    return f"{source.plugin.distribution} {source.plugin.version}"
