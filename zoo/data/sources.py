"""Resolve `--data` to a data source and read it: class folders, which zoo reads itself, or a plugin's data source.

What a plugin raises becomes an error that names the plugin; a broken one never keeps zoo from reading other data.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from zoo.data.dataset import Dataset, ImageFile
from zoo.data.folder import holds_class_folders, no_folder_message, read_labelled, read_tree
from zoo.data.splits import SPLITS, SourceFile, UncheckedData, choose_evaluation_split, evaluation_split, to_dataset
from zoo.errors import DataError, NameConflict, PluginError, Refused, Terminated, UnknownName, ZooError, either, nearest
from zoo.events import Note, Report
from zoo.process import prints_to_stderr
from zoo.registry.entry_points import one_line
from zoo.registry.names import qualified_name
from zoo.registry.plugins import Contribution
from zoo.registry.registry import Registry
from zoo.specs.data import FOLDER, SPLIT_NAMES, DataSourceSpec, SourceImage, SourceListing, Split, split_named
from zoo.text import file_named, printable

FOLDER_SUMMARY = "A folder of class folders, with or without train/, val/ and test/ above them."
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
        return DataLocation(str(argument), path, source)
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
    if argument.is_dir():
        return DataLocation(str(argument), argument, None)
    raise DataError(_nothing_reads(argument, registry))


def read_dataset(location: DataLocation, *, seed: int) -> Dataset:
    """Read the data set to train on; every file is used or listed as skipped. `seed` draws val if there is none.

    Raises DataError for data that cannot be used, Refused if a package is missing, PluginError for a broken source.
    """
    return to_dataset(read_unchecked(location), seed=seed)


def read_unchecked(location: DataLocation) -> UncheckedData:
    """Read everything at the location, before classes and splits are checked. Raises as `read_dataset` does."""
    if location.source is None:
        return replace(read_tree(location.path), source=location.argument)
    return _unchecked(location, _listing(location, location.source))


def read_evaluation_split(location: DataLocation, classes: tuple[str, ...]) -> tuple[str, Dataset]:
    """The images to evaluate a trained classifier on: see `zoo.data.folder.read_labelled`."""
    if location.source is None:
        return read_labelled(location.path, classes)
    data = read_unchecked(location)
    chosen = choose_evaluation_split(list(data.splits))
    if chosen is None and data.split_names:
        raise DataError(
            f"{location.argument} has the split {data.split_names['train']} but neither test nor val to evaluate a "
            "classifier on.\nNext: name the split to evaluate it on 'test'."
        )
    split = chosen or "train"
    return evaluation_split(replace(data, splits={split: data.splits.get(split, {})}), classes)


def read_again(reader: str, path: Path, names: Iterable[str], registry: Registry) -> Mapping[str, ImageFile]:
    """The images with these names, of a data set that was read before; images that no longer exist are left out."""
    if reader == FOLDER:
        return {name: ImageFile(file_named(path, name), name, 0) for name in names}
    wanted = set(names)
    try:
        data = read_unchecked(DataLocation(str(path), path, registry.data_source(reader)))
    except ZooError:
        return {}
    return {
        file.relative: ImageFile(file.path, file.relative, 0, file.reader)
        for by_class in data.splits.values()
        for files in by_class.values()
        for file in files
        if file.relative in wanted
    }


def data_exists(path: Path) -> bool:
    """Whether the folder or file with the data still exists; for a pattern of files, its folder."""
    return path.exists() or (_is_pattern(path) and path.parent.is_dir())


@dataclass(frozen=True, slots=True)
class _Content:
    """Reads one image through its data source, in any thread. What that raises makes this image unreadable."""

    read: Callable[[], object]
    source: str
    """The data source and its distribution, for messages."""

    def __call__(self) -> bytes:
        try:
            content = self.read()
        except (DataError, OSError):
            raise
        except (Exception, SystemExit) as error:  # sys.exit in a plugin ends the plugin, not zoo
            if isinstance(error, Terminated):
                raise
            raise DataError(f"the data source {self.source} raised {one_line(error)}") from error
        if not isinstance(content, bytes):
            raise DataError(f"the data source {self.source} must give bytes, gave {type(content).__name__}")
        return content


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
        if Path(argument).exists():
            return None
        hint = "See: zoo list sources" if path.exists() else f"There is no {argument!r} either. See: zoo list sources"
        raise UnknownName("data source", name, _source_names(registry), hint=hint) from None


def _listing(location: DataLocation, source: Contribution[DataSourceSpec]) -> SourceListing:
    try:
        with prints_to_stderr():
            listing = source.spec.read(location.path)
    except (KeyboardInterrupt, Terminated, ZooError):
        raise
    except ImportError as error:
        raise Refused(f"{location.argument} cannot be read here: {error}") from error
    except ValueError as error:
        raise DataError(f"{location.argument} cannot be read: {error}") from error
    except OSError as error:
        raise DataError(f"{error.filename or location.argument}: {error.strerror or error}") from None
    except BaseException as error:  # sys.exit too: it must not end zoo
        raise PluginError(
            f"The data source {_describe(source)} cannot read {location.argument}: {one_line(error)}"
        ) from error
    if not isinstance(listing, SourceListing):
        raise PluginError(
            f"The data source {_describe(source)} must read {location.argument} to a SourceListing, "
            f"gave {type(listing).__name__}."
        )
    return listing


def _unchecked(location: DataLocation, listing: SourceListing) -> UncheckedData:
    images = cast("tuple[SourceImage, ...]", listing.images)
    split_names = _split_names(location, images)
    _refuse_repeated_names(location, images)
    source = _describe(location.source) if location.source is not None else ""
    # Without split names everything is in train, and val is drawn from it later.
    splits: dict[Split, dict[str, list[SourceFile]]] = {split: {} for split in SPLITS if split in split_names}
    splits = splits or {"train": {}}
    for image in sorted(images, key=lambda image: image.name):
        by_class = splits["train" if image.split is None else SPLIT_NAMES[image.split.lower()]]
        by_class.setdefault(printable(image.label), []).append(_file(image, location.path, source))
    skipped = [replace(file, relative=printable(file.relative)) for file in listing.skipped]
    return UncheckedData(
        source=location.argument,
        path=location.path,
        reader=location.reader,
        split_names=split_names,
        splits=splits,
        skipped=tuple(sorted(skipped, key=lambda file: file.relative)),
        notes=listing.notes,
    )


def _file(image: SourceImage, path: Path, source: str) -> SourceFile:
    if isinstance(image.content, Path):
        return SourceFile(image.content, printable(image.name))
    return SourceFile(path, printable(image.name), _Content(image.content, source))


def _split_names(location: DataLocation, images: Iterable[SourceImage]) -> dict[Split, str]:
    """The data's own names of their splits; empty if they have none."""
    examples: dict[str | None, str] = {}
    for image in images:
        examples.setdefault(image.split, image.name)
    unknown = [word for word in examples if word is not None and split_named(word) is None]
    if unknown:
        close = nearest(unknown[0], SPLIT_NAMES)
        hint = f" Did you mean {either(close)}?" if close else ""
        raise DataError(
            f"{location.argument} has the split {unknown[0]!r} (of {examples[unknown[0]]}).{hint}\n"
            "Next: name it train, val (valid, validation) or test, or leave splits out and let zoo draw val."
        )
    if None in examples and len(examples) > 1:
        raise DataError(
            f"{location.argument} has images with a split and others without one, such as {examples[None]}.\n"
            "Next: give every image its split, train, val or test, or none of them."
        )
    return _one_name_each(location, [word for word in examples if word is not None])


def _one_name_each(location: DataLocation, words: Iterable[str]) -> dict[Split, str]:
    names: dict[Split, str] = {}
    for word in words:
        split = SPLIT_NAMES[word.lower()]
        if split in names:
            raise DataError(
                f"{location.argument} has two names of the split {split}: {names[split]} and {word}.\nNext: keep one."
            )
        names[split] = word
    return names


def _refuse_repeated_names(location: DataLocation, images: Iterable[SourceImage]) -> None:
    seen: dict[str, SourceImage] = {}
    for image in images:
        earlier = seen.setdefault(image.name, image)
        if earlier is image:
            continue
        if earlier.split != image.split:
            where = f"in two splits of {location.argument}, {earlier.split} and {image.split}"
            step = "keep it in one: what was trained on must not be used to evaluate."
        elif earlier.label != image.label:
            where = f"under two labels in {location.argument}, {earlier.label} and {image.label}"
            step = "keep the right one."
        else:
            where, step = f"listed twice in {location.argument}", "keep it once: it would count twice."
        raise DataError(f"{image.name} is {where}.\nNext: {step}")


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
    if argument.exists():
        return (
            f"The data {str(argument)!r} is a file that no data source recognises; there are: "
            f"{', '.join(_source_names(registry))}.\n"
            "Next: give the folder that holds one folder per class, or say what reads it: --data NAME:PATH "
            "(zoo list sources)."
        )
    return no_folder_message(argument)


def _source_names(registry: Registry) -> list[str]:
    return [FOLDER, *(source.spec.name for source in registry.data_sources())]


def _is_pattern(path: Path) -> bool:
    return glob.has_magic(str(path)) or "{" in path.name


def _describe(source: Contribution[DataSourceSpec]) -> str:
    return f"{qualified_name(source)!r} of {_distribution(source)}"


def _distribution(source: Contribution[DataSourceSpec]) -> str:
    return f"{source.plugin.distribution} {source.plugin.version}"
