"""Find the tar shards that a path stands for (a file, a folder or a pattern), and their splits by name."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import zoo

from zoo_sources.disk import exists, is_file, is_folder

SUFFIX = ".tar"
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAX_SHARDS = 100_000
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar file."""

    path: Path
    name: str
    """Path below the common folder of the shards; empty for a single file."""
    split: str | None
    """`train`, `val` or `test`, if the shard's name or folder says so."""

    def qualified(self, member: str) -> str:
        """The name of a member among those of all shards."""
        return f"{self.name}/{member}" if self.name else member


def are_shards(path: Path) -> bool:
    """Whether `path` is a tar file, a pattern of tar files, or a folder with shards and no other than split folders."""
    if path.name.lower().endswith((SUFFIX, *_PACKED)):
        return is_file(path) or _is_pattern(path)
    return is_folder(path) and _is_folder_of_shards(path)


def find_shards(path: Path) -> tuple[Path, list[Shard], list[zoo.Skipped]]:
    """Return (the shards' common folder, the shards, other files in it that are skipped).

    Raises DataError if a pattern matches no file, shards are missing or shards are compressed.
    """
    skipped: list[zoo.Skipped] = []
    if is_folder(path):
        folder, files = path, _in_folder(path, skipped)
    elif exists(path) or not _is_pattern(path):
        _refuse_packed([path])
        _refuse_missing(path, [path])
        return path.parent, [Shard(path, "", None)], []
    else:
        files = _matching(path)
        folder = Path(os.path.commonpath([file.parent for file in files]))
    _refuse_packed(files)
    names = [file.relative_to(folder).as_posix() for file in files]
    shards = [Shard(file, name, _split_of(name)) for file, name in zip(files, names, strict=True)]
    _refuse_mixed(path, shards)
    return folder, shards, skipped


def _refuse_mixed(path: Path, shards: Sequence[Shard]) -> None:
    """Refuse shards of which only some have the name of a split."""
    named = [shard for shard in shards if shard.split is not None]
    others = [shard for shard in shards if shard.split is None]
    if named and others:
        raise zoo.DataError(
            f"{path}: {named[0].name} has the name of the split {named[0].split}, {others[0].name} of none.\n"
            f"Next: if shards are splits, rename {others[0].name}, such as to train-{others[0].path.name}; if not, "
            f"give {named[0].name} a name without that word, such as shard-{shards.index(named[0])}.tar."
        )


def _is_pattern(path: Path) -> bool:
    return glob.has_magic(str(path)) or _BRACES.search(str(path)) is not None


def _is_folder_of_shards(path: Path) -> bool:
    try:
        entries = [entry for entry in path.iterdir() if not zoo.passed_over([entry.name])]
        folders = [entry for entry in entries if is_folder(entry)]
        if not all(zoo.split_named(folder.name) for folder in folders):
            return False
        below = [entry for folder in folders for entry in folder.iterdir() if not zoo.passed_over([entry.name])]
    except OSError:
        return False
    return not any(is_folder(entry) for entry in below) and any(_is_tar(entry) for entry in [*entries, *below])


def _is_tar(path: Path) -> bool:
    return path.name.lower().endswith((SUFFIX, *_PACKED)) and is_file(path)


def _in_folder(folder: Path, skipped: list[zoo.Skipped]) -> list[Path]:
    files: list[Path] = []
    for entry in sorted(folder.rglob("*")):
        parts = entry.relative_to(folder).parts
        if is_folder(entry) or parts == ("classes.txt",):
            continue
        if reason := zoo.passed_over(parts):
            skipped.append(zoo.Skipped("/".join(parts), reason))
        elif _is_tar(entry):
            files.append(entry)
        else:
            skipped.append(zoo.Skipped("/".join(parts), "not an image", "no tar shard"))
    return files


def _matching(path: Path) -> list[Path]:
    # Sliced before it is counted: a pattern of a few letters can stand for billions of names.
    expanded = [Path(text) for text in itertools.islice(_expanded(str(path)), _MAX_SHARDS + 1)]
    if len(expanded) > _MAX_SHARDS:
        raise zoo.DataError(
            f"{path} stands for more than {_MAX_SHARDS:,} files.\nNext: give a folder, or fewer at once."
        )
    named = [name for name in expanded if not glob.has_magic(str(name))]
    _refuse_missing(path, named)
    matches = [
        sorted(map(Path, glob.glob(str(pattern), recursive=True)))  # noqa: PTH207 - absolute too
        for pattern in expanded
        if glob.has_magic(str(pattern))
    ]
    files = list(dict.fromkeys([*named, *itertools.chain.from_iterable(matches)]))
    if not files:
        raise zoo.DataError(f"No file matches {str(path)!r}.\nNext: check the folder, and put the pattern in quotes.")
    return files


def _expanded(text: str) -> Iterator[str]:
    """Expand `{000..003}` and `{a,b}` as a shell does."""
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
    """Return the split by the nearest folder that names one, or by the shard's name."""
    *folders, file = name.split("/")
    return next(filter(None, map(zoo.split_named, reversed(folders))), None) or zoo.split_named(file)


def _refuse_packed(files: Sequence[Path]) -> None:
    packed = next((file for file in files if not file.name.lower().endswith(SUFFIX)), None)
    if packed is not None and packed.name.lower().endswith(_PACKED):
        raise zoo.DataError(
            f"{packed} is compressed, so that reading one image means unpacking all images before it.\n"
            "Next: unpack it to a plain .tar (images are compressed already), for example: gunzip FILE.tar.gz"
        )


def _refuse_missing(path: Path, files: Sequence[Path]) -> None:
    missing = [file for file in files if not is_file(file)]
    if not missing:
        return
    shown = ", ".join(file.name for file in missing[:_SHOWN])
    more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
    raise zoo.DataError(
        f"{len(missing):,} of the {len(files):,} shards in {path} {'does' if len(missing) == 1 else 'do'} not exist: "
        f"{shown}{more}.\n"
        "Next: download them, or name existing shards only."
    )
