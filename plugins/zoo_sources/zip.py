"""Zip archives of class folders. Members are read one at a time, from their offset in the file."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import zoo

from zoo_sources.disk import is_file
from zoo_sources.members import Members, folder_name
from zoo_sources.zip_names import MemberNames, member_names

_ENCRYPTED = 0x1
_HEADER = 30
"""Length in bytes of a local header before the name."""
_METHODS = {zipfile.ZIP_STORED: False, zipfile.ZIP_DEFLATED: True}
"""The supported compression methods, and whether each is deflate."""


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A file in a zip archive. Calling it reads and returns its bytes, without trusting the size in the archive."""

    path: Path
    offset: int
    """Position of its local header in the file."""
    packed: int
    size: int
    crc: int
    deflated: bool

    @property
    def place(self) -> tuple[str, int, int]:
        """Where the bytes lie, so that zoo can read images in that order."""
        return str(self.path), self.offset, 0

    def __call__(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            header = file.read(_HEADER)
            if len(header) < _HEADER or not header.startswith(b"PK\x03\x04"):
                raise zoo.DataError("the archive has no file at the offset in its directory")
            name, extra = struct.unpack("<HH", header[26:30])
            file.seek(name + extra, 1)
            content = file.read(self.packed)
        if self.deflated:
            content = _inflated(content, self.size)
        if len(content) != self.size:
            raise zoo.DataError(f"its size differs from the {self.size:,} bytes in the archive's directory")
        if zlib.crc32(content) != self.crc:
            raise zoo.DataError("damaged: its checksum is not that of the archive")
        return content


def read_zip(path: Path) -> zoo.ClassFolders:
    """List a zip archive of class folders, with or without folders around them.

    Raises DataError for a damaged archive, and for encrypted or suspicious members.
    """
    if not is_file(path):
        raise zoo.DataError(f"There is no file {str(path)!r}.")
    if not path.stat().st_size:
        raise zoo.DataError(f"{path} is empty: it has 0 bytes.\nNext: download or save it again.")
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError) as error:
        raise zoo.DataError(
            f"{path} cannot be read as a zip archive; it may be truncated: {error}.\nNext: download or save it again."
        ) from None
    names = member_names(infos)
    files = [zoo.FolderFile(name, member) for name, member in _members(path, infos, names)]
    folders = [folder_name(names.of(info)) for info in infos if names.is_folder(info)]
    return zoo.ClassFolders(files=files, folders=folders, notes=names.notes)


def _members(path: Path, infos: Sequence[zipfile.ZipInfo], names: MemberNames) -> Iterator[tuple[str, ZipMember]]:
    members = Members(path)
    _refuse_overlaps(path, infos)
    for info in infos:
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise members.special(info.filename, "a link" if stat.S_ISLNK(mode) else "a device or a pipe")
        if names.is_folder(info):
            continue
        name = members.name(names.of(info))
        if zoo.is_image_name(name):
            _refuse_unreadable(path, info)
            members.size(info.filename, (info.file_size, info.compress_size))
        deflated = _METHODS.get(info.compress_type, False)
        yield name, ZipMember(path, info.header_offset, info.compress_size, info.file_size, info.CRC, deflated)


def _refuse_unreadable(path: Path, info: zipfile.ZipInfo) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise zoo.DataError(
            f"{path}: the member {info.filename!r} is encrypted.\nNext: pack it again without a password."
        )
    if info.compress_type not in _METHODS:
        raise zoo.DataError(
            f"{path}: the member {info.filename!r} is packed with method {info.compress_type}; zoo reads stored "
            "and deflated members.\nNext: pack it again with deflate, the default of zip."
        )


def _refuse_overlaps(path: Path, infos: Sequence[zipfile.ZipInfo]) -> None:
    """Raise DataError if members share bytes: so a small archive can unpack to any amount of data."""
    end = -1
    for info in sorted(infos, key=lambda member: member.header_offset):
        if info.header_offset < end:
            raise zoo.DataError(
                f"{path}: the member {info.filename!r} overlaps another one, as in a zip bomb.\n"
                "Next: check where the archive comes from."
            )
        end = info.header_offset + _HEADER + info.compress_size


def _inflated(content: bytes, size: int) -> bytes:
    """Inflate at most one byte more than `size`, so that a zip bomb stays small in memory."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
    except zlib.error as error:
        raise zoo.DataError(f"damaged: {error}") from None
