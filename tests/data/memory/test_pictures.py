"""Pictures in memory become files that zoo decodes to the pixels of the picture itself, the same bytes each time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from zoo.data.decode import decode, read_image, to_upright_rgb
from zoo.data.memory.pictures import encode, fault_of, picture_of
from zoo.errors import DataError

COLOURS = np.random.default_rng(0).integers(0, 256, (7, 5, 4), dtype=np.uint8)


def of_every_mode() -> Iterator[Image.Image]:
    """A picture of each mode that Pillow knows, with and without transparency."""
    colour = Image.fromarray(COLOURS[..., :3])
    for mode in ("RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "I", "F"):
        yield colour.convert(mode)
    yield Image.frombytes("LAB", colour.size, colour.tobytes())
    yield Image.fromarray(COLOURS)
    yield Image.frombytes("La", colour.size, COLOURS[..., :2].tobytes())
    yield Image.fromarray(COLOURS).convert("RGBa")
    yield Image.fromarray(COLOURS.astype(np.uint16)[..., 0] * 257)
    yield Image.fromarray(COLOURS[..., 0].astype(np.int32))
    yield Image.fromarray(COLOURS[..., 0].astype(np.float32) / 255)
    for mode, clear in (("P", 3), ("RGB", tuple(COLOURS[0, 0, :3].tolist())), ("L", 40)):
        picture = colour.convert(mode)
        picture.info["transparency"] = clear
        yield picture


@pytest.mark.parametrize("picture", list(of_every_mode()), ids=lambda picture: f"{picture.mode}-{len(picture.info)}")
def test_what_is_decoded_is_the_picture_itself_and_its_bytes_are_always_the_same(picture: Image.Image) -> None:
    content = encode(picture)

    assert decode(content, name="it").tobytes() == to_upright_rgb(picture).tobytes()
    assert encode(picture.copy()) == content


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_picture_that_was_opened_from_a_file_is_what_the_file_is_and_upright(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(COLOURS[..., :3]).save(path, exif=exif)

    assert decode(encode(Image.open(path)), name="it").tobytes() == read_image(path).tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "I;16", "RGBA", "CMYK"])
def test_a_tiff_that_lies_on_its_side_is_read_by_its_name_as_by_its_bytes(
    tmp_path: Path, mode: str, orientation: int
) -> None:
    """Of such modes, Pillow maps an uncompressed file into memory, where it knows its name."""
    deep = Image.fromarray(COLOURS[..., 0].astype(np.uint16) * 257)
    path = tmp_path / "a.tif"
    (deep if mode == "I;16" else Image.fromarray(COLOURS).convert(mode)).save(path, tiffinfo={274: orientation})
    expected = np.asarray(read_image(path))
    with Image.open(path) as opened:
        assert np.array_equal(np.asarray(picture_of(opened, "it")), expected)
        assert opened.filename == str(path)  # type: ignore[attr-defined]
    with Image.open(path) as opened:
        assert np.array_equal(np.asarray(decode(encode(opened), name="it")), expected)


def test_a_grey_map_of_16_bits_that_was_opened_is_what_its_file_is(tmp_path: Path) -> None:
    path = tmp_path / "a.pgm"
    Image.fromarray(COLOURS[..., 0].astype(np.uint16) * 257).save(path)

    assert decode(encode(Image.open(path)), name="it").tobytes() == read_image(path).tobytes()


def test_tags_of_a_file_that_say_what_samples_mean_are_heeded(tmp_path: Path) -> None:
    grey = Image.fromarray(COLOURS[..., 0].astype(np.uint16) * 257)
    path = tmp_path / "white_is_zero.tif"
    grey.save(path, tiffinfo={262: 0})

    assert decode(encode(Image.open(path)), name="it").tobytes() == read_image(path).tobytes()


def test_arrays_and_tensors_are_what_pillow_makes_of_them() -> None:
    for shape in ((..., slice(3)), (...,), (..., 0), (..., slice(1))):
        pixels = COLOURS[shape]
        expected = to_upright_rgb(Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)).tobytes()
        tensor = torch.from_numpy(pixels.copy())
        tensor = tensor.permute(2, 0, 1) if tensor.ndim == 3 else tensor
        assert decode(encode(pixels), name="it").tobytes() == expected
        assert encode(tensor) == encode(pixels) == encode(pixels[:, ::-1].copy()[:, ::-1])
    assert encode(COLOURS[..., :3]) == encode(Image.fromarray(COLOURS[..., :3]))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (np.zeros((4, 4, 3)), "zoo applies the preprocessing of the weights itself.\nNext: pass the pixels, uint8"),
        (torch.zeros(3, 4, 4), "is a tensor of float32, of shape [3, 4, 4], scaled or normalised already"),
        (np.zeros((4, 4, 3), np.uint16), "of uint16, of shape [4, 4, 3]. Pixels are uint8, from 0 to 255"),
        (
            np.zeros((9, 9, 5), np.uint8),
            "An image is [H, W, 3].\nNext: choose 1 (grey), 3 (red, green, blue) or 4 channels",
        ),
        (np.zeros((3, 9, 9), np.uint8), "transpose(1, 2, 0) puts the channels last"),
        (torch.zeros(9, 9, 3, dtype=torch.uint8), "permute(2, 0, 1) puts the channels first"),
        (np.zeros((2, 4, 4, 3), np.uint8), "a batch.\nNext: pass its images one by one"),
        (np.zeros((0, 4, 3), np.uint8), "it has no pixels"),
        (np.zeros(9, np.uint8), "An image is [H, W, 3], or [H, W] in grey"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_shape_and_the_way_out(value: object, sentence: str) -> None:
    assert sentence in fault_of(value)
    with pytest.raises(DataError):
        encode(value)


def test_the_way_out_of_a_refusal_is_taken() -> None:
    assert fault_of(np.zeros((3, 9, 8), np.uint8).transpose(1, 2, 0)) == ""
    assert fault_of(torch.zeros(9, 8, 3, dtype=torch.uint8).permute(2, 0, 1)) == ""


def test_a_damaged_picture_is_an_error_of_the_data(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(COLOURS[..., :3]).resize((90, 90)).save(file, "PNG")

    with pytest.raises(DataError):
        encode(Image.open(io.BytesIO(file.getvalue()[:2000])))
