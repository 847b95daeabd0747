"""Any image file to RGB: the documented rule for each kind, and a clear error for files that are not images."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from zoo.data.decode import decode, read_image, to_rgb
from zoo.data.memory.pictures import picture_of
from zoo.errors import DataError

Pixels = list[list[tuple[int, int, int]]]

WIDTH, HEIGHT = 48, 32


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(depth: int, colour: int, rows: list[bytes], width: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file by the specification, of kinds that Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    every = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*block) for block in every)


def pixels(content: bytes) -> Pixels:
    image = decode(content, name="picture")
    assert image.mode == "RGB"
    return [[tuple(pixel) for pixel in row] for row in np.asarray(image).tolist()]


def grey(*values: int) -> Pixels:
    return [[(value, value, value) for value in values]]


def picture() -> Image.Image:
    """Every corner and side differs."""
    across = np.linspace(0, 255, WIDTH)[None, :].repeat(HEIGHT, 0)
    down = np.linspace(0, 255, HEIGHT)[:, None].repeat(WIDTH, 1)
    return Image.fromarray(np.stack([across, down, (across + 2 * down) / 3], -1).astype(np.uint8))


def oriented(image: Image.Image, orientation: int) -> Image.Image:
    """The picture as a camera with this orientation stores it."""
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    return image.transpose(inverse[orientation]) if orientation in inverse else image


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_comes_out_upright(kind: str, orientation: int) -> None:
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(oriented(picture(), orientation), kind, exif=exif(orientation), **options)
    assert np.array_equal(np.asarray(decode(content, name="picture")), np.asarray(picture()))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_photograph_is_turned_as_pillow_turns_it(orientation: int, mode: str) -> None:
    content = encoded(oriented(picture(), orientation).convert(mode), "JPEG", exif=exif(orientation))
    with Image.open(io.BytesIO(content)) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    assert expected.size == (WIDTH, HEIGHT)
    assert np.array_equal(np.asarray(decode(content, name="picture")), np.asarray(expected))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("block", [b"", b"II", b"no TIFF at all", b"MM\0*\0\0\0\x08\0\x40" + b"\xff" * 9])
def test_a_picture_with_damaged_exif_is_read(kind: str, block: bytes) -> None:
    prefix = b"Exif\0\0" if kind == "JPEG" else b""
    content, plain = encoded(picture(), kind, exif=prefix + block), encoded(picture(), kind)
    assert pixels(content) == pixels(plain)


def test_what_pillow_would_warn_of_stays_quiet() -> None:
    damaged = encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x40\x01\x12\0\x03\0\0\0\x01\0\x06")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(damaged)).close()
    assert caught, "this block is meant to be one that Pillow warns of"
    decode(damaged, name="picture")  # a warning would raise here


# Every picture is one row. The expected values follow the rules in zoo/data/decode.py.
RED_HALF_BLUE = np.array([[[255, 0, 0, 255], [0, 0, 255, 128], [9, 9, 9, 0]]], np.uint8)
PALETTE = [10, 20, 30, 40, 50, 60, 70, 80, 90]


def palette(*indices: int) -> Image.Image:
    image = Image.new("P", (len(indices), 1))
    image.putpalette(PALETTE)
    image.putdata(list(indices))
    return image


KINDS: dict[str, tuple[bytes, Pixels]] = {
    "grey": (encoded(Image.fromarray(np.array([[0, 7, 255]], np.uint8)), "PNG"), grey(0, 7, 255)),
    "RGBA over white": (encoded(Image.fromarray(RED_HALF_BLUE), "PNG"), [[(255, 0, 0), (127, 127, 255), (255,) * 3]]),
    "LA over white": (
        encoded(Image.fromarray(np.array([[[0, 255], [0, 128], [0, 0]]], np.uint8), "LA"), "PNG"),
        grey(0, 127, 255),
    ),
    "palette": (encoded(palette(0, 2, 1), "PNG"), [[(10, 20, 30), (70, 80, 90), (40, 50, 60)]]),
    "palette with a transparent index": (
        encoded(palette(0, 2, 1), "PNG", transparency=2),
        [[(10, 20, 30), (255, 255, 255), (40, 50, 60)]],
    ),
    "palette with bytes of transparency": (
        encoded(palette(0, 2, 1), "PNG", transparency=bytes([0, 255, 255])),
        [[(255, 255, 255), (70, 80, 90), (40, 50, 60)]],
    ),
    "GIF": (encoded(palette(0, 2, 1), "GIF"), [[(10, 20, 30), (70, 80, 90), (40, 50, 60)]]),
    "grey with a transparent value": (png(8, 0, [b"\x10\x80"], 2, (b"tRNS", b"\0\x10")), grey(255, 128)),
    "RGB with a transparent colour": (
        png(8, 2, [b"\x01\x02\x03\x01\x02\x04"], 2, (b"tRNS", b"\0\x01\0\x02\0\x03")),
        [[(255, 255, 255), (1, 2, 4)]],
    ),
    "1 bit": (encoded(Image.fromarray(np.array([[True, False, True]])), "PNG"), grey(255, 0, 255)),
    "1-bit TIFF, white is zero": (
        encoded(Image.fromarray(np.array([[True, False]])), "TIFF", tiffinfo={262: 0}),
        grey(255, 0),
    ),
    "2-bit grey": (png(2, 0, [b"\x1b"], 4), grey(0, 85, 170, 255)),
    "16-bit grey PNG": (
        encoded(Image.fromarray(np.array([[0, 0x7FFF, 0x8000, 0xFFFF]], np.uint16)), "PNG"),
        grey(0, 127, 128, 255),
    ),
    "16-bit grey PNG with a transparent value": (
        png(16, 0, [b"\x80\x00\x80\x01"], 2, (b"tRNS", b"\x80\x00")),
        grey(255, 128),
    ),
    "16-bit grey and alpha PNG": (png(16, 4, [b"\x80\x00\xff\xff\x80\x00\x00\x00"], 2), grey(128, 255)),
    "16-bit RGB PNG": (png(16, 2, [b"\x80\x00\x01\xff\xff\xff"], 1), [[(128, 1, 255)]]),
    "16-bit TIFF": (encoded(Image.fromarray(np.array([[0, 0x7FFF, 0xFFFF]], np.uint16)), "TIFF"), grey(0, 127, 255)),
    "16-bit TIFF, big-endian": (
        encoded(Image.frombytes("I;16B", (3, 1), b"\x00\x00\x7f\xff\xff\xff"), "TIFF"),
        grey(0, 127, 255),
    ),
    "16-bit PGM": (b"P5 3 1 65535\n\x00\x00\x7f\xff\xff\xff", grey(0, 127, 255)),
    "16-bit PPM": (b"P6 1 1 65535\n\x80\x00\x00\x00\xff\xff", [[(128, 0, 255)]]),
    "8-bit PGM": (b"P5 3 1 255\n\x00\x7f\xff", grey(0, 127, 255)),
    "32-bit TIFF": (encoded(Image.fromarray(np.array([[0, 100, 255]], np.int32)), "TIFF"), grey(0, 100, 255)),
    "float TIFF": (
        encoded(Image.fromarray(np.array([[-1.5, 0.9, 100.5, 256, np.nan]], np.float32)), "TIFF"),
        grey(0, 0, 100, 255, 0),
    ),
    "YCbCr TIFF": (
        encoded(Image.fromarray(np.array([[[128, 128, 128], [255, 128, 128]]], np.uint8), "YCbCr"), "TIFF"),
        grey(128, 255),
    ),
    "CMYK TIFF": (
        encoded(
            Image.fromarray(np.array([[[0, 0, 0, 0], [0, 255, 255, 0], [0, 0, 0, 255]]], np.uint8), "CMYK"), "TIFF"
        ),
        [[(255, 255, 255), (255, 0, 0), (0, 0, 0)]],
    ),
    "BMP": (encoded(Image.fromarray(RED_HALF_BLUE[..., :3]), "BMP"), [[(255, 0, 0), (0, 0, 255), (9, 9, 9)]]),
    "WebP with alpha": (
        encoded(Image.fromarray(RED_HALF_BLUE), "WEBP", lossless=True, exact=True),
        [[(255, 0, 0), (127, 127, 255), (255,) * 3]],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_this_kind_becomes_rgb_by_the_rule(kind: str) -> None:
    content, expected = KINDS[kind]
    assert pixels(content) == expected


def test_a_cmyk_jpeg_has_the_colours_of_the_picture() -> None:
    flat = Image.new("RGB", (16, 16), (200, 40, 90))
    ((first, *_), *_) = pixels(encoded(flat.convert("CMYK"), "JPEG", quality=100, subsampling=0))
    assert np.allclose(first, (200, 40, 90), atol=4)


def test_a_colour_profile_changes_nothing() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert pixels(encoded(picture(), "PNG", icc_profile=profile)) == pixels(encoded(picture(), "PNG"))


def test_the_first_of_several_frames_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind in ("TIFF", "PNG", "WEBP"):
        options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert pixels(content)[0][0] == (255, 0, 0), kind


@pytest.mark.parametrize("mode", sorted(Image.MODES))
def test_a_picture_in_memory_of_any_mode_becomes_rgb(mode: str) -> None:
    assert to_rgb(Image.new(mode, (3, 2))).mode == "RGB"


def test_a_jpeg_keeps_the_bits_of_pillows_decode() -> None:
    content = encoded(picture(), "JPEG", quality=75)
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(np.asarray(decode(content, name="x")), np.asarray(image.convert("RGB")))


# What cannot be read

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
JPEG, PNG = encoded(NOISE, "JPEG"), encoded(NOISE, "PNG")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"Hello, I am text.\n", "not an image that can be read"),
        (b"<html><body>404 Not Found</body></html>", "not an image that can be read"),
        (b"\0" * 1000, "not an image that can be read"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (PNG[: len(PNG) // 2], "truncated"),
        (JPEG[:2], "not an image that can be read"),
        (b"P5 60000 60000 255\n" + b"\0" * 100, "too many pixels"),
    ],
)
def test_what_is_no_picture_is_an_error_that_names_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"^cats/1\.jpg: .*{message}"):
        decode(content, name="cats/1.jpg")
    path = tmp_path / "1.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"


def photo_of_the_press(picture: bytes) -> bytes:
    """An IPTC file, which holds another one of any format."""
    facts = {60: b"\1\0", 65: b"\0", 20: b"\0\x09", 30: b"\0\x09", 120: b"\5"}
    fields = [(3, key, value) for key, value in facts.items()] + [(8, 10, picture)]
    return b"".join(struct.pack(">3BH", 0x1C, part, key, len(value)) + value for part, key, value in fields)


@pytest.mark.skipif(sys.platform == "win32", reason="Ghostscript has another name there")
@pytest.mark.parametrize("content", [EPS, photo_of_the_press(EPS)], ids=["EPS", "IPTC"])
def test_no_program_is_started_for_what_calls_itself_a_photograph(tmp_path: Path, content: bytes) -> None:
    """For PostScript, Pillow starts Ghostscript, which runs what the file holds. In a process of its own, as Pillow
    looks for Ghostscript once."""
    (tmp_path / "photo.jpg").write_bytes(content)
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\necho started > '{tmp_path}/started'\n")
    program.chmod(0o755)
    reading = "import pathlib; from zoo.data.decode import read_image; read_image(pathlib.Path('photo.jpg'))"
    done = subprocess.run(
        [sys.executable, "-c", reading],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not (tmp_path / "started").exists()
    assert "DataError: photo.jpg: " in done.stderr and "save it as PNG or JPEG" in done.stderr, done.stderr


@pytest.mark.parametrize("content", [EPS, photo_of_the_press(EPS)], ids=["EPS", "IPTC"])
def test_neither_is_one_for_a_picture_that_pillow_has_only_opened(content: bytes) -> None:
    with Image.open(io.BytesIO(content)) as opened, pytest.raises(DataError, match="save it as PNG or JPEG"):
        picture_of(opened, "the first")


def test_a_path_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone.jpg", tmp_path / "a" / "b.jpg"):
        with pytest.raises(DataError, match=r"Is a directory|No such file") as caught:
            read_image(path)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM"])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(kind: str) -> None:
    draw = random.Random(kind)
    small = picture().resize((12, 8))
    options: dict[str, Any] = {} if kind in ("BMP", "PPM") else {"exif": exif(6)}
    whole = encoded(small, kind, **options)
    refused = 0
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            position = draw.randrange(len(content)) if draw.random() < 0.7 else draw.randrange(min(64, len(content)))
            content[position] = draw.randrange(256)
        if draw.random() < 0.3:
            del content[draw.randrange(len(content)) :]
        try:
            assert decode(bytes(content), name="cats/1.jpg").mode == "RGB"
        except DataError as error:
            assert str(error).startswith("cats/1.jpg: ")
            refused += 1
    assert refused > 10


@pytest.mark.data
def test_real_photographs_keep_the_bits_of_pillows_decode(real_data: Path) -> None:
    for path in sorted((real_data / "data/hymenoptera/val").glob("*/*.jpg"))[::10]:
        with Image.open(path) as image:
            expected = ImageOps.exif_transpose(image).convert("RGB")
        assert np.array_equal(np.asarray(read_image(path)), np.asarray(expected))
