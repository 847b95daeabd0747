"""File names that are no UTF-8, as text: bytes that mean no letter are written `\\xff`, as in a Python string.

On POSIX a name may be any bytes; Python keeps those that it cannot decode as lone surrogates, which no UTF-8 file, no
JSON and no terminal takes.
"""

from __future__ import annotations

import codecs
import os
import re
from pathlib import Path

ESCAPED = "zoo-escaped"
"""How a text stream writes such a name: `errors` of `open` and of `reconfigure`."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_BYTE = re.compile(r"\\x([89a-f][0-9a-f])")


def printable(text: str) -> str:
    """The same text with `\\xff` for a byte that is no UTF-8."""
    return _SURROGATE.sub(lambda found: _escape(found[0]), text)


def file_named(folder: Path, name: str) -> Path:
    """The file below `folder` that has `name`, or that `printable` calls so; one that need not be there."""
    path = folder / name
    if path.exists() or not _BYTE.search(name):
        return path
    raw = re.sub(_BYTE.pattern.encode(), lambda found: bytes.fromhex(found[1].decode()), os.fsencode(name))
    escaped = folder / os.fsdecode(raw)
    return escaped if escaped.exists() else path


def _escape(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """As `backslashreplace`, which would show the byte 0xff as `\\udcff`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    shown = "".join(_escape(each) if _SURROGATE.match(each) else ascii(each)[1:-1] for each in letters)
    return shown, error.end


codecs.register_error(ESCAPED, _escaped)
