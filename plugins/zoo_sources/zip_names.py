"""Names in zip archives. The format says only of some names that they are UTF-8; the encoding of others is a guess."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_UTF_8_FLAG = 0x800
_UNICODE_PATH = 0x7075
"""Header of Info-ZIP's extra field with the name in UTF-8 (PKWARE's appnote, 4.6.9)."""
_ASSUMED = "cp437"
"""The encoding that the format prescribes for all other names: the one of DOS in the United States."""


@dataclass(frozen=True, slots=True)
class MemberNames:
    """The members' names as text, and what was assumed to read them."""

    names: Mapping[int, str]
    """By the offset of the member's header in the archive."""
    notes: tuple[str, ...]

    def of(self, info: zipfile.ZipInfo) -> str:
        """Return the name of a member, as it is in the archive."""
        return self.names[info.header_offset]

    def is_folder(self, info: zipfile.ZipInfo) -> bool:
        """Whether the member is a folder. Some programs on Windows write backslashes."""
        return self.of(info).endswith(("/", "\\"))


def member_names(infos: Sequence[zipfile.ZipInfo]) -> MemberNames:
    """Decode the names of all members.

    In this order: the extra field for Unicode, the flag for UTF-8, UTF-8 where every name without either is valid
    UTF-8, and else cp437, which a note says. One encoding serves all such names, because one program wrote them.
    """
    declared = {info.header_offset: name for info in infos if (name := _declared(info)) is not None}
    raw = {info.header_offset: _raw(info) for info in infos if info.header_offset not in declared}
    unicode = {offset: text for offset, name in raw.items() if (text := _as_utf_8(name)) is not None}
    if len(unicode) < len(raw):
        # In GBK and Shift-JIS a letter's second byte may be that of a backslash, which would be taken for a folder.
        backslash = "\uff3c" if any(b"/" in name for name in raw.values()) else "\\"
        guessed = {offset: name.decode(_ASSUMED).replace("\\", backslash) for offset, name in raw.items()}
        foreign = [name for name in guessed.values() if not name.isascii()]
        note = (
            f"{len(foreign):,} names in the archive are not UTF-8 and were read as {_ASSUMED}, such as {foreign[0]!r}; "
            "if that is wrong, unpack the archive with a program that shows them right, and give the folder"
        )
        return MemberNames(declared | guessed, (note,))
    if foreign := [name for name in unicode.values() if not name.isascii()]:
        # Short names in another encoding can be valid UTF-8 by chance, so this is said as well.
        note = f"{len(foreign):,} names in the archive were read as UTF-8, such as {foreign[0]!r}"
        return MemberNames(declared | unicode, (note,))
    return MemberNames(declared | unicode, ())


def _declared(info: zipfile.ZipInfo) -> str | None:
    """Return the name where the archive says that it is Unicode."""
    if info.flag_bits & _UTF_8_FLAG:
        return info.filename
    extra = info.extra
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        content, extra = extra[4 : 4 + size], extra[4 + size :]
        # Version 1, and the checksum of the other name, which a program that renames without knowing the field changes.
        if kind == _UNICODE_PATH and content[:1] == b"\1" and content[1:5] == struct.pack("<L", zlib.crc32(_raw(info))):
            return _as_utf_8(content[5:])
    return None


def _raw(info: zipfile.ZipInfo) -> bytes:
    return info.orig_filename.encode(_ASSUMED)  # zipfile decoded every byte by this table


def _as_utf_8(name: bytes) -> str | None:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return None
