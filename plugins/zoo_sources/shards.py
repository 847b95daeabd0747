"""Which tar files a path means: one, those of a folder, those of a pattern; and the splits that their names say."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import zoo

SUFFIX = ".tar"
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST_SHARDS = 100_000
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar file."""

    path: Path
    name: str
    """Among its kind; empty where it is the only one."""
    split: str | None


def are_shards(path: Path) -> bool:
    """A tar file, a pattern of them, or a folder with tar files in it or in its split folders, and no other folders."""
    if path.name.lower().endswith((SUFFIX, *_PACKED)):
        return path.is_file() or _is_pattern(path)
    return path.is_dir() and _is_folder_of_shards(path)


def find_shards(path: Path) -> tuple[Path, list[Shard], list[zoo.Skipped]]:
    """-> (the folder that they lie in, the shards in natural order, other files there).

    Raises DataError for a pattern without files, shards that are missing, and compressed ones.
    """
    skipped: list[zoo.Skipped] = []
    if path.is_dir():
        folder, files = path, _in_folder(path, skipped)
    elif path.exists() or not _is_pattern(path):
        _refuse_packed([path])
        _refuse_missing(path, [path])
        return path.parent, [Shard(path, "", None)], []
    else:
        files = _matching(path)
        folder = Path(os.path.commonpath([each.parent for each in files]))
    _refuse_packed(files)
    names = [each.relative_to(folder).as_posix() for each in files]
    return folder, [Shard(file, name, _split_of(name)) for file, name in zip(files, names, strict=True)], skipped


def _is_pattern(path: Path) -> bool:
    return glob.has_magic(str(path)) or _BRACES.search(str(path)) is not None


def _is_folder_of_shards(path: Path) -> bool:
    try:
        entries = [each for each in path.iterdir() if not each.name.startswith(".")]
        folders = [each for each in entries if each.is_dir()]
        if not all(zoo.split_named(each.name) for each in folders):
            return False
        below = [each for folder in folders for each in folder.iterdir() if not each.name.startswith(".")]
    except OSError:
        return False
    return not any(each.is_dir() for each in below) and any(_is_tar(each) for each in [*entries, *below])


def _is_tar(path: Path) -> bool:
    return path.name.lower().endswith((SUFFIX, *_PACKED)) and path.is_file()


def _in_folder(folder: Path, skipped: list[zoo.Skipped]) -> list[Path]:
    files: list[Path] = []
    below = [each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")]
    for each in sorted([*folder.iterdir(), *(file for split in below for file in split.iterdir())]):
        name = each.relative_to(folder).as_posix()
        if each.is_dir() or each.name == "classes.txt":
            continue
        if each.name.startswith("."):
            skipped.append(zoo.Skipped(name, "hidden"))
        elif _is_tar(each):
            files.append(each)
        else:
            skipped.append(zoo.Skipped(name, "not an image", "no tar shard"))
    return files


def _matching(path: Path) -> list[Path]:
    expanded = [Path(each) for each in itertools.islice(_expanded(str(path)), _MOST_SHARDS + 1)]
    if len(expanded) > _MOST_SHARDS:
        raise zoo.DataError(
            f"{path} stands for more than {_MOST_SHARDS:,} files.\nNext: give a folder, or less at once."
        )
    fixed = [each for each in expanded if not glob.has_magic(str(each))]
    _refuse_missing(path, fixed)
    found = [
        sorted(map(Path, glob.glob(str(each), recursive=True)))  # noqa: PTH207 - absolute too
        for each in expanded
        if glob.has_magic(str(each))
    ]
    files = list(dict.fromkeys([*fixed, *itertools.chain.from_iterable(found)]))
    if not files:
        raise zoo.DataError(f"No file matches {str(path)!r}.\nNext: look at the folder, and quote the pattern.")
    return files


def _expanded(text: str) -> Iterator[str]:
    """`{000..003}` and `{a,b}` as a shell expands them."""
    match = _BRACES.search(text)
    if match is None:
        yield text
        return
    span = _RANGE.fullmatch(match[1])
    words: Iterator[str] | list[str] = match[1].split(",")
    if span:
        width = max(len(span[1]), len(span[2])) if "0" in (span[1][0], span[2][0]) else 0
        words = (f"{number:0{width}d}" for number in range(int(span[1]), int(span[2]) + 1))
    for word in words:
        yield from _expanded(text[: match.start()] + word + text[match.end() :])


def _split_of(name: str) -> str | None:
    """By its folder, else by the word before the first `-`, `_` or `.` of its name."""
    folder, _, file = name.rpartition("/")
    of_folder = zoo.split_named(folder.rpartition("/")[2])
    return of_folder or zoo.split_named(re.split(r"[-_.]", file)[0])


def _refuse_packed(files: Sequence[Path]) -> None:
    packed = next((each for each in files if not each.name.lower().endswith(SUFFIX)), None)
    if packed is not None and packed.name.lower().endswith(_PACKED):
        raise zoo.DataError(
            f"{packed} is compressed, so a picture in it cannot be read without all before it.\n"
            "Next: unpack it to a plain .tar (pictures are compressed already), such as: gunzip FILE.tar.gz"
        )


def _refuse_missing(asked: Path, files: Sequence[Path]) -> None:
    missing = [each for each in files if not each.is_file()]
    if not missing:
        return
    shown = ", ".join(each.name for each in missing[:_SHOWN])
    more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
    raise zoo.DataError(
        f"{len(missing):,} of the {len(files):,} shards that {asked} names are not there: {shown}{more}.\n"
        "Next: get them, or name those that are there."
    )
