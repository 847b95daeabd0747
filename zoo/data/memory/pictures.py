"""Pictures in memory as the bytes of an image file: without loss, and the same bytes for the same pixels.

So everything after works as with files: digests name the pixels, caches know them, and `zoo.data.decode` gives exactly
the picture that it gives of the object itself.

    RGB, and what Pillow converts to it        PPM
    grey, 1-bit                                PGM
    alpha, palettes with transparency          TIFF, RGBA
    12, 16 and 32 bits, floats                 TIFF, so that what 8 bits lose is noticed as in a file

Libraries are recognised without importing them.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from zoo.data import depth
from zoo.data.decode import decode, load_pixels, read_image, to_upright_rgb, upright
from zoo.errors import DataError
from zoo.specs.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any] | Tensor"
"""One image: a path, the bytes of an image file, or a picture in memory."""
OWN_PREPROCESSING = "zoo applies the preprocessing of the weights itself"
_LEAVE_OUT = "Next: leave it out, or look at what made it."
_CHOOSE = "choose 1 (grey), 3 (red, green, blue) or 4 channels (with alpha)"
_GIVE = (
    "Next: give one image, a path, the bytes of an image file, a PIL image, an array uint8[H, W, 3] or a tensor "
    "uint8[3, H, W]."
)
_CHANNELS = (1, 3, 4)
_LOADING = threading.Lock()
"""A picture that Pillow has opened and not read yet must not be read by two threads."""


def described(value: object) -> str:
    """What a value is, for messages: `'cat.jpg'`, `3`, `None`, or `of type pandas.Series`."""
    if value is None or isinstance(value, (str, int, float, bytes)):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    kind = type(value)
    return f"of type {kind.__name__ if kind.__module__ == 'builtins' else f'{kind.__module__}.{kind.__name__}'}"


def is_array(value: object) -> bool:
    """Whether a value is an array of numpy."""
    return isinstance(value, np.ndarray)


def is_tensor(value: object) -> bool:
    """Whether a value is a tensor of torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_picture(value: object) -> bool:
    """Whether a value is a picture in memory: of Pillow, an array or a tensor, of whatever type and shape."""
    return isinstance(value, Image.Image) or is_array(value) or is_tensor(value)


def fault_of(value: Any) -> str:
    """What keeps a picture in memory from being read, as the rest of a message about it; empty where nothing does.

    Arrays are `uint8[H, W, 3]`, `[H, W, 4]` (alpha), `[H, W, 1]` or `[H, W]` (grey); tensors the same, channels first.
    """
    if isinstance(value, Image.Image):
        return "" if all(value.size) else f"has no pixels.\n{_LEAVE_OUT}"
    kind, layout, shape = _names_of(value)
    dtype = str(value.dtype).removeprefix("torch.")
    what = f"is {kind} of {dtype}, of shape {shape}"
    if dtype != "uint8":
        if dtype.startswith(("float", "bfloat", "complex")):
            return (
                f"{what}, scaled or normalised already. {OWN_PREPROCESSING}.\nNext: pass the pixels, uint8 from 0 to "
                "255, without transforms such as ToTensor and Normalize."
            )
        return f"{what}. Pixels are uint8, from 0 to 255.\nNext: scale them to that range, and pass them as uint8."
    if len(shape) == 4:
        return f"{what}: a batch.\nNext: pass its images one by one, as a list."
    if len(shape) not in (2, 3):
        return f"{what}. An image is {layout}, or [H, W] in grey.\nNext: give it one of these shapes."
    if not all(shape):
        return f"{what}: it has no pixels.\n{_LEAVE_OUT}"
    if len(shape) == 3 and shape[0 if is_tensor(value) else -1] not in _CHANNELS:
        return f"{what}. An image is {layout}.\nNext: {_turn(value, shape)}."
    return ""


def encode(value: Any) -> bytes:
    """The bytes of an image file with the pixels of a picture, upright. Raises DataError for what is no picture."""
    if not is_picture(value):
        raise DataError(f"it is {described(value)}, not an image.\n{_GIVE}")
    if fault := fault_of(value):
        raise DataError(f"it {fault}")
    return _of_picture(value) if isinstance(value, Image.Image) else _of_pixels(pixels_of(value))


def pixels_of(value: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """An array as it is, or a tensor[C, H, W] or [H, W] as uint8[H, W, C] or [H, W]."""
    if not is_tensor(value):
        return np.asarray(value)
    tensor = value.detach().cpu()
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = (tensor.permute(1, 2, 0) if tensor.ndim == 3 else tensor).numpy()
    return pixels


def to_picture(value: Any) -> Image.Image:
    """A picture in memory as one of Pillow. Raises DataError for what is none."""
    if not is_picture(value):
        raise DataError(f"it is {described(value)}, not an image.\n{_GIVE}")
    if fault := fault_of(value):
        raise DataError(f"it {fault}")
    if isinstance(value, Image.Image):
        return _loaded(value)
    pixels = pixels_of(value)
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))


def picture_of(image: ImageLike, name: str, *, preprocessing: Preprocessing | None = None) -> Image.Image:
    """An image as an upright RGB picture, decoded for a preprocessing where that says how.

    Raises DataError, which begins with the name, if it cannot be read.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(Path(image), preprocessing=preprocessing)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return decode(bytes(image), name=name, preprocessing=preprocessing)
    try:
        return to_upright_rgb(to_picture(image))
    except DataError as error:
        raise DataError(f"{name}: {error}") from None


def _loaded(image: Image.Image) -> Image.Image:
    try:
        with _LOADING:
            load_pixels(image)
    except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
        raise DataError(str(error) or type(error).__name__) from None
    return image


def _of_pixels(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    height, width, *channels = pixels.shape
    if channels == [4]:
        return _tiff(to_picture(pixels))
    # PPM and PGM leave nothing to choose, as compression does: the same pixels are the same bytes with every version.
    kind = b"P6" if channels == [3] else b"P5"
    return b"%s\n%d %d\n255\n" % (kind, width, height) + pixels.tobytes()


def _of_picture(image: Image.Image) -> bytes:
    _loaded(image)
    transparent = "transparency" in image.info
    if depth.is_deep(image):
        picture, content = to_upright_rgb(image), _tiff(upright(image, image))
        # What the tags of its file say of the samples is not in the pixels.
        return content if _shows(content, picture) else _ppm(picture)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or transparent:
        plain = image.convert("LA") if image.mode == "La" else image
        return _tiff(upright(plain.convert("RGBA"), image))
    if image.mode in ("L", "1"):
        return _ppm(upright(image.convert("L"), image))
    return _ppm(to_upright_rgb(image))


def _shows(content: bytes, picture: Image.Image) -> bool:
    """Whether the bytes of an image file are decoded to this picture, in RGB."""
    try:
        return decode(content, name="it").tobytes() == picture.tobytes()
    except DataError:  # a grey map of 16 bits is one of 32 to Pillow, and no rule covers such a TIFF
        return False


def _ppm(picture: Image.Image) -> bytes:
    kind = b"P6" if picture.mode == "RGB" else b"P5"
    return b"%s\n%d %d\n255\n" % (kind, *picture.size) + picture.tobytes()


def _tiff(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    # Pillow would write what else the picture's file said; the pixels alone are meant.
    plain = Image.frombytes(picture.mode, picture.size, picture.tobytes())
    plain.save(content, "TIFF")
    return content.getvalue()


def _names_of(value: Any) -> tuple[str, str, list[int]]:
    shape = [int(side) for side in value.shape]
    return ("a tensor", "[3, H, W]", shape) if is_tensor(value) else ("an array", "[H, W, 3]", shape)


def _turn(value: Any, shape: Sequence[int]) -> str:
    if is_tensor(value):
        return "permute(2, 0, 1) puts the channels first" if shape[-1] in _CHANNELS else _CHOOSE
    return "transpose(1, 2, 0) puts the channels last" if shape[0] in _CHANNELS else _CHOOSE
