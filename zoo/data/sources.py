"""What `--data` means: class folders, which zoo reads itself, or a plugin's data source, which costs itself alone."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from zoo.data.dataset import FOLDER, Dataset, ImageFile
from zoo.data.folder import holds_class_folders, no_folder, read_labelled, read_tree
from zoo.data.found import SPLITS, Found, FoundFile, dataset_of, judged_of, preferred
from zoo.entry_points import one_line
from zoo.errors import DataError, NameConflict, PluginError, Refused, Terminated, UnknownName, ZooError, either, nearest
from zoo.events import Note, Report
from zoo.printable import file_named, printable
from zoo.registry import Contribution, Registry
from zoo.registry.names import qualified_name
from zoo.source_listing import SPLIT_NAMES, SourceImage, SourceListing, Split, split_named
from zoo.specs import DataSourceSpec
from zoo.streams import prints_to_stderr

FOLDER_SUMMARY = "A folder of class folders, with or without train/, val/ and test/ above them."
_NAMED = re.compile(r"((?:[A-Za-z0-9][\w\-]*/)?[A-Za-z0-9][\w\-]+):(.+)", re.DOTALL)
"""`NAME:PATH`; a letter before the colon is a drive."""


@dataclass(frozen=True, slots=True)
class DataPlace:
    """Where data lie, and what reads them."""

    asked: str
    path: Path
    """A folder, a file, or a pattern of files."""
    source: Contribution[DataSourceSpec] | None
    """None: class folders, which zoo reads itself."""

    @property
    def reader(self) -> str:
        """`folder`, or the data source's qualified name: with it, the same path is read in the same way again."""
        return FOLDER if self.source is None else qualified_name(self.source)


def find_data(asked: Path, registry: Registry, report: Report) -> DataPlace:
    """What reads `PATH` or `NAME:PATH`.

    What zoo itself can read is not taken over by others; where others claim the path as well, or read it, a note says
    so. Raises UnknownName for a NAME, NameConflict where several claim the path, DataError where nothing reads it.
    """
    named = _named(str(asked), registry)
    if named is not None:
        source, path = named
        return DataPlace(str(asked), path, source)
    claims = registry.recognising(asked)
    own, others = [each for each in claims if each.plugin.own], [each for each in claims if not each.plugin.own]
    if len(own) > 1 or (not own and len(others) > 1 and not holds_class_folders(asked)):
        raise _conflict(asked, own or others)
    if own or holds_class_folders(asked):
        place = DataPlace(str(asked), asked, own[0] if own else None)
        if others:
            report(Note(text=_also_claimed(place, others)))
        return place
    if others:
        who = f"{qualified_name(others[0])!r} of {_distribution(others[0])}"
        report(Note(text=f"{asked} is read by the data source {who}."))
        return DataPlace(str(asked), asked, others[0])
    if asked.is_dir():
        return DataPlace(str(asked), asked, None)
    raise DataError(_nothing_reads(asked, registry))


def read_dataset(place: DataPlace, *, seed: int) -> Dataset:
    """The data set to train on, every file accounted for. Raises DataError, and PluginError for a broken source."""
    return dataset_of(read_found(place), seed=seed)


def read_found(place: DataPlace) -> Found:
    """Everything in it, whatever is wrong with classes and splits. Raises as `read_dataset`."""
    if place.source is None:
        return replace(read_tree(place.path), source=place.asked)
    return _found(place, _listing(place, place.source))


def read_judged(place: DataPlace, classes: tuple[str, ...]) -> tuple[str, Dataset]:
    """The images to judge a finished classifier on: see `zoo.data.folder.read_labelled`."""
    if place.source is None:
        return read_labelled(place.path, classes)
    found = read_found(place)
    wanted = preferred(list(found.found))
    if wanted is None and found.names:
        raise DataError(
            f"{place.asked} has the split {found.names['train']} but neither test nor val to judge a classifier on.\n"
            f"Next: name the images to judge it on test."
        )
    chosen = wanted or "train"
    return judged_of(replace(found, found={chosen: found.found.get(chosen, {})}), classes)


def read_again(reader: str, path: Path, names: Iterable[str], registry: Registry) -> Mapping[str, ImageFile]:
    """Some images of a data set that was read before, by name; what is gone is left out."""
    if reader == FOLDER:
        return {name: ImageFile(file_named(path, name), name, 0) for name in names}
    wanted = set(names)
    try:
        found = read_found(DataPlace(str(path), path, registry.data_source(reader)))
    except ZooError:
        return {}
    return {
        file.relative: ImageFile(file.path, file.relative, 0, file.reader)
        for by_class in found.found.values()
        for files in by_class.values()
        for file in files
        if file.relative in wanted
    }


def is_there(path: Path) -> bool:
    """Whether what holds the data is still there; of a pattern, the folder with its files."""
    return path.exists() or (_is_pattern(path) and path.parent.is_dir())


@dataclass(frozen=True, slots=True)
class _Content:
    """A source's way to an image, called in threads: whatever it raises is said of this image."""

    read: Callable[[], object]
    who: str

    def __call__(self) -> bytes:
        try:
            content = self.read()
        except (DataError, OSError):
            raise
        except (Exception, SystemExit) as error:  # sys.exit in a plugin ends the plugin, not zoo
            if isinstance(error, Terminated):
                raise
            raise DataError(f"the data source {self.who} raised {one_line(error)}") from error
        if not isinstance(content, bytes):
            raise DataError(f"the data source {self.who} must give bytes, gave {type(content).__name__}")
        return content


def _named(asked: str, registry: Registry) -> tuple[Contribution[DataSourceSpec] | None, Path] | None:
    match = _NAMED.fullmatch(asked)
    if match is None:
        return None
    name, path = match[1], Path(match[2]).expanduser()
    if name == FOLDER:
        return None, path
    try:
        return registry.data_source(name), path
    except UnknownName:
        if Path(asked).exists():
            return None
        known = [FOLDER, *(each.spec.name for each in registry.data_sources())]
        hint = "See: zoo list sources" if path.exists() else f"There is no {asked!r} either. See: zoo list sources"
        raise UnknownName("data source", name, known, hint=hint) from None


def _listing(place: DataPlace, source: Contribution[DataSourceSpec]) -> SourceListing:
    try:
        with prints_to_stderr():
            listing = source.spec.read(place.path)
    except (KeyboardInterrupt, Terminated, ZooError):
        raise
    except ImportError as error:
        raise Refused(f"{place.asked} cannot be read here: {error}") from error
    except ValueError as error:
        raise DataError(f"{place.asked} cannot be read: {error}") from error
    except OSError as error:
        raise DataError(f"{error.filename or place.asked}: {error.strerror or error}") from None
    except BaseException as error:
        raise PluginError(f"The data source {_who(source)} cannot read {place.asked}: {one_line(error)}") from error
    if not isinstance(listing, SourceListing):
        raise PluginError(
            f"The data source {_who(source)} must read {place.asked} to a SourceListing, gave {type(listing).__name__}."
        )
    return listing


def _found(place: DataPlace, listing: SourceListing) -> Found:
    images = cast("tuple[SourceImage, ...]", listing.images)
    names = _split_names(place, images)
    _refuse_twice(place, images)
    who = _who(place.source) if place.source is not None else ""
    found: dict[Split, dict[str, list[FoundFile]]] = {split: {} for split in SPLITS if split in names or not names}
    if not names:
        found = {"train": {}}
    for image in sorted(images, key=lambda each: each.name):
        split = _split_of(image)
        found[split].setdefault(printable(image.label), []).append(_file(image, place.path, who))
    skipped = tuple(replace(each, relative=printable(each.relative)) for each in listing.skipped)
    return Found(
        source=place.asked,
        path=place.path,
        reader=place.reader,
        names=names,
        found=found,
        skipped=tuple(sorted(skipped, key=lambda each: each.relative)),
        notes=listing.notes,
    )


def _file(image: SourceImage, path: Path, who: str) -> FoundFile:
    if isinstance(image.content, Path):
        return FoundFile(image.content, printable(image.name))
    return FoundFile(path, printable(image.name), _Content(image.content, who))


def _split_of(image: SourceImage) -> Split:
    return "train" if image.split is None else SPLIT_NAMES[image.split.lower()]


def _split_names(place: DataPlace, images: Iterable[SourceImage]) -> dict[Split, str]:
    """What the data call their splits; empty where they have none."""
    words: dict[str | None, str] = {}
    for image in images:
        words.setdefault(image.split, image.name)
    unknown = [word for word in words if word is not None and split_named(word) is None]
    if unknown:
        close = nearest(unknown[0], SPLIT_NAMES)
        hint = f" Did you mean {either(close)}?" if close else ""
        raise DataError(
            f"{place.asked} has the split {unknown[0]!r} (of {words[unknown[0]]}).{hint}\n"
            "Next: name it train, val (valid, validation) or test, or leave splits out and let zoo draw val."
        )
    if None in words and len(words) > 1:
        raise DataError(
            f"{place.asked} has images with a split and others without one, such as {words[None]}.\n"
            "Next: give every image its split, train, val or test, or none of them."
        )
    return _one_word_each(place, [word for word in words if word is not None])


def _one_word_each(place: DataPlace, words: Iterable[str]) -> dict[Split, str]:
    names: dict[Split, str] = {}
    for word in words:
        split = SPLIT_NAMES[word.lower()]
        if split in names:
            raise DataError(
                f"{place.asked} has two names of the split {split}: {names[split]} and {word}.\nNext: keep one."
            )
        names[split] = word
    return names


def _refuse_twice(place: DataPlace, images: Iterable[SourceImage]) -> None:
    seen: dict[str, SourceImage] = {}
    for image in images:
        before = seen.setdefault(image.name, image)
        if before is image:
            continue
        if before.split != image.split:
            where = f"in two splits of {place.asked}, {before.split} and {image.split}"
            step = "keep it in one: what was trained on would be judged again."
        elif before.label != image.label:
            where = f"under two labels in {place.asked}, {before.label} and {image.label}"
            step = "keep the one that is right."
        else:
            where, step = f"listed twice in {place.asked}", "keep it once: it would count twice."
        raise DataError(f"{image.name} is {where}.\nNext: {step}")


def _conflict(asked: Path, claims: Iterable[Contribution[DataSourceSpec]]) -> NameConflict:
    claims = list(claims)
    who = "\n".join(f"  {_distribution(each)}: --data {qualified_name(each)}:{asked}" for each in claims)
    return NameConflict(f"{asked} is recognised by more than one data source:\n{who}\nNext: say which, as above.")


def _also_claimed(place: DataPlace, others: Iterable[Contribution[DataSourceSpec]]) -> str:
    ways = "; ".join(f"{_distribution(each)}: --data {qualified_name(each)}:{place.path}" for each in others)
    return f"{place.asked} is read by zoo itself, as {place.reader!r}. It is also recognised by {ways}"


def _nothing_reads(asked: Path, registry: Registry) -> str:
    if asked.exists():
        kinds = ", ".join([FOLDER, *(each.spec.name for each in registry.data_sources())])
        return (
            f"The data {str(asked)!r} is a file that no data source recognises; there are: {kinds}.\n"
            "Next: give the folder that holds one folder per class, or say what reads it: --data NAME:PATH "
            "(zoo list sources)."
        )
    return no_folder(asked)


def _is_pattern(path: Path) -> bool:
    return glob.has_magic(str(path)) or "{" in path.name


def _who(source: Contribution[DataSourceSpec]) -> str:
    return f"{qualified_name(source)!r} of {_distribution(source)}"


def _distribution(source: Contribution[DataSourceSpec]) -> str:
    return f"{source.plugin.distribution} {source.plugin.version}"
