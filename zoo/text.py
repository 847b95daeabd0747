"""Names and amounts as people read them.

File names may be any bytes on POSIX. Python keeps bytes that it cannot decode as lone surrogates, which no UTF-8 file,
no JSON and no terminal takes. Here they are written as escapes, `\\xff`, as in a Python string.
"""

from __future__ import annotations

import codecs
import os
import re
import shlex
import unicodedata
from collections.abc import Sequence
from pathlib import Path

_HANDLER = "zoo-escaped"
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# A message of several lines has ends of lines, and may have tabs.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
# From \x80 on: each byte below is a letter by itself, and is never escaped.
_BYTE = re.compile(r"\\x([89a-f][0-9a-f])")


def printable(text: str) -> str:
    """The text with `\\xff` in place of each byte that is not UTF-8."""
    return _SURROGATE.sub(lambda found: _escape(found[0]), text)


def on_one_line(text: str) -> str:
    """The text for a cell of a table: a line end or another control character in a name becomes an escape, `\\n`.

    Else one name would take several rows, or move the cursor and change the colours of a terminal.
    """
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def without_commands(text: str) -> str:
    """Text for a terminal, of several lines: control characters other than ends of lines and tabs become escapes.

    File and class names come from others. In one, a terminal would find commands: to change its colours and its title,
    or to write over what was said before.
    """
    return _COMMANDS.sub(lambda found: ascii(found[0])[1:-1], text)


def as_sentences(message: str) -> str:
    """A message of several lines for a cell of a table: its lines after one another, with spaces between them.

    For what zoo itself has written. A line end in a name is part of the name, and `on_one_line` shows it.
    """
    return " ".join(filter(None, map(str.strip, message.split("\n"))))


def composed(text: str) -> str:
    """The text in Unicode's form NFC, in which `é` is one character. macOS writes it as two, which look the same."""
    return unicodedata.normalize("NFC", text)


def folded(name: str) -> str:
    """A key that is the same for names that people could take for one another.

    It leaves out case, surrounding and repeated spaces, invisible characters, wide forms of letters, and a number's
    `.0` and leading zeros: `Cat` and `cat`, `dog` and `dog `, `0` and `0.0`, `1` and `01`.
    """
    text = unicodedata.normalize("NFKC", name)
    # Cf: joiners, marks of direction, the byte order mark. They are letters that show nothing.
    seen = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    key = " ".join(seen.casefold().split())
    # Of a number alone, as a table may hold labels: `v1` and `v1.0` are two names. Spreadsheets drop leading zeros.
    number = re.fullmatch(r"0*(\d+)(?:\.0+)?", key)
    return number[1] if number else key


def exact(name: str) -> str:
    """The name in quotes, with an escape for every letter that is not ASCII, so that names that look alike differ."""
    return ascii(name)


def escaping_errors() -> str:
    """The `errors` argument of `open` and `reconfigure` with which a text stream writes such names as escapes.

    Registering the handler changes the process, so it happens here, on use, and not on import.
    """
    codecs.register_error(_HANDLER, _escaped)
    return _HANDLER


def file_named(folder: Path, name: str) -> Path:
    """The path below `folder` whose name is `name`, or is shown as `name` by `printable`. It need not exist."""
    path = folder / name
    if path.exists() or not _BYTE.search(name):
        return path
    raw = re.sub(_BYTE.pattern.encode(), lambda found: bytes.fromhex(found[1].decode()), os.fsencode(name))
    escaped = folder / os.fsdecode(raw)
    return escaped if escaped.exists() else path


def _escape(letter: str) -> str:
    code = ord(letter)
    # There Python keeps bytes (PEP 383). Any other surrogate stands for no byte, so its own number is shown.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """Works as `backslashreplace`, which would show the byte 0xff as `\\udcff`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    shown = "".join(_escape(letter) if _SURROGATE.match(letter) else ascii(letter)[1:-1] for letter in letters)
    return shown, error.end


def some(names: Sequence[str], most: int = 10) -> str:
    """Names with commas. Of more than `most`, the first, and how many more there are: `a, b and 9,998 more`."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most:,} more"


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and what it counts: `1 image`, `1,200 images`, `2 classes`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def points(share: float | None) -> str:
    """A difference between two shares from 0 to 1: `+0.5 points`, `-2.0 points`; None as `-`."""
    return "-" if share is None else f"{in_points(share)} points"


def in_points(share: float, *, signed: bool = True) -> str:
    """A share in percentage points, `+1.3`, or `1.3` where it is not `signed`. It is never `-0.0`."""
    # With `z`, what is rounded to zero has no minus: an interval that ends at -0.0 would look like a loss.
    return f"{100 * share:+z.1f}" if signed else f"{100 * share:z.1f}"


def size(value: float) -> str:
    """A number of bytes for people: `12 kB`, `12 MB`, `1.4 GB`."""
    if value < 100e3:
        return f"{value / 1e3:.{0 if value >= 10e3 else 1}f} kB"
    # From 999.5 MB on, rounding would give `1000 MB`.
    return f"{value / 1e9:.1f} GB" if value >= 999.5e6 else f"{value / 1e6:.{0 if value >= 10e6 else 1}f} MB"


def duration(seconds: float) -> str:
    """A time for people: `4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    # Rounded first: else 119.7 seconds were `1 min 60 s`.
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s"


def shell_word(path: object) -> str:
    """A path as a word of a command that can be pasted into a shell: in quotes where it needs them."""
    return shlex.quote(str(path))
