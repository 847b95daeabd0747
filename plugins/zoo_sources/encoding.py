"""The encoding of a text file: read where it is certain, else refused with what the file seems to be.

No encoding is taken on a guess: `café` in the wrong one is garbage that looks like a class.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import zoo

from zoo_sources.programs import command

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 4096
_CERTAIN = 8
"""ASCII letters in UTF-16 at the beginning of a file from which its encoding is certain."""
_CANDIDATES = {
    "cp1252": "Windows, Western Europe",
    "shift_jis": "Japanese",
    "gb18030": "Chinese",
    "euc_jp": "Japanese",
    "big5": "Chinese, traditional",
    "euc_kr": "Korean",
    "cp1251": "Windows, Cyrillic",
    "cp1250": "Windows, Central Europe",
    "mac_roman": "old Macs",
    "cp850": "DOS",
}
"""Encodings that a table may have, and where they are from. With equal evidence the first counts."""
_SHOWN, _PLAUSIBLE = 3, 0.5
"""Readings that are shown at most, and the share of odd letters below which one is shown."""
_MIXED = 0.25
"""If lines are UTF-8 too, the share of odd letters from which the file has several encodings."""
_LINE = 60
"""Letters of a line that are shown."""


def encoding_of(path: Path) -> str:
    """`utf-8-sig`, or the UTF-16 or UTF-32 of a file that has a byte order mark or zeros in every other byte.

    Raises DataError for a file with zeros elsewhere, which is no text.
    """
    with path.open("rb") as file:
        start = file.read(_SAMPLE)
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    if 0 not in start:
        return "utf-8-sig"
    for encoding, zeros, letters in (("utf-16-le", start[1::2], start[::2]), ("utf-16-be", start[::2], start[1::2])):
        # The names of our columns are ASCII, so that a table begins with a zero in every second byte, and in no other.
        if len(letters) >= _CERTAIN and not any(zeros[:_CERTAIN]) and 0 not in letters[:_CERTAIN]:
            return encoding
    raise zoo.DataError(
        f"{path} is no text: it has bytes of zero, the first at {start.index(0):,}.\n"
        "Next: give a table as CSV in UTF-8, or as Parquet with the extension .parquet."
    )


def not_text_message(path: Path, encoding: str, found_in: Callable[[str], int]) -> str:
    """The message for a file that is not in the encoding that `encoding_of` gave: where, what it seems to be, and how
    to convert it.

    `found_in` counts the files with other than ASCII names that the table names, if it is read in an encoding.
    """
    content = path.read_bytes()
    if not encoding.startswith("utf-8"):
        return (
            f"{path} begins as {encoding.upper()}, but is damaged further on, or was cut off.\n"
            "Next: save it again, as UTF-8 if you can."
        )
    lines = content.splitlines()
    wrong = [_not_utf_8(line) for line in lines]
    number, at = next((number, at) for number, at in enumerate(wrong) if at is not None)
    problem = f"{path} is not UTF-8: byte {lines[number][at]:#04x} in line {number + 1}."
    likely, oddity = _likely(content, found_in)
    right = next((line for line, at in enumerate(wrong) if at is None and not lines[line].isascii()), None)
    if right is not None and oddity > _MIXED:
        return (
            f"{problem} But line {right + 1} is: the table has lines of different encodings.\n"
            f"Next: write line {number + 1} again in UTF-8, and the others like it; converting the whole file would "
            f"spoil line {right + 1}."
        )
    if not likely:
        return f"{problem} No usual encoding reads it.\nNext: save it as UTF-8 where it was made."
    line = lines[number]
    readings = "; ".join(f"as {name} ({_CANDIDATES[name]}) {line.decode(name)[:_LINE]}" for name in likely)
    new = path.with_name(f"{path.stem}-utf8{path.suffix}")
    program = (
        f"import sys; a, b = sys.argv[1:]; open(b, 'wb').write(open(a, 'rb').read().decode('{likely[0]}').encode())"
    )
    return (
        f"{problem} That line reads: {readings}.\n"
        f"Next: save it as UTF-8 where it was made (Excel: CSV UTF-8), or, if {likely[0]} is right:\n"
        f"{command(program, path, new)}"
    )


def _not_utf_8(line: bytes) -> int | None:
    """The place of the first byte that is not UTF-8, or None."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None


def _likely(content: bytes, found_in: Callable[[str], int]) -> tuple[Sequence[str], float]:
    """The encodings in which the file reads best, at most three, and how odd the best reading is, 0 to 1.

    If the disk has files by the names in the table, these decide.
    """
    texts: dict[str, str] = {}
    for encoding in _CANDIDATES:
        try:
            texts[encoding] = content.decode(encoding)
        except UnicodeDecodeError:
            continue
    files = {encoding: found_in(encoding) for encoding in texts}
    if any(files.values()):
        return [max(files, key=lambda encoding: files[encoding])], 0
    oddities = {encoding: _oddities(text) for encoding, text in texts.items()}
    distinct = {texts[encoding]: encoding for encoding in reversed(oddities)}.values()
    likely = sorted(distinct, key=lambda encoding: (oddities[encoding], list(_CANDIDATES).index(encoding)))
    plausible = [encoding for encoding in likely if oddities[encoding] < _PLAUSIBLE][:_SHOWN]
    return plausible or likely[:1], min(oddities.values(), default=1)


def _oddities(text: str) -> float:
    """How much of the letters outside ASCII is unlike writing, 0 to 1: signs, mixed scripts, capitals inside words."""
    foreign = [at for at, letter in enumerate(text) if not letter.isascii()]
    return sum(_is_odd(text, at) for at in foreign) / max(1, len(foreign))


def _is_odd(text: str, at: int) -> bool:
    letter, before, after = text[at], text[at - 1 : at], text[at + 1 : at + 2]
    script = _script(letter)
    neighbours = [each for each in (before, after) if each.isalpha()]
    if unicodedata.category(letter)[0] not in "LM" or script == "HALFWIDTH":
        return True
    if script == "LATIN":  # no language writes three letters with accents in a row, or a capital after a small letter
        return (letter.isupper() and before.islower()) or len([each for each in neighbours if not each.isascii()]) == 2
    return script != "COMBINING" and any(_script(each) == "LATIN" for each in neighbours)


def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").split()[0]
