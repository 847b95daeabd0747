"""Names in zip archives without the flag for UTF-8 (cpython 84353), and names in tars that are not UTF-8."""

from __future__ import annotations

import io
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tests.conftest import Zoo
from tests.field.pictures import pictures_of, read, read_for_evaluation, write_pictures

CAFES = pictures_of("café", "thé")


def zip_of_bytes(
    path: Path, names: Sequence[bytes], *, extra: Mapping[bytes, bytes] | None = None, contents: Sequence[bytes] = ()
) -> Path:
    """A zip whose names are these bytes and which does not say how they are encoded, as many programs write it."""
    # zipfile sets the flag for UTF-8 on its own, so members get other names of the same length, replaced below.
    places = {str(number).rjust(len(name), "x").encode(): name for number, name in enumerate(names)}
    with zipfile.ZipFile(path, "w") as archive:
        for number, (place, name) in enumerate(places.items()):
            info = zipfile.ZipInfo(place.decode())
            info.extra = (extra or {}).get(name, b"")
            archive.writestr(info, contents[number] if contents else b"")
    content = path.read_bytes()
    for place, name in places.items():
        for header, length in ((b"PK\x03\x04", 30), (b"PK\x01\x02", 46)):
            content = renamed(content, header, length, place, name)
    path.write_bytes(content)
    return path


def renamed(content: bytes, header: bytes, length: int, place: bytes, name: bytes) -> bytes:
    """Put a name where another one of the same length stands, `length` bytes after the beginning of a header."""
    at = content.find(header)
    while content[at + length : at + length + len(place)] != place:
        at = content.find(header, at + 1)
        assert at >= 0, place
    return content[: at + length] + name + content[at + length + len(name) :]


def unicode_path(name: bytes, text: str) -> bytes:
    """Info-ZIP's extra field with the name in UTF-8."""
    content = b"\x01" + struct.pack("<L", zlib.crc32(name)) + text.encode()
    return struct.pack("<HH", 0x7075, len(content)) + content


def test_utf_8_without_the_flag_is_utf_8_and_fits_the_unzipped_folder(tmp_path: Path) -> None:
    path = zip_of_bytes(tmp_path / "photos.zip", [name.encode() for name in CAFES])
    dataset = read(path)
    assert dataset.classes == ("café", "thé")
    assert "12 names in the archive were read as UTF-8, such as 'café/1.jpg'" in dataset.notes
    folder = write_pictures(tmp_path / "unzipped", CAFES)
    assert read_for_evaluation(folder, *dataset.classes)[1].classes == dataset.classes


@pytest.mark.parametrize("encoding", ["gbk", "shift_jis", "cp437", "cp850"])
def test_another_encoding_is_assumed_and_said(encoding: str, tmp_path: Path, zoo_inside: Zoo) -> None:
    labels = ("黒猫", "小犬") if encoding in ("gbk", "shift_jis") else ("café", "thé")
    names = [name.encode(encoding) for name in pictures_of(*labels)]
    dataset = read(zip_of_bytes(tmp_path / "photos.zip", names))
    assert len(dataset.classes) == 2
    # Not two folders for a letter whose second byte is that of a backslash.
    assert {file.relative.count("/") for files in dataset.splits.values() for file in files} == {1}
    if encoding == "cp437":
        assert dataset.classes == labels
    (note,) = [note for note in dataset.notes if "UTF-8" in note]
    assert "12 names in the archive are not UTF-8 and were read as cp437" in note
    done = zoo_inside("plan", "--backbone", "timm/test_resnet", "--weights", "random", "--data",
                      zip_with_pictures(tmp_path / "real.zip", names))  # fmt: skip
    assert done.returncode == 0 and "were read as cp437" in " ".join(done.stdout.split()), done.stdout + done.stderr


def zip_with_pictures(path: Path, names: Sequence[bytes]) -> Path:
    files = [f"{number}.jpg" for number in range(len(names))]
    folder = write_pictures(path.parent / "real", files)
    return zip_of_bytes(path, names, contents=[(folder / file).read_bytes() for file in files])


def test_the_extra_field_for_unicode_is_believed_where_it_fits(tmp_path: Path) -> None:
    names = {name: name.encode("gbk") for name in pictures_of("黒猫", "小犬")}
    extra = {raw: unicode_path(raw, name) for name, raw in names.items()}
    assert set(read(zip_of_bytes(tmp_path / "right.zip", list(extra), extra=extra)).classes) == {"黒猫", "小犬"}
    # A program that renamed the member without knowing the field leaves one that belongs to another name.
    stale = {raw: unicode_path(b"other", name) for name, raw in names.items()}
    assert any("cp437" in note for note in read(zip_of_bytes(tmp_path / "stale.zip", list(stale), extra=stale)).notes)


def test_a_zip_that_says_utf_8_is_read_as_before(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for name in CAFES:
            archive.writestr(name, b"")
    dataset = read(tmp_path / "photos.zip")
    assert dataset.classes == ("café", "thé") and not any("UTF-8" in note for note in dataset.notes)


def test_a_tar_with_other_bytes_shows_them_and_says_so(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as archive:
        for name in CAFES:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    dataset = read(tmp_path / "photos.tar")
    assert dataset.classes == (r"caf\xe9", r"th\xe9")
    assert any(r"12 names in the archive are not UTF-8, and are shown with escapes, such as caf\xe9" in note
               for note in dataset.notes)  # fmt: skip


def test_a_zip_of_a_mac_fits_a_folder_of_linux(tmp_path: Path) -> None:
    # macOS writes é as two characters.
    path = zip_of_bytes(tmp_path / "photos.zip", [unicodedata.normalize("NFD", name).encode() for name in CAFES])
    assert read(path).classes == ("café", "thé")
