"""Decode any image file to an upright RGB picture, in the same way for training, prediction and golden inputs.

    EXIF orientation   applied
    alpha              composited on white (RGBA, LA, and palettes with transparency)
    palette, 1-bit     expanded
    grey               the same value in R, G and B
    CMYK, YCbCr, LAB   converted as Pillow does, without colour profiles
    WhiteIsZero        inverted
    12, 16 bits        the upper 8 bits
    signed 8, 16 bits  moved up by half of the range (-32768 is black, 32767 white), then the upper 8 bits
    float              within 0..1 times 255, within 0..255 as it is, else refused; NaN becomes 0
    32-bit integers    within 0..255 as they are, else refused

Of several frames the first is taken. Metadata that cannot be read are ignored. What only another program can read, such
as EPS, is refused, and no program is started for it.

For a preprocessing that says so, a JPEG file is decoded at a part of its size: by JPEG's own scaling, which leaves out
high frequencies of each block of 8 x 8 pixels (Pillow's `Image.draft`).
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.ImageFile import StubImageFile
from PIL.JpegImagePlugin import JpegImageFile

from zoo.data import depth
from zoo.data.lost_values import Loss, loss_of, loss_over_white, may_be_lost
from zoo.data.metadata import without_metadata
from zoo.data.paths import names_in
from zoo.errors import DataError, meant_beside, with_step
from zoo.specs.data import is_image_name
from zoo.specs.preprocessing import Preprocessing

# Pillow's warnings (damaged EXIF, many pixels) do not help people: either the picture is read, or DataError says why
# not. The filter is never removed, because `warnings.catch_warnings` is not thread-safe.
_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the transposition that turns the picture upright."""
_ON_THEIR_SIDE = (5, 6, 7, 8)
"""The orientations that exchange width and height."""
_PROGRAMS = ("EPS", "IPTC")
"""Formats that Pillow cannot read alone. An EPS file is a program in PostScript, which Ghostscript would run, whatever
the file is called; an IPTC file may hold one."""
Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
_MOST_PIXELS = 180_000_000
"""Largest resized picture; about the size up to which Pillow opens one."""
_SPARE = 2
"""How many times as long as after the resize the sides of a picture stay that is decoded at a part of its size."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture, and what its file had that the picture does not show."""

    picture: Image.Image
    """Upright, in RGB."""
    loss: Loss | None = None
    """What decoding destroyed, where little is left of the values in the file."""
    rule: str = ""
    """Names the rule of `zoo.data.depth` where an older zoo gave other pixels."""


def decode(
    content: bytes, *, name: str, preprocessing: Preprocessing | None = None, formats: tuple[str, ...] | None = None
) -> Image.Image:
    """Decode the bytes of a whole image file to an upright RGB picture.

    `preprocessing` is what the picture is for: where its `decode` is `fast`, the picture of a large JPEG file is
    smaller than the file says. None: every pixel is decoded. `formats` are the kinds of files that are read, by
    Pillow's names; None: all that Pillow knows.

    Raises DataError, which begins with `name`, for a file that is empty, truncated, damaged, not an image, a
    decompression bomb, or of values that no rule covers.
    """
    return decode_closely(content, name=name, preprocessing=preprocessing, formats=formats).picture


def decode_closely(
    content: bytes, *, name: str, preprocessing: Preprocessing | None = None, formats: tuple[str, ...] | None = None
) -> Decoded:
    """Decode as `decode` does, and say what that destroyed."""
    if not content:
        raise DataError(f"{name}: the file is empty")
    if _QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        return _read(content, preprocessing, formats)
    except UnidentifiedImageError:
        kind = depth.tiff_kind(content)
        reason = (
            f"a TIFF that Pillow cannot read ({kind}): save it with 8 bits" if kind else "not an image that can be read"
        )
        raise DataError(f"{name}: {reason}") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: too many pixels: {error}") from None
    # Damaged files make Pillow's decoders raise nearly anything.
    except Exception as error:
        raise DataError(f"{name}: {str(error) or type(error).__name__}") from None


def image_needed(error: DataError) -> DataError:
    """Why one image cannot be read, as the error of what cannot do without it: with what to do next."""
    step = "check the path, and save the image anew with a program that opens it; or leave it out."
    return DataError(with_step(f"{error}{meant_image(error)}", step))


def meant_image(error: DataError) -> str:
    """`. Did you mean 'b.jpg'?` for a file that was not there, where a name beside it is near; else nothing.

    Not part of the error itself: a folder may have a million names, which are looked through each time.
    """
    missing = error.__context__
    if not isinstance(missing, FileNotFoundError) or not missing.filename:
        return ""
    path = Path(missing.filename)
    hint = meant_beside(path, (name for name in names_in(path.parent) if is_image_name(name)))
    return hint and f".{hint}"


def resized(picture: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """Resize an RGB picture as the preprocessing says -> uint8[H', W', 3], not yet cropped.

    Raises DataError for a picture so narrow that its resized copy would fill the memory.
    """
    height, width = preprocessing.resized_to(picture.height, picture.width)
    if height * width > _MOST_PIXELS:
        raise DataError(f"{picture.width} x {picture.height} pixels are too narrow: resized, {width} x {height}")
    return np.array(picture.resize((width, height), Image.Resampling[preprocessing.interpolation.upper()]))


def open_file(content: bytes, *, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Open an image file with Pillow, without the metadata if they prevent it. The pixels are not read yet.

    `formats` as for `decode`.
    """
    try:
        return Image.open(io.BytesIO(content), formats=formats)
    except Image.DecompressionBombError:
        raise
    except Exception as error:
        for stripped in without_metadata(content):
            try:
                return Image.open(io.BytesIO(stripped), formats=formats)
            except Exception:
                continue
        raise error from None


def read_image(path: Path, *, preprocessing: Preprocessing | None = None) -> Image.Image:
    """Decode a file from the disk, as `decode` does. Raises DataError, which begins with the path."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except ValueError:
        raise DataError(f"{str(path)!r} is no path: it holds a zero byte.") from None
    return decode(content, name=str(path), preprocessing=preprocessing)


def load_pixels(image: Image.Image) -> bool:
    """Read the pixels of an opened picture -> whether Pillow alone would have read them wrongly.

    A picture whose pixels are in memory stays as it is. Raises DataError for one for which Pillow would start another
    program.
    """
    # While there are tiles, pixels are still to be read. Stubs are of formats that only other programs read.
    if isinstance(image, StubImageFile) or (image.format in _PROGRAMS and getattr(image, "tile", False)):
        raise DataError(
            f"it is of the format {image.format}, which takes another program to read: save it as PNG or JPEG"
        )
    mended = depth.mend_layout(image)
    with _without_mapping(image):
        image.load()
    return mended


@contextlib.contextmanager
def _without_mapping(image: Image.Image) -> Iterator[None]:
    """Inside, Pillow reads the file of an opened picture. It would map some files that it knows by name into memory:
    row after row, as long as rows are once the picture is upright. So those of a TIFF that lies on its side would be
    cut in wrong places."""
    if image.format != "TIFF" or not getattr(image, "filename", ""):
        yield
        return
    name, image.filename = image.filename, ""  # type: ignore[attr-defined]
    try:
        yield
    finally:
        image.filename = name  # type: ignore[attr-defined]


def to_upright_rgb(image: Image.Image) -> Image.Image:
    """Turn a decoded picture upright and convert it to RGB, as `decode` does with a file of it."""
    return upright(to_rgb(image), image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to RGB by the rules at the top of this module.

    Raises DataError for values that no rule covers.
    """
    return _convert(image).picture


def upright(picture: Image.Image, source: Image.Image) -> Image.Image:
    """Turn a picture as the EXIF orientation of the one that it was made from says."""
    # ImageOps.exif_transpose would also rewrite the EXIF data, which fails if some of them are damaged.
    method = _UPRIGHT.get(_orientation(source))
    return picture if method is None else picture.transpose(method)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 where there is none that can be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _read(content: bytes, preprocessing: Preprocessing | None, formats: tuple[str, ...] | None) -> Decoded:
    try:
        return _read_as_is(content, preprocessing, formats)
    except (Image.DecompressionBombError, DataError):
        raise
    except Exception as error:
        failure = error
        # Only now, so that files that are as they should be cost no more.
        for stripped in without_metadata(content):
            try:
                return _read_as_is(stripped, preprocessing, formats)
            except DataError:
                raise
            except Exception as still:
                failure = still
        raise failure from None


def _read_as_is(content: bytes, preprocessing: Preprocessing | None, formats: tuple[str, ...] | None) -> Decoded:
    with Image.open(io.BytesIO(content), formats=formats) as image:
        if preprocessing is not None and preprocessing.decode == "fast":
            _read_at_part_of_size(image, preprocessing)
        mended = load_pixels(image)
        found = _convert(image)
        loss = found.loss or _loss_of_colours(image, content)
        picture = upright(found.picture, image)
        rule = depth.CHANGED if mended else found.rule
        return Decoded(picture if picture is not image else image.copy(), loss, rule)


def _read_at_part_of_size(image: Image.Image, preprocessing: Preprocessing) -> None:
    """Have an opened JPEG file decoded at a part of its size, where enough is left for the resize."""
    if not isinstance(image, JpegImageFile):
        return
    turned = _orientation(image) in _ON_THEIR_SIDE
    width, height = image.size[::-1] if turned else image.size
    resized_height, resized_width = preprocessing.resized_to(height, width)
    enough = _SPARE * resized_width, _SPARE * resized_height
    # Pillow takes the smallest of JPEG's four sizes that is at least this large.
    image.draft(None, enough[::-1] if turned else enough)


def _convert(image: Image.Image) -> Decoded:
    """An image of any mode in RGB, not turned. `_loss_of_colours` knows what 16-bit colours lost."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return Decoded(image)
    if depth.is_deep(image):
        pixels, values, changed = depth.to_8_bits(image)
        picture = Image.fromarray(pixels).convert("RGB")
        return Decoded(picture, loss_of(values, pixels), depth.CHANGED if changed else "")
    # Pillow converts La, with premultiplied alpha, to nothing but LA.
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, with_alpha).convert("RGB")
        return Decoded(picture, loss_over_white(with_alpha, picture))
    return Decoded(image.convert("RGB"))


def _loss_of_colours(image: Image.Image, content: bytes) -> Loss | None:
    """What was lost of colours with 16 bits, of which Pillow keeps the upper 8."""
    if image.format not in ("PNG", "TIFF") or image.mode not in ("RGB", "RGBA") or depth.bits_of(image, content) < 16:
        return None
    counts = image.histogram()
    if not all(may_be_lost(counts[256 * band : 256 * (band + 1)]) for band in range(3)):
        return None
    values = depth.colour_values(content, image)
    pixels = np.asarray(image)[..., :3]
    return None if values is None else loss_of(values[..., :3], pixels)
