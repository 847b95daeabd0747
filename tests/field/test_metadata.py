"""Good pictures that were refused for their metadata: profiles and texts over 1 MB, damaged tags.

Sources: Pillow 2445, 8363, 7817.
"""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
from PIL import Image, PngImagePlugin
from tests.field.pictures import pictures_of, write_pictures
from zoo.data.decode import decode, read_image
from zoo.errors import DataError

USUAL: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "head": "linear", "recipe": "head_only"}
PICTURE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 48, 3), np.uint8))
UPRIGHT = np.asarray(PICTURE)
LYING = PICTURE.transpose(Image.Transpose.ROTATE_90)
"""As a camera stores the picture that says: turn me."""
MUCH = 2_500_000


def encoded(image: Image.Image = PICTURE, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    return encoded(LYING, kind, exif=exif, **options)


def chunk(kind: bytes, data: bytes, *, wrong: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ wrong)


def with_chunks(content: bytes, *chunks: bytes, after: bool = False) -> bytes:
    """A PNG file with more chunks, behind its header or behind its pixels."""
    at = len(content) - 12 if after else 8 + 25
    return content[:at] + b"".join(chunks) + content[at:]


def bomb(size: int) -> bytes:
    return zlib.compress(b"\0" * size)


def many_texts() -> bytes:
    """Texts of a megabyte each, each of them allowed, that are too much together."""
    packed = bomb(1_000_000)
    return b"".join(chunk(b"zTXt", b"k%d\0\0" % number + packed) for number in range(70))


TURN_ME = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
PNG: dict[str, bytes] = {
    "a profile of 2.5 MB": encoded(icc_profile=b"\0" * MUCH),
    "a compressed text of 2.5 MB": with_chunks(encoded(), chunk(b"zTXt", b"k\0\0" + bomb(MUCH))),
    "the same behind the pixels": with_chunks(encoded(), chunk(b"zTXt", b"k\0\0" + bomb(MUCH)), after=True),
    "a text of the world": with_chunks(encoded(), chunk(b"iTXt", b"k\0\1\0\0\0" + bomb(MUCH))),
    "70 texts": with_chunks(encoded(), many_texts()),
    "a text with a wrong checksum": with_chunks(encoded(), chunk(b"tEXt", b"k\0value", wrong=1)),
    "a profile packed in an unknown way": with_chunks(encoded(), chunk(b"iCCP", b"k\0\7" + bomb(9))),
    "a text packed in an unknown way": with_chunks(encoded(), chunk(b"zTXt", b"k\0\7" + bomb(9))),
    "resolution cut off": with_chunks(encoded(), chunk(b"pHYs", b"\0\0")),
    "gamma and colours cut off": with_chunks(
        encoded(), chunk(b"gAMA", b"\0"), chunk(b"cHRM", b"\0"), chunk(b"sRGB", b"")
    ),
    "an animation of nothing": with_chunks(encoded(), chunk(b"acTL", b"\0")),
    "EXIF with a wrong checksum": with_chunks(encoded(), chunk(b"eXIf", b"II*\0", wrong=1)),
}
TURNED: dict[str, bytes] = {
    "EXIF beside a large profile": with_chunks(turned("PNG"), chunk(b"iCCP", b"k\0\0" + bomb(MUCH))),
    "XMP beside a large text": with_chunks(
        encoded(LYING), chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + TURN_ME), chunk(b"zTXt", b"k\0\0" + bomb(MUCH))
    ),
}


def same(content: bytes, expected: np.ndarray[Any, Any] = UPRIGHT) -> bool:
    return np.array_equal(np.asarray(decode(content, name="a")), expected)


@pytest.mark.parametrize("kind", PNG)
def test_a_png_with_any_metadata_is_read(kind: str) -> None:
    with pytest.raises(Exception, match=r"."), Image.open(io.BytesIO(PNG[kind])) as image:
        image.load()  # meant to be one that Pillow refuses
    assert same(PNG[kind])


@pytest.mark.parametrize("kind", TURNED)
def test_what_turns_a_picture_is_kept(kind: str) -> None:
    assert same(TURNED[kind])


def test_a_colour_that_is_transparent_is_kept() -> None:
    clear = encoded(Image.fromarray(np.array([[[1, 2, 3], [1, 2, 4]]], np.uint8)), transparency=(1, 2, 3))
    heavy = with_chunks(clear, chunk(b"zTXt", b"k\0\0" + bomb(MUCH)))
    assert np.asarray(decode(heavy, name="a")).tolist() == [[[255, 255, 255], [1, 2, 4]]]


@pytest.mark.long
def test_metadata_is_left_out_and_not_unpacked() -> None:
    """200 MB of nothing, packed to 0.2 MB: whoever unpacks it has them in memory."""
    content = with_chunks(encoded(), chunk(b"iCCP", b"k\0\0" + bomb(200_000_000)))
    limits = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    tracemalloc.start()
    assert same(content)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20_000_000
    assert limits == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)


def jpeg_with(kind: int, data: bytes) -> bytes:
    content = encoded(kind="JPEG")
    return content[:2] + struct.pack(">BBH", 0xFF, kind, len(data) + 2) + data + content[2:]


def tiff_with(tag: int, kind: int, count: int, value: bytes, *, content: bytes | None = None) -> bytes:
    """A TIFF file with one more entry in its directory, which moves to the end."""
    content = content or encoded(kind="TIFF")
    (start,) = struct.unpack_from("<I", content, 4)
    (there,) = struct.unpack_from("<H", content, start)
    entries = [content[at : at + 12] for at in range(start + 2, start + 2 + 12 * there, 12)]
    entries = [entry for entry in entries if struct.unpack_from("<H", entry)[0] != tag]
    entries.append(struct.pack("<HHI", tag, kind, count) + value)
    entries.sort(key=lambda entry: int.from_bytes(entry[:2], "little"))
    padded = content + b"\0" * (len(content) % 2)
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + b"\0" * 4
    return padded[:4] + struct.pack("<I", len(padded)) + padded[8:] + directory


JPEG_PLAIN = np.asarray(decode(encoded(kind="JPEG"), name="a"))
OTHERS: dict[str, tuple[bytes, Callable[[bytes], bool]]] = {
    "JPEG: JFIF cut off": (jpeg_with(0xE0, b"JFIF\0\1"), lambda content: same(content, JPEG_PLAIN)),
    "JPEG: a profile cut off": (jpeg_with(0xE2, b"ICC_PROFILE\0"), lambda content: same(content, JPEG_PLAIN)),
    "JPEG: Adobe cut off": (jpeg_with(0xEE, b"Adobe\0"), lambda content: same(content, JPEG_PLAIN)),
    "TIFF: a title that lies outside": (tiff_with(270, 2, 100, b"\xff\xff\xff\x7f"), same),
    "TIFF: XMP that is a number": (tiff_with(700, 3, 1, b"\7\0\0\0"), same),
    "WebP: XMP cut off": (encoded(kind="WEBP", lossless=True, xmp=b"<x/>" * 30)[:-40], same),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_formats_are_read_with_damaged_metadata(kind: str) -> None:
    content, is_right = OTHERS[kind]
    with pytest.raises(Exception, match=r"."), Image.open(io.BytesIO(content)) as image:
        image.load()
    assert is_right(content)


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("TIFF", lambda content: tiff_with(270, 2, 100, b"\xff\xff\xff\x7f", content=content)),
        ("WEBP", lambda content: content + b"XMP \xff\0\0\0<x"),
    ],
)
def test_a_picture_is_turned_although_other_metadata_are_damaged(kind: str, damage: Callable[[bytes], bytes]) -> None:
    assert same(damage(turned(kind)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_random_metadata_never_prevent_reading(kind: str) -> None:
    draw = random.Random(kind)
    for _ in range(60):
        data = bytes(draw.choice((0, 1, 2, 7, 255, draw.randrange(256))) for _ in range(draw.choice((0, 3, 20, 90))))
        if kind == "JPEG":
            head = draw.choice(
                (b"", b"JFIF\0", b"Exif\0\0MM\0*", b"MPF\0II*\0", b"ICC_PROFILE\0", b"Photoshop 3.0\x008BIM\4\4")
            )
            # An Adobe segment that is whole says how colours are stored.
            marks = [mark for mark in range(0xE0, 0xF0) if mark != 0xEE]
            assert same(jpeg_with(draw.choice(marks), head + data), JPEG_PLAIN)
        elif kind == "PNG":
            name = draw.choice((b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"pHYs", b"tIME", b"gAMA", b"abCd"))
            content = chunk(name, draw.choice((b"", b"k\0\0")) + data, wrong=draw.randrange(2))
            assert same(with_chunks(encoded(), content, after=draw.random() < 0.5))
        elif kind == "WEBP":
            options = {draw.choice(("icc_profile", "xmp", "exif")): data}
            assert same(encoded(kind="WEBP", lossless=True, **options))
        else:
            tag = draw.choice((269, 270, 271, 282, 296, 305, 306, 700, 34665, 34675, 34853, 33432, 65000))
            value = struct.pack("<I", draw.choice((0, 8, 2000, 2**32 - 1)))
            assert same(tiff_with(tag, draw.randrange(14), draw.choice((0, 1, 3, 2**31)), value))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pixels_that_are_missing_are_still_missed(kind: str) -> None:
    content = encoded(kind=kind, icc_profile=b"\0" * 9000, **({"lossless": True} if kind == "WEBP" else {}))
    begin = {"JPEG": b"\xff\xda", "PNG": b"IDAT", "WEBP": b"VP8L", "TIFF": b"II*\0"}[kind]
    start = content.index(begin)
    with pytest.raises(DataError, match=r"^a: "):
        decode(content[: start + 300], name="a")


def test_such_pictures_are_planned_checked_and_predicted(tmp_path: Path) -> None:
    write_pictures(tmp_path, pictures_of("train/cat", "train/dog", "val/cat", "val/dog"))
    heavy = tmp_path / "train" / "cat" / "heavy.png"
    heavy.write_bytes(TURNED["EXIF beside a large profile"])
    (tmp_path / "train" / "dog" / "heavy.tif").write_bytes(OTHERS["TIFF: XMP that is a number"][0])
    plan = zoo.plan(**USUAL, data=tmp_path)
    assert plan.data.images["train"] == [7, 7] and not plan.data.skipped
    codes = {finding.code: finding for finding in zoo.check_data(tmp_path).findings}
    assert "unreadable" not in codes and codes["rotated"].cases[0].files == ("train/cat/heavy.png",)
    assert np.array_equal(np.asarray(read_image(heavy)), UPRIGHT)  # as `predict` reads it
