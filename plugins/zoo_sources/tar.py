"""Tar shards, of webdataset's samples or of class folders. Members are read from their offset in the file.

In webdataset's format, files of one sample share their name up to its first dot, such as `0001.jpg` and `0001.cls`.
"""

from __future__ import annotations

import re
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import zoo

from zoo_sources.members import Members, folder_name
from zoo_sources.shards import Shard, find_shards
from zoo_sources.tar_labels import CLASSES, LABEL_BYTES, SampleClasses, class_lists, label_in, list_of

_SAMPLE = re.compile(r"((?:.*/)?[^./][^/.]*)\.([^/]*)")
"""Splits a name into webdataset's key and extension."""
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file in a tar archive. Calling it reads and returns its bytes."""

    path: Path
    offset: int
    size: int

    @property
    def place(self) -> tuple[str, int, int]:
        """Where the bytes lie, so that zoo can read images in that order."""
        return str(self.path), self.offset, 0

    def __call__(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise zoo.DataError("the archive ends within it")
        return content


def read_shards(path: Path) -> zoo.SourceListing | zoo.ClassFolders:
    """List one tar file, a folder of them or a pattern.

    If any shard has a label for any sample, all shards hold samples; else they hold class folders, which are read
    over all shards at once. Raises DataError for shards that are missing, truncated or compressed, for suspicious
    members, for labels that `classes.txt` lacks, and where it is unclear what labels mean.
    """
    folder, shards, skipped = find_shards(path)
    folders: list[str] = []
    members = {shard: dict(_members(shard, folders)) for shard in shards}
    faults: list[tuple[str, str]] = []
    labels = {shard: _of_images(_labels(shard, of_shard, faults), of_shard) for shard, of_shard in members.items()}
    # A JSON file beside the images of class folders may hold anything.
    has_samples = any(labels.values()) or any(kind == "cls" for kind, _ in faults)
    kind = "samples" if has_samples else "class folders"
    notes = (
        f"{len(shards):,} tar {'shard' if len(shards) == 1 else 'shards'} of {kind}",
        *_note_on_names(name for of_shard in members.values() for name in of_shard),
    )
    if not has_samples:
        return zoo.ClassFolders(
            files=[
                zoo.FolderFile(shard.qualified(name), member, _placed(shard, name))
                for shard, of_shard in members.items()
                for name, member in of_shard.items()
            ],
            folders=folders,
            skipped=skipped,
            notes=notes,
        )
    if faults:
        raise zoo.DataError(f"{faults[0][1]}.\nNext: correct it, or remove it with its image.")
    _refuse_unlabelled(members, labels)
    classes = _classes_of(path, folder, members, labels)
    found: list[tuple[Shard, zoo.SourceImage]] = []
    for shard, of_shard in members.items():
        listing = _samples(shard, of_shard, labels[shard], classes)
        found += [(shard, image) for image in listing.images]
        skipped += [zoo.Skipped(shard.qualified(file.relative), file.reason, file.detail) for file in listing.skipped]
    return zoo.SourceListing(images=_in_shards(found), skipped=skipped, notes=notes)


def _of_images(labels: dict[str, str], members: Iterable[str]) -> dict[str, str]:
    """The labels whose key is that of an image: other JSON files may have a label, too."""
    keys = {_sample(name)[0] for name in members if zoo.is_image_name(name)}
    return {key: label for key, label in labels.items() if key in keys}


def _refuse_unlabelled(members: dict[Shard, dict[str, TarMember]], labels: dict[Shard, dict[str, str]]) -> None:
    """Refuse a shard with images and no label among shards with labels: it lost them, or is of another kind."""
    for shard, of_shard in members.items():
        if not labels[shard] and any(map(zoo.is_image_name, of_shard)):
            raise zoo.DataError(
                f"{shard.path} has no label for any image (KEY.cls, or KEY.json with label or class); others have.\n"
                "Next: add its labels, or leave this shard out."
            )


def _in_shards(found: Sequence[tuple[Shard, zoo.SourceImage]]) -> Iterator[zoo.SourceImage]:
    """Yield samples under the names of their shards, with the splits of these, or else of the folders inside.

    Folders inside are splits only if one of them is train: else a folder called test around everything would be one.
    """
    inside = [next(filter(None, map(zoo.split_named, image.name.split("/")[:-1])), None) for _, image in found]
    has_train = "train" in inside
    for (shard, image), split in zip(found, inside, strict=True):
        name = shard.qualified(image.name)
        of_image = shard.split or (split if has_train else None)
        yield zoo.SourceImage(name=name, label=image.label, content=image.content, split=of_image)


def _placed(shard: Shard, name: str) -> str:
    """The path that says label and split of a member."""
    return f"{shard.split}/{name}" if shard.split else name


def _note_on_names(names: Iterable[str]) -> tuple[str, ...]:
    wrong = [name for name in names if any("\ud800" <= letter <= "\udfff" for letter in name)]
    if not wrong:
        return ()
    shown = wrong[0].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return (f"{len(wrong):,} names in the archive are not UTF-8, and are shown with escapes, such as {shown}",)


def _members(shard: Shard, folders: list[str]) -> Iterator[tuple[str, TarMember]]:
    """Yield the files of a shard by name, and add its folders to `folders`."""
    path = shard.path
    members = Members(path)
    with path.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (info := tar.next()) is not None:
                    # Otherwise tarfile keeps every header in memory.
                    tar.members = []  # type: ignore[attr-defined]
                    if info.isdir():
                        folders.append(_placed(shard, folder_name(info.name)))
                        continue
                    _refuse_special(members, info)
                    name = members.name(info.name)
                    if zoo.is_image_name(name):
                        members.size(info.name, (info.size,))
                    yield name, TarMember(path, info.offset_data, info.size)
                end = tar.offset
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise _damaged(path, str(error)) from None
        file.seek(end)
        # tarfile silently stops at anything that is no header. Only an empty block there is a real end of the archive.
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise _damaged(path, f"after {end:,} bytes there is neither a file nor the end mark of an archive")


def _damaged(path: Path, reason: str) -> zoo.DataError:
    if not path.stat().st_size:
        return zoo.DataError(f"{path} is empty: it has 0 bytes.\nNext: download or save it again.")
    return zoo.DataError(
        f"{path} cannot be read as a tar archive; it may be truncated: {reason}.\nNext: download or save it again."
    )


def _refuse_special(members: Members, info: tarfile.TarInfo) -> None:
    if info.issym() or info.islnk():
        raise members.special(info.name, f"a link to {info.linkname!r}")
    if not info.isreg() or info.issparse():
        raise members.special(info.name, "sparse" if info.issparse() else "a device or a pipe")


def _labels(shard: Shard, members: dict[str, TarMember], faults: list[tuple[str, str]]) -> dict[str, str]:
    """Return the label of each key, from `.cls` or else from `.json`. `faults` gets (kind, words) of others."""
    labels: dict[str, str] = {}
    unread: dict[str, tuple[str, str]] = {}
    for name, member in members.items():
        key, kind = _sample(name)
        if kind not in ("cls", "json") or member.size > LABEL_BYTES:
            continue
        try:
            label = label_in(kind, member())
        except ValueError as error:
            unread[key] = kind, f"{shard.path}: {name} {error}"
            continue
        if label and (kind == "cls" or key not in labels):
            labels[key] = sys.intern(label)
    images = {_sample(name)[0] for name in members if _is_used(name)}
    faults += [fault for key, fault in unread.items() if key in images and key not in labels]
    return labels


def _sample(name: str) -> tuple[str, str]:
    match = _SAMPLE.fullmatch(name)
    return (match[1], match[2].lower()) if match else (name, "")


def _is_used(name: str) -> bool:
    """Whether a member is an image of a sample, if that has a label."""
    return "." not in _sample(name)[1] and zoo.is_image_name(name) and not zoo.passed_over(name.split("/"))


def _classes_of(
    path: Path, folder: Path, members: dict[Shard, dict[str, TarMember]], labels: dict[Shard, dict[str, str]]
) -> SampleClasses:
    """What the labels mean, by the list of classes in `folder` or in the shards."""
    inside: dict[Shard, bytes] = {}
    of_images: dict[Shard, dict[str, str]] = {}
    for shard, of_shard in members.items():
        if member := of_shard.get(CLASSES):
            if member.size > LABEL_BYTES:
                raise zoo.DataError(f"{CLASSES} in {shard.path} is too large for a list.\nNext: leave it out.")
            inside[shard] = member()
        keys = {name: _sample(name)[0] for name in of_shard if _is_used(name)}
        of_images[shard] = {name: labels[shard][key] for name, key in keys.items() if key in labels[shard]}
    return SampleClasses(path, class_lists(list_of(folder), inside, members), of_images)


def _samples(
    shard: Shard, members: dict[str, TarMember], labels: dict[str, str], classes: SampleClasses
) -> zoo.SourceListing:
    images: list[zoo.SourceImage] = []
    skipped: list[zoo.Skipped] = []
    for name, member in members.items():
        key, kind = _sample(name)
        if reason := zoo.passed_over(name.split("/")):
            skipped.append(zoo.Skipped(name, reason))
        elif _is_used(name):
            if key in labels:
                label = classes.of(shard, labels[key])
                images.append(zoo.SourceImage(name=name, label=label, content=member))
            else:
                skipped.append(zoo.Skipped(name, "no label", f"no {key}.cls, nor {key}.json with label or class"))
        elif name != CLASSES and not (kind in ("cls", "json") and key in labels):
            skipped.append(zoo.Skipped(name, "not an image", f".{kind} extension" if kind else "no extension"))
    return zoo.SourceListing(images=images, skipped=skipped)
