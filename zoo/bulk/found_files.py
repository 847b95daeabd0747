"""Find the images that paths, folders, patterns and addresses mean: one by one, in a fixed order, with their sizes."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from zoo.bulk.addresses import Address, file_system, unreachable
from zoo.data.paths import images_of
from zoo.errors import DataError
from zoo.specs.data import IMAGE_SUFFIXES, Skipped, is_image_name, not_an_image, passed_over

_MAGIC = re.compile(r"[*?[]")


class FoundFile(NamedTuple):
    """A file to read."""

    name: str
    """The path, or the address, as `zoo predict` calls it."""
    size: int
    """Bytes; -1 where nothing can be said, as of a link to nothing."""


def find_files(
    addresses: Sequence[Address], *, unused: Callable[[Skipped], None] = lambda file: None
) -> Iterator[FoundFile]:
    """Yield the images that the addresses mean, address by address, each folder in the order of sorted paths.

    Only what lies in one folder is in memory at a time. Hidden files and system files are passed over, as in training.
    `unused` is called with each file of a folder that is no image by its name.

    Raises:
        DataError: An address means no image, or cannot be listed.
    """
    for address in addresses:
        any_found = False
        for file in _local(address, unused) if address.is_local else _stored(address, unused):
            any_found = True
            yield file
        if not any_found:
            raise DataError(
                f"There is no image at {address}; they end in {', '.join(IMAGE_SUFFIXES)}.\n"
                "Next: a file, a folder of images, or a quoted pattern such as 'shots/**/*.jpg'."
            )


def _local(address: Address, unused: Callable[[Skipped], None]) -> Iterator[FoundFile]:
    for path in images_of([Path(address.path)], unused=unused):
        try:
            yield FoundFile(str(path), os.stat(path).st_size)  # noqa: PTH116 - for every file of many
        except OSError:
            yield FoundFile(str(path), -1)


def _stored(address: Address, unused: Callable[[Skipped], None]) -> Iterator[FoundFile]:
    """Images below a prefix, or that match a pattern, or the one object of that name."""
    magic = _MAGIC.search(address.path)
    if magic is not None and "/" not in address.path[: magic.start()]:
        raise DataError(f"{address} has a pattern in the name of the bucket.\nNext: spell the bucket out.")
    system = file_system(address.scheme)
    try:
        # A key is a file or the beginning of others; only the store can tell which. A file may have a name that looks
        # like a pattern, such as `[1].jpg`.
        [info] = system.get_file_info([address.path])
        if info.is_file:
            yield FoundFile(address.named(info.path), info.size)
            return
        if magic is None:
            yield from _below(address, address.path, unused)
            return
        # The part of the path that the pattern spells out.
        fixed = address.path[: address.path.rfind("/", 0, magic.start())]
        matches = re.compile(_pattern(address.path)).fullmatch
        yield from (
            file
            for file in _below(address, fixed, lambda file: None)
            if matches(file.name.removeprefix(f"{address.scheme}://"))
        )
    except OSError as error:
        raise unreachable(address, error) from error


def _below(address: Address, prefix: str, unused: Callable[[Skipped], None]) -> Iterator[FoundFile]:
    from pyarrow import fs

    system = file_system(address.scheme)
    waiting = [prefix]
    while waiting:
        at = waiting.pop()
        entries = system.get_file_info(fs.FileSelector(at, allow_not_found=True))
        folders = []
        for entry in sorted(entries, key=lambda entry: entry.path):
            if passed_over([entry.base_name]) is not None:
                continue
            if entry.type == fs.FileType.Directory:
                folders.append(entry.path)
            elif is_image_name(entry.path):
                yield FoundFile(address.named(entry.path), entry.size)
            elif entry.type == fs.FileType.File:
                unused(not_an_image(address.named(entry.path)))
        waiting += reversed(folders)  # taken from the end: depth first, in the order of names


def _pattern(path: str) -> str:
    """A pattern as a regular expression: `*` stays inside of a folder, `**/` is any number of folders."""
    meanings = {"**/": "(?:[^/]+/)*", "*": "[^/]*", "?": "[^/]"}

    def meaning(found: re.Match[str]) -> str:
        token = found[0]
        if token.startswith("[") and len(token) > 1:  # a bracket that nothing closes stands for itself
            # As on this machine, where `[z-a]` matches nothing and a backslash is one. It comes as `(?s:[...])\Z`.
            return fnmatch.translate(token)[4:-3]
        return meanings.get(token) or re.escape(token)

    return re.sub(r"\*\*/|\*|\?|\[!?[^]/]+\]|.", meaning, path)
