"""Check what a data source lists, and order it by split and class.

The same for class folders, which zoo lists itself (`zoo.data.folder`), and for what plugins list. Which splits and
classes a run then has is decided in `zoo.data.splits`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.data.splits import SPLITS, UncheckedData
from zoo.errors import DataError, OtherAnswer, PluginError, Terminated, nearest
from zoo.registry.entry_points import one_line
from zoo.registry.session import of_session
from zoo.specs.data import FOLDER, SPLIT_NAMES, SourceListing, Split, split_named
from zoo.text import composed, exact, printable, some

if TYPE_CHECKING:
    from zoo.data.listed_images import ListedImages
    from zoo.data.manifest import SourceRows

_MEND = f"\nNext: {PluginError.next_step}"


@dataclass(frozen=True, slots=True)
class SourceContent:
    """Reads one image through its data source, in any thread. What that raises makes this image unreadable."""

    read: Callable[[], object]
    source: str
    """The data source and its distribution, for messages."""

    def __call__(self) -> bytes:
        try:
            content = self.read()
        except (DataError, OSError, OtherAnswer):
            raise
        except (Exception, SystemExit) as error:  # sys.exit in a plugin ends the plugin, not zoo
            if isinstance(error, Terminated):
                raise
            raise DataError(f"the data source {self.source} raised {one_line(error)}{_MEND}") from error
        if not isinstance(content, bytes):
            raise DataError(f"the data source {self.source} must give bytes, gave {type(content).__name__}{_MEND}")
        return content


def to_unchecked(
    listing: SourceListing | ListedImages, *, source: str, path: Path, reader: str, described: str = ""
) -> UncheckedData:
    """Order a listing by split and class. Class names are compared in Unicode's form NFC, as people see them.

    Args:
        listing: What was found.
        source: The data as people call them.
        path: Where they are.
        reader: `folder`, or the data source's qualified name.
        described: The data source and its distribution, for messages.

    Raises:
        DataError: An unknown split, two names of one split, images without a split among others, or repeated names.
    """
    from zoo.data.listed_images import listed_images
    from zoo.data.manifest import no_images

    if isinstance(listing, SourceListing):
        # A folder is walked through in order, folder by folder, and objects are sorted like it. Names of other sources
        # come in any order.
        sort = reader != FOLDER and not of_session(reader)
        listing = listed_images(listing, path, partial(SourceContent, source=described), sort=sort)
    examples = listing.examples()
    for of_split in listing.empty:
        examples.setdefault(of_split.split, f"the class {of_split.label}")
    split_names = _split_names(source, examples)
    if not listing.unique:
        _refuse_repeated_names(source, listing)
    # Without split names everything is in train, and val is drawn from it later.
    splits: dict[Split, dict[str, SourceRows]] = {split: {} for split in SPLITS if split in split_names}
    splits = splits or {"train": {}}
    for word, name, files in listing.groups([_class(label) for label in listing.manifest.given_names]):
        splits["train" if word is None else _split(word)][name] = files
    for missing in listing.empty:
        if missing.label:
            of_split_named = splits["train" if missing.split is None else _split(missing.split)]
            of_split_named.setdefault(_class(missing.label), no_images(listing.manifest))
    spellings: dict[str, set[str]] = {}
    for label in (*listing.written(), *(missing.label for missing in listing.empty if missing.label)):
        spellings.setdefault(_class(label), set()).add(printable(label))
    skipped = [replace(file, relative=printable(file.relative)) for file in listing.skipped]
    slash = "/" if reader == FOLDER else ""
    return UncheckedData(
        source=source,
        path=path,
        reader=reader,
        split_names={split: f"{name}{slash}" for split, name in split_names.items()},
        manifest=listing.manifest,
        splits=splits,
        skipped=tuple(sorted(skipped, key=lambda file: file.relative)),
        notes=(*listing.notes, *_notes_on_spellings(spellings)),
    )


def _class(label: str) -> str:
    return composed(printable(label))


def _split(word: str) -> Split:
    split = split_named(word)
    assert split is not None, f"{word!r} was checked before"
    return split


def _notes_on_spellings(spellings: Mapping[str, set[str]]) -> Iterable[str]:
    several = [name for name, written in spellings.items() if len(written) > 1]
    if several:
        first = " and ".join(exact(written) for written in sorted(spellings[several[0]]))
        yield f"names that look the same are one class: {some(several)} (written as {first})"


def _split_names(source: str, examples: Mapping[str | None, str]) -> dict[Split, str]:
    """The data's own names of their splits; empty if they have none."""
    unknown = [word for word in examples if word is not None and split_named(word) is None]
    if unknown:
        close = nearest(unknown[0], SPLIT_NAMES, count=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise DataError(
            f"{source} has the split {unknown[0]!r} (of {examples[unknown[0]]}).{hint}\n"
            "Next: name it train, val (valid, validation, dev) or test, or leave splits out and let zoo draw val."
        )
    if None in examples and len(examples) > 1:
        raise DataError(
            f"{source} has images with a split and others without one, such as {examples[None]}.\n"
            "Next: give every image its split, train, val or test, or none of them."
        )
    return _one_name_each(source, [word for word in examples if word is not None])


def _one_name_each(source: str, words: Iterable[str]) -> dict[Split, str]:
    names: dict[Split, str] = {}
    for word in words:
        split = _split(word)
        if split in names:
            raise DataError(f"{source} has two names of the split {split}: {names[split]} and {word}.\nNext: keep one.")
        names[split] = word
    return names


def _refuse_repeated_names(source: str, images: ListedImages) -> None:
    twice = images.manifest.index.repeated()
    if twice is None:
        return
    again, first = twice
    names = images.manifest.given_names
    one, two = ((images.splits[images.split[row]], names[images.given[row]]) for row in (first, again))
    if one[0] != two[0]:
        where = f"in two splits of {source}, {one[0]} and {two[0]}"
        step = "keep it in one: what was trained on must not be used to evaluate."
    elif one[1] != two[1]:
        where, step = f"under two labels in {source}, {one[1]} and {two[1]}", "keep the right one."
    else:
        where, step = f"listed twice in {source}", "keep it once: it would count twice."
    raise DataError(f"{images.manifest.names[again]} is {where}.\nNext: {step}")
