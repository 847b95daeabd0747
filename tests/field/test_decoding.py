"""Pictures that decoding destroyed: signed samples, floats, WhiteIsZero, few values left of many.

Sources: Pillow 3011, keras-preprocessing 19.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zoo
from numpy.typing import NDArray
from PIL import Image
from tests.field.pictures import pictures_of, write_pictures
from zoo.data.dataset import ImageFile
from zoo.data.decode import decode, decode_closely, load_pixels, to_upright_rgb
from zoo.data.decoded import DecodedFiles
from zoo.data.lost_values import loss_of
from zoo.data.store import ImageStore
from zoo.errors import DataError
from zoo.specs.preprocessing import Preprocessing

Values = NDArray[Any]
KINDS = {"u": 1, "i": 2, "f": 3}
USUAL: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "random", "head": "linear", "recipe": "head_only"}
PREPROCESSING = Preprocessing(input_size=(3, 32, 32), resize_size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)


def tiff(
    values: Values, *, order: str = "<", photometric: int | None = None, deflate: bool = False, planes: bool = False
) -> bytes:
    """A TIFF file of values[H, W] or [H, W, bands] by the specification, of kinds that Pillow does not write."""
    bands = values[..., None] if values.ndim == 2 else values
    height, width, count = bands.shape
    meaning = (2 if count == 3 else 1) if photometric is None else photometric
    stored = bands.astype(bands.dtype.newbyteorder(order))
    strips = [stored[..., band].tobytes() for band in range(count)] if planes else [stored.tobytes()]
    return _tiff_of(
        [zlib.compress(strip) if deflate else strip for strip in strips],
        order,
        {
            256: [width],
            257: [height],
            258: [values.itemsize * 8] * count,
            259: [8 if deflate else 1],
            262: [meaning],
            277: [count],
            278: [height],
            284: [2 if planes else 1],
            339: [KINDS[values.dtype.kind]] * count,
        },
    )


def tiff_of_12_bits(*values: int) -> bytes:
    """One row of an even number of values, two in three bytes."""
    packed = b"".join(
        bytes([one >> 4, (one & 15) << 4 | other >> 8, other & 255])
        for one, other in zip(values[::2], values[1::2], strict=True)
    )
    tags = {256: [len(values)], 257: [1], 258: [12], 259: [1], 262: [1], 277: [1], 278: [1]}
    return _tiff_of([packed], "<", tags)


def _tiff_of(strips: list[bytes], order: str, tags: dict[int, list[int]]) -> bytes:
    file = bytearray((b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 0))
    offsets = []
    for strip in strips:
        offsets.append(len(file))
        file += strip + b"\0" * (len(strip) % 2)
    entries = []
    for tag, numbers in sorted({**tags, 273: offsets, 279: [len(strip) for strip in strips]}.items()):
        data = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            at = len(file)
            file += data
            data = struct.pack(f"{order}I", at)
        entries.append(struct.pack(f"{order}HHI", tag, 4, len(numbers)) + data)
    struct.pack_into(f"{order}I", file, 4, len(file))
    return bytes(file) + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + b"\0" * 4


def png_of_16_bits(values: Values) -> bytes:
    """A PNG file of values[H, W, bands]: 2 are grey and alpha, 3 are RGB, 4 are RGB and alpha."""
    height, width, bands = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*each) for each in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def row(*values: float, kind: str) -> Values:
    return np.array([values], kind)


def scan(low: float, high: float, kind: str, *, side: int = 64, seed: int = 0) -> Values:
    """Noise of all values from `low` to `high`, with as much in every part."""
    values = np.linspace(low, high, side * side)
    return np.random.default_rng(seed).permutation(values).reshape(side, side).astype(kind)


CT = scan(-1024, 1416, "i2")
SIGNED = row(-32768, -1024, -1, 0, 1416, 32767, kind="i2")
SHARE = row(0, 0.25, 0.5, 1, kind="f4")
COLOURS = (np.arange(18, dtype=np.uint16) * 3500 + 7).reshape(1, 6, 3)
READ: dict[str, tuple[bytes, list[int]]] = {
    "signed 16 bits": (tiff(SIGNED), [0, 124, 127, 128, 133, 255]),
    "signed 16 bits, big-endian": (tiff(SIGNED, order=">"), [0, 124, 127, 128, 133, 255]),
    "signed 16 bits, compressed": (tiff(SIGNED, deflate=True), [0, 124, 127, 128, 133, 255]),
    "signed 16 bits, big-endian, compressed": (tiff(SIGNED, order=">", deflate=True), [0, 124, 127, 128, 133, 255]),
    "signed 8 bits": (tiff(row(-128, -1, 0, 127, kind="i1")), [0, 127, 128, 255]),
    "12 bits": (tiff_of_12_bits(0, 2047, 2048, 4095), [0, 127, 128, 255]),
    "16 bits, WhiteIsZero": (tiff(row(0, 255, 256, 65535, kind="u2"), photometric=0), [255, 255, 254, 0]),
    "16 bits, WhiteIsZero, compressed": (
        tiff(row(0, 32768, kind="u2"), photometric=0, deflate=True),
        [255, 127],
    ),
    "floats in 0..1": (tiff(SHARE), [0, 64, 128, 255]),
    "floats in 0..1, big-endian, compressed": (tiff(SHARE, order=">", deflate=True), [0, 64, 128, 255]),
    "floats in 0..1, WhiteIsZero": (tiff(SHARE, photometric=0), [255, 191, 127, 0]),
    "floats in 0..1, resampled": (tiff(row(-0.004, 0.5, 1.002, kind="f4")), [0, 128, 255]),
    "floats in 0..1, some unknown": (tiff(row(0.5, np.nan, kind="f4")), [128, 0]),
    "32 bits, signed, big-endian, compressed": (tiff(row(0, 7, 255, kind="i4"), order=">", deflate=True), [0, 7, 255]),
    # Neighbours: what was read as people expect is read the same.
    "16 bits": (tiff(row(0, 255, 256, 65535, kind="u2")), [0, 0, 1, 255]),
    "8 bits, WhiteIsZero": (tiff(row(0, 7, 255, kind="u1"), photometric=0), [255, 248, 0]),
    "PGM of 12 bits": (b"P5 3 1 4095\n\x00\x00\x08\x00\x0f\xff", [0, 128, 255]),
    "floats in 0..255": (tiff(row(0, 0.9, 100.5, 255, kind="f4")), [0, 0, 100, 255]),
    "32 bits without a sign": (tiff(row(0, 7, 255, kind="u4")), [0, 7, 255]),
}


@pytest.mark.parametrize("kind", READ)
def test_every_depth_and_sign_has_a_rule(kind: str) -> None:
    content, expected = READ[kind]
    picture = decode(content, name="a.tif")
    assert np.asarray(picture)[0].tolist() == [[value] * 3 for value in expected]
    # A picture that a program opened itself, for `Classifier.predict`, comes out the same.
    with Image.open(io.BytesIO(content)) as image:
        load_pixels(image)
        assert np.array_equal(np.asarray(to_upright_rgb(image)), np.asarray(picture))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("planes", [False, True])
def test_colours_of_16_bits_are_the_same_however_they_lie_in_the_file(order: str, deflate: bool, planes: bool) -> None:
    content = tiff(COLOURS, order=order, deflate=deflate, planes=planes)
    assert np.array_equal(np.asarray(decode(content, name="a.tif")), COLOURS >> 8)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (row(-1024, 1416, kind="f4"), "floats from -1024 to 1416; only 0..1 (times 255) or 0..255 are read"),
        (row(0, np.inf, kind="f4"), "floats from 0 to inf"),
        (row(-5, 100, 70000, kind="i4"), "32-bit integers from -5 to 70000; only 0..255 are read, as they are"),
        (row(0, 2**32 - 1, kind="u4"), "32-bit integers from 0 to 4294967295"),
        (row(0, 1, kind="f8"), "a TIFF that Pillow cannot read (64-bit float, grey, little-endian)"),
        (np.zeros((1, 1, 3), "i2"), "a TIFF that Pillow cannot read (3 x 16-bit signed, RGB, little-endian)"),
    ],
)
def test_what_no_rule_covers_is_unreadable_with_the_reason_and_the_way_out(values: Values, words: str) -> None:
    with pytest.raises(DataError) as caught:
        decode(tiff(values), name="a.tif")
    assert str(caught.value).startswith(f"a.tif: {words}") and "\n" not in str(caught.value)
    assert str(caught.value).endswith("with 8 bits")
    known = np.nan_to_num(values.astype(np.float64), posinf=1e6)
    scaled = (255 * (known - known.min()) / max(np.ptp(known), 1)).astype(np.uint8)
    assert np.array_equal(
        np.asarray(decode(tiff(scaled), name="a.tif"))[..., 0], scaled.reshape((*scaled.shape[:2], -1))[..., 0]
    )


def test_a_big_endian_file_that_pillow_refuses_is_named_for_what_it_is() -> None:
    with pytest.raises(DataError, match="16-bit unsigned, WhiteIsZero, big-endian"):
        decode(tiff(row(0, 1, kind="u2"), order=">", photometric=0), name="a.tif")


def loss(content: bytes) -> tuple[str, str]:
    found = decode_closely(content, name="a").loss
    return (found.kind, found.detail) if found else ("", "")


def on_transparent(grey: int) -> Image.Image:
    """A disc of one grey on a transparent background."""
    across, down = np.meshgrid(np.arange(64), np.arange(64))
    inside = (across - 32) ** 2 + (down - 32) ** 2 < 400
    return Image.fromarray(np.dstack([*[np.full((64, 64), grey)] * 3, 255 * inside]).astype(np.uint8))


def bands(values: Values, count: int) -> Values:
    return np.stack([values] * count, -1)


OPAQUE = np.full((64, 64, 1), 65535, np.uint16)
DARK = scan(0, 4095, "u2")
LOST: dict[str, tuple[bytes, str, str]] = {
    "computed tomography": (tiff(CT), "few_levels", "10 of 256 grey levels are left, of 2,441 values"),
    "12 bits in 16": (tiff(DARK), "few_levels", "16 of 256 grey levels"),
    "12 bits in 16, PNG": (encoded(Image.fromarray(DARK)), "few_levels", "16 of 256"),
    "12 bits in 16, RGB PNG": (png_of_16_bits(bands(DARK, 3)), "few_levels", "16 of 256"),
    "12 bits in 16, RGBA PNG": (png_of_16_bits(np.dstack([bands(DARK, 3), OPAQUE])), "few_levels", "16 of 256"),
    "12 bits in 16, grey and alpha": (png_of_16_bits(np.dstack([DARK, OPAQUE])), "few_levels", "16 of 256"),
    "12 bits in 16, RGB TIFF": (tiff(bands(DARK, 3), order=">", deflate=True), "few_levels", "16 of 256"),
    "12 bits in 16, with a hot pixel": (
        tiff(np.where(np.arange(64 * 64).reshape(64, 64) == 99, 65535, DARK).astype("u2")),
        *("few_levels", "of 256"),
    ),
    "8 bits in 16": (tiff(scan(0, 255, "u2")), "lost_values", "all pixels become 0, of 256 values"),
    "8 bits in 16, WhiteIsZero": (tiff(scan(0, 255, "u2"), photometric=0), "lost_values", "all pixels become 255"),
    "9 bits in 16": (tiff(scan(0, 300, "u2")), "lost_values", "2 of 256 grey levels"),
    "floats that mean neither": (tiff(scan(0, 1.5, "f4")), "lost_values", "2 of 256"),
    "white on transparent": (encoded(on_transparent(255)), "lost_values", "laid over white, one colour is left"),
    "all transparent": (
        encoded(Image.fromarray(np.dstack([*[scan(0, 255, "u1")] * 3, np.zeros((64, 64), "u1")]))),
        *("lost_values", "laid over white"),
    ),
}
WELL: dict[str, bytes] = {
    "16 bits": tiff(scan(0, 65535, "u2")),
    "signed 16 bits": tiff(scan(-32768, 32767, "i2")),
    "floats": tiff(scan(0, 1, "f4")),
    "blank, 16 bits": tiff(np.full((64, 64), 1234, "u2")),
    "blank, RGB": png_of_16_bits(np.full((64, 64, 3), 1234, "u2")),
    "a mask of 16 bits": tiff((scan(0, 1.9, "u2") * 65535).astype("u2")),
    "fog in 8 bits, stored in 16": tiff((scan(100, 120, "u2") * 257).astype("u2")),
    "fog, RGB": png_of_16_bits(bands((scan(100, 120, "u2") * 257).astype("u2"), 3)),
    "stars before a dark sky": tiff(np.where(scan(0, 9, "u1", seed=3) > 6, scan(0, 65535, "u2", seed=4), DARK // 20)),
    "one colour of three": tiff(np.dstack([scan(0, 65535, "u2"), DARK, DARK])),
    "black on transparent": encoded(on_transparent(0)),
    "blank, transparent": encoded(Image.new("RGBA", (64, 64), (0, 0, 0, 0))),
    "black, 8 bits": encoded(Image.new("RGB", (64, 64))),
}


@pytest.mark.parametrize("kind", LOST)
def test_a_picture_that_decoding_destroyed_is_known(kind: str) -> None:
    content, code, detail = LOST[kind]
    found = loss(content)
    assert found[0] == code and detail in found[1], found


@pytest.mark.parametrize("kind", WELL)
def test_a_picture_that_shows_what_its_file_holds_is_well(kind: str) -> None:
    assert loss(WELL[kind]) == ("", "")


def test_the_rule_of_before_would_be_noticed() -> None:
    """Clipping to 0..255, as signed samples once were: 87 % of the pixels of a scan became 0 or 255."""
    clipped = np.clip(CT, 0, 255).astype(np.uint8)
    found = loss_of(CT, clipped)
    assert found is not None and found.kind == "lost_values" and "90% of the pixels become 0 or 255" in found.detail
    pixels = np.asarray(decode(tiff(CT), name="a.tif"))
    assert np.isin(pixels, (0, 255)).mean() == 0 and len(np.unique(pixels)) == 10


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two classes, one of them of scans that use few of the values of their kind."""
    write_pictures(tmp_path, pictures_of("train/photo", "val/photo"))
    for split in ("train", "val"):
        (tmp_path / split / "scan").mkdir()
        for number in range(6):
            values = scan(-1024, 1416, "i2", side=48, seed=number + (9 if split == "val" else 0))
            (tmp_path / split / "scan" / f"{number}.tif").write_bytes(tiff(values))
    black = scan(0, 255, "u2", side=48, seed=77)
    (tmp_path / "train" / "scan" / "5.tif").write_bytes(tiff(black))
    return tmp_path


def test_the_plan_and_the_check_name_what_is_lost_and_the_next_step_mends_it(scans: Path) -> None:
    lost, few = sorted(each for each in zoo.plan(**USUAL, data=scans).warnings if "8 bits, though" in each)
    assert lost.startswith("1 of 24 pictures shows next to nothing") and "train/scan/5.tif (all pixels become" in lost
    assert few.startswith("11 of 24 pictures show little contrast") and "train/scan/0.tif (10 of 256" in few
    assert f"zoo data check {scans}" in few and "save them as 8-bit PNG" in few
    findings = {finding.code: finding for finding in zoo.check_data(scans).findings}
    assert findings["lost_values"].severity == "fault" and findings["few_levels"].severity == "warning"
    assert [case.files for case in findings["lost_values"].cases] == [("train/scan/5.tif",)]
    assert len(findings["few_levels"].cases) == 11
    for path in scans.glob("*/scan/*.tif"):
        with Image.open(path) as image:
            values = np.asarray(image).astype(np.float64)
        low, high = (0, 255) if path.name == "5.tif" and "train" in path.parts else (-1024, 1416)
        scaled = 255 * (values - low) / (high - low)
        Image.fromarray(np.rint(scaled).astype(np.uint8)).save(path.with_suffix(".png"))
        path.unlink()
    assert not [each for each in zoo.plan(**USUAL, data=scans).warnings if "8 bits" in each]
    assert not {"lost_values", "few_levels"} & {finding.code for finding in zoo.check_data(scans).findings}


def test_what_is_known_of_a_file_stays_and_rows_of_one_that_is_decoded_otherwise_have_another_name(scans: Path) -> None:
    (scans / "train" / "scan" / "float.tif").write_bytes(tiff(scan(0, 255, "f4")))
    names = ["photo/0.jpg", "scan/0.tif", "scan/5.tif", "scan/float.tif"]
    write_pictures(scans, ["train/photo/0.jpg"])
    files = [ImageFile(scans / "train" / name, name, 0) for name in names]
    for _ in range(2):  # decoded, and known from the record
        store = ImageStore(PREPROCESSING, workers=1, known=DecodedFiles(PREPROCESSING))
        digests, faults = store.examine(files, progress=lambda done: None)
        assert not faults
        changed = {file.relative for file in files if store.digest_of(file) != digests[file.relative]}
        lost = {name: found.kind for name, found in store.losses().items()}
        store.close()
        assert lost == {"scan/0.tif": "few_levels", "scan/5.tif": "lost_values"}
        assert changed == {"scan/0.tif"}  # the features of ordinary files are found in an older cache
